"""From the options of a program to its parts."""

import jax
import optax
from jaxtyping import PRNGKeyArray

from noisydqn.distributions.bootstrap import Munchausen
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import Agent
from noisydqn.learner.options import LearningOptions
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay
from noisydqn.nets.build import make_network
from noisydqn.preprocessing import frames, normalize
from noisydqn.runners.options import ProgramOptions


def make_policy(options: ProgramOptions, spec: EnvironmentSpec, key: PRNGKeyArray) -> Policy:
    """Make a policy with new weights for an environment.

    Raises:
        UserError: the torso does not fit the observations, or code of the user's failed.
    """
    observation, preprocessing = spec.observation, options.preprocessing
    running = preprocessing.normalize_observations == "running"
    moments = normalize.init(observation.shape).rounded if running else None
    network = make_network(
        options.network,
        observation,
        _seen(observation, preprocessing.frame_stack),
        spec.num_actions,
        options.distribution,
        noisy=options.exploration.build().noisy_layers,
        key=key,
    )
    return Policy(network, moments, preprocessing.observation_clip, preprocessing.frame_stack)


def policy_like(options: ProgramOptions, spec: EnvironmentSpec) -> Policy:
    """Return shapes and dtypes in place of the arrays of a policy."""
    return jax.eval_shape(lambda: make_policy(options, spec, jax.random.key(0)))


def _seen(observation: jax.ShapeDtypeStruct, num_frames: int) -> tuple[int, ...]:
    """Return the shape of what the network sees: one observation, or merged frames."""
    if num_frames == 1:
        return observation.shape
    stack = jax.ShapeDtypeStruct((1, num_frames, *observation.shape), observation.dtype)
    return jax.eval_shape(frames.merge, stack).shape[1:]


def _make_optimizer(options: LearningOptions) -> optax.GradientTransformation:
    start, final = options.learning_rate, options.learning_rate_final
    rate = start
    if final is not None:
        rate = optax.linear_schedule(start, final, options.schedule_updates)
    if options.optimizer == "adamw":
        optimizer = optax.adamw(rate, eps=options.adam_epsilon, weight_decay=options.weight_decay)
    elif options.optimizer == "radam":
        optimizer = optax.radam(rate, eps=options.adam_epsilon)
    else:
        optimizer = optax.adam(rate, eps=options.adam_epsilon)
    if options.max_gradient_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.max_gradient_norm), optimizer)


def make_agent(options: ProgramOptions) -> Agent:
    """Make the learning rule."""
    learning = options.learning
    munchausen = Munchausen(
        scale=learning.munchausen_scale,
        temperature=learning.munchausen_temperature,
        minimum=learning.munchausen_minimum,
    )
    return Agent(
        optimizer=_make_optimizer(learning),
        double=learning.double,
        munchausen=munchausen if learning.munchausen else None,
        target_period=learning.target_period,
        target_rate=learning.target_rate,
        sigma_penalty=learning.sigma_penalty,
    )


def make_replay(options: ProgramOptions) -> Replay:
    """Make the replay buffer."""
    return Replay(
        capacity=options.replay.replay_capacity,
        num_envs=options.runner.num_envs,
        n_step=options.learning.n_step,
        discount=options.learning.discount,
        prioritized=options.replay.replay == "prioritized",
        priority_offset=options.replay.priority_offset,
        frames=options.preprocessing.frame_stack,
    )
