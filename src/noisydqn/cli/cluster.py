"""Options of commands whose jobs may run on a cluster, and the place where they run."""

import contextlib
import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from noisydqn.cli.arguments import Given, fill
from noisydqn.errors import UserError
from noisydqn.files import given_path
from noisydqn.folders import File
from noisydqn.options import Hint, at_least, between, flag, help_of

if TYPE_CHECKING:
    from noisydqn.study.pool import MakePool, Pool
    from noisydqn.study.resources import Capacity

ADDRESS = re.compile(r"auto|local|.*:[0-9]+|[a-z]+://.*")
"""Words after --ray that are its address. Without one, Ray is started on this machine."""


@dataclasses.dataclass(frozen=True)
class ClusterArgs:
    """Jobs on a cluster."""

    ray: Annotated[str | None, tyro.conf.arg(metavar="[ADDRESS]")] = None
    """Run the jobs as tasks of Ray, which start again where a worker or a node dies. ADDRESS is
    HOST:PORT of a cluster of which this machine is a node, or auto for the one that runs here. If
    not given, Ray is started on this machine. All nodes share --out. Needs 'noisydqn[ray]'."""
    gpus: float = 0.0
    """GPUs of each job, with --ray. 0.25 lets four jobs share one."""
    slurm: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a job script for Slurm, which starts Ray on its nodes and runs this command there."""
    nodes: int = 2
    """Nodes that the job script asks for."""

    def repeated(self, *, trust: bool) -> str:
        """Spell the options that resume a study where it was."""
        words = ["--trust"] if trust else []
        words += [] if self.ray is None else ["--ray", self.ray]
        return shlex.join([*words, *(["--gpus", f"{self.gpus:g}"] if self.gpus else [])])


def cluster_help() -> str:
    """Return the help on these options, for the end of a command's."""
    forms = {"ray": " [ADDRESS]", "gpus": " FLOAT", "slurm": " FILE", "nodes": " INT"}
    lines = ["on a cluster:"]
    for name, text in help_of(ClusterArgs).items():
        lines.append(f"  {flag(name)}{forms[name]}")
        lines += [f"      {line}" for line in text.splitlines()]
    return "\n".join(lines)


def with_address(argv: Sequence[str]) -> list[str]:
    """Give `--ray` the address of this machine where it has none."""
    words = list(argv)
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else "--"
        if word == "--ray" and not ADDRESS.fullmatch(following):
            words[place] = "--ray=local"
    return words


def cluster_of(given: Given, options: Mapping[str, Hint], command: str) -> ClusterArgs:
    """Return these options of a command line.

    Raises:
        UserError: a value cannot be used, or an option needs another one.
    """
    args = fill(ClusterArgs(), given._replace(positionals=[]), options, command)
    at_least(0).check("gpus", args.gpus)
    between(1, 10_000).check("nodes", args.nodes)
    if args.gpus and args.ray is None and args.slurm is None:
        raise UserError("--gpus needs --ray, as jobs of this machine share what it has: add --ray")
    if "nodes" in given.values and args.slurm is None:
        raise UserError("--nodes needs --slurm: a cluster that runs has the nodes that it has")
    if args.slurm is not None and args.ray is not None:
        raise UserError("--slurm and --ray exclude each other: the job script starts Ray itself")
    return args


@contextlib.contextmanager
def place(args: ClusterArgs) -> "Generator[tuple[MakePool, Capacity | None]]":
    """Yield what makes the pool of jobs, and the capacity of a cluster; None is this machine.

    Raises:
        UserError: the cluster cannot be used.
    """
    if args.ray is None:
        yield local_pool, None
        return
    from noisydqn.cluster import RayCluster
    from noisydqn.study.ray_pool import RayPool

    cluster = RayCluster(args.ray)

    def make_pool(slots: int, cores: int, warn: Callable[[str], None]) -> "Pool":
        return RayPool(cluster, slots, cores, args.gpus, warn)

    def capacity(cores: int) -> int:
        number = cluster.capacity(cores, args.gpus)
        if not number:
            what = f"{cores} cores" + (f" and {args.gpus:g} GPUs" if args.gpus else "")
            raise UserError(
                f"no node of the Ray cluster has the {what} of a job: give --cores and --gpus that "
                "a node has"
            )
        return number

    try:
        yield make_pool, capacity
    finally:
        cluster.close()


def local_pool(slots: int, cores: int, warn: Callable[[str], None]) -> "Pool":
    """Make a pool of processes of this machine, which has nothing to warn of.

    Not the folder of the command, but what is installed, comes first on the path of a job.
    """
    from noisydqn.study.pool import ProcessPool

    del warn
    return ProcessPool([sys.executable, "-P", "-m", "noisydqn.cli.job"], slots, cores)


def write_script(args: ClusterArgs, command: str, argv: Sequence[str], out: Path | None) -> int:
    """Write the job script of a command; returns the exit code.

    The script continues a study that it has begun, so it can be submitted again.

    Raises:
        UserError: the study has no folder, or the file exists or cannot be written.
    """
    from noisydqn.study.slurm import script

    if out is None:
        raise UserError("--slurm needs --out, the folder in which a resubmitted job continues")
    file = File.at(given_path(args.slurm or "", "--slurm"))
    words = ["noisydqn", command, *_without(argv, ("--slurm", "--nodes"))]
    words += [] if "--resume" in words else ["--resume"]
    try:
        file.write(script(words, args.nodes, str(Path.cwd())).encode(), new=True)
    except FileExistsError as error:
        raise UserError(f"--slurm {file} exists, nothing was changed: name a new file") from error
    except OSError as error:
        raise UserError(f"--slurm {file} cannot be written: {error.strerror}") from error
    print(f"{file}\nnext: {shlex.join(['sbatch', str(file)])}")
    return 0


def _without(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    words: list[str] = []
    skip = False
    for word in argv:
        if not skip and word.partition("=")[0] not in flags:
            words.append(word)
        skip = word in flags
    return words
