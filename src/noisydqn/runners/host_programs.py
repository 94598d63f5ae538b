"""The compiled programs of the host runner: to act and to learn, in two calls of a step or in one.

Two calls let the environments step while the second one learns. On a single core nothing can run
meanwhile, and one call saves what a second one costs. Both compute the same, up to rounding.
"""

from functools import cache, lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.compilation import Compiler, Program
from noisydqn.cores import usable_cores
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.gradient import Metrics, no_metrics
from noisydqn.runners.core import Core, program_key
from noisydqn.runners.cores import make_core
from noisydqn.runners.options import AnyProgram
from noisydqn.runners.probe import Probe
from noisydqn.runners.state import raw_keys, typed_keys
from noisydqn.trees import Flat
from noisydqn.types import TimeStep


class Work(NamedTuple):
    """What a step asks of the agent. Programs take it as one array of int32, [5]."""

    step: Any  # environment steps before this one
    acts: Any  # 1 if actions are to be chosen, else 0
    learns: Any  # 1 if the updates of the newest step are to be made, else 0
    scheduled: Any  # updates that belong to that step
    due: Any  # those of them that are within the budget

    @property
    def array(self) -> np.ndarray:
        """The argument of a program."""
        return np.array(self, np.int32)


class Calls(Protocol):
    """The calls that do the work of a step."""

    @property
    def programs(self) -> tuple[Program[Any], ...]:
        """The programs that are called, the one that takes longest to compile first."""
        ...

    def __call__(
        self, state: Any, time_step: TimeStep, work: Work, sums: Flat[Metrics]
    ) -> tuple[Any, Array | None, Flat[Metrics]]:
        """Act and learn, as far as asked for.

        Returns:
            The state, the actions [envs] if they were asked for, and the sums.
        """
        ...


class Overlapping(NamedTuple):
    """Two calls, so that the environments can step with the actions of the first."""

    act: Program[tuple[Any, Array]]  # of state, time step, work
    learn: Program[tuple[Any, Flat[Metrics]]]  # of state, work, sums

    @property
    def programs(self) -> tuple[Program[Any], ...]:
        """The programs."""
        return self.learn, self.act

    def __call__(
        self, state: Any, time_step: TimeStep, work: Work, sums: Flat[Metrics]
    ) -> tuple[Any, Array | None, Flat[Metrics]]:
        """Act, and start to learn."""
        actions, asked = None, work.array
        if work.acts:
            state, actions = self.act(state, time_step, asked)
        if work.learns:
            state, sums = self.learn(state, asked, sums)
        return state, actions, sums


class Joined(NamedTuple):
    """One call, for a single core: a second one would cost up to a fifth of a step."""

    step: Program[tuple[Any, Array, Flat[Metrics]]]  # of state, time step, work, sums

    @property
    def programs(self) -> tuple[Program[Any], ...]:
        """The program."""
        return (self.step,)

    def __call__(
        self, state: Any, time_step: TimeStep, work: Work, sums: Flat[Metrics]
    ) -> tuple[Any, Array | None, Flat[Metrics]]:
        """Act and learn."""
        state, actions, sums = self.step(state, time_step, work.array, sums)
        return state, actions if work.acts else None, sums


class HostPrograms(NamedTuple):
    """The core and its functions.

    Their states are the `TrainingState` of the learner, but hold keys as raw data: a call takes
    some 5 us to wrap a typed key that it takes and gives back.
    """

    core: Core
    vector_steps: int  # steps of all environments in a whole chunk
    init: Program[Any]  # of a key
    calls: Calls
    probe: Program[tuple[Any, Probe]]  # of state

    def start(self, compiler: Compiler) -> Program[Any]:
        """Compile all; return the one that takes longest."""
        longest, *others = self.calls.programs
        compiler.start(longest, self.init, *others, self.probe)
        return longest


@lru_cache(maxsize=8)
def programs(
    options: AnyProgram, spec: EnvironmentSpec, overlap: bool | None = None
) -> HostPrograms:
    """Make the programs of a run; kept, so that a second run compiles nothing.

    Args:
        options: of the run.
        spec: of its environments.
        overlap: learn while the environments step. If not given, they do unless both would share
            the only core of the process.
    """
    if overlap is None:
        overlap = len(usable_cores()) > 1 or jax.default_backend() != "cpu"
    core = make_core(options, spec)

    @cache
    def like() -> Any:  # only needed if a program is not in the cache
        return jax.eval_shape(core.init, jax.random.key(0))

    def typed(state: Any) -> Any:
        return typed_keys(state, like())

    def start(key: PRNGKeyArray) -> Any:
        return raw_keys(core.init(key))

    def act(state: Any, time_step: TimeStep, work: Array) -> tuple[Any, Array]:
        state, actions = acted(typed(state), time_step, Work(*work))
        return raw_keys(state), actions

    def learn(state: Any, work: Array, sums: Flat[Metrics]) -> tuple[Any, Flat[Metrics]]:
        state, sums = learned(typed(state), Work(*work), sums)
        return raw_keys(state), sums

    def step(
        state: Any, time_step: TimeStep, work: Array, sums: Flat[Metrics]
    ) -> tuple[Any, Array, Flat[Metrics]]:
        asked = Work(*work)  # each part is a loop of one turn or none
        none = jnp.zeros((core.acting.num_envs, *spec.action_shape), jnp.int32)
        state, actions = jax.lax.fori_loop(
            0, asked.acts, lambda _, x: acted(x[0], time_step, asked), (typed(state), none)
        )
        state, sums = jax.lax.fori_loop(
            0, asked.learns, lambda _, x: learned(x[0], asked, x[1]), (state, sums)
        )
        return raw_keys(state), actions, sums

    def acted(state: Any, time_step: TimeStep, work: Work) -> tuple[Any, Array]:
        return core.act(core.observe(state, time_step), work.step)

    def learned(state: Any, work: Work, sums: Flat[Metrics]) -> tuple[Any, Flat[Metrics]]:
        state, sums = core.learn(state, work.due, sums)
        return core.resample(state, work.scheduled > 0), sums

    def probe(state: Any) -> tuple[Any, Probe]:
        state, probed = core.probe(typed(state))
        return raw_keys(state), probed

    key = program_key(options, spec)
    init = Program("start", start, lambda: (jax.random.key(0),), runs="once", key=key)
    work = jax.ShapeDtypeStruct((len(Work._fields),), jnp.int32)
    sums = jax.eval_shape(no_metrics)

    def of_state() -> tuple[Any]:
        return (init.shapes,)

    def of_acting() -> tuple[Any, ...]:
        return init.shapes, spec.time_steps(core.acting.num_envs), work

    def of_learning() -> tuple[Any, ...]:
        return init.shapes, work, sums

    def of_both() -> tuple[Any, ...]:
        return *of_acting(), sums

    return HostPrograms(
        core=core,
        vector_steps=options.runner.vector_steps,
        init=init,
        calls=Overlapping(
            act=Program("acting", act, of_acting, donate=(0,), key=key),
            learn=Program("learning", learn, of_learning, donate=(0, 2), key=key),
        )
        if overlap
        else Joined(Program("acting and learning", step, of_both, donate=(0, 3), key=key)),
        probe=Program("noise", probe, of_state, donate=(0,), runs="seldom", key=key),
    )
