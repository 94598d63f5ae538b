"""Replay memory on the device."""

from noisydqn.replay.buffer import Replay, ReplayState

__all__ = ["Replay", "ReplayState"]
