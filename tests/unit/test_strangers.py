"""What a stranger sends is read or refused in one line. It runs no code and reaches nothing else.

`tests/strangers` holds the attacks; each is tried with every command that reads what it spoils.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tests.commands import refused
from tests.strangers import files, runs, spoil
from tests.strangers.runs import CANARY
from tests.strangers.spoil import Attack, options
from tests.strangers.victim import COMMANDS, Victim, attempt, check_line, fakes, remove

import noisydqn
from noisydqn import UserError, folders
from noisydqn.cli import main
from noisydqn.runs import api

pytestmark = pytest.mark.slow

ATTACKS = [
    *runs.paths(),
    *runs.code(),
    *runs.contents(),
    *runs.summaries(),
    *runs.configs(),
    *runs.seeds(),
    *runs.tables(),
    *files.spaces(),
    *files.weights(),
    *files.policies(),
    *files.manifests(),
]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim"))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_intact_run_is_read(command: str, victim: Victim) -> None:
    """So what refuses the others is what was spoiled."""
    victim.copy()
    assert attempt(victim, COMMANDS[command]) is None


def test_every_file_of_a_run_is_attacked(victim: Victim) -> None:
    files = {str(x.relative_to(victim.base)) for x in victim.base.rglob("*") if x.is_file()}
    assert {x for x in files if not x.startswith("tensorboard/")} <= runs.TOUCHED.keys()


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_stranger_gains_nothing(attack: Attack, victim: Victim) -> None:
    for command in sorted(attack.tried):
        victim.copy()
        attack.spoil(victim)
        error = attempt(victim, COMMANDS[command])
        assert error is not None or command not in attack.refused, command


@pytest.mark.parametrize("option", [*noisydqn.Config().flat(), "version"])
def test_every_option_with_every_type(option: str, victim: Victim) -> None:
    values = [None, True, -1, 0.5, 1e300, 2**70, "", "x", [], [[]], [-1], {}, {"x": [1]}]
    victim.copy()
    for value in values:
        options(**{option: value})(victim)
        attempt(victim, COMMANDS["load_config"])


@pytest.mark.parametrize("option", ["env", "torso", "exploration"])
def test_the_canary_sings_if_the_file_is_trusted(option: str, victim: Victim) -> None:
    """So its silence means something."""
    victim.copy()
    options(**{option: f"python:{CANARY}.make"})(victim)
    try:
        with fakes(victim), contextlib.suppress(UserError):  # it makes environments alone
            noisydqn.evaluate(victim.run, episodes=1, trust=True)
        assert victim.imported.exists()
        assert victim.called.exists()
    finally:
        sys.modules.pop(CANARY, None)
        gymnasium.registry.pop("Canary-v0", None)
        remove(victim.imported)
        remove(victim.called)


# Races

NAMES = [
    *("config.json", "best.safetensors", "spaces.json", "summary.json", "metrics.csv"),
    *("tensorboard", "checkpoints", spoil.MANIFEST, spoil.STATE),
]


@pytest.mark.parametrize(
    "name", [*NAMES, "tensorboard", "checkpoints", spoil.MANIFEST, spoil.STATE]
)
@pytest.mark.parametrize("command", ["evaluate", "export", "push", "resume"])
def test_a_file_that_becomes_a_link_after_it_was_checked(
    name: str, command: str, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim.copy()
    path = victim.run / name
    target = "folder" if path.is_dir() else "secret"

    def checked(kind: Callable[..., Any]) -> Callable[..., Any]:
        def check(folder: folders.Folder, given: str) -> Any:
            found = kind(folder, given)
            if folder.path / given == path and not path.is_symlink():
                remove(path)
                path.symlink_to(victim.outside / target)
            return found

        return check

    monkeypatch.setattr(folders.Folder, "kind", checked(folders.Folder.kind))
    attempt(victim, COMMANDS[command])


def test_a_config_that_changes_after_it_was_compared(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train(resume=True)` trusts the options that it was given, not those that it finds later."""
    check = api.check_same

    def checked(*args: Any) -> Any:
        found = check(*args)
        options(env=f"python:{CANARY}.make")(victim)
        return found

    monkeypatch.setattr(api, "check_same", checked)
    victim.copy()
    attempt(victim, COMMANDS["train --resume"])


# The command line

LINES = {
    "evaluate": ["evaluate", "RUN"],
    "record": ["record", "RUN"],
    "export": ["export", "RUN", "--format", "safetensors"],
    "resume": ["resume", "RUN"],
    "train": ["train", "RUN"],
    "push": ["push", "RUN", "me/run"],
    "train --from": ["train", "--from", "RUN", "--from-replay"],
}
SOME = [
    "env python:os.system",
    "a command",
    "a key in a list for CartPole-v1",
    f"torso python:{CANARY}.make",
    "link at config.json",
    "pipe at best.safetensors",
    "nested objects in config.json",
    "UTF-16 in spaces.json",
    "long env_kwargs",
    "an option twice, the last one code",
    "spaces 400 deep",
    "a header of nested lists in weights",
    "counts that are all large",
]


@pytest.mark.parametrize("attack", [x for x in ATTACKS if x.name in SOME], ids=str)
def test_the_command_line_says_one_line(
    attack: Attack, victim: Victim, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in sorted(attack.refused & LINES.keys()):
        victim.copy()
        attack.spoil(victim)
        with fakes(victim):
            words = [x.replace("RUN", str(victim.run)) for x in LINES[command]]
            refused(capsys, *words, announced=command == "resume")
        victim.check()


@pytest.mark.parametrize("attack", [x for x in ATTACKS if x.name in SOME[:4]], ids=str)
def test_the_help_of_a_run_imports_nothing(
    attack: Attack, victim: Victim, capsys: pytest.CaptureFixture[str]
) -> None:
    victim.copy()
    attack.spoil(victim)
    with fakes(victim), pytest.raises(SystemExit) as left:
        main(["train", str(victim.run), "--help"])
    assert left.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out
    victim.check()


BROUGHT = ["mujoco", "swig_runtime_data4", "gymnax", "shimmy", "tensorflow", "torch", "onnx"]
"""Modules that packages try to import, installed or not."""


@pytest.mark.parametrize("env", ["CartPole-v1", "Reacher-v4"])
def test_modules_in_a_strangers_folder_are_not_imported(env: str, victim: Victim) -> None:
    """Even if the command is given in that folder, and a package that it needs is missing."""
    victim.copy()
    options(env=env)(victim)
    for name in BROUGHT:
        (victim.run / f"{name}.py").write_text(f"open({str(victim.imported)!r}, 'w')")
    command = "import sys; from noisydqn.cli import run; sys.argv[0] = 'noisydqn'; run()"
    argv = [sys.executable, "-P", "-c", command, "evaluate", ".", "--episodes", "1"]
    source = str(Path(noisydqn.__file__).parents[1])
    done = subprocess.run(
        argv,
        cwd=victim.run,
        env={**os.environ, "PYTHONPATH": source, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (0 if env == "CartPole-v1" else 2)
    assert "Traceback" not in done.stderr
    victim.check()


def test_a_line_is_printable_and_not_long() -> None:
    for text in ("a\nb" * 10_000, "\x1b[2J\x9b\x7f\ud800\u202e", "x" * 10**7):
        error = UserError(f"something is wrong with {text}: do something else")
        check_line(error)
        assert str(error).endswith(": do something else")


def test_forgeries_that_change_nothing_are_read(victim: Victim) -> None:
    """So what refuses the others is what was forged."""
    for command in COMMANDS.values():
        victim.copy()
        options()(victim)
        for name in ("spaces.json", "summary.json"):
            spoil.edit(victim, name)
        spoil.progress()(victim)
        spoil.state("counts", [])(victim)
        victim.given.write_bytes(spoil.card(str)(victim.policy.read_bytes()))
        assert attempt(victim, command) is None
