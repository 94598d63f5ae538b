"""The command that looks for what keeps runs from learning."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from noisydqn.cli.arguments import fill, options_of, read, show_help, wants_help
from noisydqn.errors import UserError


@dataclasses.dataclass(frozen=True)
class DoctorArgs:
    """Say what looks wrong with runs, and what to try.

    Rules look for flat returns, impossible values, noise that died, a replay buffer that is too
    small, and more. The exit code is 0 whatever they find.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")] = ()
    """Folders of runs, or of folders of runs."""
    env: str | None = None
    """Look at an environment instead: play random steps in it, and check it."""
    env_kwargs: str = "{}"
    """Arguments of that environment, as a JSON object."""
    json: bool = False
    """Print one JSON object (for several runs, one a line)."""


NOTHING = "nothing looks wrong"


def run_doctor(argv: Sequence[str]) -> int:
    """Run the command doctor.

    Raises:
        UserError: an argument cannot be used, or as `noisydqn.doctor`.
        SystemExit: help was asked for and given.
    """
    default = DoctorArgs()
    if wants_help(argv):
        show_help(default, "doctor")
    options = options_of(DoctorArgs)
    given = read(options, argv, "doctor")
    args = fill(default, given._replace(positionals=[]), options, "doctor")
    if args.env is not None:
        if given.positionals:
            raise UserError(f"--env and {given.positionals[0]}: look at one after the other")
        return _look_at_environment(args.env, args)
    if not given.positionals:
        raise UserError("DIR is missing: the form is noisydqn doctor DIR... [options]")
    return _look_at_runs(given.positionals, args)


def _look_at_runs(paths: Sequence[str], args: DoctorArgs) -> int:
    from noisydqn.runs.diagnosis import doctor

    for diagnosis in doctor(*paths):
        if args.json:
            findings = [finding._asdict() for finding in diagnosis.findings]
            print(json.dumps(diagnosis._asdict() | {"findings": findings}))
            continue
        print(f"{diagnosis.folder}:{'' if diagnosis.findings else f' {NOTHING}'}")
        for finding in diagnosis.findings:
            print(f"  {finding.problem}")
            print(f"    try: {finding.remedy}")
    return 0


def _look_at_environment(name: str, args: DoctorArgs) -> int:
    from noisydqn.envs.check import examine
    from noisydqn.envs.notices import Notices
    from noisydqn.envs.options import EnvironmentOptions
    from noisydqn.envs.registry import make_environment

    held: list[str] = []
    options = EnvironmentOptions(env=name, env_kwargs=args.env_kwargs)
    found = examine(make_environment(options, notices=Notices(held.append)))
    problems = [*found.problems, *held]
    if args.json:
        print(json.dumps({"env": name, "facts": found.facts, "problems": problems}))
        return 0
    for line in found.facts:
        print(f"{name}: {line}")
    for line in problems or [NOTHING]:
        print(f"  {line}")
    return 0
