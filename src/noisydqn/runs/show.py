"""What a notebook shows of a run."""

import base64
import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that a notebook plays where it ends a cell; elsewhere it is its `path`."""

    path: Path  # an MP4

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<video controls autoplay loop muted src="data:video/mp4;base64,{data}"></video>'
