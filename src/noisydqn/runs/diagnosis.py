"""The command `doctor`: what looks wrong with recorded runs, and what to try."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from noisydqn.errors import UserError
from noisydqn.files import Place
from noisydqn.options import refuse_unknown
from noisydqn.report.rules import Finding, diagnose
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.recorded import read_recorded, read_run


class Diagnosis(NamedTuple):
    """What looks wrong with one run; nothing if all rules are content."""

    folder: str
    env: str
    seed: int
    findings: list[Finding]


def doctor(*paths: Place, **unknown: Any) -> list[Diagnosis]:
    """Look for what keeps runs from learning, as `noisydqn doctor` does.

        for finding in noisydqn.doctor("runs/one")[0].findings:
            print(finding.problem, finding.remedy)

    Only files are read: no environment is made, and no code that a config names is imported.

    Args:
        paths: folders of runs, or of folders of runs.
        unknown: refused.

    Raises:
        UserError: there is no run, or a file cannot be read.
    """
    refuse_unknown(unknown, [], "doctor")
    if not paths:
        raise UserError("there is nothing to look at: name the folder of a run")
    runs = [run for run in read_recorded(paths) if run.options]
    if not runs:
        names = ", ".join(map(str, paths))
        raise UserError(f"{names} holds no run of noisydqn: other libraries' logs lack options")
    return [Diagnosis(run.place, run.env, run.seed, diagnose(run)) for run in runs]


def findings_of(folders: Sequence[RunFolder]) -> list[str]:
    """Say in lines what looks wrong with the seeds of a run.

    Raises:
        UserError: a file of the run is damaged.
    """
    runs = [read_run(folder) for folder in folders]
    found = {run.seed: diagnose(run) for run in runs}
    lines: list[str] = []
    for rule in dict.fromkeys(x.rule for each in found.values() for x in each):
        having = {seed: x for seed, each in found.items() for x in each if x.rule == rule}
        first = next(iter(having.values()))
        seeds = f" (seed {', '.join(map(str, having))})" if len(runs) > 1 else ""
        lines.append(f"{in_words(first)}{seeds}")
    return lines


def in_words(finding: Finding) -> str:
    """Return a finding as a line."""
    return f"{finding.problem}; try: {finding.remedy}"
