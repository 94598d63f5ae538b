"""The command that lists and shows presets."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from noisydqn.cli.arguments import parse
from noisydqn.errors import UserError
from noisydqn.presets import DESCRIPTIONS, PRESETS


@dataclasses.dataclass(frozen=True)
class PresetsArgs:
    """List the presets, or show one as a preset file for noisydqn train."""

    show: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """Print all options of a preset as TOML."""


def presets(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UserError: an argument cannot be used, or there is no such preset.
        SystemExit: help was asked for and given.
    """
    if argv and not argv[0].startswith("-"):
        raise UserError(f"unexpected {argv[0]!r}: did you mean noisydqn presets --show {argv[0]}?")
    args = parse(PresetsArgs(), argv, "presets")
    if args.show:
        from noisydqn.runs.named import preset_named
        from noisydqn.runs.preset_file import preset_text

        config = preset_named(args.show)
        print(preset_text(config, f"{args.show}: {DESCRIPTIONS[args.show]}"), end="")
        return 0
    width = max(map(len, PRESETS))
    for name in PRESETS:
        print(f"{name:{width}}  {DESCRIPTIONS[name]}")
    return 0
