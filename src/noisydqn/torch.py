"""The noisy layer for PyTorch: `NoisyLinear`, in place of `torch.nn.Linear`.

The same layer as `noisydqn.NoisyLinear` (Fortunato et al. 2018, equation 9): the same parameters
and the same noise give the same outputs and gradients. What is different is where the noise comes
from. In JAX it is an argument; here a module is called with its input alone, so the layer draws
for itself, as its mode says, and never by whether it is training:

| mode | noise |
|---|---|
| `"sample"` | drawn anew in every forward pass, one draw for the whole batch |
| `"frozen"` | the draw that is held, until `reset_noise` |
| `"mean"` | none: the mean weights |

    model = torch.nn.Sequential(NoisyLinear(4, 64), torch.nn.ReLU(), NoisyLinear(64, 2))
    set_mode(model, "mean")    # evaluate without noise
    set_mode(model, "frozen")  # one draw for as long as it is wanted:
    reset_noise(model)         # until here
"""

import copy
import itertools
import math
from typing import Any, Protocol

from noisydqn.errors import MissingExtraError
from noisydqn.initial import NoiseKind, NoiseMode, check_mode, initial_values, noise_size

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(
        "noisydqn.torch needs PyTorch, which is not installed: pip install 'noisydqn[torch]'"
    ) from error


class NoisyLinear(nn.Module):
    """A linear layer whose weights and biases are `mu + sigma * epsilon`.

    Safe to compile with `torch.compile`, to capture in a CUDA graph (noise is then drawn by the
    graph; a held draw is renewed in place, so that a graph sees `reset_noise`), and to copy with
    `copy.deepcopy`: a copy draws noise of its own, from the same generator if one was given. The
    state dict holds the learned parameters and no noise. (`torch.compile` cannot look into a
    `generator`: with one of its own, a layer breaks the compiled graph in two. A CUDA graph wants
    it registered by `register_generator_state`.)

    Args:
        in_features: number of inputs, p.
        out_features: number of outputs, q.
        bias: whether there is a bias.
        device: where the parameters are.
        dtype: their type.
        noise: `"factorised"` draws p + q normals and takes products of them (equations 10 and
            11); `"independent"` draws p * q + q.
        sigma_init: with factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); with independent noise the starting value itself
            (default 0.017).
        mode: `"sample"`, `"frozen"` or `"mean"`, see above.
        follow_training: if true, the layer uses its means while `training` is false, so that
            `eval()` turns the noise off and `train()` on again. Collecting experience in
            evaluation mode then does not explore.
        generator: of initial values and noise, on the layer's device; None uses PyTorch's own.

    Raises:
        ValueError: a size below 1, a negative `sigma_init`, or an unknown mode or kind of noise.
    """

    in_features: int
    out_features: int
    weight_mu: Tensor
    weight_sigma: Tensor
    bias_mu: Tensor | None
    bias_sigma: Tensor | None
    held_normals: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        mode: NoiseMode = "sample",
        follow_training: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._initial = initial_values(in_features, out_features, noise, sigma_init)
        check_mode(mode)
        self.in_features, self.out_features = in_features, out_features
        self.noise: NoiseKind = noise
        self.mode: NoiseMode = mode
        self.follow_training = follow_training
        self.generator = generator

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_mu = empty(out_features, in_features)
        self.weight_sigma = empty(out_features, in_features)
        self.register_parameter("bias_mu", empty(out_features) if bias else None)
        self.register_parameter("bias_sigma", empty(out_features) if bias else None)
        held = torch.empty(self.noise_size, device=device, dtype=dtype)
        self.register_buffer("held_normals", held, persistent=False)
        self.reset_parameters()

    @property
    def noise_size(self) -> int:
        """How many normals one draw takes: p + q (factorised) or p * q + q (independent)."""
        return noise_size(self.in_features, self.out_features, self.noise)

    def reset_parameters(self) -> None:
        """Start anew: `mu` uniform within ±1/sqrt(p) (factorised) or ±sqrt(3/p) (independent)."""
        bound, sigma = self._initial
        for mu in (self.weight_mu, self.bias_mu):
            if mu is not None:
                nn.init.uniform_(mu, -bound, bound, generator=self.generator)
        for deviation in (self.weight_sigma, self.bias_sigma):
            if deviation is not None:
                nn.init.constant_(deviation, sigma)
        self.reset_noise()

    @torch.no_grad()
    def reset_noise(self, normals: Tensor | None = None) -> None:
        """Hold another draw, which `"frozen"` uses.

        Args:
            normals: unit normals [noise_size] to form it from: those of inputs and outputs
                (factorised), or of weights, row by row, and biases (independent). None draws.
        """
        if normals is None:
            self.held_normals.normal_(generator=self.generator)
        else:
            self.held_normals.copy_(normals)

    def _normals(self) -> Tensor:
        if self.mode == "frozen":
            return self.held_normals.clone()  # may be renewed before the backward pass
        held = self.held_normals
        size = self.noise_size
        return torch.randn(size, generator=self.generator, device=held.device, dtype=held.dtype)

    def _epsilon(self) -> tuple[Tensor, Tensor]:
        """eps_w [q, p] and eps_b [q]."""
        normals, inputs, outputs = self._normals(), self.in_features, self.out_features
        if self.noise == "factorised":
            scaled = normals.sign() * normals.abs().sqrt()
            of_inputs, of_outputs = scaled.split([inputs, outputs])
            return torch.outer(of_outputs, of_inputs), of_outputs
        weight, bias = normals.split([inputs * outputs, outputs])
        return weight.view(outputs, inputs), bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` [..., p]; gives [..., q]. All of it shares one draw."""
        check_mode(self.mode)
        if self.mode == "mean" or (self.follow_training and not self.training):
            return nn.functional.linear(x, self.weight_mu, self.bias_mu)
        epsilon_weight, epsilon_bias = self._epsilon()
        weight = self.weight_mu + self.weight_sigma * epsilon_weight
        if self.bias_mu is None or self.bias_sigma is None:
            return nn.functional.linear(x, weight)
        return nn.functional.linear(x, weight, self.bias_mu + self.bias_sigma * epsilon_bias)

    def extra_repr(self) -> str:
        """What `repr` shows beside the name."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias_mu is not None}, noise={self.noise}, mode={self.mode}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "NoisyLinear":
        """A copy that shares the generator: copied too, it would draw the same noise again."""
        if self.generator is not None:
            memo[id(self.generator)] = self.generator
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def noisy_layers(model: nn.Module) -> list[NoisyLinear]:
    """Every noisy layer of a model."""
    return [module for module in model.modules() if isinstance(module, NoisyLinear)]


def reset_noise(model: nn.Module) -> None:
    """Hold another draw in every noisy layer of a model, independent of each other."""
    for layer in noisy_layers(model):
        layer.reset_noise()


def set_mode(model: nn.Module, mode: NoiseMode) -> None:
    """Set the mode of every noisy layer of a model.

    Raises:
        ValueError: it is no mode.
    """
    check_mode(mode)
    for layer in noisy_layers(model):
        layer.mode = mode


def make_noisy(model: nn.Module, **options: Any) -> nn.Module:
    """Put a fresh noisy layer in place of every `nn.Linear` of a model, before it is trained.

    Args:
        model: changed in place, unless it is a linear layer itself.
        options: for each `NoisyLinear`, such as `sigma_init=0.1`.

    Returns:
        The model.
    """
    if type(model) is nn.Linear:
        weight, bias = model.weight, model.bias is not None  # pyright: ignore[reportUnnecessaryComparison]
        sizes = model.in_features, model.out_features
        return NoisyLinear(*sizes, bias, weight.device, weight.dtype, **options)
    for name, child in model.named_children():
        setattr(model, name, make_noisy(child, **options))
    return model


class _Space(Protocol):
    @property
    def shape(self) -> tuple[int, ...] | None: ...


class NoisyFeatures(nn.Sequential):
    """Flat observations through noisy layers with ReLU: a features extractor.

    For `policy_kwargs` of Stable-Baselines3 as `features_extractor_class`, with `net_arch=[]`.

    Args:
        observation_space: of vectors, or of what is flattened.
        hidden: widths of the layers.
        options: for each `NoisyLinear`.
    """

    def __init__(
        self, observation_space: _Space, hidden: tuple[int, ...] = (64, 64), **options: Any
    ) -> None:
        sizes = (math.prod(observation_space.shape or (1,)), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [NoisyLinear(inputs, outputs, **options), nn.ReLU()]
        super().__init__(*layers)
        self.features_dim = sizes[-1]
