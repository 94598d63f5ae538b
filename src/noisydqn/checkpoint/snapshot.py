"""The state that a runner passes on to be saved."""

from typing import Any, NamedTuple

from noisydqn.types import Row


class Snapshot(NamedTuple):
    """A runner's state at the end of a chunk. The next chunk donates its arrays."""

    arrays: dict[str, Any]  # trees: everything except the replay buffer's rows
    rows: Row | None  # of the replay buffer, if there is one
    slot_axis: int  # of the rows
    written: int  # rows of each environment so far, with those that the run began with
