"""A reader of the log that Weights & Biases keeps of an offline run.

The log has the format of LevelDB's (https://github.com/google/leveldb/blob/main/doc/log_format.md)
after a header of its own. It holds protobuf messages.
"""

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 2**15, 7
"""Bytes of a block and of a record's header; also of the log's header."""
FULL, FIRST, MIDDLE, LAST = range(1, 5)


def history(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that were logged."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    for data in _records(path.read_bytes()):
        record = messages.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            yield {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }


def _records(log: bytes) -> Iterator[bytes]:
    """Yield the records, put together from the parts that blocks divide them into."""
    assert log[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(log):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left  # padding
            continue
        _, length, kind = struct.unpack_from("<IHB", log, position)
        position += HEADER
        parts = (b"" if kind in (FULL, FIRST) else parts) + log[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield parts
