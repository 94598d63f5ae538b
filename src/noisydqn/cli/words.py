"""What the words of a command line tell before they are parsed."""

import shlex
from collections.abc import Iterable, Sequence

from noisydqn.envs.names import BSUITE, GYMNAX, prefix
from noisydqn.options import hint_of


def no_command(argv: Sequence[str], commands: Iterable[str]) -> str:
    """Say that a word is not one of the commands, and which one was meant."""
    import gymnasium

    from noisydqn.presets import PRESETS

    word, commands = argv[0], list(commands)
    is_name = word in PRESETS or word in gymnasium.registry or ":" in word or "/" in word
    if word.startswith("-") or is_name:
        hint = f"did you mean noisydqn train {shlex.join(argv)}?"
    else:
        hint = hint_of(word, commands) or f"there are {', '.join(commands)}"
    return f"no command {word!r}: {hint}"


DATA = ("--search", "--ray", "--env-kwargs")
"""Flags whose values may have colons, and name no code."""
VARIED_CODE = ("env", "torso", "exploration")
"""The options whose values in --vary may name code."""


def names_code(argv: Sequence[str]) -> bool:
    """Tell whether a command line names code of the user's, or trusts files that do."""
    flag = ""
    for word in argv:
        value = word
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            flag = flag.replace("_", "-")
        if flag == "--vary":
            option, _, value = value.partition("=")
            value = value if option in VARIED_CODE else ""
        is_code = ":" in value and prefix(value) not in (BSUITE, GYMNAX)
        if flag == "--trust" or (is_code and flag not in DATA):
            return True
    return False
