"""Acting: what happens at a step whatever the learner is, observe, choose, resample.

All of it is pure and compiled by the runner.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from noisydqn.dimensions import existing
from noisydqn.envs.spaces import Box
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import acting_values
from noisydqn.learner.policy import Policy
from noisydqn.masks import made_valid
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers
from noisydqn.preprocessing import frames, moments, normalize
from noisydqn.preprocessing.options import PreprocessingOptions
from noisydqn.runners import build
from noisydqn.runners.exploration import RandomFirst
from noisydqn.runners.explorer import Explorer
from noisydqn.runners.options import AnyProgram
from noisydqn.runners.state import ActorState, Statistics, TrainingState, replaced
from noisydqn.shards import ONE, Shards
from noisydqn.trees import num_rows, zeros
from noisydqn.types import Mixed, Observation, TimeStep

State = TypeVar("State", bound=TrainingState)

REPLACED = 2**31 - 1
"""What the key of an action is folded with for the random action that replaces an invalid one."""


@dataclasses.dataclass(frozen=True)
class Acting:
    """The steps of acting in environments of one kind.

    Args:
        spec: of the environments.
        make_policy: makes a policy with new weights from a key.
        preprocessing: of observations and rewards.
        explorer: chooses the actions.
        num_envs: environments that step in lockstep, on several devices those of each.
        discount: of one step, for the statistics of returns.
        shards: the devices that have such environments.
    """

    spec: EnvironmentSpec
    make_policy: Callable[[PRNGKeyArray], Policy]
    preprocessing: PreprocessingOptions
    explorer: Explorer
    num_envs: int
    discount: float
    shards: Shards = ONE

    @staticmethod
    def create(options: AnyProgram, spec: EnvironmentSpec, shards: Shards = ONE) -> "Acting":
        """Make the acting part of a program for environments with an interface."""
        explorer, random_steps = options.exploration.build(), options.runner.random_steps
        return Acting(
            spec=spec,
            make_policy=partial(build.make_policy, options, spec),
            preprocessing=options.preprocessing,
            explorer=RandomFirst(explorer, random_steps) if random_steps > 0 else explorer,
            num_envs=shards.part(options.runner.num_envs),
            discount=options.learning.discount,
            shards=shards,
        )

    @property
    def frames(self) -> int:
        """Newest observations that the network sees at once."""
        return self.preprocessing.frame_stack

    def policy(self, state: TrainingState) -> Policy:
        """Return the policy of a state."""
        running = state.statistics.moments
        return Policy(
            state.learner.online.tree,
            None if running is None else moments.rounded(running),
            self.preprocessing.observation_clip,
            self.frames,
        )

    def copy_policy(self, state: TrainingState, seed: int | None = None) -> Policy:
        """Copy the policy of a state that was computed; of one of the seeds on its first axis.

        By way of NumPy, so that nothing is compiled.
        """

        def copy(x: Array) -> np.ndarray:
            return np.array(np.asarray(x) if seed is None else np.asarray(x)[seed])

        online, statistics = jax.tree.map(copy, (state.learner.online, state.statistics))
        learner = replaced(state.learner, online=online)
        policy = self.policy(replaced(state, learner=learner, statistics=statistics))
        return jax.tree.map(jnp.asarray, policy)

    @property
    def noisy_layers(self) -> list[str]:
        """The names of the noisy layers."""
        policy = jax.eval_shape(self.make_policy, jax.random.key(0))
        return list(noisy_layers(policy.network))

    def init(
        self, policy: Policy, actor_key: PRNGKeyArray, explorer_key: PRNGKeyArray
    ) -> tuple[ActorState, Statistics]:
        """Make the states before the first time step: as if an episode had ended everywhere.

        Every device takes the same keys and makes its own of them.
        """
        actor_key, explorer_key = map(self.shards.own_key, (actor_key, explorer_key))
        envs, observation = self.num_envs, self.spec.observation
        time_step = TimeStep(
            observation=zeros(observation, envs),
            reward=jnp.zeros(envs),
            terminated=jnp.ones(envs, jnp.bool_),
            truncated=jnp.zeros(envs, jnp.bool_),
            info={},
            action_mask=self.spec.blank_masks(envs),
        )
        actor = ActorState(
            key=actor_key,
            time_step=time_step,
            stack=frames.start(time_step.observation, self.frames),
            explorer=self.explorer.init(policy.network, envs, explorer_key),
        )
        normalizes = self.preprocessing.normalize_rewards
        statistics = Statistics(
            moments=None if policy.moments is None else moments.init(observation),
            return_scale=normalize.init_return_scale(envs) if normalizes else None,
        )
        return actor, statistics

    def with_statistics(
        self,
        state: State,
        observations: moments.Rounded | None,
        returns: normalize.Moments | None,
    ) -> State:
        """Let the statistics of observations and of returns continue from those of another run.

        None leaves them as they are.
        """
        before, scale = state.statistics
        if observations is not None:
            before = moments.resumed(observations)
        if scale is not None and returns is not None:
            scale = scale._replace(moments=normalize.resumed(returns))
        return replaced(state, statistics=Statistics(before, scale))

    def observe(self, state: State, time_step: TimeStep) -> State:
        """Take in what the environments show next; after the last step that is a reset.

        Rewards are clipped here, before anything learns of them.
        """
        running, scale = state.statistics
        started, actor = state.actor.time_step.last, self.see(state.actor, time_step)
        if running is not None:
            running = moments.update(running, time_step.observation, self.shards)
        if scale is not None:
            reward = actor.time_step.reward
            scale = normalize.update_return_scale(
                scale, reward, started, self.discount, self.shards
            )
        return replaced(state, actor=actor, statistics=Statistics(running, scale))

    def see(self, actor: ActorState, time_step: TimeStep) -> ActorState:
        """Take in what the environments show next, without statistics."""
        clip, reward = self.preprocessing.reward_clip, time_step.reward
        if clip is not None:
            reward = jnp.clip(reward, -clip, clip)
        started = actor.time_step.last
        return actor._replace(
            time_step=time_step._replace(reward=reward, info={}),
            stack=frames.push(actor.stack, time_step.observation, started, self.frames),
        )

    def reward_factor(self, statistics: Statistics) -> Array | float:
        """Return what rewards are multiplied by before learning."""
        scale = statistics.return_scale
        return (1.0 if scale is None else scale.scale) * self.preprocessing.reward_scale

    def numbers(self, observations: Observation, *, stacked: bool = False) -> Array:
        """Return observations, none of whose elements stand for a category, or none at all.

        Args:
            observations: [rows, ...]. Those of images and vectors are left out.
            stacked: take the newest of their frames.
        """
        boxes = all(isinstance(part, Box) for part, _ in self.spec.encoding.parts)
        if isinstance(observations, Mixed) or not boxes:
            return jnp.zeros((num_rows(observations), 0), jnp.bool_)
        return observations[:, -1] if stacked else observations

    def choose(self, state: State, step: Int[Array, ""]) -> tuple[State, Int[Array, " envs *d"]]:
        """Choose the actions [envs], or [envs, D].

        `step` counts environment steps before this one. The explorer sees -infinity as the value
        of an invalid action; if it chooses one nevertheless, a random valid one is taken. So it is
        with choices that one of several dimensions does not have.
        """
        actor, actions = self.choose_by(self.policy(state), state.actor, step)
        return replaced(state, actor=actor), actions

    def choose_by(
        self, policy: Policy, actor: ActorState, step: Int[Array, ""]
    ) -> tuple[ActorState, Int[Array, " envs *d"]]:
        """Choose the actions by a policy; see `choose`."""
        key, act_key = jax.random.split(actor.key)
        masks = actor.time_step.action_mask
        values_fn = partial(acting_values, policy.network, masks=masks)
        seen = policy.preprocess(actor.stack)
        actions, explorer = self.explorer.act(actor.explorer, values_fn, seen, step, act_key)
        if (exists := existing(self.spec.action_sizes)) is not None:
            masks = jnp.broadcast_to(exists, (self.num_envs, *exists.shape))
        if masks is not None:
            actions = made_valid(actions, masks, jax.random.fold_in(act_key, REPLACED))
        return actor._replace(key=key, explorer=explorer), actions

    def resample(self, state: State, updated: Bool[Array, ""]) -> State:
        """Let the explorer resample its noise.

        `updated` tells whether updates were scheduled after the newest step.
        """
        actor = self.resample_for(state.learner.online.tree, state.actor, updated)
        return replaced(state, actor=actor)

    def resample_for(
        self, network: QNetwork, actor: ActorState, updated: Bool[Array, ""]
    ) -> ActorState:
        """Let the explorer of an actor resample its noise; see `resample`."""
        key, resample_key = jax.random.split(actor.key)
        explorer = self.explorer.resample(
            actor.explorer,
            network,
            updated=updated,
            ended=actor.time_step.last,
            key=resample_key,
        )
        return actor._replace(key=key, explorer=explorer)
