"""What a runner gives to be saved."""

from typing import Any, NamedTuple

from noisydqn.types import Row


class Snapshot(NamedTuple):
    """A runner's state at the end of a chunk; its arrays are void once the next chunk begins."""

    arrays: dict[str, Any]  # trees: everything but the memory's rows
    rows: Row
    slot_axis: int  # of the rows
    written: int  # rows that each environment has stored since the start
