"""The command train: its arguments, and the options of a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from noisydqn.cli.arguments import fill, options_of, read, wants_help
from noisydqn.cli.cluster import with_address
from noisydqn.cli.option_help import show_options
from noisydqn.config.config import Config, option_hints
from noisydqn.errors import UserError
from noisydqn.files import given_path
from noisydqn.options import Hint
from noisydqn.presets import DEFAULT_PRESET
from noisydqn.runs.named import config_named, preset_for


@dataclasses.dataclass(frozen=True)
class TrainArgs:
    """Train, evaluate and record an agent: noisydqn train [NAME] [options].

    NAME sets the defaults of the options. It is a preset (noisydqn presets lists them), an id of
    Gymnasium, 'module:Id' for an environment that your module registers, 'python:module.function'
    for one that your function makes, 'gymnax:Name', 'bsuite:catch/0', or the folder or config.json
    of a run, whose options are used again. A preset file changes the options of NAME, and those
    given here change both. Steps are decisions of the agent, summed over environments; updates are
    optimizer steps.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """A preset, an environment or a run. If not given, what the preset file names, or catcher."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="PRESET")] = None
    """The preset whose options an environment is trained with, instead of those that suit it; its
    goals and the arguments of its own environment are left out."""
    preset_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A TOML file of options, such as the command presets prints."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """Start from the weights of another run, with its options unless NAME is given. The optimizer
    and all counts start anew."""
    from_weights: Literal["best", "final"] = "best"
    """Which weights of that run: best or final."""
    from_replay: bool = False
    """Also start with the replay buffer of that run's newest checkpoint."""
    out: Path | None = None
    """Folder for the run, new or empty. If not given, a new folder under runs/."""
    quiet: bool = False
    """Print only warnings."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""
    resume: bool = False
    """If --out holds a run, resume it, as noisydqn resume does."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    """Play the actors on a Ray cluster. ADDRESS is HOST:PORT of one of which this machine is a
    node, or auto for the one that runs here. If it is not given, Ray is started on this machine.
    Needs 'noisydqn[ray]'."""
    trust: bool = False
    """Import code that the preset file or the config of a run names, such as an environment of your
    own."""


def config_options() -> dict[str, Hint]:
    """Return the type hints of all options of a run that have a flag."""
    hints = option_hints().items()
    return {name: hint for name, hint in hints if tyro.conf.Suppress not in hint.marks}


def parse_train(argv: Sequence[str]) -> tuple[TrainArgs, dict[str, Any]]:
    """Parse the arguments of train; returns them and the options of the run by flat name.

    Raises:
        UserError: an argument cannot be used.
        SystemExit: help was asked for and given.
    """
    if wants_help(argv):
        _show(argv)
    argv = with_address(argv)
    options = options_of(TrainArgs) | config_options()
    given = read(options, argv, "train")
    args = fill(TrainArgs(), given, options, "train")
    return args, {name: x for name, x in given.values.items() if name in config_options()}


def config_of(args: TrainArgs, flags: Mapping[str, Any]) -> Config | str | None:
    """Return what `noisydqn.train` trains with: the options of --preset or of a file, or NAME.

    Args:
        args: the arguments of train.
        flags: the options of the run that are given beside them.

    Raises:
        UserError: as `preset_for` or `config_over`.
    """
    if args.preset is not None:
        if args.preset_file is not None:
            raise UserError(
                f'--preset and --preset-file exclude each other: write preset = "{args.preset}" '
                "and env into the file, and give no NAME"
            )
        if args.from_ is not None and not args.name:
            raise UserError(
                "--preset beside --from needs NAME, an environment: noisydqn train MyEnv-v0 "
                f"--preset {args.preset} --from {args.from_}"
            )
        return preset_for(args.preset, args.name or None, flags.get("learner"))
    if args.preset_file is None:
        return args.name or None
    from noisydqn.runs.preset_file import config_over

    source = None if args.from_ is None else str(given_path(args.from_, "--from").absolute())
    file, name = args.preset_file, args.name or None
    return config_over(file, name, flags, trust=args.trust, otherwise=source)


def _show(argv: Sequence[str]) -> None:
    """Show the options with the values that NAME and a preset file give; no code is imported."""
    name = "" if argv[0].startswith("-") else argv[0]
    words = [part for word in argv for part in word.split("=", 1)]
    given = {word.replace("_", "-"): value for word, value in pairwise(words)}
    learner, file = given.get("--learner"), given.get("--preset-file")
    other = given.get("--from")  # an absolute path is never a preset of that name
    source = None if other is None else str(Path(other).expanduser().absolute())
    if "--preset" in given:
        config = preset_for(given["--preset"], name or None, learner)
        command = " ".join(["train", *([name] if name else []), "--preset", given["--preset"]])
    elif file is None:
        name = name or source or DEFAULT_PRESET
        config, command = config_named(name, (), learner=learner), f"train {name}"
    else:
        from noisydqn.runs.preset_file import config_over

        flags = {} if learner is None else {"learner": learner}
        config = config_over(file, name or None, flags, (), trust=False, otherwise=source).replace(
            **flags
        )
        command = " ".join(["train", *([name] if name else []), "--preset-file", file])
    show_options(config, TrainArgs(name or config.preset), argv, command)
