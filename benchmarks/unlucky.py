"""A cart and pole that meets with a misfortune, and the command that trains on it.

`UNLUCKY` says which, as JSON: `{"cause": "raise", "at": 300, "mark": "/tmp/mark"}`. An environment
counts its own steps, callbacks and trackers those of training. The first that is met leaves the
time in the file `mark`; others go on. Without `UNLUCKY` nothing happens.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv

PLAN: dict[str, Any] = json.loads(os.environ.get("UNLUCKY", "{}"))


class UnluckyError(RuntimeError):
    """A misfortune."""


def _raise() -> None:
    raise UnluckyError("a cable is loose")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _sleep() -> None:
    time.sleep(3600)


def _kill(number: int) -> None:
    os.kill(os.getpid(), number)


STRIKES: dict[str, Callable[[], None]] = {
    "raise": _raise,
    "reset": _raise,
    "close raises": _raise,
    "close hangs": _raise,
    "evaluation": _raise,
    "callback": _raise,
    "tracker": _raise,
    "exit": partial(sys.exit, 3),
    "interrupt": _interrupt,
    "killed": partial(_kill, signal.SIGKILL),
    "segfault": partial(_kill, signal.SIGSEGV),
    "dies": partial(os._exit, 3),
    "hangs": _sleep,
}
"""What happens, by its cause."""


def _first() -> bool:
    """Tell whether nothing has happened yet, and note that it has and when."""
    try:
        with open(PLAN["mark"], "x") as mark:  # noqa: PTH123
            mark.write(str(time.time()))
    except FileExistsError:
        return False
    return True


def strike(count: int, *causes: str) -> bool:
    """Let it happen if it is one of some causes and due; True if the cause is to show NaN."""
    cause = PLAN.get("cause", "")
    in_evaluation = threading.current_thread().name == "evaluation"
    due = 3 if in_evaluation else PLAN.get("at", 0)
    if cause not in causes or in_evaluation != (cause == "evaluation") or count < due:
        return False
    if not _first():
        return False
    STRIKES.get(cause, lambda: None)()
    return cause == "nan"


IN_STEP = (
    *("raise", "close raises", "close hangs", "evaluation", "exit", "interrupt", "nan"),
    *("killed", "segfault", "dies", "hangs"),
)


class Unlucky(CartPoleEnv):
    """A cart and pole."""

    taken = 0

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode, or meet with the misfortune."""
        strike(self.taken, "reset")
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Take a step, or meet with the misfortune."""
        self.taken += 1
        observation, *rest = super().step(action)
        if strike(self.taken, *IN_STEP):
            observation = np.full_like(observation, np.nan)
        return observation, *rest

    def close(self) -> None:
        """Close, if that goes well."""
        met = bool(PLAN) and os.path.exists(PLAN["mark"])  # noqa: PTH110
        if met and PLAN["cause"] == "close raises":
            raise UnluckyError("it is stuck")
        if met and PLAN["cause"] == "close hangs":
            _sleep()


class UnluckyVector(CartPoleVectorEnv):
    """Several carts and poles, as a vector of their own."""

    taken = 0

    def step(self, action: Any) -> Any:
        """Take a step, or meet with the misfortune."""
        self.taken += 1
        observation, *rest = super().step(action)
        if strike(self.taken, *IN_STEP):
            observation = np.full_like(observation, np.nan)
        return observation, *rest


gymnasium.register(
    "benchmarks/Unlucky-v0",
    "benchmarks.unlucky:Unlucky",
    vector_entry_point="benchmarks.unlucky:UnluckyVector",
    max_episode_steps=500,
)


class _Tracker:
    """A tracker that meets with the misfortune, from then on at each chunk."""

    def chunk(self, steps: int, *_: Any) -> None:
        if PLAN["cause"] == "tracker" and steps >= PLAN["at"]:
            _first()
            _raise()

    def evaluation(self, *_: Any) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def main() -> None:
    """Run the command, as if nobody ignored Ctrl-C or SIGHUP, with a callback and a tracker."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    from noisydqn import Callback, cli
    from noisydqn.runs import api

    class Called(Callback):
        def on_chunk(self, training: Any, *_: Any) -> None:
            strike(training.steps, "callback")

    if PLAN:
        trackers: Any = [_Tracker()]
        api.train = partial(api.train, callbacks=[Called()], trackers=trackers)
    cli.run()
