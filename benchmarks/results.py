"""Storage of results, with the information that reproduces them."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("noisydqn", "jax", "jaxlib", "gymnasium", "torch", "stable-baselines3"),
    *("tianshou", "cpprb", "torchrl"),
)


def _installed(packages: Iterable[str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def commit() -> str:
    """Name the measured commit; "+" marks changes when it was first asked for."""
    from noisydqn.checkpoint import origin  # JAX, which some benchmarks import later

    return origin.commit()


def path(name: str) -> Path:
    """Return the path of a benchmark's results."""
    return RESULTS / f"{name}.json"


def save(name: str, command: str, data: Any) -> Path:
    """Write the raw data of a benchmark to `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    about = {
        "command": command,
        "commit": commit(),
        "machine": f"{os.cpu_count()} x {_processor()}",
        "python": platform.python_version(),
        "versions": _installed(PACKAGES),
    }
    path(name).write_text(json.dumps({"about": about, "data": data}, indent=2) + "\n")
    return path(name)


def others(name: str, rows: list[dict[str, Any]], identity: Sequence[str]) -> list[dict[str, Any]]:
    """List saved rows that no new row replaces: they differ in a column of `identity`."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column] for column in identity)

    new = {key(row) for row in rows}
    saved = load(name) if path(name).exists() else []
    return [row for row in saved if key(row) not in new]


def collect(
    name: str, command: str, identity: Sequence[str], rows: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Print and save rows as they come; return them with the saved ones that none replaces."""
    found: list[dict[str, Any]] = []
    for row in rows:
        print({column: x for column, x in row.items() if column != "curve"}, flush=True)
        found = [row, *others(name, [row], identity)]
        save(name, command, found)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def load(name: str) -> Any:
    """Read the data of a benchmark that `save` wrote."""
    return json.loads(path(name).read_text())["data"]


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
