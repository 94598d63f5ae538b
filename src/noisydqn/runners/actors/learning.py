"""The compiled programs of the process that learns from what actors play.

It takes in a block of segments step by step, as if the steps had just been made here: statistics,
the row of the replay buffer, then the updates that the step brings.
"""

import dataclasses
from functools import cache, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.compilation import Compiler, Program
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.gradient import Metrics, no_metrics
from noisydqn.learner.options import ReplayOptions
from noisydqn.preprocessing import moments
from noisydqn.preprocessing.normalize import ReturnScale
from noisydqn.runners.actors.acting import of_one_environment, start_acting
from noisydqn.runners.core import program_key
from noisydqn.runners.exploration import Greedy
from noisydqn.runners.options import ProgramOptions
from noisydqn.runners.probe import Probe
from noisydqn.runners.replay_core import ReplayCore, ReplayTraining
from noisydqn.runners.state import Statistics, raw_keys, typed_keys
from noisydqn.trees import Flat
from noisydqn.types import TimeStep


class Learning(NamedTuple):
    """Everything that learning changes. The learner does not act, so its explorer holds nothing."""

    training: ReplayTraining
    errors: Float[Array, "n envs"] | None
    """The errors of the newest steps, the newest first, until their transitions are complete."""


@dataclasses.dataclass(frozen=True)
class LearnerCore:
    """The replay learner, fed by actors.

    Args:
        core: learns. Each share of the environments has its own position in its replay buffer.
        first_priorities: whether actors send errors that set the priorities of new transitions.
    """

    core: ReplayCore
    first_priorities: bool

    @staticmethod
    def create(options: ProgramOptions[ReplayOptions], spec: EnvironmentSpec) -> "LearnerCore":
        """Make the core of a program for environments with an interface."""
        core = ReplayCore.create(options, spec)
        core = dataclasses.replace(
            core,
            acting=dataclasses.replace(core.acting, explorer=Greedy()),
            replay=dataclasses.replace(core.replay, lockstep=False),
        )
        return LearnerCore(core, core.replay.prioritized)

    def init(self, key: PRNGKeyArray) -> Learning:
        """Make the state before the first step."""
        replay, errors = self.core.replay, None
        if self.first_priorities:
            errors = jnp.full((replay.n_step, replay.num_envs), jnp.nan, jnp.float32)
        return Learning(self.core.init(key), errors)

    def take(
        self,
        state: Learning,
        time_step: TimeStep,
        actions: Int[Array, " share *d"],
        errors: Float[Array, " share"] | None,
        first: Int[Array, ""],
    ) -> Learning:
        """Take in one step of a share of the environments.

        Args:
            state: the learner's.
            time_step: [share, ...], that was acted on.
            actions: that were taken.
            errors: of the transitions that begin with it; NaN where unknown.
            first: the first environment of the share.
        """
        training, share = state.training, len(actions)
        part = self.core.observe(_share_of(training, first, share), time_step)
        key, row_key = jax.random.split(part.actor.key)
        row = self.core.row(part.actor._replace(key=row_key), actions)
        alpha, _ = self.core.exponents.after(training.learner.updates)
        waiting = None if state.errors is None else _cut(state.errors, first, share, 1)
        replay = self.core.replay.add_share(training.replay, row, first, alpha, waiting)
        part = part._replace(actor=part.actor._replace(key=key), replay=replay)
        training = _with_share(training, part, first)
        if state.errors is None or waiting is None or errors is None:
            return Learning(training, state.errors)
        waiting = jnp.concatenate([errors[None], waiting[:-1]])
        return Learning(training, _paste(state.errors, waiting, first, 1))

    def ingest(
        self,
        state: Learning,
        time_steps: TimeStep,
        actions: Int[Array, "steps share *d"],
        errors: Float[Array, "steps share"] | None,
        first: Int[Array, ""],
        due: Int[Array, " steps"],
        sums: Flat[Metrics],
    ) -> tuple[Learning, Flat[Metrics]]:
        """Take in the steps of a share, each followed by the updates that are `due` after it."""

        def body(
            i: Int[Array, ""], carry: tuple[Learning, Flat[Metrics]]
        ) -> tuple[Learning, Flat[Metrics]]:
            state, sums = carry
            time_step, taken, error = jax.tree.map(lambda x: x[i], (time_steps, actions, errors))
            state = self.take(state, time_step, taken, error, first)
            training, sums = self.core.learn(state.training, due[i], sums)
            return state._replace(training=training), sums

        return jax.lax.fori_loop(0, len(actions), body, (state, sums))

    def restart(self, state: Learning, first: Int[Array, ""], share: int) -> Learning:
        """Let the episodes of a share end, as its environments start anew."""
        training = state.training
        part = _share_of(training, first, share)
        ended = part.actor.time_step
        ended = ended._replace(truncated=ended.truncated | ~ended.terminated)
        part = part._replace(
            actor=part.actor._replace(time_step=ended),
            replay=self.core.replay.end_share(training.replay, first, share),
        )
        return state._replace(training=_with_share(training, part, first))


def _cut(x: Array, first: Array, size: int, axis: int = 0) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, first, size, axis)


def _paste(x: Array, part: Array, first: Array, axis: int = 0) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, first, axis)


def _share_of(state: ReplayTraining, first: Array, share: int) -> ReplayTraining:
    """Return a state whose actor and statistics are those of a share of the environments."""
    actor, scale = state.actor, state.statistics.return_scale
    time_step, stack = jax.tree.map(lambda x: _cut(x, first, share), (actor.time_step, actor.stack))
    if scale is not None:
        scale = ReturnScale(_cut(scale.discounted_return, first, share), scale.moments)
    return state._replace(
        actor=actor._replace(time_step=time_step, stack=stack),
        statistics=Statistics(state.statistics.moments, scale),
    )


def _with_share(state: ReplayTraining, part: ReplayTraining, first: Array) -> ReplayTraining:
    """Put a share's part of a state back."""
    actor, scale = state.actor, part.statistics.return_scale
    time_step, stack = jax.tree.map(
        lambda x, new: _paste(x, new, first),
        (actor.time_step, actor.stack),
        (part.actor.time_step, part.actor.stack),
    )
    before = state.statistics.return_scale
    if scale is not None and before is not None:
        returns = _paste(before.discounted_return, scale.discounted_return, first)
        scale = ReturnScale(returns, scale.moments)
    return part._replace(
        actor=part.actor._replace(time_step=time_step, stack=stack),
        statistics=Statistics(part.statistics.moments, scale),
    )


class Published(NamedTuple):
    """What actors need of a state."""

    vector: Array
    moments: Any  # rounded
    reward_factor: Array


class LearnerPrograms(NamedTuple):
    """The core and its functions, whose states hold keys as raw data."""

    learner: LearnerCore
    vector_steps: int  # steps of all environments in a whole chunk
    share: int  # environments whose steps are taken in together
    init: Program[Any]  # of a key
    ingest: Program[tuple[Any, Flat[Metrics]]]  # of state, the steps of a block, due, sums
    restart: Program[Any]  # of state, first environment
    publish: Program[Published]  # of state
    probe: Program[tuple[Any, Probe]]  # of state
    start_acting: Program[Any]  # of state, key: the states of all actors

    def start(self, compiler: Compiler) -> Program[Any]:
        """Compile all; return the one that takes longest."""
        compiler.start(self.ingest, self.init, self.start_acting, self.publish, self.probe)
        return self.ingest


@lru_cache(maxsize=8)
def learner_programs(
    options: ProgramOptions[ReplayOptions], spec: EnvironmentSpec, share: int, steps: int
) -> LearnerPrograms:
    """Make the programs of a run; kept, so that a second run compiles nothing.

    Args:
        options: of the programs.
        spec: the interface of the environments.
        share: environments whose steps are taken in together.
        steps: of each of them that are taken in together.
    """
    learner = LearnerCore.create(options, spec)
    core, num_envs = learner.core, options.runner.num_envs
    acting = of_one_environment(options, spec)

    @cache
    def like() -> Any:
        return jax.eval_shape(learner.init, jax.random.key(0))

    def typed(state: Any) -> Learning:
        return typed_keys(state, like())

    def init(key: PRNGKeyArray) -> Any:
        return raw_keys(learner.init(key))

    def ingest(
        state: Any,
        time_steps: TimeStep,
        actions: Array,
        errors: Array | None,
        first: Array,
        due: Array,
        sums: Flat[Metrics],
    ) -> tuple[Any, Flat[Metrics]]:
        learning, sums = learner.ingest(typed(state), time_steps, actions, errors, first, due, sums)
        return raw_keys(learning), sums

    def restart(state: Any, first: Array) -> Any:
        return raw_keys(learner.restart(typed(state), first, share))

    def publish(state: Any) -> Published:
        training = state.training
        running = training.statistics.moments
        return Published(
            vector=Flat.of(training.learner.online.tree).vector,
            moments=None if running is None else moments.rounded(running),
            reward_factor=jnp.asarray(core.acting.reward_factor(training.statistics), jnp.float32),
        )

    def probe(state: Any) -> tuple[Any, Probe]:
        learning = typed(state)
        training, probed = core.probe(learning.training)
        return raw_keys(learning._replace(training=training)), probed

    def start(state: Any, key: PRNGKeyArray) -> Any:
        policy = core.acting.policy(state.training)
        return raw_keys(start_acting(acting, policy, key, num_envs))

    key = program_key(options, spec, share, steps)
    first = Program("start", init, lambda: (jax.random.key(0),), runs="once", key=key)
    count = jax.ShapeDtypeStruct((), jnp.int32)

    def block() -> tuple[Any, ...]:
        actions = jax.ShapeDtypeStruct((steps, share, *spec.action_shape), jnp.int32)
        errors = jax.ShapeDtypeStruct((steps, share), jnp.float32)
        due, sums = jax.ShapeDtypeStruct((steps,), jnp.int32), jax.eval_shape(no_metrics)
        errors = errors if learner.first_priorities else None
        return first.shapes, spec.time_steps(steps, share), actions, errors, count, due, sums

    def state() -> tuple[Any]:
        return (first.shapes,)

    return LearnerPrograms(
        learner=learner,
        vector_steps=max(options.runner.vector_steps // steps, 1) * steps,
        share=share,
        init=first,
        ingest=Program("learning", ingest, block, donate=(0, 6), key=key),
        restart=Program(
            "restarting", restart, lambda: (first.shapes, count), donate=(0,), runs="once", key=key
        ),
        publish=Program("weights", publish, state, runs="seldom", key=key),
        probe=Program("noise", probe, state, donate=(0,), runs="seldom", key=key),
        start_acting=Program(
            "actors", start, lambda: (first.shapes, jax.random.key(0)), runs="once", key=key
        ),
    )
