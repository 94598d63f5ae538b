"""The command bsuite: train an agent on experiments of bsuite, and compare agents."""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from noisydqn.cli.arguments import fill, options_of, read, wants_help
from noisydqn.cli.option_help import show_options
from noisydqn.cli.train import config_options
from noisydqn.envs.names import BSUITE
from noisydqn.errors import SIGNALLED, UserError
from noisydqn.options import at_least, flag, shown
from noisydqn.presets import config_for

LABEL = re.compile(r"[\w+-][\w+.-]*")
"""Names of agents."""


@dataclasses.dataclass(frozen=True)
class BsuiteArgs:
    """Train an agent on experiments of bsuite, and print its scores beside those of others.

    EXPERIMENTS are names of experiments (deep_sea), tags (exploration) or settings (deep_sea/7),
    with commas between them. Settings that the agent has been trained on are left out, so the same
    command continues a sweep. Without EXPERIMENTS the results so far are shown. Options of the
    agent are those of train.
    """

    experiments: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[EXPERIMENTS]")] = ""
    """Experiments, tags or settings."""
    out: Path = Path("runs/bsuite")
    """Folder of the results of all agents; radar.png and summary.json there compare them."""
    label: str = "agent"
    """Name of the agent, and of its folder in --out."""
    episodes: Annotated[int | None, at_least(1)] = None
    """The most training episodes in a setting. bsuite asks for 10,000, or for 1,000 of long
    ones."""
    cache: str | None = None
    """Folder that keeps compiled programs for later runs; "none" keeps nothing. If not given,
    NOISYDQN_CACHE or a folder in the user's cache folder."""


def bsuite(argv: Sequence[str]) -> int:
    """Run the command bsuite."""
    args, options = parse_bsuite(argv)
    from noisydqn.envs.bsuite import settings_named
    from noisydqn.files import given_path
    from noisydqn.output import lasting_output
    from noisydqn.runs.bsuite import Agent, run_sweep

    settings = settings_named([name for name in args.experiments.split(",") if name])
    out = given_path(args.out)
    with lasting_output():
        if settings:
            agent = Agent.create(out / args.label, args.episodes, **options)
            say = partial(print, flush=True)  # a sweep takes hours
            stopped_by = run_sweep(agent, settings, say=say, cache=args.cache)
            if stopped_by is not None:
                say("the sweep was stopped: the same command continues it")
                return SIGNALLED + stopped_by
        _show(out)
    return 0


def parse_bsuite(argv: Sequence[str]) -> tuple[BsuiteArgs, dict[str, Any]]:
    """Parse the arguments; returns them and the options of the agent by flat name.

    Raises:
        UserError: an argument cannot be used.
        SystemExit: help was asked for and given.
    """
    if wants_help(argv):
        show_options(config_for(BSUITE), BsuiteArgs(), argv, "bsuite")
    known = options_of(BsuiteArgs) | config_options()
    given = read(known, argv, "bsuite")
    args = fill(BsuiteArgs(), given, known, "bsuite")
    options = {name: x for name, x in given.values.items() if name in config_options()}
    at_least(1).check("episodes", args.episodes)
    if not LABEL.fullmatch(args.label):
        raise UserError(
            f"--label must be letters, digits and any of +-_., got {shown(args.label)}: it names a "
            "folder"
        )
    if options and not args.experiments.strip(","):
        raise UserError(
            f"{flag(next(iter(options)))} needs EXPERIMENTS: name some, such as noisydqn bsuite "
            "deep_sea"
        )
    return args, options


def _show(out: Path) -> None:
    """Print the scores of all agents, and write them as JSON and as a radar plot."""
    from noisydqn.folders import Folder
    from noisydqn.runs.bsuite_scores import draw_radar, scores_in, table

    scores = scores_in(out)
    if not scores:
        raise UserError(
            f"{out} holds no results: name experiments, such as noisydqn bsuite deep_sea"
        )
    for line in table(scores):
        print(line)
    folder = Folder(out)
    folder.file("summary.json").write_json({name: x.summary() for name, x in scores.items()})
    folder.file("radar.png").write(draw_radar(scores))
    print(out / "radar.png")
