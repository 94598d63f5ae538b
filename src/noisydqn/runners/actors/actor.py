"""An actor: a share of the environments, and what plays them. It runs in any process."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from noisydqn.envs.vectors import truncated_where
from noisydqn.errors import UserError
from noisydqn.runners.actors.acting import ActorPrograms, actor_programs
from noisydqn.runners.actors.messages import Order, Ready, Segment, Setup, Stand, Weights
from noisydqn.types import TimeStep


class Actor:
    """A share of the environments, played by weights that come with each order.

    Args:
        setup: what it is made of.
        stand: where it stands.

    Raises:
        UserError: the environments cannot be made, or are others than those of the learner.
        EnvironmentFailedError: an environment raised.
    """

    def __init__(self, setup: Setup, stand: Stand) -> None:
        self._setup = setup
        share, actors = setup.share, setup.actors
        group = share.size if actors.asynchronous else 1
        self._programs: ActorPrograms = actor_programs(
            setup.options, setup.spec, group, actors.actor_steps
        )
        self._groups = [slice(i, i + group) for i in range(0, share.size, group)]
        self._num_envs = setup.options.runner.num_envs
        self._network: tuple[int, Any] | None = None  # the newest, after so many updates
        if setup.env.spec != setup.spec:
            raise UserError(
                f"actor {share.actor} makes environments with other spaces than those here: "
                "install the same environment on all nodes"
            )
        self._vector = setup.env.vector(share.size, processes=True)
        try:
            self.ready = self._reach(stand)
        except BaseException:
            self._vector.close()
            raise
        structure = jax.tree.structure(self._programs.act.shapes[0])
        self._states: list[Any] = [
            jax.tree.unflatten(structure, [x[group] for x in stand.acting])
            for group in self._groups
        ]

    def _reach(self, stand: Stand) -> Ready:
        """Bring the environments to where the actor stands.

        Where they get elsewhere, their episodes are truncated.
        """
        first = self._setup.share.first
        if not self._setup.actors.asynchronous:
            self._vector.remember()
        newest = self._vector.reset(self._setup.seed, first)
        if stand.newest is None or stand.history is None:
            self._newest = _copied(newest)
            return Ready([], np.zeros(self._setup.share.size, bool), self._vector.period)
        differs = self._vector.restore(stand.history, stand.newest)
        self._newest, lines = truncated_where(differs, stand.newest, first)
        return Ready(lines, differs, self._vector.period)

    def play(self, order: Order) -> Segment:
        """Play a segment.

        Raises:
            EnvironmentFailedError: an environment raised, or returned what it did not declare.
        """
        start = time.perf_counter()
        weights: Weights = order.weights
        network = self._network_of(weights)
        moments = jax.tree.map(jax.numpy.asarray, weights.moments)
        seen: list[TimeStep] = []
        taken: list[np.ndarray] = []
        stats: dict[int, dict[str, np.ndarray]] = {}
        for i in range(self._setup.actors.actor_steps):
            step = np.int32(order.step + i * self._num_envs)
            seen.append(self._newest)
            taken.append(self._act(network, moments, step))
            self._newest = _copied(self._vector.step(taken[-1]))
            if self._vector.stats:
                stats[i] = self._vector.stats
        time_steps: TimeStep = jax.tree.map(lambda *x: np.stack(x), *seen)
        actions = np.stack(taken)
        metrics = [self._programs.metrics(states) for states in self._states]
        return Segment(
            number=order.number,
            version=weights.version,
            updates=weights.updates,
            time_steps=time_steps,
            actions=actions,
            errors=self._errors(time_steps, actions, network, moments, weights),
            stats=stats,
            stand=Stand(_joined(map(jax.tree.leaves, self._states)), self._newest, None),
            exploration=jax.tree.map(lambda *x: np.concatenate(x), *metrics),
            seconds=time.perf_counter() - start,
        )

    def _network_of(self, weights: Weights) -> Any:
        """Return the network with some weights, copied once for all segments played with them."""
        if self._network is None or self._network[0] != weights.updates:
            given = self._programs.network(weights.vector)
            self._network = weights.updates, jax.tree.map(jax.numpy.array, given)
        return self._network[1]

    def _act(self, network: Any, moments: Any, step: np.int32) -> np.ndarray:
        """Choose the actions [share]."""
        chosen: list[Any] = []
        for i, group in enumerate(self._groups):
            newest = _part(self._newest, group)
            self._states[i], actions = self._programs.act(
                self._states[i], newest, network, moments, step
            )
            chosen.append(actions)
        return np.concatenate(chosen)

    def _errors(
        self,
        time_steps: TimeStep,
        actions: np.ndarray,
        network: Any,
        moments: Any,
        weights: Weights,
    ) -> np.ndarray | None:
        if self._programs.judge is None:
            return None
        given = network, moments, np.float32(weights.reward_factor)
        errors = [
            self._programs.judge(
                _part(time_steps, (slice(None), group)), actions[:, group], *given, states
            )
            for group, states in zip(self._groups, self._states, strict=True)
        ]
        return np.concatenate(errors, axis=1)

    def close(self) -> None:
        """Close the environments."""
        self._vector.close()


def _copied(time_step: TimeStep) -> TimeStep:
    """Copy a time step out of memory that the next step overwrites."""
    return jax.tree.map(np.array, time_step)


def _part(time_steps: TimeStep, place: Any) -> TimeStep:
    """Return the time steps of some environments."""
    return jax.tree.map(lambda x: x[place], time_steps)


def _joined(leaves: Iterable[Sequence[Any]]) -> list[np.ndarray]:
    """Join the leaves of the states of all groups."""
    return [np.concatenate(parts) for parts in zip(*leaves, strict=True)]
