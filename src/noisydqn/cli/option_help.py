"""Help on the options of a run: those that matter first, or all of them in sections."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from noisydqn.cli.arguments import HELP_ALL, show_help
from noisydqn.config.config import (
    ABOUT_VARIANTS,
    SECTIONS,
    VARIANTS,
    Config,
    option_hints,
    option_texts,
    owners,
    variant_name,
)
from noisydqn.options import Hint, choices, first_sentence, help_of, hints_of

FIRST = (
    *("env_kwargs", "seed", "num_seeds", "steps", "stop_at_return", "evaluation_every"),
    *("num_envs", "reward_scale", "torso", "hidden"),
    *("learner", "learning_rate", "discount"),
    *("n_step", "batch_size", "updates_per_step", "replay_capacity"),  # of one learner
    *("return_lambda", "rollout_steps", "minibatches", "epochs"),  # of the other
    *("distribution", "exploration", "sigma_init"),
)
"""The options that matter first; twenty, whichever learner is chosen.

They are those that users change for an environment of theirs, and those by which the presets
differ most. docs/how-to/options.md explains each.
"""


def show_options(config: Config, args: Any, argv: Sequence[str], command: str) -> None:
    """Print a command's own options and those of a run.

    Args:
        config: the defaults of the options of a run.
        args: an instance of the dataclass of the command's own arguments.
        argv: the words of the command line: --help-all shows all options.
        command: the command and its NAME.

    Raises:
        SystemExit: always, with code 0.
    """
    if HELP_ALL in argv:
        show_help(help_on(config, args), command)
    else:
        more = f"noisydqn {command} {HELP_ALL} shows every option, and explains each in full."
        show_help(help_on_first(config, args), command, more)


def help_on_first(config: Config, args: Any) -> Any:
    """Make a dataclass from which tyro prints the help on the options that matter first.

    Args:
        config: as in `show_options`.
        args: as in `show_options`.
    """
    flat, hints, texts = config.flat(), option_hints(), option_texts()
    fields: list[tuple[str, Any, Any]] = []
    for name in (name for name in FIRST if name in flat):
        hint = _names(name, flat[name]) if name in VARIANTS else hints[name]
        fields.append(_field(name, hint, f"{first_sentence(texts[name])}.", flat[name]))
    made = dataclasses.make_dataclass("First", fields, frozen=True)
    made.__doc__ = "The options that matter first, each in a sentence."
    return _with_sections(args, [("first", made, dataclasses.field(default=made()))])


def help_on(config: Config, args: Any) -> Any:
    """Make a dataclass from which tyro prints a command's help: flat flags in sections.

    Args:
        config: as in `show_options`.
        args: as in `show_options`.
    """
    fields: list[tuple[str, Any, Any]] = []
    for section in SECTIONS:
        value = _section(getattr(config, section))
        fields += [(section, type(value), dataclasses.field(default=value))]
    for section in VARIANTS:
        value = _variants(section, getattr(config, section))
        fields += [(section, type(value), dataclasses.field(default=value))]
    return _with_sections(args, fields)


def _with_sections(args: Any, fields: list[tuple[str, Any, Any]]) -> Any:
    """Add sections to the arguments of a command."""
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
    words = " ".join(
        f'"{name}": {first_sentence(kind.__doc__ or "")}.' for name, kind in kinds.items()
    )
    name = variant_name(section, chosen)
    fields = [_field(section, _names(section, name), words, name)]
    for option, variants in owners(section).items():
        kind = kinds[variants[0]]
        default = getattr(chosen if isinstance(chosen, kind) else kind(), option)
        text = f"{', '.join(variants)}: {help_of(kind)[option]}"
        fields += [_field(option, hints_of(kind)[option], text, default)]
    made = dataclasses.make_dataclass(section.capitalize(), fields, frozen=True)
    owned = f"Each option starts with the choices of --{section} that it belongs to."
    made.__doc__ = f"{ABOUT_VARIANTS[section]}. {owned}"
    return made()


def _names(section: str, chosen: str) -> Hint:
    """Return the hint of the option that chooses a variant, which may be one of the user's."""
    return Hint(choices(tuple(dict.fromkeys([*VARIANTS[section], chosen]))), False, ())


def _field(name: str, hint: Hint, text: str, default: Any) -> tuple[str, Any, Any]:
    kind = hint.kind | None if hint.optional else hint.kind
    shown = tyro.conf.arg(help=" ".join(text.split()))
    return name, Annotated[kind, *hint.marks, shown], dataclasses.field(default=default)
