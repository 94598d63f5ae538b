"""Saved runs: evaluate one, record a video of it, load its policy."""

from pathlib import Path
from typing import Any, Literal

from noisydqn.config.config import Config
from noisydqn.config.gate import ALL, NETWORK
from noisydqn.config.run import MAX_EPISODES, MAX_VIDEO_SECONDS
from noisydqn.envs.protocol import Environment
from noisydqn.envs.registry import AnyEnvironment, environment_to_play
from noisydqn.errors import UserError
from noisydqn.files import Place, given_path
from noisydqn.folders import File
from noisydqn.learner.policy import Policy
from noisydqn.options import argument, check_seed, refuse_unknown
from noisydqn.play import evaluate as evaluation
from noisydqn.play.evaluate import Evaluation
from noisydqn.play.policy import GreedyPolicy
from noisydqn.play.video import save_film
from noisydqn.runs import weights
from noisydqn.runs.exported import admit_policy, load_exported, spec_of_run
from noisydqn.runs.folder import RunFolder, check_spaces, open_folder, with_stored_spaces
from noisydqn.runs.keys import SeedKeys, seed_keys
from noisydqn.settings import own_settings


@own_settings()
def evaluate(
    folder: Place,
    *,
    env: AnyEnvironment = None,
    episodes: int | None = None,
    seed: int | None = None,
    weights: Literal["best", "final"] = "best",
    trust: bool = False,
    **unknown: Any,
) -> Evaluation:
    """Play whole episodes with mean weights, as `noisydqn evaluate` does.

        noisydqn.evaluate("runs/one").mean_return

    Args:
        folder: a run's folder, which `train` made; of several seeds, the folder of one.
        env: as in `train`: needed if the config cannot name the environment, or to play in another
            one. The run's `env_kwargs` and `max_episode_steps` do not apply to it.
        episodes: number of episodes; None plays as many as the run's own evaluations. Episodes
            longer than the run's `evaluation_max_steps` are truncated.
        seed: seed of the episodes; None takes the run's own. The defaults repeat the evaluation in
            the run's summary.
        weights: `"best"` or `"final"`.
        trust: whether code that the run's config names may be imported and run.
        unknown: refused.

    Raises:
        UserError: an argument is out of range; the folder holds no run, or several; its config
            names code and is not trusted; the weights are missing or damaged; or the environment
            cannot be made, or has other observations or actions than the run's.
        EnvironmentFailedError: the environment failed.
    """
    known = ["folder", "env", "episodes", "seed", "weights", "trust"]
    refuse_unknown(unknown, known, "evaluate")
    episodes = argument("episodes", episodes, int | None)
    run, config = _open(folder, env, trust)
    episodes = config.run.evaluation_episodes if episodes is None else episodes
    if not 1 <= episodes <= MAX_EPISODES:
        raise UserError(f"--episodes must be between 1 and {MAX_EPISODES}, got {episodes}")
    key = _keys(config, seed).report
    environment, policy = _load(run, config, env, weights)
    return evaluation.evaluate(
        environment,
        policy,
        episodes=episodes,
        key=key,
        max_steps=config.run.evaluation_max_steps,
    )


@own_settings()
def record(
    folder: Place,
    *,
    env: AnyEnvironment = None,
    out: Place | None = None,
    seconds: float = 20.0,
    seed: int | None = None,
    panel: bool = True,
    trust: bool = False,
    **unknown: Any,
) -> Path:
    """Record a video of the best weights, as `noisydqn record` does; returns its path.

    Args:
        folder: as in `evaluate`.
        env: as in `evaluate`.
        out: the MP4, a new file; None takes a free name in the run's folder.
        seconds: length of the video.
        seed: seed of the episodes; None takes the run's own.
        panel: whether the action values and their spread under noise are drawn beside the game.
            They change nothing in the game.
        trust: as in `evaluate`.
        unknown: refused.

    Raises:
        UserError: `out` exists or cannot be written, the environment cannot be rendered, or as
            `evaluate`.
    """
    known = ["folder", "env", "out", "seconds", "seed", "panel", "trust"]
    refuse_unknown(unknown, known, "record")
    seconds = argument("seconds", seconds, float)
    if not 0 < seconds <= MAX_VIDEO_SECONDS:
        raise UserError(
            f"--seconds must be above zero and at most {MAX_VIDEO_SECONDS}, got {seconds}"
        )
    panel = argument("panel", panel, bool)
    run, config = _open(folder, env, trust)
    key = _keys(config, seed).video
    video = run.video.free() if out is None else File.at(given_path(out))
    environment, policy = _load(run, config, env, "best")
    if video.taken():
        raise UserError(f"--out {video} exists, nothing was changed: name a new file")
    save_film(video, environment, policy, seconds, key, panel=panel, new=True)
    return video.path


@own_settings()
def load_policy(
    path: Path | str, which: str = "best", env: AnyEnvironment = None, *, trust: bool = False
) -> GreedyPolicy:
    """Load a policy from a run's folder, or a file of `noisydqn export --format safetensors`.

        policy = noisydqn.load_policy("runs/one")
        action, _ = policy.predict(observation, deterministic=True)

    The environment is needed only for the folder of a run that is older than `spaces.json`.

    Args:
        path: the folder or the file.
        which: `"best"` or `"final"` weights, if `path` is a folder.
        env: as in `train`: only for such an old folder, and only if the config cannot name it.
        trust: whether code that the config names, such as a torso, may be imported and run.

    Raises:
        UserError: there is no policy, it is damaged, it needs code that its config names and is
            not trusted, or the folder holds several runs.
    """
    path = given_path(path, "the policy")
    if not path.is_file():
        folder, stored = open_folder(path)
        config = admit_policy(folder, stored, env, trust=argument("trust", trust, bool))
        spec = spec_of_run(folder, config, env)
        return GreedyPolicy(weights.load_policy(folder.weights(which), config, spec), spec)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is not a file that load_policy reads: name a run's folder or a .safetensors "
            "file"
        )
    return GreedyPolicy(*load_exported(path, trust=argument("trust", trust, bool)))


def _open(folder: Place, env: AnyEnvironment, trust: object) -> tuple[RunFolder, Config]:
    """Open the folder of a run that is to be played, and admit its config."""
    run, stored = open_folder(folder)
    uses = ALL if env is None else NETWORK
    return run, stored.admit(uses, trust=argument("trust", trust, bool))


def _keys(config: Config, seed: int | None) -> SeedKeys:
    seed = argument("seed", seed, int | None)
    if seed is None:
        return seed_keys(config.run.seed)
    check_seed("--seed", seed)
    return seed_keys(seed)


def _load(
    run: RunFolder, config: Config, env: AnyEnvironment, which: str
) -> tuple[Environment, Policy]:
    environment = with_stored_spaces(run, environment_to_play(config.environment, env))
    check_spaces(run, environment.spec)
    return environment, weights.load_policy(run.weights(which), config, environment.spec)
