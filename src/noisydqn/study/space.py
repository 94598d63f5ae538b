"""The space of a tuning: which options are searched, and where, as a value."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import msgspec

from noisydqn.config.config import VARIANTS, option_hints, owners
from noisydqn.config.toml_file import from_toml, read_toml
from noisydqn.errors import UserError
from noisydqn.options import refuse_unknown, shown
from noisydqn.study.grid import FIXED, as_text

RangeKind = Literal["uniform", "log-uniform", "integer"]
CATEGORICAL = "categorical"
KINDS = (*get_args(RangeKind), CATEGORICAL)
DIGITS = 4
"""Significant digits of a number that is searched: more say nothing, and cannot be read."""
EXAMPLE = "learning_rate = { log-uniform = [1e-4, 1e-2] } or n_step = [1, 3, 5]"


class Suggesting(Protocol):
    """What proposes values: a trial of Optuna."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: None = None, log: bool = False
    ) -> float:
        """Propose a number."""
        ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Propose a whole number."""
        ...

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        """Propose one of some texts."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; by their logarithm if log-uniform."""

    kind: RangeKind
    low: float
    high: float
    whole: bool  # whether the option takes whole numbers only

    @property
    def ends(self) -> tuple[float, ...]:
        """Values that satisfy a constraint only if all do."""
        return (self.low, self.high)

    @property
    def words(self) -> str:
        """The dimension in words."""
        return f"{self.kind} from {self.low:g} to {self.high:g}"

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of these."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def suggest(self, name: str, trial: Suggesting) -> float:
        """Let a trial propose a value."""
        log = self.kind == "log-uniform"
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=log)
        value = trial.suggest_float(name, self.low, self.high, log=log)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def proposed(self, value: Any) -> Any:
        """Return what `suggest` of a trial would have to propose to come to a value."""
        return value


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that satisfy a constraint only if all do."""
        return self.values

    @property
    def words(self) -> str:
        """The dimension in words."""
        return f"one of {', '.join(map(as_text, self.values))}"

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of these."""
        return value in self.values

    def suggest(self, name: str, trial: Suggesting) -> Any:
        """Let a trial propose a value; it knows values by their text, as some are no scalars."""
        by_text = {as_text(value): value for value in self.values}
        return by_text[trial.suggest_categorical(name, list(by_text))]

    def proposed(self, value: Any) -> Any:
        """Return what `suggest` of a trial would have to propose to come to a value."""
        return as_text(value)


Dimension = Range | Choice
Space = Mapping[str, Dimension]
"""Dimensions by the flat names of their options."""
Raw = Mapping[str, Any]
"""A space as a file has it: a list of values, or a table of one kind, for each option."""


def space_of(raw: Raw) -> Space:
    """Make the space of what a file or flags say.

    Raises:
        UserError: an option does not exist or cannot be searched, or a dimension is not one.
    """
    if not raw:
        raise UserError(
            "the space is empty, so there is nothing to search: give --space FILE.toml or "
            "--search learning_rate=log-uniform:1e-4,1e-2"
        )
    refuse_unknown(raw, option_hints(), where=" in the space")
    return {name: _dimension(name, given) for name, given in raw.items()}


def _dimension(name: str, given: Any) -> Dimension:
    if name in FIXED:
        raise UserError(f"{name} cannot be searched: {_instead(name)}")
    if isinstance(given, list | tuple):
        return _choice(name, cast(list[Any], given))
    table = cast(dict[str, Any], given) if isinstance(given, dict) else {}
    if len(table) != 1 or not isinstance(next(iter(table.values())), list | tuple):
        raise UserError(f"{name} in the space is {shown(given)}, expected {EXAMPLE}")
    ((kind, values),) = table.items()
    if kind == CATEGORICAL:
        return _choice(name, values)
    if kind not in KINDS:
        raise UserError(f"{name} in the space is {shown(kind)}, expected one of {', '.join(KINDS)}")
    return _range(name, cast(RangeKind, kind), values)


def _instead(name: str) -> str:
    given = {"seed": "give --first-seed", "num_seeds": "give --seeds"}
    return given.get(name, "give it as NAME")


def _choice(name: str, values: list[Any]) -> Choice:
    found = tuple(from_toml({name: value}, " in the space")[name] for value in values)
    texts = [as_text(value) for value in found]
    if len(found) < 2 or len(set(texts)) < len(texts):
        raise UserError(
            f"{name} in the space has the values {shown(', '.join(texts))}, expected two or more "
            "that differ"
        )
    return Choice(found)


def _range(name: str, kind: RangeKind, values: list[Any]) -> Range:
    hint = option_hints()[name]
    if hint.kind not in (int, float):
        raise UserError(f"{name} in the space is not a number: give a list of values, not {kind}")
    whole = hint.kind is int
    wrong: RangeKind = "uniform" if whole else "integer"
    if kind == wrong:
        numbers, right = ("whole ", "integer") if whole else ("", "uniform")
        raise UserError(
            f"{name} in the space takes {numbers}numbers: give {right} or log-uniform, not {kind}"
        )
    if len(values) != 2:
        raise UserError(f"{name} in the space is {kind} with {shown(values)}, expected two numbers")
    low, high = (from_toml({name: value}, " in the space")[name] for value in values)
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise UserError(
            f"{name} in the space is {kind} from {low} to {high}, expected a smaller and a larger "
            "number"
        )
    if kind == "log-uniform" and low <= 0:
        raise UserError(
            f"{name} in the space is log-uniform from {low:g}, expected numbers above zero"
        )
    return Range(kind, low, high, whole)


# Variants: their options are searched only where they are chosen


def belongs(name: str, chosen: Mapping[str, Any]) -> bool:
    """Tell whether an option exists with the chosen variants, which are given by section."""
    for section in VARIANTS:
        own = owners(section).get(name)
        if own is not None and chosen[section] not in own:
            return False
    return True


def suggest(space: Space, trial: Suggesting, variants: Mapping[str, Any]) -> dict[str, Any]:
    """Let a trial propose a value for each dimension that exists in it.

    Args:
        space: the dimensions.
        trial: proposes; it returns again what it proposed before.
        variants: names of the base's variants by section.
    """
    options: dict[str, Any] = {}
    for name in (*VARIANTS, *space):
        if name in space and name not in options and belongs(name, {**variants, **options}):
            options[name] = space[name].suggest(name, trial)
    return options


def corners(space: Space, variants: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield options such that, if all of them can be used, each value of each dimension can.

    These are all combinations of variants, each with one further option at one of its ends.
    """
    sections = [section for section in VARIANTS if section in space]
    others = [name for name in space if name not in VARIANTS]
    for values in itertools.product(*(space[section].ends for section in sections)):
        chosen = dict(zip(sections, values, strict=True))
        if chosen:
            yield chosen
        for name in others:
            if belongs(name, {**variants, **chosen}):
                yield from (chosen | {name: value} for value in space[name].ends)
    for name in others:  # an option that belongs nowhere is refused as it stands
        combinations = itertools.product(*(space[section].ends for section in sections))
        if not any(
            belongs(name, {**variants, **dict(zip(sections, values, strict=True))})
            for values in combinations
        ):
            yield {name: space[name].ends[0]}


# Files


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of a file."""

    space: dict[str, Any] = {}
    options: dict[str, Any] = {}


def read_space(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the space of a TOML file, and the options of every run that it sets.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    file = read_toml(path, _File, f"[space], such as {EXAMPLE}, and [options]")
    return file.space, file.options
