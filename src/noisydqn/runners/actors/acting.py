"""The compiled programs of an actor: environments act, each by itself, and judge what they did.

Every environment has a key, a noise sample and a place in the schedule of its own. A program is for
a group of environments. In synchronous mode that is a single one, and the same program is called
for each: so what happens in an environment has the same bits, however they are shared out among
actors. (A loop over them in one program would not do. XLA compiles its body into what is around it,
and rounds differently.)
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.compilation import Program
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import Agent, UpdateNoise
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay
from noisydqn.runners import build
from noisydqn.runners.acting import Acting
from noisydqn.runners.core import program_key
from noisydqn.runners.options import ProgramOptions
from noisydqn.runners.schedule import UpdateSchedule
from noisydqn.runners.state import ActorState, raw_keys, typed_keys
from noisydqn.trees import Flat, structs, zeros
from noisydqn.types import Batch, Row, TimeStep


class ActorPrograms(NamedTuple):
    """The programs of an actor for a group of environments."""

    network: Callable[[np.ndarray], Any]
    """Views the vector of weights as the network, which programs take: from a vector, every call
    would copy its parts."""
    act: Program[tuple[Any, Array]]
    """Of actor states, time steps, network, moments, and steps before."""
    judge: Program[Array] | None
    """Of time steps, actions, network, moments, the factor of rewards, and actor states: the errors
    that set first priorities; None where replay is uniform."""
    metrics: Program[dict[str, Array]]
    """Of actor states: the explorer's metrics [group]."""


def of_one_environment(options: ProgramOptions[Any], spec: EnvironmentSpec) -> Acting:
    """Make the acting part for a single environment."""
    return Acting.create(options._replace(runner=options.runner.of_one), spec)


def start_acting(acting: Acting, policy: Policy, key: PRNGKeyArray, num_envs: int) -> ActorState:
    """Make the states [num_envs, 1, ...] of all environments before their first time step."""

    def of_one(number: Array) -> ActorState:
        actor_key, explorer_key = jax.random.split(jax.random.fold_in(key, number))
        return acting.init(policy, actor_key, explorer_key)[0]

    return jax.vmap(of_one)(jnp.arange(num_envs, dtype=jnp.int32))


@lru_cache(maxsize=8)
def actor_programs(
    options: ProgramOptions[Any], spec: EnvironmentSpec, group: int, steps: int
) -> ActorPrograms:
    """Make the programs of an actor; kept, so that another actor here compiles nothing.

    Args:
        options: of the programs.
        spec: the interface of the environments.
        group: environments that are computed together.
        steps: of each environment in a segment.
    """
    judged = options.learner.replay == "prioritized"
    one = _One(options, spec, steps)

    def act(
        states: Any, time_step: TimeStep, network: Any, moments: Any, step: Array
    ) -> tuple[Any, Array]:
        policy = one.policy(network, moments)

        def of_one(state: Any, time_step: TimeStep) -> tuple[Any, Array]:
            return one.act(policy, state, time_step, step)

        return jax.vmap(of_one)(states, time_step)

    def judge(
        time_steps: TimeStep,
        actions: Array,
        network: Any,
        moments: Any,
        factor: Array,
        states: Any,
    ) -> Array:
        policy = one.policy(network, moments)

        def of_one(time_steps: TimeStep, actions: Array, state: Any) -> Array:
            return one.judge(policy, time_steps, actions, factor, state)

        return jax.vmap(of_one, in_axes=(1, 1, 0), out_axes=1)(time_steps, actions, states)

    def metrics(states: Any) -> dict[str, Array]:
        return jax.vmap(one.acting.explorer.metrics)(one.typed(states).explorer)

    key = program_key(options, spec, group, steps)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    number = jax.ShapeDtypeStruct((), jnp.float32)

    def seen() -> tuple[Any, ...]:
        return one.states(group), spec.time_steps(group), *one.weights, count

    def played() -> tuple[Any, ...]:
        actions = jax.ShapeDtypeStruct((steps, group, *spec.action_shape), jnp.int32)
        return spec.time_steps(steps, group), actions, *one.weights, number, one.states(group)

    return ActorPrograms(
        network=one.network,
        act=Program("acting", act, seen, donate=(0,), key=key),
        judge=Program("first priorities", judge, played, key=key) if judged else None,
        metrics=Program("exploration", metrics, lambda: (one.states(group),), runs="once", key=key),
    )


class _One:
    """A single environment."""

    def __init__(self, options: ProgramOptions[Any], spec: EnvironmentSpec, steps: int) -> None:
        self.acting = of_one_environment(options, spec)
        self.schedule = UpdateSchedule.create(options)
        self.num_envs = options.runner.num_envs
        self.agent: Agent = build.make_agent(options)
        whole = build.make_replay(options)
        self.steps = steps
        self.replay = Replay(
            capacity=self.steps,
            num_envs=1,
            n_step=whole.n_step,
            discount=whole.discount,
            prioritized=True,
            priority_offset=0.0,
            frames=whole.frames,
        )
        self._like = cache(lambda: jax.eval_shape(self._blank, jax.random.key(0)))

    def _blank(self, key: PRNGKeyArray) -> tuple[Flat[Any], Any, ActorState]:
        policy = self.acting.make_policy(key)
        state = self.acting.init(policy, key, key)[0]
        return Flat.of(policy.network), policy.moments, state

    @property
    def weights(self) -> tuple[Any, Any]:
        """The shapes of network and moments."""
        flat, moments, _ = self._like()
        return jax.eval_shape(lambda: flat.with_vector(jnp.zeros(flat.vector.shape)).tree), moments

    def states(self, group: int) -> Any:
        """Return the shapes of the states of some environments."""
        state = jax.eval_shape(raw_keys, self._like()[2])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((group, *x.shape), x.dtype), state)

    def typed(self, state: Any) -> ActorState:
        """Wrap the keys of states."""
        return typed_keys(state, self._like()[2])

    def network(self, vector: np.ndarray) -> Any:
        """View a vector of weights as the network."""
        return self._like()[0].with_vector(cast("Any", vector)).tree

    def policy(self, network: Any, moments: Any) -> Policy:
        """Return the policy that a network and moments make."""
        preprocessing = self.acting.preprocessing
        return Policy(network, moments, preprocessing.observation_clip, self.acting.frames)

    def act(
        self, policy: Policy, state: Any, time_step: TimeStep, step: Array
    ) -> tuple[Any, Array]:
        """Take in a time step, resample the noise if it is time, and choose an action.

        Noise that is held until updates are made is resampled when they are scheduled.
        """
        actor = self.acting.see(self.typed(state), jax.tree.map(lambda x: x[None], time_step))
        ended = jnp.sum(actor.time_step.last, dtype=jnp.int32)
        scheduled = self.schedule.scheduled(step - self.num_envs, ended)
        actor = self.acting.resample_for(policy.network, actor, (step > 0) & (scheduled > 0))
        actor, actions = self.acting.choose_by(policy, actor, step)
        return raw_keys(actor), actions[0]

    def judge(
        self, policy: Policy, time_steps: TimeStep, actions: Array, factor: Array, state: Any
    ) -> Array:
        """Compute the errors [steps] of the transitions that begin with each step of a segment.

        Those that reach beyond its end are cut there, and bootstrap from its newest observation;
        the newest step itself has none. Frames before the segment are not known: a stack repeats
        its first observation instead.
        """
        clip, size = self.acting.preprocessing.reward_clip, self.steps
        reward = time_steps.reward if clip is None else jnp.clip(time_steps.reward, -clip, clip)
        last = time_steps.last.at[-1].set(True)
        row = Row(
            observation=time_steps.observation,
            action=actions,
            reward=reward,
            terminated=time_steps.terminated,
            last=last,
            action_mask=time_steps.action_mask,
        )
        one = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], row))
        blank = zeros(structs(one), self.replay.slots, 1)
        blank = blank._replace(last=jnp.ones_like(blank.last))
        rows = jax.tree.map(lambda ring, new: ring.at[:size, 0].set(new), blank, row)
        indices = jnp.arange(size, dtype=jnp.int32)
        transitions = self.replay.transitions(rows, indices)
        transitions = transitions._replace(
            s_tm1=policy.preprocess(transitions.s_tm1),
            r_t=transitions.r_t * factor,
            s_t=policy.preprocess(transitions.s_t),
        )
        batch = Batch(transitions, indices, jnp.ones(size, jnp.float32))
        network = policy.network
        key = self.typed(state).key
        queries = network.distribution.sample_queries(key, size)
        noise = UpdateNoise(None, None, None, queries)
        (_, error), _ = self.agent.losses(network, network, batch, noise)
        return error.at[-1].set(jnp.nan)
