"""The summary of a run, `summary.json`, as it is read back."""

from typing import Any

import msgspec

from noisydqn.runs.folder import MAX_JSON_BYTES, RunFolder

Value = str | float | int | bool | None


class _Evaluation(msgspec.Struct):
    """What an evaluation in a summary has in any case."""

    mean_return: float


class _Summary(msgspec.Struct):
    """What is read of a summary, with the types that are relied on."""

    steps: int = 0
    evaluation: _Evaluation | None = None


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Read the summary of a run; {} if it is missing or cannot be read."""
    try:
        data = folder.summary.read(MAX_JSON_BYTES)
        msgspec.json.decode(data, type=_Summary)
        return msgspec.json.decode(data, type=dict[str, Value | dict[str, int | float]])
    except (OSError, ValueError, RecursionError):
        return {}
