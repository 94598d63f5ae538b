"""The commands that read or show the options of a run: train and presets."""

import dataclasses
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from noisydqn.cli.arguments import fill, options_of, parse, read, show_help, spell, wants_help
from noisydqn.config.config import SECTIONS, VARIANTS, Config, option_hints, owners, variant_name
from noisydqn.errors import UserError
from noisydqn.options import Hint, choices, help_of, hint_of, hints_of
from noisydqn.presets import DEFAULT_PRESET, DESCRIPTIONS, PRESETS
from noisydqn.runs.named import config_named


@dataclasses.dataclass(frozen=True)
class TrainArgs:
    """Train, evaluate and record an agent: noisydqn train [NAME] [options].

    NAME sets the defaults of the options. It is a preset (noisydqn presets lists them), an id of
    Gymnasium, 'module:Id' for an environment that your module registers, 'python:module.function'
    for one that your function makes, 'gymnax:Name', 'bsuite:catch/0', or the folder or config.json
    of a run, whose options are used again. Steps are decisions of the agent, summed over
    environments; updates are optimizer steps.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = DEFAULT_PRESET
    """A preset, an environment or a run."""
    out: Path | None = None
    """Folder for the run, new or empty. If not given, a new folder under runs/."""
    quiet: bool = False
    """Print only warnings."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""
    resume: bool = False
    """If --out holds a run, resume it, as noisydqn resume does."""
    trust: bool = False
    """Import code that the config of the run NAME names, such as an environment of your own."""


@dataclasses.dataclass(frozen=True)
class PresetsArgs:
    """List the presets, or the options of one."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """A preset."""


ABOUT_VARIANTS = {
    "learner": "What the agent learns from, and how",
    "distribution": "What the network learns about returns",
    "exploration": "How actions are chosen in training",
}
"""The first words of the help on a section with variants."""


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
        name = DEFAULT_PRESET if argv[0].startswith("-") else argv[0]
        words = [part for word in argv for part in word.split("=", 1)]
        learner = next((x for word, x in pairwise(words) if word == "--learner"), None)
        config = config_named(name, (), learner=learner)
        show_help(help_on(config, TrainArgs(name)), f"train {name}")
    options = options_of(TrainArgs) | config_options()
    given = read(options, argv, "train")
    args = fill(TrainArgs(), given, options, "train")
    return args, {name: x for name, x in given.values.items() if name in config_options()}


def help_on(config: Config, args: Any) -> Any:
    """Make a dataclass from which tyro prints a command's help: flat flags in sections.

    Args:
        config: the defaults of the options of a run.
        args: an instance of the dataclass of the command's own arguments.
    """
    fields: list[tuple[str, Any, Any]] = []
    for section in SECTIONS:
        value = _section(getattr(config, section))
        fields += [(section, type(value), dataclasses.field(default=value))]
    for section in VARIANTS:
        value = _variants(section, getattr(config, section))
        fields += [(section, type(value), dataclasses.field(default=value))]
    kind = dataclasses.make_dataclass("Arguments", fields, bases=(type(args),), frozen=True)
    kind.__doc__ = args.__doc__
    return kind(**vars(args))


def _section(options: Any) -> Any:
    """Make a dataclass of a section's options, whose help texts have no line breaks."""
    kind = type(options)
    fields = [
        _field(name, hint, help_of(kind)[name], getattr(options, name))
        for name, hint in hints_of(kind).items()
    ]
    made = dataclasses.make_dataclass(kind.__name__, fields, frozen=True)
    made.__doc__ = kind.__doc__
    return made()


def _variants(section: str, chosen: Any) -> Any:
    """Make a dataclass of the options of all variants of a section."""
    kinds = VARIANTS[section]
    words = " ".join(f'"{name}": {_first_sentence(kind)}.' for name, kind in kinds.items())
    name = variant_name(section, chosen)  # which may be one of the user's
    names = Hint(choices(tuple(dict.fromkeys([*kinds, name]))), False, ())
    fields = [_field(section, names, words, name)]
    for option, variants in owners(section).items():
        kind = kinds[variants[0]]
        default = getattr(chosen if isinstance(chosen, kind) else kind(), option)
        text = f"{', '.join(variants)}: {help_of(kind)[option]}"
        fields += [_field(option, hints_of(kind)[option], text, default)]
    made = dataclasses.make_dataclass(section.capitalize(), fields, frozen=True)
    owned = f"Each option starts with the choices of --{section} that it belongs to."
    made.__doc__ = f"{ABOUT_VARIANTS[section]}. {owned}"
    return made()


def _field(name: str, hint: Hint, text: str, default: Any) -> tuple[str, Any, Any]:
    kind = hint.kind | None if hint.optional else hint.kind
    shown = tyro.conf.arg(help=" ".join(text.split()))
    return name, Annotated[kind, *hint.marks, shown], dataclasses.field(default=default)


def _first_sentence(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split()).partition(". ")[0].removesuffix(".")


def presets(argv: Sequence[str]) -> int:
    """Run the command presets."""
    args = parse(PresetsArgs(), argv, "presets")
    if args.name:
        return _preset(args.name)
    width = max(map(len, PRESETS))
    for name in PRESETS:
        print(f"{name:{width}}  {DESCRIPTIONS[name]}")
    return 0


def _preset(name: str) -> int:
    """Print a preset: its purpose, and its options that differ from the defaults."""
    if name not in PRESETS:
        hint = hint_of(name, PRESETS) or f"there are {', '.join(PRESETS)}"
        raise UserError(f"no preset {name!r}: {hint}")
    config = PRESETS[name]
    print(f"{name}: {DESCRIPTIONS[name]}\n")
    trains = f"noisydqn train {name} trains on {config.environment.env}"
    if options := list(spell(differing(config))):
        print(f"{trains} with these options:")
        for words in options:
            print(f"  {shlex.join(words)}")
        print("Other options have their defaults; noisydqn train --help explains all of them.")
    else:
        print(f"{trains}. All options have their defaults, which noisydqn train --help explains.")
    return 0


def differing(config: Config) -> dict[str, Any]:
    """Return the options with a flag that differ from the defaults of the chosen variants."""
    chosen = {section: type(getattr(config, section))() for section in VARIANTS}
    default = Config(**chosen).flat() | {name: Config().flat()[name] for name in VARIANTS}
    flags, options = config_options(), config.flat().items()
    return {name: value for name, value in options if name in flags and value != default[name]}
