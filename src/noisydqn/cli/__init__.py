"""The command line: parses and wires, nothing else.

JAX is imported by the commands that need it, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from noisydqn.allocation import keep_freed_memory
from noisydqn.cli.arguments import parse
from noisydqn.cli.doctor import run_doctor
from noisydqn.cli.report import report_runs
from noisydqn.cli.words import names_code, no_command
from noisydqn.errors import FAILED, REFUSED, SIGNALLED, QuitError, UserError, counted, in_one_line
from noisydqn.output import discard, lasting_output, tell

USAGE = """\
usage: noisydqn COMMAND ...

Value-based reinforcement learning that explores by learned noise in its own weights.

commands:
  train [NAME] [options]     train, evaluate and record an agent
  resume DIR [options]       continue a run that was stopped, or extend one
  compare [FILE] [options]   train a grid of variants, environments and seeds
  tune NAME [options]        search for the options that learn best
  evaluate DIR [options]     play whole episodes with the best weights of a run
  record DIR [options]       record a video of the best weights of a run
  report DIR... [options]    compare runs on one page, with intervals
  doctor DIR... [options]    say what looks wrong with runs, and what to try
  export DIR [options]       write the policy as ONNX, for PyTorch, or as safetensors
  push DIR USER/NAME         share a run on the Hugging Face hub
  pull USER/NAME [options]   fetch a run from there
  bsuite [EXPERIMENTS]       train on experiments of bsuite, and compare agents
  presets [--show NAME]      list the presets, or print one as a file for train

noisydqn COMMAND --help shows a command's options; for train, those that matter first.

NAME is a preset, an id of Gymnasium, 'module:Id' for an environment that your module registers,
'python:module.function' for one that your function makes, 'gymnax:Name', 'bsuite:catch/0', or the
folder or config.json of a run, whose options are used again.

examples:
  noisydqn train                            learn Catcher from pixels
  noisydqn train lunarlander
  noisydqn train ALE/Pong-v5 --steps 1000000
  noisydqn train catcher --seed 1 --out runs/one
  noisydqn train --preset-file mine.toml
  noisydqn resume runs/one
  noisydqn compare --vary exploration=noisy,epsilon-greedy --env CartPole-v1 --seeds 10
  noisydqn tune CartPole-v1 --search learning_rate=log-uniform:1e-4,1e-2 --steps 20000
  noisydqn evaluate runs/one --episodes 20
  noisydqn record runs/one
  noisydqn report runs --out report.html
  noisydqn doctor runs/one
  noisydqn train --from runs/one --learning-rate 1e-4
  noisydqn export runs/one --format onnx
  noisydqn bsuite deep_sea,catch
"""


@dataclasses.dataclass(frozen=True)
class ResumeArgs:
    """Resume a run from its newest whole checkpoint."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that train made."""
    steps: int | None = None
    """Environment steps to train for, counted from the start of the run. If not given, the budget
    that it was started with."""
    restart: bool = False
    """Remove what was trained, and train from the beginning."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""
    quiet: bool = False
    """Print only warnings."""
    trust: bool = False
    """Import and run code that the run's config names, such as an environment of your own."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    """Play the run's actors on a Ray cluster, as train does. If not given, on this machine."""


@dataclasses.dataclass(frozen=True)
class EvaluateArgs:
    """Play whole episodes with mean weights, without noise, and print the outcome."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that train made."""
    episodes: int | None = None
    """Episodes to play. If not given, as many as in the run's own evaluations."""
    seed: int | None = None
    """Seed of the episodes. If not given, the run's own, as in its summary.json."""
    weights: Literal["best", "final"] = "best"
    """Which weights: best or final."""
    json: bool = False
    """Print one JSON object (for several seeds, one a line)."""
    trust: bool = False
    """Import and run code that the run's config names, such as an environment of your own."""


@dataclasses.dataclass(frozen=True)
class RecordArgs:
    """Record a video of the best weights of a run, playing without noise."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that train made."""
    out: Path | None = None
    """The MP4 to write, a new file. If not given, policy.mp4 in DIR, or policy-2.mp4 and so on."""
    seconds: float = 20.0
    """Length of the video."""
    seed: int | None = None
    """Seed of the episodes. If not given, the run's own."""
    panel: bool = True
    """Draw the action values, and their spread under noise, beside the game."""
    trust: bool = False
    """Import and run code that the run's config names, such as an environment of your own."""


@dataclasses.dataclass(frozen=True)
class ExportArgs:
    """Write a policy with mean weights, preprocessing included: one file, and a card beside it."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that train made."""
    format: Literal["onnx", "torch", "safetensors"] = "onnx"
    """onnx, torch (a program of torch.export), or safetensors, which noisydqn.load_policy reads."""
    out: Path | None = None
    """The file to write, a new one. If not given, policy.onnx, .pt2 or .safetensors in DIR."""
    weights: Literal["best", "final"] = "best"
    """Which weights: best or final."""
    trust: bool = False
    """Import and run code that the run's config names, such as an environment of your own."""


@dataclasses.dataclass(frozen=True)
class PushArgs:
    """Share a run on the Hugging Face hub: weights, config, results, video and a model card."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that train made."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """The repository, created if it does not exist."""
    private: bool = False
    """Make a new repository private."""


@dataclasses.dataclass(frozen=True)
class PullArgs:
    """Fetch a run from the Hugging Face hub into a new folder."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """The repository."""
    out: Path | None = None
    """Folder for the run, new or empty. If not given, runs/NAME."""
    revision: str | None = None
    """Branch, tag or commit. If not given, the newest."""


def _train(argv: Sequence[str]) -> int:
    from noisydqn.cli.train import config_of, parse_train

    args, options = parse_train(argv)
    from noisydqn.runs.api import train
    from noisydqn.settings import dispatch_for_cores

    dispatch_for_cores()
    with lasting_output():
        result = train(
            config_of(args, options),
            out=args.out,
            quiet=args.quiet,
            resume=args.resume,
            trust=args.trust,
            cache=args.cache,
            start_from=args.from_,
            from_weights=args.from_weights,
            from_replay=args.from_replay,
            ray=args.ray,
            **options,
        )
    return _code(result.signal)


def _presets(argv: Sequence[str]) -> int:
    from noisydqn.cli.presets import presets

    return presets(argv)


def _bsuite(argv: Sequence[str]) -> int:
    from noisydqn.cli.bsuite import bsuite

    return bsuite(argv)


def _code(stopped_by: int | None) -> int:
    return 0 if stopped_by is None else SIGNALLED + stopped_by


def _resume(argv: Sequence[str]) -> int:
    from noisydqn.cli.cluster import with_address

    args = parse(ResumeArgs(folder=tyro.MISSING), with_address(argv), "resume")
    from noisydqn.runs.api import resume
    from noisydqn.settings import dispatch_for_cores

    dispatch_for_cores()
    with lasting_output():
        result = resume(
            args.folder,
            steps=args.steps,
            restart=args.restart,
            quiet=args.quiet,
            trust=args.trust,
            cache=args.cache,
            ray=args.ray,
        )
    return _code(result.signal)


def _compare(argv: Sequence[str]) -> int:
    from noisydqn.cli.compare import run_compare

    with lasting_output():
        bad, stopped_by = run_compare(argv)
    return _code(stopped_by) or (FAILED if bad else 0)


def _tune(argv: Sequence[str]) -> int:
    from noisydqn.cli.tune import run_tune

    with lasting_output():
        bad, stopped_by = run_tune(argv)
    return _code(stopped_by) or (FAILED if bad else 0)


def _evaluate(argv: Sequence[str]) -> int:
    args = parse(EvaluateArgs(folder=tyro.MISSING), argv, "evaluate")
    from noisydqn.runs.saved import evaluate

    for folder in _runs(args.folder):
        evaluation = evaluate(
            folder,
            episodes=args.episodes,
            seed=args.seed,
            weights=args.weights,
            trust=args.trust,
        )
        if args.json:
            print(json.dumps(evaluation.summary()))
        else:
            print(
                f"{folder}: {counted(len(evaluation.returns), 'episode')} without noise, mean "
                f"{evaluation.describe()} (from {min(evaluation.returns):.0f} to "
                f"{max(evaluation.returns):.0f})"
            )
    return 0


def _runs(path: Path, out: Path | None = None, what: str = "") -> list[Path]:
    """Return the folder of a run, or those of the seeds in it."""
    from noisydqn.runs.folder import open_folders

    folders = [folder.path for folder, _ in open_folders(path)]
    if out is not None and len(folders) > 1:
        raise UserError(
            f"--out names one {what}, but {path} holds {len(folders)} runs: name one run's folder"
        )
    return folders


def _record(argv: Sequence[str]) -> int:
    args = parse(RecordArgs(folder=tyro.MISSING), argv, "record")
    from noisydqn.runs.saved import record

    for folder in _runs(args.folder, args.out, "video"):
        video = record(
            folder,
            out=args.out,
            seconds=args.seconds,
            seed=args.seed,
            panel=args.panel,
            trust=args.trust,
        )
        print(video)
    return 0


def _export(argv: Sequence[str]) -> int:
    args = parse(ExportArgs(folder=tyro.MISSING), argv, "export")
    from noisydqn.export import card_path, export_run

    for folder in _runs(args.folder, args.out, "file"):
        path = export_run(folder, args.format, args.out, args.weights, trust=args.trust)
        print(path)
        print(card_path(path))
    return 0


def _push(argv: Sequence[str]) -> int:
    args = parse(PushArgs(folder=tyro.MISSING, name=tyro.MISSING), argv, "push")
    from noisydqn.hub import push

    print(push(args.folder, args.name, private=args.private))
    return 0


def _pull(argv: Sequence[str]) -> int:
    args = parse(PullArgs(name=tyro.MISSING), argv, "pull")
    from noisydqn.hub import pull

    print(pull(args.name, args.out, revision=args.revision))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "resume": _resume,
    "compare": _compare,
    "tune": _tune,
    "evaluate": _evaluate,
    "record": _record,
    "report": report_runs,
    "doctor": run_doctor,
    "export": _export,
    "push": _push,
    "pull": _pull,
    "bsuite": _bsuite,
    "presets": _presets,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0: done. 1: a run ended with an error, and what was trained is saved; or there is a defect.
    2: refused, before anything was done. Above 128: a signal stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _command(argv)
        finally:
            with contextlib.suppress(AttributeError):  # it was closed from the start
                sys.stdout.flush()  # what is wrong with the output is to be seen here
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        discard(sys.stdout)
        return SIGNALLED + signal.SIGPIPE
    except OSError as error:
        discard(sys.stdout)
        tell(f"noisydqn: the output cannot be written: {in_one_line(error)}")
        return FAILED


def _command(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else REFUSED
    if argv[0] == "--version":
        print(version("noisydqn"))
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UserError(no_command(argv, COMMANDS))
        return COMMANDS[argv[0]](argv[1:])
    except UserError as error:
        if isinstance(trace := getattr(error, "traceback", None), str) and trace:
            tell(trace.rstrip())
        tell(f"noisydqn: {error}")
        return error.code
    except KeyboardInterrupt as error:
        tell("noisydqn: interrupted")
        return SIGNALLED + (error.signal if isinstance(error, QuitError) else signal.SIGINT)
    except BrokenPipeError:
        raise
    except Exception as error:
        tell(traceback.format_exc().rstrip())
        tell(f"noisydqn: {'; '.join([in_one_line(error), *getattr(error, '__notes__', [])])}")
        return FAILED


def run() -> None:
    """Run the installed command; modules of the current folder are found if it asks for code.

    Otherwise a folder from a stranger, in which somebody works, could bring a module that some
    installed package tries to import.
    """
    keep_freed_memory()
    if names_code(sys.argv[1:]):
        sys.path.append(str(Path.cwd()))  # at the end: installed packages come first
    _open_standard_streams()
    try:
        code = main()
    except KeyboardInterrupt:  # while another one was told of
        code = SIGNALLED + signal.SIGINT
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
    if _busy():  # nothing can end it but this
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Let those that are closed lead nowhere: files of the run would get their numbers else."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _busy() -> bool:
    """Tell whether a thread is at work that the interpreter would wait for.

    It may compile for a run that was stopped, write for one that was quit, or be an environment's.
    """
    compilation = sys.modules.get("noisydqn.compilation")
    if compilation is not None and compilation.busy():
        return True
    others = set(threading.enumerate()) - {threading.main_thread()}
    return any(not thread.daemon for thread in others)
