"""From the options of a program to its parts."""

from typing import Any

import jax
import optax
from jaxtyping import PRNGKeyArray

from noisydqn.distributions.bootstrap import Munchausen
from noisydqn.distributions.joint import check_dimensions
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import Agent
from noisydqn.learner.gradient import Descent
from noisydqn.learner.noise_rule import NoiseRule
from noisydqn.learner.options import LearningOptions, ParallelOptions, ReplayOptions
from noisydqn.learner.parallel import ParallelAgent
from noisydqn.learner.policy import Policy
from noisydqn.learner.replay import Replay
from noisydqn.nets.build import make_network
from noisydqn.preprocessing import frames, moments
from noisydqn.runners.options import AnyProgram, ProgramOptions
from noisydqn.shards import ONE, Shards


def make_policy(options: AnyProgram, spec: EnvironmentSpec, key: PRNGKeyArray) -> Policy:
    """Make a policy with new weights for an environment.

    Raises:
        UserError: the torso does not fit the observations, the distribution does not fit the
            actions, or code of the user's failed.
    """
    check_dimensions(options.distribution, spec.action_sizes)
    observation, preprocessing = spec.observation, options.preprocessing
    running = preprocessing.normalize_observations == "running"
    known = moments.rounded(moments.init(observation)) if running else None
    network = make_network(
        options.network,
        observation,
        _seen(observation, preprocessing.frame_stack),
        spec.action_sizes,
        options.distribution,
        noisy=options.exploration.build().noisy_layers,
        key=key,
    )
    return Policy(network, known, preprocessing.observation_clip, preprocessing.frame_stack)


def policy_like(options: AnyProgram, spec: EnvironmentSpec) -> Policy:
    """Return shapes and dtypes in place of the arrays of a policy."""
    return jax.eval_shape(lambda: make_policy(options, spec, jax.random.key(0)))


def _seen(observation: Any, num_frames: int) -> Any:
    """Return the shape and dtype of what the network sees: one observation, or merged frames."""
    if num_frames == 1:
        return observation

    def merged(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        stack = jax.ShapeDtypeStruct((1, num_frames, *x.shape), x.dtype)
        shape = jax.eval_shape(frames.merge, stack).shape[1:]
        return jax.ShapeDtypeStruct(shape, x.dtype)

    return frames.by_kind(merged, lambda x: x, observation)


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


def _make_descent(options: LearningOptions, shards: Shards) -> Descent:
    return Descent(_make_optimizer(options), options.sigma_penalty, options.sigma_rate, shards)


def make_noise_rule(options: LearningOptions) -> NoiseRule:
    """Make the rule by which updates sample noise."""
    return NoiseRule(
        samples=options.noise_samples,
        matched=options.matched_targets,
        mean=options.update_noise == "mean",
    )


def make_agent(options: ProgramOptions[ReplayOptions], shards: Shards = ONE) -> Agent:
    """Make the learning rule of the replay learner, whose batches are divided over devices."""
    learner = options.learner
    munchausen = Munchausen(
        scale=learner.munchausen_scale,
        temperature=learner.munchausen_temperature,
        minimum=learner.munchausen_minimum,
    )
    return Agent(
        descent=_make_descent(options.learning, shards),
        noise=make_noise_rule(options.learning),
        double=learner.double,
        munchausen=munchausen if learner.munchausen else None,
        target_period=learner.target_period,
        target_rate=learner.target_rate,
        perturbation=learner.target_perturbation,
    )


def make_parallel_agent(
    options: ProgramOptions[ParallelOptions], shards: Shards = ONE
) -> ParallelAgent:
    """Make the learning rule of the parallel learner, whose minibatches are divided alike."""
    return ParallelAgent(
        descent=_make_descent(options.learning, shards),
        noise=make_noise_rule(options.learning),
        discount=options.learning.discount,
        return_lambda=options.learner.return_lambda,
    )


def make_replay(options: ProgramOptions[ReplayOptions], shards: Shards = ONE) -> Replay:
    """Make the replay buffer, on several devices that of each."""
    learner = options.learner
    return Replay(
        capacity=shards.part(learner.replay_capacity),
        num_envs=shards.part(options.runner.num_envs),
        n_step=learner.n_step,
        discount=options.learning.discount,
        prioritized=learner.replay == "prioritized",
        priority_offset=learner.priority_offset,
        frames=options.preprocessing.frame_stack,
        shards=shards,
    )
