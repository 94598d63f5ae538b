"""The options that a name stands for."""

from collections.abc import Iterable
from pathlib import Path

from noisydqn.config.config import Config
from noisydqn.config.gate import ALL
from noisydqn.envs.names import prefix
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.errors import UserError
from noisydqn.options import hint_of, hints_of, shown
from noisydqn.presets import PRESETS, config_for, with_learner

GOALS = ("stop_at_return", "window", "stop_at_evaluation")
"""Options of a preset that make no sense in another environment, as do those of its own."""


def config_named(
    name: str, uses: Iterable[str] = ALL, *, trust: bool = False, learner: str | None = None
) -> Config:
    """Find the options of a preset, of a run, or those that suit an environment.

    Args:
        name: a preset, an id of an environment, or the path of a run's folder or `config.json`.
        uses: as in `StoredConfig.admit`, for the config of a run.
        trust: as in `StoredConfig.admit`.
        learner: the learner that is asked for, if any: a preset's counterpart is found.

    Raises:
        UserError: there is no preset, environment or run of that name, or its config cannot be
            used, or names code and is not trusted.
    """
    if name in PRESETS:
        return with_learner(PRESETS[name], learner)
    if name.endswith(".toml") and not prefix(name):
        command = f"noisydqn train --preset-file {name}"
        raise UserError(f"{name} is not a run: a preset file is given as {command}")
    if _is_path(name):
        from noisydqn.runs.folder import find_config

        return find_config(name).admit(uses, trust=trust)
    if not prefix(name):
        from noisydqn.envs.catalogue import is_registered, unknown

        if not is_registered(name):
            raise UserError(unknown(name, PRESETS))
    return config_for(name, learner)


def preset_named(name: str) -> Config:
    """Find a preset.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PRESETS:
        hint = hint_of(name, PRESETS) or f"there are {', '.join(PRESETS)}"
        raise UserError(f"no preset {shown(name)}: {hint}")
    return PRESETS[name]


def preset_for(preset: str, name: str | None, learner: str | None = None) -> Config:
    """Find the options of a preset, and put an environment in the place of its own.

    Goals and options of the environment, such as its arguments, are then not the preset's.

    Args:
        preset: the preset.
        name: the environment; None keeps the preset's own.
        learner: as in `config_named`.

    Raises:
        UserError: there is no such preset or environment.
    """
    config = with_learner(preset_named(preset), learner)
    if name is None:
        return config
    if name in PRESETS or _is_path(name):
        raise UserError(
            f"--preset needs an environment as NAME, got {shown(name)}: noisydqn train "
            f"{config.environment.env} --preset {preset}"
        )
    config_named(name)  # which refuses an unknown one
    if name == config.environment.env:
        return config
    default = Config().flat()
    own = [option for option in hints_of(EnvironmentOptions) if option != "env"]
    return config.replace(env=name, **{option: default[option] for option in (*own, *GOALS)})


def _is_path(name: str) -> bool:
    """Tell whether a name is the path of a run rather than an environment."""
    import gymnasium

    path = Path(name)
    if name in gymnasium.registry:
        return False
    looks_so = name.startswith(("~", ".", "/")) or (path.suffix == ".json" and not prefix(name))
    return looks_so or path.is_dir() or path.is_file()
