"""Policies to be used: `noisydqn.load_policy(path).predict(observation)`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noisydqn.build import torso_name
from noisydqn.config.config import Config
from noisydqn.config.stored import from_stored
from noisydqn.envs.registry import AnyEnvironment
from noisydqn.envs.spaces import Box
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError, counted
from noisydqn.export import read_card, read_safetensors, spec_of_run
from noisydqn.files import given_path
from noisydqn.learner.policy import Policy
from noisydqn.nets.network import QNetwork
from noisydqn.play.evaluate import greedy
from noisydqn.runs import weights
from noisydqn.runs.folder import open_folder
from noisydqn.settings import own_settings
from noisydqn.trees import named

State = np.ndarray
"""The newest frames [B, frames, ...] of a policy that sees several."""


class GreedyPolicy:
    """A policy that plays with mean weights, called as those of Stable-Baselines3 are.

    It takes observations and gives actions in the environment's own terms, and needs no
    environment.

    Args:
        policy: network and statistics.
        spec: the interface of the environment that it was trained in.
    """

    def __init__(self, policy: Policy, spec: EnvironmentSpec) -> None:
        self.policy, self.spec = policy, spec
        self._encoding = spec.encoding

    @property
    def network(self) -> QNetwork:
        """The network."""
        return self.policy.network

    def __repr__(self) -> str:
        parameters = sum(x.size for x in jax.tree.leaves(self.network) if hasattr(x, "size"))
        return (
            f"GreedyPolicy({self._encoding.words} -> {self.spec.num_actions} actions, "
            f"{parameters:,} parameters)"
        )

    def __call__(self, observation: Any) -> Any:
        """The greedy action, of an observation or of a batch of them."""
        return self.predict(observation)[0]

    @own_settings()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, State | None]:
        """The greedy action under mean weights.

        Args:
            observation: one, or a batch of them, as the environment or a vector environment shows
                it: an array, a number, or a dictionary or tuple of these.
            state: what the last call gave, where the policy sees several frames; None begins.
            episode_start: whether an episode starts [B]; its frames then begin anew.
            deterministic: must be true: mean weights hold nothing random.

        Returns:
            The environment's own action, an `np.int64`, or an array [B] of a batch; and the state,
            which is None where the policy sees one frame.

        Raises:
            UserError: the observation or the state is not one of the environment's, or
                `deterministic` is false.
        """
        if not deterministic:
            raise UserError(
                "deterministic=False: this policy has mean weights, in which nothing is random; "
                "call predict with deterministic=True"
            )
        batch, single = self._encoding.read(observation)
        started = np.full(len(batch), state is None) | _starts(episode_start, len(batch))
        stack = self._stack(batch, state)
        stack, places, _ = greedy(self.policy, stack, jnp.asarray(batch), jnp.asarray(started))
        actions = self._encoding.decode_actions(np.asarray(places))
        frames = None if self.policy.frames == 1 else np.asarray(stack)
        return (actions[0] if single else actions), frames

    @own_settings()
    def values(self, observation: Any) -> np.ndarray:
        """The action values, [A] or [B, A], of observations that start an episode.

        Raises:
            UserError: as `predict`.
        """
        batch, single = self._encoding.read(observation)
        started = jnp.ones(len(batch), bool)
        _, _, q = greedy(self.policy, self._stack(batch, None), jnp.asarray(batch), started)
        return np.asarray(q)[0] if single else np.asarray(q)

    def _stack(self, batch: np.ndarray, state: State | None) -> jax.Array:
        if self.policy.frames == 1:
            return jnp.asarray(batch)
        expected = (len(batch), self.policy.frames, *batch.shape[1:])
        if state is None:
            return jnp.zeros(expected, batch.dtype)
        if np.shape(state) != expected:
            raise UserError(
                f"the state has shape {list(np.shape(state))}, expected {list(expected)}: give "
                "what the last call of predict gave, for as many observations"
            )
        return jnp.asarray(state, batch.dtype)


def _starts(given: Any, size: int) -> np.ndarray:
    """Where an episode starts, [size]."""
    starts = np.asarray(False if given is None else given, bool)
    if starts.shape not in ((), (1,), (size,)):
        raise UserError(
            f"episode_start has shape {list(starts.shape)}, expected [{size}]: give one for each "
            "observation"
        )
    return np.broadcast_to(starts, size)


def describe(config: Config, spec: EnvironmentSpec) -> str:
    """Say in one line what observations become and which torso sees them.

    Raises:
        UserError: the config's torso has convolutions, for which the observations are no images.
    """
    encoding, torso = spec.encoding, torso_name(config, spec.observation)
    what = [encoding.words]
    box = isinstance(encoding.observation, Box)
    shape = spec.observation.shape
    if torso in ("flat", "mlp"):
        changed = not box or len(shape) != 1
        what += [f"-> flattened to {counted(encoding.size, 'number')}"] if changed else []
    elif encoding.axes:
        what += [f"with channels first -> {shape}"]
    elif len(shape) == 3:
        what += ["with channels last"]
    notes: list[str] = []
    if any(part.is_bytes for part, _ in encoding.parts):
        kinds = {part.words.partition(" ")[0] for part, _ in encoding.parts if part.is_bytes}
        mixed = encoding.dtype != np.uint8
        name = "images" if kinds == {"image"} else "bytes"
        if mixed or config.normalize_observations == "scale":
            notes += [f"{name} divided by 255"]
    if any(not isinstance(part, Box) and part.size > 1 for part, _ in encoding.parts):
        notes += ["categories one-hot"]
    has_planes = any(len(part.shape) > 1 for part, _ in encoding.parts)
    if torso in ("flat", "mlp") and has_planes:
        notes += ["no convolutions"]
    if config.frame_stack > 1:
        notes += [f"{config.frame_stack} frames together"]
    return f"observations: {', '.join([' '.join(what), *notes])}; torso {torso}"


@own_settings()
def load_policy(path: Path | str, which: str = "best", env: AnyEnvironment = None) -> GreedyPolicy:
    """Load a policy from a run's folder, or from what `noisydqn export --format safetensors` made.

        policy = noisydqn.load_policy("runs/one")
        action, _ = policy.predict(observation, deterministic=True)

    The environment is not needed, but for the folder of a run that is older than `spaces.json`.

    Args:
        path: folder or file.
        which: of a folder, the `"best"` weights or the `"final"` ones.
        env: as in `train`, for such an old folder alone, where the config cannot name it.

    Raises:
        UserError: there is no policy, it is damaged, or the folder holds several runs.
    """
    path = given_path(path, "the policy")
    if not path.is_file():
        folder, config = open_folder(path)
        spec = spec_of_run(folder, config, env)
        return GreedyPolicy(weights.load_policy(folder.weights(which), config, spec), spec)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no file that load_policy reads: name a run's folder or a .safetensors file"
        )
    arrays, text = read_safetensors(path)
    spec, options = read_card(text, path)
    config = from_stored(options, path)
    expected = weights.policy_like(config, spec)
    for name in named(expected):
        mean = arrays.get(name.removesuffix("_sigma") + "_mu")
        if name.endswith("_sigma") and mean is not None:  # only means were exported
            arrays[name] = np.zeros_like(mean)
    return GreedyPolicy(weights.policy_of_arrays(expected, arrays, path), spec)
