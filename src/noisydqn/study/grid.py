"""The grid of a comparison, as a value: environments, variants of options, and seeds.

`Draft` is what a command line or a file says of a grid; `Draft.grid` makes the grid of it.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from noisydqn.config.config import option_hints
from noisydqn.config.run import MAX_SEEDS
from noisydqn.config.toml_file import from_toml, read_toml
from noisydqn.errors import UserError
from noisydqn.options import MAX_SEED, NAME, convert

MAX_RUNS = 10_000
DEFAULT_SEEDS = 10
PLAIN = "default"
"""The name of a variant that sets nothing."""

FIXED = {
    "preset": "name it as an environment: --env cartpole",
    "env": "give --env A B",
    "seed": "every seed is trained with every variant: give --seeds",
    "num_seeds": "give --seeds",
}
"""Options that no variant sets, with what to do instead."""


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of the things that are compared: a name, and the options it sets, by flat name."""

    name: str
    options: dict[str, Any]


class Grid(msgspec.Struct, frozen=True):
    """Every variant is trained in every environment with every seed."""

    environments: tuple[str, ...]  # each as NAME of train: an environment, a preset or a run
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    options: dict[str, Any]  # of every run

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.environments) * len(self.variants) * len(self.seeds)

    def checked(self) -> "Grid":
        """Return the grid with values of the types that its options have.

        Raises:
            UserError: the grid is empty, too large or names something twice, an option does not
                exist, or a value is not one of its option.
        """
        _refuse_names("environment", "--env", self.environments)
        _refuse_names("variant", "--vary", [variant.name for variant in self.variants])
        if not self.seeds:
            raise UserError("--seeds must be at least 1, got 0: a grid without seeds is empty")
        if (
            len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) <= MAX_SEED - MAX_SEEDS
        ):
            raise UserError(f"the seeds must differ and be between 0 and {MAX_SEED - MAX_SEEDS}")
        if len(self) > MAX_RUNS:
            raise UserError(
                f"the grid has {len(self):,} runs, expected at most {MAX_RUNS:,}: divide it"
            )
        variants = tuple(
            Variant(variant.name, converted(variant.options, f"the variant {variant.name}"))
            for variant in self.variants
        )
        return msgspec.structs.replace(
            self, variants=variants, options=converted(self.options, "the options")
        )

    def differing(self, other: "Grid") -> list[str]:
        """List the parts that differ from those of another grid."""
        return [
            name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)
        ]


class Draft(msgspec.Struct, frozen=True):
    """What flags or a file say of a grid; what is empty or None is left open."""

    environments: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    vary: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # an option and its values
    seeds: int | None = None
    options: Mapping[str, Any] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return self == Draft()

    def over(self, other: "Draft") -> "Draft":
        """Put this draft over another: its parts come first, and both are varied."""
        return Draft(
            self.environments or other.environments,
            (*other.variants, *self.variants),
            (*other.vary, *self.vary),
            other.seeds if self.seeds is None else self.seeds,
            {**other.options, **self.options},
        )

    def grid(self) -> Grid:
        """Make the grid: the variants, each with every combination of the values that vary.

        Raises:
            UserError: as `Grid.checked`; or an option is varied twice, or without values.
        """
        if not self.environments:
            raise UserError("the grid is empty, as it has no environment: give --env CartPole-v1")
        options = dict(self.options)
        first = convert("seed", options.pop("seed", 0), option_hints()["seed"])
        count = DEFAULT_SEEDS if self.seeds is None else self.seeds
        if not 1 <= count <= MAX_SEEDS:
            raise UserError(f"--seeds must be between 1 and {MAX_SEEDS}, got {count}")
        return Grid(
            self.environments,
            product(self.variants, self.vary),
            tuple(range(first, first + count)),
            options,
        ).checked()


def product(
    variants: Sequence[Variant], vary: Sequence[tuple[str, Sequence[Any]]]
) -> tuple[Variant, ...]:
    """Combine variants with every combination of the values that vary; one of nothing if none do.

    Raises:
        UserError: an option is varied twice, or without values.
    """
    for name, values in vary:
        if not values:
            raise UserError(
                f"--vary {name} has no values: name some, such as --vary exploration=noisy,greedy"
            )
        if [other for other, _ in vary].count(name) > 1:
            raise UserError(f"--vary {name} is given twice: give all its values at once")
    made: list[Variant] = []
    for variant in variants or [Variant("", {})]:
        for values in itertools.product(*(values for _, values in vary)):
            options = {name: value for (name, _), value in zip(vary, values, strict=True)}
            if both := sorted(options.keys() & variant.options.keys()):
                raise UserError(
                    f"--vary {both[0]} varies what the variant {variant.name} sets: leave one out"
                )
            made.append(Variant(_named(variant.name, options), variant.options | options))
    return tuple(made)


def _named(name: str, options: Mapping[str, Any]) -> str:
    """Name a variant by what it sets: `exploration=noisy,n_step=3`."""
    sets = [f"{option}={as_text(value)}" for option, value in options.items()]
    return ",".join([name, *sets] if name else sets) or PLAIN


def as_text(value: Any) -> str:
    """Write the value of an option as the command line takes it."""
    match value:
        case bool():
            return str(value).lower()
        case None:
            return "none"
        case tuple() | list() as numbers:
            return " ".join(map(str, numbers)) or "[]"
        case _:
            return str(value)


def converted(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert options to the types that they have.

    Raises:
        UserError: one does not exist or is fixed, or a value is not one of it; `where` it is.
    """
    for name in options:
        if name in FIXED:
            raise UserError(f"{name} cannot be among {where}: {FIXED[name]}")
    return from_toml(options, f" in {where}")


def _refuse_names(what: str, given_by: str, names: Sequence[str]) -> None:
    """Refuse names of which there are none, that are given twice, or that cannot be printed."""
    if not names:
        raise UserError(f"the grid is empty, as it has no {what}: give {given_by}")
    for name in names:
        if not name:
            raise UserError(f"one {what} has an empty name: give it one")
        NAME.check(given_by.strip("-"), name)
        if names.count(name) > 1:
            raise UserError(f"the {what} {name} is there twice: leave one out, or rename it")


# Files


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of a file."""

    env: str | tuple[str, ...] = ()
    seeds: int | None = None
    options: dict[str, Any] = {}
    vary: dict[str, list[Any]] = {}
    variant: tuple[Variant, ...] = ()


def read_draft(path: Path) -> Draft:
    """Read a draft from a TOML file.

    Raises:
        UserError: the file cannot be read, or has another form.
    """
    file = read_toml(path, _File, "env, seeds, [options], [vary] and [[variant]]")
    return Draft(
        (file.env,) if isinstance(file.env, str) else file.env,
        file.variant,
        tuple((name, tuple(values)) for name, values in file.vary.items()),
        file.seeds,
        file.options,
    )
