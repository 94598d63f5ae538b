"""Policies to be used: `noisydqn.load_policy(path).predict(observation)`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noisydqn.build import Policy
from noisydqn.checkpoint.arrays import named
from noisydqn.envs.select import environment_spec, make_environment
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.errors import UserError
from noisydqn.export import read_safetensors, spec_of
from noisydqn.settings import own_settings
from noisydqn.training import weights
from noisydqn.training.evaluate import greedy
from noisydqn.training.folder import config_of, given_path, open_folder

State = np.ndarray
"""The newest frames [B, frames, ...] of a policy that sees several."""


class LoadedPolicy:
    """A policy with mean weights, called as those of Stable-Baselines3 are.

    Args:
        policy: network and statistics.
        spec: the interface of the environment that it was trained in.
    """

    def __init__(self, policy: Policy, spec: EnvironmentSpec) -> None:
        self.policy, self.spec = policy, spec

    def __call__(self, observation: Any) -> np.ndarray:
        """The greedy action, of an observation or of a batch of them."""
        return self.predict(observation)[0]

    @own_settings()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, State | None]:
        """The greedy action under mean weights.

        Args:
            observation: one, or a batch [B, ...], as the environment shows it.
            state: what the last call gave, where the policy sees several frames; None begins.
            episode_start: whether an episode starts [B]; its frames then begin anew.
            deterministic: must be true: there is no noise in mean weights.

        Returns:
            The action, a number or [B], counted from 0, and the state, which is None where the
            policy sees one frame.

        Raises:
            UserError: the observation has another shape or type than the policy was trained with,
                or `deterministic` is false.
        """
        if not deterministic:
            raise UserError(
                "deterministic=False: this policy has mean weights, in which nothing is random; "
                "call predict with deterministic=True"
            )
        batch, single = self._batch(observation)
        started = np.ones(len(batch), bool) if state is None else np.zeros(len(batch), bool)
        if episode_start is not None:
            started |= np.broadcast_to(np.asarray(episode_start, bool), started.shape)
        stack = self._stack(batch, state)
        stack, actions, _ = greedy(self.policy, stack, jnp.asarray(batch), jnp.asarray(started))
        chosen = np.asarray(actions, np.int64)
        frames = None if self.policy.frames == 1 else np.asarray(stack)
        return (chosen[0, ...] if single else chosen), frames

    @own_settings()
    def values(self, observation: Any) -> np.ndarray:
        """The action values, [A] or [B, A], of observations that start an episode.

        Raises:
            UserError: as `predict`.
        """
        batch, single = self._batch(observation)
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
        return jnp.asarray(state)

    def _batch(self, observation: Any) -> tuple[np.ndarray, bool]:
        """A batch of observations as they were trained with, and whether it was a single one."""
        given = np.asarray(observation)
        shape, dtype = self.spec.observation.shape, np.dtype(self.spec.observation.dtype)
        if len(shape) == 3 and given.shape[-3:] == (shape[2], *shape[:2]) != shape:
            given = np.moveaxis(given, -3, -1)  # channels first
        single = given.ndim == len(shape)
        batch = given[None] if single else given
        real = given.dtype.kind in "fiub" and dtype == np.float32
        if batch.shape[1:] != shape or not (real or given.dtype == dtype):
            raise UserError(
                f"the observation is {given.dtype} {list(given.shape)}, expected {dtype} "
                f"{list(shape)} or a batch of these: give what the environment shows"
            )
        return np.ascontiguousarray(batch, dtype), single


@own_settings()
def load_policy(path: Path | str, which: str = "best") -> LoadedPolicy:
    """Load a policy from a run's folder, or from what `noisydqn export --format safetensors` made.

        policy = noisydqn.load_policy("runs/one")
        action, _ = policy.predict(observation, deterministic=True)

    Args:
        path: folder or file. A folder needs its environment installed, a file does not.
        which: of a folder, the `"best"` weights or the `"final"` ones.

    Raises:
        UserError: there is no policy, it is damaged, or the folder holds several runs.
    """
    path = given_path(path, "the policy")
    if not path.is_file():
        return _of_folder(path, which)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no file that load_policy reads: name a run's folder or a .safetensors file"
        )
    arrays, card = read_safetensors(path)
    spec = spec_of(card)
    config = config_of(card["config"], path)
    expected = weights.policy_like(config, spec)
    for name, leaf in named(expected).items():
        if name.endswith("_sigma"):  # only means were exported
            arrays[name] = np.zeros(leaf.shape, leaf.dtype)
    return LoadedPolicy(weights.fit(expected, arrays, path), spec)


def _of_folder(path: Path, which: str) -> LoadedPolicy:
    folder, config = open_folder(path)
    spec = environment_spec(make_environment(config))
    return LoadedPolicy(weights.load_policy(folder.weights(which), config, spec), spec)
