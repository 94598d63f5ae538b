"""The jobs of a grid: what each trains, and in which folder."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from noisydqn.config.config import Config
from noisydqn.config.gate import ALL, named_code
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.protocol import Environment
from noisydqn.envs.registry import make_environment
from noisydqn.errors import ConfigError, UserError
from noisydqn.runs.memory import check_memory, experience_bytes
from noisydqn.runs.messages import describe
from noisydqn.runs.named import config_named
from noisydqn.runs.tracking import check_installed
from noisydqn.settings import own_settings
from noisydqn.study.grid import Grid, Variant

MAX_FOLDER = 100
"""Characters of a folder's name."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of a variant in an environment, and its folder in that of the comparison."""

    environment: str
    variant: str
    seed: int
    folder: str

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.environment}, {self.variant}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A variant in an environment: the options of its runs, and the folder that holds them."""

    environment: str  # NAME of train
    variant: str
    options: Mapping[str, Any]
    config: Config  # of the first seed
    folder: str
    in_jax: bool = False
    experience: int = 0  # bytes of what one seed learns from

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"{self.environment}, {self.variant}"


@dataclasses.dataclass(frozen=True)
class Job:
    """A call of train: one run or, in one program, the runs of several seeds."""

    cell: Cell
    runs: tuple[Run, ...]
    folder: str  # of the call's --out
    together: bool

    @property
    def label(self) -> str:
        """The job in words."""
        if not self.together:
            return self.runs[0].label
        return f"{self.cell.label}, seeds {self.runs[0].seed} to {self.runs[-1].seed}"

    @property
    def log(self) -> str:
        """The file of what the call prints, beside its folder."""
        return f"{self.folder}.log"

    @property
    def options(self) -> dict[str, Any]:
        """The options of the call."""
        number = len(self.runs)
        seeds = {} if self.cell.config.run.num_seeds == number else {"num_seeds": number}
        return {**self.cell.options, "seed": self.runs[0].seed, **seeds}

    @property
    def steps(self) -> int:
        """The budget, in environment steps of each seed."""
        return self.cell.config.total_steps

    @property
    def experience(self) -> int:
        """Bytes of what its seeds learn from: replay buffers or rollouts."""
        return len(self.runs) * self.cell.experience


def cells_of(grid: Grid, *, trust: bool, typed: bool) -> list[Cell]:
    """Find the options of every variant in every environment.

    Args:
        grid: the grid.
        trust: whether code that files name may be imported.
        typed: whether all of the grid was typed by the user rather than read from a file.

    Raises:
        UserError: an environment or a value cannot be used, two cells are the same, or code is
            named that is not trusted.
    """
    places = folder_names(grid.environments)
    variants = folder_names(variant.name for variant in grid.variants)
    cells: list[Cell] = []
    seen: dict[Config, Cell] = {}
    for environment in grid.environments:
        for variant in grid.variants:
            folder = f"{places[environment]}/{variants[variant.name]}"
            cell = cell_of(grid, environment, variant, folder, trust=trust, typed=typed)
            config = cell.config
            if (same := seen.setdefault(config, cell)) is not cell:
                raise UserError(_equal(same, cell))
            cells.append(cell)
    return cells


def cell_of(
    grid: Grid, environment: str, variant: Variant, folder: str, *, trust: bool, typed: bool
) -> Cell:
    """Find the options of one variant in one environment; see `cells_of`.

    Args:
        grid: brings the seeds and the options of every run.
        environment: the environment.
        variant: the variant.
        folder: that holds its runs.
        trust: whether code that files name may be imported.
        typed: whether all of the grid was typed by the user rather than read from a file.

    Raises:
        UserError: a value cannot be used, or code is named that is not trusted.
        MissingExtraError: a service of `track` needs a package that is not installed.
    """
    options = grid.options | variant.options
    config = _config(environment, variant.name, options, trust=trust)
    config = config.replace(seed=grid.seeds[0])
    if (code := named_code(config.flat())) and not typed and not trust:
        named = ", ".join(f"{name} {value}" for name, value in code.items())
        raise UserError(
            f"the file of the grid names code that would be imported and run ({named}): if "
            "you trust whoever wrote it, repeat with --trust"
        )
    check_installed(config.run.track)
    return Cell(environment, variant.name, options, config, folder)


def _config(name: str, variant: str, options: Mapping[str, Any], *, trust: bool) -> Config:
    """Return the config of a variant in an environment, as train makes it."""
    uses = [option for option in ALL if option not in options]
    learner = options.get("learner")
    config = config_named(name, uses, trust=trust, learner=learner)
    try:
        return config.replace(**options)
    except ConfigError as error:
        raise UserError(f"{name}, {variant}: {error}") from error


def _equal(one: Cell, other: Cell) -> str:
    if one.environment == other.environment:
        what = f"the variants {one.variant} and {other.variant} are equal in {one.environment}"
    else:
        what = f"{one.label} and {other.label} are equal"
    return f"{what}, all of their options are the same: leave one out, or change an option"


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Give each name one that every file system takes, and no other has."""
    found: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^\w.,=+-]+", "-", name, flags=re.ASCII)[:MAX_FOLDER].strip("-.") or "x"
        taken, number, free = {x.lower() for x in found.values()}, 2, safe
        while free.lower() in taken:
            free, number = f"{safe}-{number}", number + 1
        found[name] = free
    return found


@own_settings()
def with_environments(cells: Iterable[Cell]) -> list[Cell]:
    """Make the environment of every cell, to see that it can be trained on and how.

    Raises:
        UserError: an environment cannot be made or has spaces that are not supported, its
            observations do not fit the torso, or what is learned from does not fit into memory.
    """
    made: dict[EnvironmentOptions, Environment] = {}
    found: list[Cell] = []
    for cell in cells:
        options = cell.config.environment
        if options not in made:
            made[options] = make_environment(options, None, Notices(None))
        env = made[options]
        try:
            describe(cell.config.program, env.spec)
            check_memory(cell.config, env)
        except UserError as error:
            raise UserError(f"{cell.label}: {error}") from error
        experience = experience_bytes(cell.config, env.spec)
        in_jax = env.trains_seeds_together
        found.append(dataclasses.replace(cell, in_jax=in_jax, experience=experience))
    return found


def jobs_of(cells: Iterable[Cell], seeds: tuple[int, ...], *, together: bool) -> list[Job]:
    """List the jobs of cells, seed after seed, so that jobs side by side have other programs.

    Args:
        cells: the cells.
        seeds: of each cell; those that train together follow one another.
        together: whether one program trains all seeds of a cell whose environment is in JAX.
    """
    jobs: list[Job] = []
    alone: list[Cell] = []
    for cell in cells:
        if together and cell.in_jax and len(seeds) > 1:
            runs = [_run(cell, seed, f"seed{seed}") for seed in seeds]  # as train names them
            jobs.append(Job(cell, tuple(runs), cell.folder, together=True))
        else:
            alone.append(cell)
    for seed in seeds:
        for cell in alone:
            run = _run(cell, seed, f"seed-{seed}")
            jobs.append(Job(cell, (run,), run.folder, together=False))
    return jobs


def _run(cell: Cell, seed: int, name: str) -> Run:
    return Run(cell.environment, cell.variant, seed, f"{cell.folder}/{name}")
