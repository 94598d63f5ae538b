"""Arguments of the command line, read by the type hints of a command's dataclass.

`tyro` makes `--help` from the same dataclasses. Reading is done here, so that every mistake
becomes one line that shows the right form.
"""

import dataclasses
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin

import tyro

from noisydqn.errors import UserError
from noisydqn.options import (
    Hint,
    expected,
    flag,
    help_command,
    hint_of,
    hints_of,
    shown,
    takes_names,
    takes_words,
)

YES, NO = ("true", "yes", "on"), ("false", "no", "off")
NUMBER = re.compile(r"[-+]?[.\d]|-?inf|-?nan", re.IGNORECASE)
HELP, HELP_ALL = ("-h", "--help"), "--help-all"
BRACKETS = str.maketrans(dict.fromkeys("[](),", " "))

Args = TypeVar("Args")


class Given(NamedTuple):
    """What a command line gave: values by field, and what stands outside of options."""

    values: dict[str, Any]
    positionals: list[str]


def wants_help(argv: Sequence[str]) -> bool:
    """Tell whether a command line asks for help."""
    return any(word in argv for word in (*HELP, HELP_ALL))


def show_help(default: Any, command: str, more: str = "") -> None:
    """Print a command's options.

    Args:
        default: an instance of the dataclass of the arguments.
        command: the command.
        more: a line to print after them.

    Raises:
        SystemExit: always, with code 0.
    """
    try:
        tyro.cli(
            type(default),
            args=["--help"],
            prog=f"noisydqn {command}",
            default=default,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit:
        if more:
            print(more)
        raise


def parse(default: Args, argv: Sequence[str], command: str) -> Args:
    """Parse a command's arguments into a copy of `default`.

    Raises:
        UserError: an argument cannot be used.
        SystemExit: help was asked for and given.
    """
    if wants_help(argv):
        show_help(default, command)
    options = options_of(type(default))
    return fill(default, read(options, argv, command), options, command)


def read(options: Mapping[str, Hint], argv: Sequence[str], command: str) -> Given:
    """Read a command line.

    Args:
        options: the type hints of the options that exist, by name.
        argv: the words of the command line.
        command: for messages.

    An option of several texts takes all words up to the next option, and may be repeated.

    Raises:
        UserError: an option does not exist, is given twice, or has a value that cannot be used.
    """
    given = Given({}, [])
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            given.positionals.append(word)
            continue
        spelled, equals, value = word.partition("=")
        name, negated = _option(spelled, options, command)
        if _takes_words(options[name]):
            words = _words(name, options[name], value if equals else None, rest)
            given.values[name] = (*given.values.get(name, ()), *words)
            continue
        if name in given.values:
            raise UserError(f"{flag(name)} is given twice: give it once")
        given.values[name] = _value(name, options[name], negated, value if equals else None, rest)
    return given


def fill(default: Args, given: Given, options: Mapping[str, Hint], command: str) -> Args:
    """Put what was given into a copy of a command's dataclass.

    Args:
        default: the copy's other values.
        given: the command line; values that are not the dataclass's are left out.
        options: all options of the command, for messages.
        command: for messages.

    Raises:
        UserError: a positional is missing or superfluous, or a value is refused.
    """
    hints = hints_of(type(default))
    places = {name: hint for name, hint in hints.items() if _is_positional(hint)}
    usage = " ".join(["noisydqn", command, *map(_metavar, places.values()), "[options]"])
    values = {name: value for name, value in given.values.items() if name in hints}
    for (name, hint), text in zip(places.items(), given.positionals, strict=False):
        values[name] = _text_value(name, text, hint)
    if len(given.positionals) > len(places):
        extra = given.positionals[len(places)]
        hint = hint_of(extra.partition("=")[0], options, flag, command) or f"the form is {usage}"
        raise UserError(f"unexpected {extra!r}: {hint}")
    for name, hint in list(places.items())[len(given.positionals) :]:
        if getattr(default, name) is tyro.MISSING:
            raise UserError(f"{_metavar(hint)} is missing: the form is {usage}")
    return dataclasses.replace(cast(Any, default), **values)


def options_of(kind: type) -> dict[str, Hint]:
    """Return the type hints of a command's options by name, without its positionals."""
    return {name: hint for name, hint in hints_of(kind).items() if not _is_positional(hint)}


def value_of(name: str, text: str, hint: Hint) -> Any:
    """Return the value of an option that a text stands for.

    Raises:
        UserError: the text stands for no value of the option.
    """
    return _truth(name, text, False) if hint.kind is bool else _text_value(name, text, hint)


def spell(options: Mapping[str, Any]) -> Iterator[list[str]]:
    """Spell options as flags with their values."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield [flag(name) if value else flag(f"no_{name}")]
        elif isinstance(value, tuple):
            yield [flag(name), *map(str, value)] if value else [flag(name), "[]"]
        else:
            yield [flag(name), "none" if value is None else str(value)]


def _is_positional(hint: Hint) -> bool:
    return tyro.conf.Positional in hint.marks


def _metavar(hint: Hint) -> str:
    found = (metavar for mark in hint.marks if (metavar := getattr(mark, "metavar", None)))
    return next(found, "one or more words")


def _option(spelled: str, options: Mapping[str, Hint], command: str) -> tuple[str, bool]:
    """Return the name of an option, and whether it was spelled `--no-name`."""
    name = spelled.removeprefix("--").replace("-", "_")
    name += "_" * keyword.iskeyword(name)  # --from is a field that Python cannot call so
    if spelled.startswith("--") and name in options:
        return name, False
    positive = name.removeprefix("no_")
    if spelled.startswith("--no") and positive in options and options[positive].kind is bool:
        return positive, True
    hint = hint_of(spelled, options, flag, command) or f"see {help_command(command)}"
    raise UserError(f"unknown option {spelled}: {hint}")


def _value(name: str, hint: Hint, negated: bool, value: str | None, rest: list[str]) -> Any:
    """Return the value of an option: `value` if `=` gave one, else the words it takes of `rest`."""
    if hint.kind is bool:
        if value is None and rest and rest[0].lower() in (*YES, *NO):
            value = rest.pop(0)
        return _truth(name, value, negated)
    if value is None:
        if not rest or (rest[0].startswith("-") and not NUMBER.match(rest[0])):
            raise UserError(f"{flag(name)} needs a value: {_form(name, hint)}")
        value = rest.pop(0)
        while get_origin(hint.kind) is tuple and rest and NUMBER.match(rest[0].strip("[]()")):
            value = f"{value} {rest.pop(0)}"
    return _text_value(name, value, hint)


def _takes_words(hint: Hint) -> bool:
    """Tell whether an option takes several texts."""
    return takes_words(hint.kind) or takes_names(hint.kind)


def _words(name: str, hint: Hint, value: str | None, rest: list[str]) -> Sequence[str]:
    """Return the words of an option: those up to the next option, or `value` if `=` gave one.

    Names may also be in one word, with commas; `[]` is none of them.
    """
    words = [] if value is None else [value]
    while value is None and rest and not rest[0].startswith("-"):
        words.append(rest.pop(0))
    if not all(words) or not words:
        raise UserError(f"{flag(name)} needs a value: {_form(name, hint)}")
    return _text_value(name, " ".join(words), hint) if takes_names(hint.kind) else words


def _truth(name: str, value: str | None, negated: bool) -> bool:
    if value is None:
        return not negated
    if negated or value.lower() not in (*YES, *NO, "1", "0"):
        spelled = flag(f"no_{name}") if negated else flag(name)
        raise UserError(f"{spelled} {value} is unclear: give {flag(name)} or {flag(f'no_{name}')}")
    return value.lower() in (*YES, "1")


def _text_value(name: str, text: str, hint: Hint) -> Any:
    """Return the value that a text stands for.

    Raises:
        UserError: the text stands for no value of the option.
    """
    kind = hint.kind
    if kind in (str, Path):
        if not text or "\0" in text:
            raise UserError(f"{_label(name, hint)} must be {_form(name, hint)}, got {shown(text)}")
        return kind(text)
    if takes_names(kind) or takes_words(kind):
        return tuple(text.translate(BRACKETS).split())
    if hint.optional and text.lower() == "none":
        return None
    try:
        if get_origin(kind) is tuple:
            return tuple(_number(word, int) for word in text.translate(BRACKETS).split())
        if get_origin(kind) is Literal:
            return get_args(kind)[get_args(kind).index(text)]
        return _number(text, kind)
    except ValueError:
        raise UserError(f"{flag(name)} must be {_form(name, hint)}, got {shown(text)}") from None


def _number(text: str, kind: type) -> Any:
    """Return the number that is written as in Python; a whole one may be written as 1e5."""
    try:
        return kind(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return kind(number)


def _label(name: str, hint: Hint) -> str:
    return _metavar(hint) if _is_positional(hint) else flag(name)


def _form(name: str, hint: Hint) -> str:
    """Say in words what an option takes on the command line."""
    if takes_names(hint.kind):
        return f"{expected(hint.kind)} (none of them: {flag(name)} [])"
    if _takes_words(hint):
        return _metavar(hint)
    if get_origin(hint.kind) is tuple:
        words = f"whole numbers such as {flag(name)} 128 128 (none of them: {flag(name)} [])"
    else:
        words = {Path: "a path", str: "a text"}.get(hint.kind) or expected(hint.kind)
    return f"{words} or none" if hint.optional and hint.kind not in (str, Path) else words
