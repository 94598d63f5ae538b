"""A user with a stranger's run: what the commands make of it, and canaries that must not sing.

`tests/attacks.py` spoils the run, `tests/unit/test_strangers.py` and `benchmarks/fuzz.py` try the
commands on it.
"""

import contextlib
import os
import resource
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import noisydqn
from noisydqn import Config, UserError, hub
from noisydqn.export import export_run
from noisydqn.play import video
from noisydqn.runs import api, plots
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.reporting import report

CONFIG = Config(
    env="CartPole-v1",
    hidden=(4,),
    dueling=False,
    torso="flat",
    num_envs=2,
    n_step=1,
    batch_size=2,
    replay_capacity=16,
    steps=8,
    chunk_steps=8,
    learning_starts=0,
    evaluation_episodes=1,
    evaluation_max_steps=5,
    video_seconds=0,
)

real_curves = plots.draw_curves

SECRET = b"the combination of the safe is 4711"
SECONDS = 20
"""The longest that a command may take; all of them take less than one."""
MOST_MEMORY = 2**28
"""Bytes by which the memory of the process may grow."""
LONGEST = 5_000
"""The longest line that a message may be."""

CANARY = """\
import pathlib
import gymnasium
pathlib.Path({imported!r}).touch()
def make(*args, **kwargs):
    pathlib.Path({called!r}).touch()
    return gymnasium.make("CartPole-v1")
gymnasium.register("Canary-v0", make)
"""


class Victim:
    """A user's disk: an intact run and policy, a run to be spoiled, and files beside them."""

    def __init__(self, root: Path) -> None:
        self.root, self.run, self.new = root, root / "run", root / "new"
        self.base, self.policy = root / "base", root / "policy.safetensors"
        self.given = root / "given.safetensors"  # a policy from a stranger
        self.imported, self.called = root / "imported", root / "called"
        self.uploaded: dict[str, bytes] = {}
        self.outside = root / "outside"
        (self.outside / "folder").mkdir(parents=True)
        for name in ("secret", "folder/secret"):
            (self.outside / name).write_bytes(SECRET)
        self._before = self._outside()
        code = CANARY.format(imported=str(self.imported), called=str(self.called))
        (root / "code").mkdir()
        (root / "code" / "canary_of_strangers.py").write_text(code)
        self.command = f"touch {shlex.quote(str(self.called))}"
        with fakes(self):
            noisydqn.train(CONFIG, out=self.base, quiet=True, cache="")
            noisydqn.record(self.base, seconds=0.1)
            export_run(self.base, "safetensors", self.policy)

    def _outside(self) -> dict[str, tuple[bytes, int]]:
        files = sorted(path for path in self.outside.rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    def copy(self) -> Path:
        """Put an intact copy of the run in the place of a spoiled one."""
        for path in (self.run, self.new):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copyfile(self.policy, self.given)
        self.uploaded = {}
        return Path(shutil.copytree(self.base, self.run))

    def check(self) -> None:
        """Check that no canary sang: no code ran, nothing outside changed, nothing leaked."""
        assert not self.imported.exists()
        assert not self.called.exists()
        assert "canary_of_strangers" not in sys.modules
        assert self._outside() == self._before
        for name, data in self.uploaded.items():
            assert SECRET not in data, name


def check_line(error: UserError) -> None:
    """Check that a refusal is one line, which a terminal shows as it is."""
    assert 20 < len(str(error)) < LONGEST
    assert str(error).isprintable(), str(error)


# What a user does with a run


def _train_like(path: Path, victim: Victim) -> None:
    """Train with the options of a run; the training itself is none of the stranger's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "launch", lambda *_, **__: None)
        noisydqn.train(str(path), out=victim.new, quiet=True)


def _train_on(victim: Victim) -> None:
    noisydqn.train(CONFIG, out=victim.run, resume=True, quiet=True, cache="")


def _start_from(victim: Victim) -> None:
    """Copy what a new run starts from; the training itself is none of the stranger's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "launch", lambda *_, **__: None)
        noisydqn.train(start_from=victim.run, from_replay=True, out=victim.new, quiet=True)


COMMANDS: dict[str, Callable[[Victim], object]] = {
    "load_config": lambda victim: noisydqn.load_config(victim.run),
    "train": lambda victim: _train_like(victim.run, victim),
    "train file": lambda victim: _train_like(victim.run / "config.json", victim),
    "load_policy": lambda victim: noisydqn.load_policy(victim.run).predict(np.zeros(4)),
    "evaluate": lambda victim: noisydqn.evaluate(victim.run, episodes=1),
    "record": lambda victim: noisydqn.record(victim.run, seconds=0.1),
    "export": lambda victim: export_run(victim.run, "safetensors"),
    "push": lambda victim: hub.push(victim.run, "me/run"),
    "resume": lambda victim: noisydqn.resume(victim.run, steps=16, quiet=True, cache=""),
    "train --resume": _train_on,
    "train --from": _start_from,
    "plot": lambda victim: real_curves(RunFolder.at(victim.run)).savefig(BytesIO(), format="png"),
    "load file": lambda victim: noisydqn.load_policy(victim.given).predict(np.zeros(4)),
    "report": lambda victim: report(victim.run, out=victim.new / "report.html"),
    "doctor": lambda victim: noisydqn.doctor(victim.run),
    "resume the end": lambda victim: noisydqn.resume(victim.run, cache=""),
}
"""Everything that reads a run."""

OPTIONS = {"load_config", "train", "train file"}
PLAY = {"evaluate", "record"}
POLICY = {"load_policy", "export"}
RESUME = {"resume", "train --resume"}
PUSH = {"push"}
REPORT = {"report", "doctor"}
START = {"train --from"}
EVERY = set(COMMANDS) - {"resume the end", "load file", "plot", *REPORT}


def attempt(victim: Victim, command: Callable[[Victim], object]) -> UserError | None:
    """Run a command, which works or refuses in one line, soon and in little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with limit(SECONDS), fakes(victim):
            command(victim)
    except UserError as error:
        check_line(error)
        return error
    finally:
        victim.check()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < MOST_MEMORY, grown
    return None


@contextlib.contextmanager
def limit(seconds: float) -> Generator[None]:
    """Raise `TimeoutError` if a block takes longer."""

    def ring(*_: object) -> NoReturn:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# What stands in for slow and distant things


class _Hub:
    """The calls of `huggingface_hub.HfApi` that `push` uses."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim

    def whoami(self) -> dict[str, Any]:
        return {"name": "me"}

    def create_repo(self, *_: object, **__: object) -> None:
        pass

    def upload_folder(self, *, folder_path: Path, **_: object) -> None:
        files = (path for path in Path(folder_path).rglob("*") if path.is_file())
        self.victim.uploaded |= {path.name: path.read_bytes() for path in files}


class _Figure:
    """Curves that read the files of a run, and are not drawn."""

    def __init__(self, folder: RunFolder) -> None:
        for file in (folder.metrics, folder.episodes, folder.evaluations):
            plots.read_columns(file)

    def savefig(self, file: Any, **_: object) -> None:
        file.write(b"\x89PNG\r\n\x1a\n")


def _encode(part: Path, file: object, film: Iterator[np.ndarray], rate: float) -> None:
    del file, rate
    part.write_bytes(b"\0\0\0\x20ftyp" + next(film).tobytes()[:16])


@contextlib.contextmanager
def fakes(victim: Victim) -> Generator[None]:
    """Replace the hub, ffmpeg and the drawing of curves, and let the canary be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.huggingface_hub, "HfApi", lambda: _Hub(victim))
        patch.setattr(video, "_encode", _encode)
        patch.setattr(plots, "draw_curves", _Figure)
        patch.syspath_prepend(victim.root / "code")
        yield


def remove(path: Path) -> None:
    """Remove whatever has this path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - of a link, the link
