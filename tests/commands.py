"""Running the command in tests."""

import shlex

import pytest

from noisydqn.cli import main

TINY = shlex.split(
    "--steps 1200 --chunk-steps 400 --learning-starts 400 --evaluation-every 800 "
    "--evaluation-episodes 2 --video-seconds 1 --seed 3 --torso flat --hidden 8 --batch-size 8"
)
"""A run of the default preset that is soon compiled, and shares its program with the others."""


def refused(capsys: pytest.CaptureFixture[str], *argv: str, announced: bool = False) -> str:
    """Run a command that must be refused; returns its one line.

    Before that, nothing is printed, unless it may be `announced` what the command is about to do.
    """
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert announced or captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("noisydqn: ")
    return captured.err
