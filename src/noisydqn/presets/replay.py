"""Presets of the replay learner, each with a description."""

from noisydqn.config.config import Config
from noisydqn.envs.names import CATCHER, DEEP_SEA
from noisydqn.presets.noise import INDEXED

_CATCHER = Config(
    preset="catcher",
    env=CATCHER,
    steps=56_000,
    num_envs=8,
    chunk_steps=2_000,
    torso="catcher",
    hidden=(128,),
    sigma_init=1.0,  # with 0.5 a seed in fifty never tries to stop in the middle
    learning_rate=1e-3,
    learning_rate_final=1e-4,
    discount=0.95,
    n_step=8,
    batch_size=32,
    updates_per_step=0.125,
    target_period=200,
    target_rate=1.0,
    schedule_updates=6_500,
    evaluation_every=8_000,
)

_CATCHER_NOTEBOOK = Config(
    preset="catcher-notebook",
    env=CATCHER,
    steps=8_000_000,
    max_updates=6_000,
    num_envs=1,
    chunk_steps=5_000,
    normalize_observations="running",
    observation_clip=None,
    normalize_rewards=True,
    torso="notebook",
    hidden=(512,),
    noise="factorised",
    acting_noise="step",
    learning_rate=5e-4,
    learning_rate_final=None,
    optimizer="adamw",
    weight_decay=0.01,
    loss="smooth-l1",
    double=True,
    discount=0.99,
    n_step=1,
    batch_size=256,
    updates_per_step=0.0,
    updates_per_episode=4,
    learning_starts=1_000,
    random_steps=1_000,
    target_period=40,
    target_rate=1.0,
    replay="prioritized",
    replay_capacity=100_000,
    priority_exponent=0.5,
    priority_exponent_final=0.0,
    importance_exponent=0.4,
    importance_exponent_final=1.0,
    schedule_updates=4_800,
    priority_offset=1e-4,
    evaluation_every=200_000,
    video_seconds=60.0,
)

_LUNARLANDER_NOTEBOOK = Config(
    preset="lunarlander-notebook",
    env="LunarLander-v3",
    max_episode_steps=500,
    steps=1_000_000,  # 2,000 episodes of at most 500 steps
    stop_at_return=200.0,
    window=50,
    num_envs=1,
    torso="flat",
    hidden=(128, 128, 128),
    dueling=False,
    exploration="both",
    epsilon=0.05,
    epsilon_final=0.05,
    noise="factorised",
    sigma_init=0.5,
    acting_noise="step",
    learning_rate=1e-3,
    loss="squared",
    double=False,
    discount=0.99,
    n_step=1,
    batch_size=32,
    updates_per_step=1.0,
    learning_starts=32,
    target_period=400,
    target_rate=1.0,
    replay="uniform",
    replay_capacity=50_000,
)

_CLASSIC = Config(
    num_envs=4,
    torso="flat",
    hidden=(128, 128, 128),
    reward_scale=0.1,
    learning_rate=1e-3,
    learning_rate_final=1e-4,
    schedule_updates=40_000,
    adam_epsilon=1.5e-4,
    discount=0.998,  # hundreds of steps ahead, a landing is still worth more than a safe hover
    n_step=5,
    batch_size=64,
    updates_per_step=0.5,
    target_period=1,
    target_rate=0.005,
    evaluation_episodes=100,
)

_LUNARLANDER = _CLASSIC.replace(
    preset="lunarlander",
    env="LunarLander-v3",
    steps=300_000,
    chunk_steps=4_000,  # an evaluation takes as long as about 4,000 steps
    stop_at_return=200.0,
    window=50,
    stop_at_evaluation=230.0,  # some policies land with noise, but hover or fly off without
    layer_norm=True,
    distribution="quantile",
    quantiles=32,
    acting_noise="episode",
    schedule_updates=100_000,
)

_CARTPOLE = _CLASSIC.replace(
    preset="cartpole", env="CartPole-v1", steps=200_000, stop_at_return=475.0, window=100
)

_ACROBOT = _CLASSIC.replace(
    preset="acrobot",
    env="Acrobot-v1",
    steps=200_000,
    chunk_steps=5_000,
    stop_at_return=-100.0,
    window=100,
    stop_at_evaluation=-77.0,
    prior_scale=1.0,
    **INDEXED,
)

_PENDULUM = _CLASSIC.replace(
    preset="pendulum",
    env="Pendulum-v1",
    steps=40_000,
    chunk_steps=2_000,
    action_bins=9,
    hidden=(128, 128),
    discount=0.98,
    n_step=3,
    schedule_updates=20_000,
    evaluation_every=10_000,
    evaluation_episodes=20,
)

_SPARSE = Config(
    preset="sparse",
    env="MountainCar-v0",
    prior_scale=3.0,
    **INDEXED,
)

_MOUNTAINCAR = _SPARSE.replace(
    preset="mountaincar",
    stop_at_return=-110.0,
    window=100,
    stop_at_evaluation=-104.0,
    evaluation_episodes=100,
)

_DEEP_SEA = Config(  # batch and rates of bsuite's bootstrapped DQN, layers of its DQN
    preset="deepsea",
    env=DEEP_SEA,
    steps=510_000,  # 10,000 episodes of size 50, each with its reset
    stop_at_return=0.9,  # only the treasure gives as much
    window=100,
    num_envs=1,
    hidden=(64, 64),
    dueling=False,
    prior_scale=1.0,  # the worth of the treasure
    **{**INDEXED, "noise_samples": 8},
    learning_rate=1e-3,
    loss="squared",
    double=False,
    n_step=1,
    batch_size=128,
    updates_per_step=1.0,
    learning_starts=128,
    target_period=4,
    target_rate=1.0,
    replay="uniform",
)

_MINATAR_REPLAY = Config(
    preset="minatar-replay",
    env="MinAtar/Breakout-v1",
    steps=1_000_000,
    num_envs=8,
    hidden=(128,),
    distribution="quantile",
    quantiles=32,
    learning_rate=1e-3,
    learning_rate_final=1e-4,
    adam_epsilon=1.5e-4,
    batch_size=32,
    updates_per_step=0.25,
    learning_starts=5_000,
    target_period=1_000,
    target_rate=1.0,
    replay_capacity=100_000,
    schedule_updates=250_000,
    evaluation_every=100_000,
)

_ATARI = Config(
    preset="atari",
    env="ALE/Pong-v5",
    steps=10_000_000,
    num_envs=8,
    frame_stack=4,
    reward_clip=1.0,
    distribution="categorical",  # 51 atoms from -10 to 10, the defaults
    torso="nature",
    hidden=(512,),
    learning_rate=6.25e-5,
    adam_epsilon=1.5e-4,
    batch_size=32,
    updates_per_step=0.25,
    learning_starts=20_000,
    target_period=2_000,
    target_rate=1.0,
    replay_capacity=1_000_000,
    schedule_updates=2_500_000,
    evaluation_every=250_000,
    video_seconds=60.0,
)

_RAINBOW = _ATARI.replace(  # Hessel et al. 2018, table 1; a step is four frames
    preset="rainbow",
    steps=50_000_000,
    hidden=(),
    dueling=True,
    dueling_hidden=(512,),
    double=True,
    noise="factorised",
    sigma_init=0.5,
    n_step=3,
    discount=0.99,
    replay="prioritized",
    priority_exponent=0.5,
    priority_exponent_final=0.5,
    importance_exponent=0.4,
    importance_exponent_final=1.0,
    schedule_updates=12_500_000,
)

_RAINBOW_LUNARLANDER = _LUNARLANDER.replace(
    preset="rainbow-lunarlander",
    hidden=(128,),
    dueling_hidden=(128,),
    distribution="categorical",
    v_min=-50.0,  # returns of -500 to 500, times `reward_scale`
    v_max=50.0,
    n_step=3,
)

PRESETS = (
    (Config(), "for environments that have no preset"),
    (_CATCHER, "Catcher from pixels, tuned to learn in a minute on two cores; the default NAME"),
    (
        _CATCHER_NOTEBOOK,
        "the first notebook's configuration, with the factorised noise that its text describes: "
        "1,500 epochs of an episode and 4 batches",
    ),
    (
        # Noise of standard deviation 0.5 times a Kaiming-uniform sigma equals unit noise times
        # half that sigma.
        _CATCHER_NOTEBOOK.replace(
            preset="catcher-notebook-code",
            noise="independent",
            sigma_init=0.5,
            sigma_distribution="kaiming-uniform",
        ),
        "the same with the noise that its code samples: independent, with standard deviation 0.5 "
        "and Kaiming-uniform initial sigmas",
    ),
    (
        _LUNARLANDER,
        "LunarLander-v3 until 50 training returns average 200 and an evaluation without noise "
        "averages 230",
    ),
    (
        _LUNARLANDER_NOTEBOOK,
        "the second notebook's configuration: every layer noisy, epsilon 0.05 in addition, plain "
        "one-step targets",
    ),
    (_CARTPOLE, "CartPole-v1 until 100 training returns average 475"),
    (
        _ACROBOT,
        "Acrobot-v1 until 100 training returns average -100 and an evaluation averages -77",
    ),
    (
        _MOUNTAINCAR,
        "MountainCar-v0 until 100 training returns average -110 and an evaluation averages -104",
    ),
    (
        _SPARSE,
        "for environments whose rewards are rare: `default` with indexed noise and a prior; the "
        "preset itself trains on MountainCar-v0",
    ),
    (_PENDULUM, "Pendulum-v1 with its torque in 9 bins, for 40,000 steps"),
    (
        _DEEP_SEA,
        "DeepSea of size 10 until 100 training returns average 0.9; --env-kwargs '{\"size\": 20}' "
        "makes it larger",
    ),
    (
        _MINATAR_REPLAY,
        "the games of MinAtar for shorter runs than `minatar`; the preset itself trains on "
        "Breakout",
    ),
    (
        _ATARI,
        "the games of Atari, with 4 frames of 84 x 84 and sticky actions; the preset itself trains "
        "on Pong",
    ),
    (
        _RAINBOW,
        "Rainbow for Atari, with the network and options of its paper, for 200 million frames; the "
        "preset itself trains on Pong. Unlike the paper, it has 8 environments in lockstep, sticky "
        "actions instead of no-op starts, and episodes that continue after a lost life",
    ),
    (
        _RAINBOW_LUNARLANDER,
        "all of Rainbow (noisy, two dueling streams, double, prioritized, 3-step, 51 atoms) on "
        "LunarLander-v3, with the goals of `lunarlander`. Unlike the paper, it has that preset's "
        "layer normalization, noise held for an episode and slowly moving target network",
    ),
)
"""Each preset and its description."""
