"""Export to PyTorch: a program of `torch.export` from raw observations to action values."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import MissingExtraError
from noisydqn.export.graph import input_structs, policy_values
from noisydqn.export.operations import NO_PADDING, Padding
from noisydqn.learner.policy import Policy
from noisydqn.types import Mixed

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(
        "--format torch needs PyTorch, which is not installed: pip install 'noisydqn[torch]'"
    ) from error


class PolicyModule(nn.Module):
    """A module that computes action values [B, A] of raw observations [B, ...].

    Images and vectors are a dictionary by path, such as `{"arm.camera": ..., "speed": ...}`.
    With action masks, bool [B, A], the value of an invalid action is -infinity.

    It implements the `Operations` of `policy_values` with PyTorch's functions.
    """

    def __init__(self, policy: Policy, spec: EnvironmentSpec) -> None:
        super().__init__()
        self._policy, self._observation = policy, spec.observation
        self._next = 0
        self.eval()

    def forward(
        self, observation: Tensor | dict[str, Tensor], action_mask: Tensor | None = None
    ) -> Tensor:
        """Compute action values."""
        self._next = 0
        seen: Any = observation
        if isinstance(observation, dict):
            seen = Mixed(*({path: observation[path] for path in x} for x in self._observation))
        return policy_values(self._policy, self, seen, self._observation, action_mask)

    def constant(self, value: np.ndarray) -> Tensor:
        """Keep an array of the policy as a buffer."""
        name = f"constant_{self._next}"
        self._next += 1
        if name not in self._buffers:
            # In C order: a program is saved by its tensors' storage and warns of any other order.
            self.register_buffer(name, torch.from_numpy(np.array(value, order="C")))
        return self.get_buffer(name)

    def to_float(self, x: Tensor) -> Tensor:
        """Convert to float32."""
        return x.to(torch.float32)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add."""
        return x + y

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """Subtract."""
        return x - y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply element by element."""
        return x * y

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """Divide."""
        return x / y

    def clip(self, x: Tensor, bound: float) -> Tensor:
        """Clip."""
        return x.clamp(-bound, bound)

    def relu(self, x: Tensor) -> Tensor:
        """Replace negative numbers by zero."""
        return x.relu()

    def tanh(self, x: Tensor) -> Tensor:
        """Take the hyperbolic tangent."""
        return x.tanh()

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply matrices."""
        return x @ y

    def mean(self, x: Tensor, axis: int) -> Tensor:
        """Take the mean over an axis."""
        return x.mean(axis, keepdim=True)

    def softmax(self, x: Tensor) -> Tensor:
        """Turn logits into probabilities."""
        return x.softmax(-1)

    def only(self, x: Tensor, mask: Tensor) -> Tensor:
        """Replace values outside of a mask by -infinity."""
        return x.masked_fill(~mask, -math.inf)

    def layer_norm(self, x: Tensor, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> Tensor:
        """Normalize along the last axis."""
        constants = self.constant(weight), self.constant(bias)
        return nn.functional.layer_norm(x, weight.shape, *constants, epsilon)

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Reorder the axes."""
        return x.permute(axes)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Change the shape."""
        return x.reshape(shape)

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        """Join tensors along an axis."""
        return torch.cat(parts, axis)

    def conv(
        self, x: Tensor, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: Padding
    ) -> Tensor:
        """Convolve."""
        constants = self.constant(kernel), self.constant(bias)
        return nn.functional.conv2d(_padded(x, padding, 0), *constants, stride)

    def max_pool(self, x: Tensor, size: int, stride: int, padding: Padding) -> Tensor:
        """Take the maxima of windows."""
        return nn.functional.max_pool2d(_padded(x, padding, -math.inf), size, stride)

    def part(self, x: Tensor, axis: int, start: int, end: int) -> Tensor:
        """Take a part of an axis."""
        return x.narrow(axis, start, end - start)

    def max(self, x: Tensor, axis: int) -> Tensor:
        """Take the maximum over an axis."""
        return x.amax(axis, keepdim=True)


def _padded(x: Tensor, padding: Padding, value: float) -> Tensor:
    """Pad images by hand: PyTorch's layers pad both ends of a side alike."""
    if padding == NO_PADDING:
        return x
    (top, bottom), (left, right) = padding
    return nn.functional.pad(x, (left, right, top, bottom), value=value)


def write(path: Path, policy: Policy, spec: EnvironmentSpec, card: str) -> None:
    """Write a policy as a program: `torch.export.load(path).module()(observations)` [B, A].

    Images and vectors are a dictionary of tensors by path. With action masks the module takes them,
    too: `module()(observations, masks)`, bool [B, A].
    The environment's own action is the index of the largest value plus the card's
    `actions.start`. Where actions are arrays, the card's `actions.sizes` are the numbers of values
    that belong to each of their elements in turn, and `actions.numbers` has the element for each
    value.

    Raises:
        UserError: as `policy_values`.
    """
    module = PolicyModule(policy, spec)
    structs = input_structs(policy, spec.observation)
    observations = _tensors(jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), structs))
    example: tuple[Any, ...] = (observations,)
    if spec.masked:
        example = (observations, torch.ones((2, spec.num_actions), dtype=torch.bool))
    module(*example)  # makes the buffers, which an exported program cannot do
    batch: Any = torch.export.Dim("batch")
    axes: Any = jax.tree.map(lambda _: {0: batch}, example)
    program = torch.export.export(module, example, dynamic_shapes=axes)
    torch.export.save(program, path, extra_files={"noisydqn-card.json": card})


def _tensors(observations: Any) -> Tensor | dict[str, Tensor]:
    """Convert arrays to what the module takes."""
    if not isinstance(observations, Mixed):
        return torch.from_numpy(observations)
    by_path = {**observations.images, **observations.vectors}
    return {path: torch.from_numpy(x) for path, x in by_path.items()}


def read_values(path: Path, observations: Any, masks: np.ndarray | None = None) -> np.ndarray:
    """Compute action values [B, A] from the file with PyTorch."""
    program: Any = torch.export.load(path)
    given = [_tensors(observations)] + ([] if masks is None else [torch.from_numpy(masks)])
    with torch.no_grad():
        return program.module()(*given).numpy()
