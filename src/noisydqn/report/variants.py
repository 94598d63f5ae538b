"""Variants: which runs are the same but for their seed, and how the others differ."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noisydqn.report.records import Run

ENVIRONMENT = {"env", "env_kwargs"}
"""Options that say which environment a run is of."""
INCIDENTAL = {
    *ENVIRONMENT,
    *("seed", "num_seeds", "preset"),
    *("video_seconds", "checkpoint_seconds", "keep", "step_timeout", "vectorization", "track"),
}
"""Options that do not make runs variants: they name them, or change nothing that is learned."""


def environment_name(options: Mapping[str, Any]) -> str:
    """Name the environment of a run by its id and its arguments, such as "Maze-v0 (size=10)"."""
    arguments: dict[str, Any] = json.loads(options["env_kwargs"])
    shown = ",".join(f"{name}={value}" for name, value in arguments.items())
    return f"{options['env']} ({shown})" if shown else str(options["env"])


def name_variants(runs: Sequence[Run]) -> list[Run]:
    """Name the variants of those runs that have no name, by the options in which they differ.

    Only runs of the same environment are compared, as options may suit the environment. Options
    that belong to a choice that differs anyway, such as epsilon to epsilon-greedy exploration, are
    named only where they differ among runs that have them.
    """
    unnamed = [run for run in runs if not run.variant]
    names = differing(unnamed)
    return [
        run if run.variant else dataclasses.replace(run, variant=_name(run, names)) for run in runs
    ]


def differing(runs: Iterable[Run]) -> list[str]:
    """List the options in which runs of the same environment differ, in the order of the config."""
    seen: dict[str, dict[str, set[str]]] = {}  # by environment and option
    for run in runs:
        of_env = seen.setdefault(run.env, {})
        for name, value in run.options.items():
            of_env.setdefault(name, set()).add(shown(value))
    found = [
        name
        for of_env in seen.values()
        for name, values in of_env.items()
        if len(values) > 1 and name not in INCIDENTAL
    ]
    return list(dict.fromkeys(found))


def _name(run: Run, names: Sequence[str]) -> str:
    parts = [f"{name}={shown(run.options[name])}" for name in names if name in run.options]
    return ",".join(parts) or str(run.options.get("exploration", run.recorder))


def shortened(runs: Sequence[Run]) -> list[Run]:
    """Leave out the option in the names of variants that all name one option, the same."""
    parts = {run.variant: run.variant.partition("=") for run in runs}
    options = {option for option, _, _ in parts.values()}
    values = {value for _, _, value in parts.values()}
    plain = all(value and "=" not in value for value in values)
    if not plain or len(options) > 1 or len(values) < len(parts):
        return list(runs)
    return [dataclasses.replace(run, variant=parts[run.variant][2]) for run in runs]


def shown(value: Any) -> str:
    """Show an option's value as on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "[]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def differences(runs: Sequence[Run]) -> list[tuple[str, dict[str, str]]]:
    """List the options in which variants differ, with the values of each variant.

    Where a variant has several values, by environment, all are listed. A variant that lacks an
    option has no value of it.
    """
    values: dict[str, dict[str, dict[str, None]]] = {}  # by option and variant, in order
    for run in runs:
        for name, value in run.options.items():
            of_option = values.setdefault(name, {})
            of_option.setdefault(run.variant, {})[shown(value)] = None
    variants = {run.variant: None for run in runs if run.options}
    rows: list[tuple[str, dict[str, str]]] = []
    for name, of_option in values.items():
        if name in {"seed", "num_seeds"}:
            continue
        row = {variant: " / ".join(of_option.get(variant, {})) for variant in variants}
        if len(set(row.values())) > 1:
            rows.append((name, row))
    return rows
