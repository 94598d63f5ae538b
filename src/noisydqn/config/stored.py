"""The form that a config has in files, and how older forms become today's."""

from pathlib import Path
from typing import Any

from noisydqn.config.config import VARIANTS, Config, owners
from noisydqn.config.gate import StoredConfig
from noisydqn.errors import UserError
from noisydqn.options import MAX_COUNT

VERSION = 5

RENAMED = {
    "normalise_observations": "normalize_observations",
    "normalise_rewards": "normalize_rewards",
    "optimiser": "optimizer",
    "vectorisation": "vectorization",
    "film_seconds": "video_seconds",
}
"""Options that version 1 called otherwise."""

IMPLIED: dict[str, Any] = {
    "evaluation_max_steps": MAX_COUNT,
    "step_timeout": 600.0,
    "dueling_hidden": (),
    "munchausen_scale": 0.9,
    "munchausen_temperature": 0.03,
    "munchausen_minimum": -1.0,
}
"""Options that some configs of version 1 lack or leave open, with the value that this implied."""

IMPLIED_OF_VARIANTS: dict[str, dict[str, Any]] = {
    "expected": {"loss": "smooth-l1"},
    "categorical": {"atoms": 51, "v_min": -10.0, "v_max": 10.0},
    "quantile": {"quantiles": 200},
    "implicit-quantile": {"quantiles": 64, "acting_quantiles": 32},
}
"""The same, of the variants that version 1 knew."""


ADDED: dict[int, dict[str, Any]] = {
    3: {"learner": "replay", "schedule_share": None, "torso_layer_norm": False},
    4: {"sigma_rate": 1.0},
    5: {
        "index_dim": 8,
        "prior_scale": 0.0,
        "update_noise": "sample",
        "noise_samples": 1,
        "matched_targets": False,
        "track": (),
        "tuned_seeds": (),
        "images": ("auto",),
        "vector_widths": (),
        "devices": 1,
        "action_bins": None,
        "actors": 0,
        "actor_mode": "synchronous",
        "actor_steps": 16,
        "actor_lag": 1,
    },
}
"""Options that a version added, with the value that older versions implied."""

NO_GOAL: dict[str, Any] = {
    "noise_goal": None,
    "noise_goal_start": 1.0,
    "noise_goal_steps": 20_000,
    "noise_goal_share": None,
}
"""The options of noise without a goal."""

ADDED_TO_VARIANTS: dict[int, dict[str, dict[str, Any]]] = {
    3: {"epsilon-greedy": {"epsilon_share": None}, "both": {"epsilon_share": None}},
    5: {
        "replay": {"target_perturbation": 0.0},
        "noisy": NO_GOAL,
        "both": NO_GOAL,
    },
}
"""The same, of variants."""


def to_stored(config: Config) -> dict[str, Any]:
    """Return the form in which a config is stored as JSON."""
    return {"version": VERSION, **config.flat()}


def upgrade(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the options of any known version in the form of this version, without the version.

    Raises:
        ValueError: the version is not known.
    """
    stored = dict(stored)
    version = stored.pop("version", 1)  # exported policies of version 1 do not name it
    if version not in range(1, VERSION + 1):
        raise ValueError(f"version {version}, expected {VERSION} or older")
    if version == 1:
        stored = _from_version_1(stored)
    for newer in range(version + 1, VERSION + 1):
        stored = ADDED.get(newer, {}) | stored
        for section in VARIANTS:
            added = ADDED_TO_VARIANTS.get(newer, {}).get(str(stored.get(section)), {})
            stored = added | stored
    return stored


def _from_version_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Rename options, fill those left open, and drop those of variants that are not chosen."""
    stored = {RENAMED.get(name, name): value for name, value in stored.items()}
    if stored.get("replay") == "prioritised":
        stored["replay"] = "prioritized"
    implied = dict(IMPLIED)
    for section in VARIANTS:
        variant = str(stored.get(section))
        implied |= IMPLIED_OF_VARIANTS.get(variant, {})
        for name, variants in owners(section).items() if section in stored else ():
            if variant not in variants:
                stored.pop(name, None)
    for name, value in implied.items():
        if stored.get(name) is None:
            stored[name] = value
    return stored


def from_stored(stored: dict[str, Any], path: Path) -> StoredConfig:
    """Check the options that were read from `path`.

    Raises:
        UserError: the version is not known, options are missing or do not exist, or values cannot
            be used.
    """
    try:
        options = upgrade(stored)
        config = Config(**options)
        if missing := config.flat().keys() - options.keys():
            raise ValueError(f"options are missing: {', '.join(sorted(missing))}")
    except (ValueError, TypeError) as error:
        raise unusable(path, error) from error
    return StoredConfig(config.flat(), path)


def unusable(path: Path, error: Exception) -> UserError:
    """Return the error of a file of a run that cannot be used."""
    return UserError(
        f"{path} cannot be used ({' '.join(str(error).split())}): restore it from a copy, or use "
        "the version of noisydqn that wrote it"
    )
