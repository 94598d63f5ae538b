"""Presets of the parallel learner, each with a description."""

from noisydqn.config.config import Config
from noisydqn.presets.noise import INDEXED

_PARALLEL = Config(  # as Gallici et al. 2024 for MinAtar
    preset="default-parallel",
    learner="parallel",
    num_envs=128,
    chunk_steps=40_960,
    hidden=(128,),
    layer_norm=True,
    dueling=False,
    exploration="epsilon-greedy",
    epsilon_share=0.1,
    loss="squared",
    learning_rate=5e-4,
    learning_rate_final=0.0,
    schedule_share=1.0,
    max_gradient_norm=10.0,
    steps=1_000_000,
)

_DEFAULT_JAX = _PARALLEL.replace(
    preset="default-jax",
    steps=5_000_000,
    exploration="both",  # epsilon falls to 0.05 within 20,000 steps; the noise stays
    prior_scale=3.0,
    **INDEXED,
)

_CLASSIC_PARALLEL = _PARALLEL.replace(
    num_envs=16,
    minibatches=8,
    epochs=4,
    return_lambda=0.9,
    chunk_steps=4_096,
    hidden=(128, 128),
    reward_scale=0.1,
    epsilon_share=0.3,
    epsilon_final=0.05,
    evaluation_episodes=100,
)

_MINATAR = _PARALLEL.replace(
    preset="minatar",
    env="MinAtar/Breakout-v1",
    steps=5_000_000,
    torso="minatar",
)

_ATARI_PARALLEL = _PARALLEL.replace(  # as Gallici et al. 2024 for Atari
    preset="atari-parallel",
    env="ALE/Pong-v5",
    steps=50_000_000,
    frame_stack=4,
    reward_clip=1.0,
    torso="nature",
    torso_layer_norm=True,
    hidden=(512,),
    optimizer="radam",
    learning_rate=2.5e-4,
    learning_rate_final=None,
    schedule_share=None,
    epsilon_final=0.001,
    spread_updates=True,
    evaluation_every=1_000_000,
    video_seconds=60.0,
)

_PONG_LAPTOP = _ATARI_PARALLEL.replace(
    preset="pong-laptop",
    env_kwargs='{"img_height": 42, "img_width": 42}',
    steps=8_000_000,
    num_envs=32,
    minibatches=8,
    epochs=4,
    return_lambda=0.9,
    chunk_steps=20_480,
    torso="catcher",
    hidden=(256,),
    optimizer="adam",
    learning_rate=5e-4,
    learning_rate_final=0.0,
    schedule_share=1.0,
    epsilon_final=0.01,
    stop_at_return=18.0,
    window=32,
    stop_at_evaluation=19.0,
    evaluation_every=250_000,
)

PRESETS = (
    (_PARALLEL, "for environments that have no preset, by the parallel learner"),
    (
        _DEFAULT_JAX,
        "for environments in JAX that have no preset: `default-parallel` with indexed noise, a "
        "prior and more steps",
    ),
    (
        _CLASSIC_PARALLEL.replace(
            preset="cartpole-parallel",
            env="CartPole-v1",
            steps=200_000,
            stop_at_return=475.0,
            window=100,
            stop_at_evaluation=475.0,
        ),
        "CartPole-v1 by the parallel learner until 100 training returns average 475, and an "
        "evaluation confirms it",
    ),
    (
        _CLASSIC_PARALLEL.replace(
            preset="acrobot-parallel",
            env="Acrobot-v1",
            steps=200_000,
            stop_at_return=-100.0,
            window=100,
            stop_at_evaluation=-100.0,  # some policies swing up only with a random action between
        ),
        "Acrobot-v1 by the parallel learner until 100 training returns average -100, and an "
        "evaluation confirms it",
    ),
    (
        _CLASSIC_PARALLEL.replace(
            preset="lunarlander-parallel",
            env="LunarLander-v3",
            steps=500_000,
            stop_at_return=200.0,
            window=50,
            stop_at_evaluation=250.0,
            chunk_steps=16_384,  # an evaluation takes as long as about 16,000 steps
            epsilon_share=0.4,
        ),
        "LunarLander-v3 by the parallel learner until 50 training returns average 200 and an "
        "evaluation averages 250",
    ),
    (
        _MINATAR,
        "the games of MinAtar by the parallel learner; the preset itself trains on Breakout",
    ),
    (
        _ATARI_PARALLEL,
        "the games of Atari by the parallel learner, with the network and options of its paper; "
        "the preset itself trains on Pong",
    ),
    (
        _PONG_LAPTOP,
        "Pong from frames of 42 x 42, with a small network for two cores; ends early if an "
        "evaluation averages 19",
    ),
)
"""Each preset and its description."""
