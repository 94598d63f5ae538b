"""Named configurations."""

from noisydqn.config import Config

DEFAULT_PRESET = "catcher"

_NOTEBOOK = Config(
    preset="catcher-notebook",
    steps=8_000_000,
    max_updates=6_000,
    num_envs=1,
    chunk_steps=5_000,
    normalise_observations="running",
    observation_clip=None,
    normalise_rewards=True,
    torso="notebook",
    hidden=(512,),
    noise="factorised",
    acting_noise="step",
    learning_rate=5e-4,
    learning_rate_final=None,
    optimiser="adamw",
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
    replay="prioritised",
    replay_capacity=100_000,
    priority_exponent=0.5,
    priority_exponent_final=0.0,
    importance_exponent=0.4,
    importance_exponent_final=1.0,
    schedule_updates=4_800,
    priority_offset=1e-4,
    evaluation_every=200_000,
    film_seconds=60.0,
)

PRESETS: dict[str, Config] = {
    "catcher": Config(),
    "catcher-notebook": _NOTEBOOK,
    # Noise of deviation 0.5 times a Kaiming-uniform sigma is unit noise times half of it.
    "catcher-notebook-code": _NOTEBOOK.replace(
        preset="catcher-notebook-code",
        noise="independent",
        sigma_init=0.5,
        sigma_distribution="kaiming-uniform",
    ),
}

DESCRIPTIONS = {
    "catcher": "Catcher from pixels, tuned to learn in a minute on two cores (the default)",
    "catcher-notebook": (
        "the first notebook's configuration with the noise that its text describes, factorised: "
        "1,500 epochs of 4 batches and an episode"
    ),
    "catcher-notebook-code": (
        "the same with the noise that its code draws: independent, of deviation 0.5, with sigma "
        "started Kaiming-uniform"
    ),
}
