"""Play a saved run: evaluate it, record a video of it."""

from pathlib import Path
from typing import Any, Literal

from noisydqn.config.config import MAX_FILM_SECONDS, Config, check_seed
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.registry import AnyEnvironment, environment_spec, environment_to_play
from noisydqn.errors import UserError
from noisydqn.files import Place, free_path, given_path
from noisydqn.learner.policy import Policy
from noisydqn.options import argument, refuse_unknown
from noisydqn.play import evaluate as evaluation
from noisydqn.play.evaluate import Evaluation
from noisydqn.play.video import save_film
from noisydqn.runs.folder import RunFolder, check_spaces, open_folder
from noisydqn.runs.keys import SeedKeys, seed_keys
from noisydqn.runs.weights import load_policy
from noisydqn.settings import own_settings

MAX_EPISODES = 10_000
"""Largest number of episodes: more, played side by side, may not fit into memory."""


@own_settings()
def evaluate(
    folder: Place,
    *,
    env: AnyEnvironment = None,
    episodes: int | None = None,
    seed: int | None = None,
    weights: Literal["best", "final"] = "best",
    **unknown: Any,
) -> Evaluation:
    """Play whole episodes with mean weights, as `noisydqn evaluate` does.

        noisydqn.evaluate("runs/one").mean_return

    Args:
        folder: a run's folder, which `train` made; of several seeds, the folder of one.
        env: as in `train`, where the config cannot name the environment, or to play in another.
            The run's `env_kwargs` and `max_episode_steps` do not apply to it.
        episodes: number of episodes; None plays as many as the run's own evaluations, so that the
            default is the evaluation of its summary. Episodes longer than the run's
            `evaluation_max_steps` are truncated.
        seed: of the episodes; None takes the run's own, as its summary did.
        weights: `"best"` or `"final"`.
        unknown: refused.

    Raises:
        UserError: an argument is out of range; the folder holds no run, or several; the weights
            are missing or damaged; or the environment cannot be made, or has other observations
            or actions than the run's.
        EnvironmentFailedError: the environment failed.
    """
    refuse_unknown(unknown, ["folder", "env", "episodes", "seed", "weights"], "evaluate")
    episodes = argument("episodes", episodes, int | None)
    run, config = open_folder(folder)
    episodes = config.evaluation_episodes if episodes is None else episodes
    if not 1 <= episodes <= MAX_EPISODES:
        raise UserError(f"--episodes must be between 1 and {MAX_EPISODES}, got {episodes}")
    key = _keys(config, seed).report
    environment, policy = _load(run, config, env, weights)
    return evaluation.evaluate(
        environment,
        policy,
        episodes=episodes,
        key=key,
        max_steps=config.evaluation_max_steps,
    )


@own_settings()
def record(
    folder: Place,
    *,
    env: AnyEnvironment = None,
    out: Place | None = None,
    seconds: float = 20.0,
    seed: int | None = None,
    **unknown: Any,
) -> Path:
    """Record a video of the best weights, as `noisydqn record` does; returns its path.

    Args:
        folder: as in `evaluate`.
        env: as in `evaluate`.
        out: the MP4, a new file; None takes a free name in the run's folder.
        seconds: length of the video.
        seed: of the episodes; None takes the run's own.
        unknown: refused.

    Raises:
        UserError: `out` exists or cannot be written, the environment cannot be drawn, or as
            `evaluate`.
    """
    refuse_unknown(unknown, ["folder", "env", "out", "seconds", "seed"], "record")
    seconds = argument("seconds", seconds, float)
    if not 0 < seconds <= MAX_FILM_SECONDS:
        raise UserError(
            f"--seconds must be above zero and at most {MAX_FILM_SECONDS}, got {seconds}"
        )
    run, config = open_folder(folder)
    key = _keys(config, seed).video
    video = free_path(run.video) if out is None else given_path(out)
    environment, policy = _load(run, config, env, "best")
    if video.exists():
        raise UserError(f"--out {video} exists, nothing was changed: name a new file")
    save_film(video, environment, policy, seconds, key)
    return video


def _keys(config: Config, seed: int | None) -> SeedKeys:
    seed = argument("seed", seed, int | None)
    if seed is None:
        return seed_keys(config.seed)
    check_seed("--seed", seed)
    return seed_keys(seed)


def _load(
    run: RunFolder, config: Config, env: AnyEnvironment, weights: str
) -> tuple[DeviceEnvironment | HostEnvironment, Policy]:
    environment = environment_to_play(config, env)
    spec = environment_spec(environment)
    check_spaces(run, spec)
    return environment, load_policy(run.weights(weights), config, spec)
