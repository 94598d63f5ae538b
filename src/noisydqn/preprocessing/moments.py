"""The running moments of observations: of one array, or of each vector beside images.

Images have none: their bytes are divided by 255.
"""

from typing import Any

from jaxtyping import Array, Shaped

from noisydqn.preprocessing import normalize
from noisydqn.preprocessing.normalize import Moments, RunningMoments
from noisydqn.shards import ONE, Shards
from noisydqn.types import Mixed

Running = RunningMoments | dict[str, RunningMoments]
Rounded = Moments | dict[str, Moments]


def init(observation: Any) -> Running:
    """Make the moments of no observations, whose shapes are those of a spec's `observation`."""
    if isinstance(observation, Mixed):
        return {path: normalize.init(x.shape) for path, x in observation.vectors.items()}
    return normalize.init(observation.shape)


def resumed(moments: Rounded) -> Running:
    """Return moments that continue from those of another run."""
    if isinstance(moments, dict):
        return {path: normalize.resumed(each) for path, each in moments.items()}
    return normalize.resumed(moments)


def each_of(moments: Rounded) -> list[Moments]:
    """Return the moments of every array."""
    return list(moments.values()) if isinstance(moments, dict) else [moments]


def update(moments: Running, observation: Any, shards: Shards = ONE) -> Running:
    """Add a batch of observations, of which each device has a share."""
    if isinstance(moments, dict):
        vectors: dict[str, Shaped[Array, "batch size"]] = observation.vectors
        return {
            path: normalize.update(moments[path], x, shards=shards) for path, x in vectors.items()
        }
    return normalize.update(moments, observation, shards=shards)


def rounded(moments: Running) -> Rounded:
    """Return the moments in float32, for policies."""
    if isinstance(moments, dict):
        return {path: each.rounded for path, each in moments.items()}
    return moments.rounded
