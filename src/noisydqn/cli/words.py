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


def names_code(argv: Sequence[str]) -> bool:
    """Tell whether a command line names code of the user's, or trusts files that do."""
    return any(
        word.partition("=")[0] == "--trust"
        or (":" in word and prefix(word) not in (BSUITE, GYMNAX))
        for word in argv
    )
