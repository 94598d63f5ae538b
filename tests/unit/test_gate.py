"""The gate: what a file names is imported only if the caller trusts it, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.host_envs import CountingHostEnv

from noisydqn import Config, UserError, evaluate, load_policy, record, resume, train
from noisydqn.config.gate import ALL, NETWORK, StoredConfig, named_code
from noisydqn.config.stored import from_stored, to_stored
from noisydqn.envs.encoding import Encoding
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import export_run
from noisydqn.imports import find, inert, is_inert
from noisydqn.runners.exploration import Greedy, Imported
from noisydqn.runs import api
from noisydqn.runs.folder import RunFolder, write_config, write_spaces
from noisydqn.runs.launch import Job
from noisydqn.runs.named import config_named

PATH = Path("runs/one/config.json")
CODE = {
    "env": "python:somewhere.make",
    "torso": "python:somewhere.torso",
    "exploration": "python:somewhere.Explorer",
}


def stored(**options: Any) -> StoredConfig:
    return from_stored(to_stored(Config().replace(**options)), PATH)


# What needs trust

HARMLESS: list[dict[str, Any]] = [
    {"env": "CartPole-v1"},
    {"env": "ALE/Pong-v5"},
    {"env": "MinAtar/Breakout-v1"},
    {"env": "noisydqn/Catcher-v0"},
    {"env": "gymnax:CartPole-v1"},
    {"env": "bsuite:catch/0"},
    {"env": "no-such-environment"},
    {"env": "GymV26Environment-v0", "env_kwargs": '{"env_id": "CartPole-v1"}'},
    {"env": "FrozenLake-v1", "env_kwargs": '{"map_name": "8x8", "is_slippery": false}'},
    {"env": "FrozenLake-v1", "env_kwargs": '{"desc": ["SFF", "FHF", "FFG"], "x": null}'},
    {"env": "CartPole-v1", "env_kwargs": '{"x": [1.5, [true, {"y": -3}]], "z": "a b, (c) d.e"}'},
    {"torso": "mlp"},
    {"exploration": "boltzmann"},
    {"env": "python:<somewhere.<lambda>>"},
    {"torso": "python:<somewhere.<locals>.torso>"},
    {"exploration": "python:<somewhere.Explorer>"},
]


@pytest.mark.parametrize("options", HARMLESS, ids=json.dumps)
def test_names_of_what_is_installed_or_leads_nowhere_need_no_trust(options: dict[str, Any]) -> None:
    config = Config().replace(**options)
    assert named_code(config.flat()) == {}
    assert stored(**options).admit(trust=False) == config


HARMFUL: list[tuple[str, dict[str, Any]]] = [
    *[(name, {name: value}) for name, value in CODE.items()],
    ("env", {"env": "python:os.system", "env_kwargs": '{"command": "true"}'}),
    ("env", {"env": "module:CartPole-v1"}),
    ("env", {"env": "a:b:c"}),
    ("env", {"env": ":"}),
    ("env", {"env": "Gymnax:CartPole-v1"}),
    ("env", {"env": " gymnax:CartPole-v1"}),
    ("env", {"env": "Python:somewhere.make"}),
    *[
        ("env", {"env": env, "env_kwargs": json.dumps(kwargs)})
        for env in ("CartPole-v1", "GymV21Environment-v0", "gymnax:CartPole-v1")
        for kwargs in (
            {"env_id": "module:Id"},
            {"env_id": ":"},
            {"file": "/etc/passwd"},
            {"file": "one/two"},
            {"file": "..\\two"},
            {"file": ".."},
            {"file": "~"},
            {"file": ".hidden"},
            {"url": "https://example.org"},
            {"module:Id": 1},
            {"x": {"a/b": 1}},
            {"x": [1, [None, {"y": ["module:Id"]}]]},
            {"x": [{"y": {"~": 0}}]},
        )
    ],
]


@pytest.mark.parametrize(("option", "options"), HARMFUL, ids=str)
def test_names_of_code_need_trust(option: str, options: dict[str, Any]) -> None:
    of_file = stored(**options)
    assert list(named_code(of_file.options)) == [option]
    with pytest.raises(UserError) as error:
        of_file.admit(trust=False)
    line = str(error.value)
    shown = json.loads(json.dumps(options[option])) if option in options else "CartPole-v1"
    assert line.startswith(f"{PATH} names code that would be imported and run ({option} {shown}")
    assert "repeat with --trust (in Python trust=True)" in line
    assert ("or pass env= yourself" in line) == (option == "env")
    assert of_file.admit(trust=True) == Config().replace(**options)


def test_all_that_is_named_is_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        stored(**CODE).admit(trust=False)
    named = ", ".join(f"{name} {value}" for name, value in CODE.items())
    assert f"({named})" in str(error.value)


def test_the_refusal_shows_arguments_in_one_line() -> None:
    kwargs = '{"file":\n\t"/x"}'
    with pytest.raises(UserError) as error:
        stored(env="CartPole-v1", env_kwargs=kwargs).admit(trust=False)
    assert str(error.value).isprintable()


# What is not used

USES = [(), ("env",), ("torso",), ("exploration",), NETWORK, ALL]


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("uses", USES)
def test_what_is_not_used_becomes_a_name_that_nothing_imports(
    uses: tuple[str, ...], trust: bool
) -> None:
    """Also in a file that is trusted."""
    if uses and not trust:
        with pytest.raises(UserError) as error:
            stored(**CODE).admit(uses, trust=False)
        assert all((CODE[name] in str(error.value)) == (name in uses) for name in CODE)
        return
    flat = stored(**CODE).admit(uses, trust=trust).flat()
    for name, value in CODE.items():
        assert flat[name] == (value if name in uses else inert(value))
        if name not in uses:
            with pytest.raises(UserError, match="cannot be found again by its name"):
                find(flat[name])


def test_arguments_that_are_not_used_do_not_matter() -> None:
    of_file = stored(env="CartPole-v1", env_kwargs='{"file": "/etc/passwd"}')
    config = of_file.admit(NETWORK, trust=False)
    assert is_inert(config.environment.env)


def test_a_variant_of_the_users_is_not_made_by_reading_it() -> None:
    config = stored(exploration=CODE["exploration"]).admit(trust=True)
    assert config.exploration == Imported(CODE["exploration"])


# The files of a run, and what the caller hands in


def write(folder: Path, **options: Any) -> Path:
    """Write what a run has before it trains."""
    whole = RunFolder.at(folder)
    whole.files.make()
    config = Config(num_envs=2, **options)
    write_config(whole, config)
    env = CountingHostEnv()
    encoding = Encoding.of(env.observation_space, env.action_space)
    write_spaces(whole, EnvironmentSpec.of(encoding))
    return folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of runs that pass the gate; none is trained."""
    passed: list[Job] = []
    monkeypatch.setattr(api, "launch", lambda job, **_: passed.append(job))
    return passed


def asked(action: Callable[[], object]) -> set[str]:
    """The options for which trust is asked, of those in CODE; none if the gate is passed."""
    try:
        action()
    except UserError as error:
        line = str(error)
        if "holds no best.safetensors" in line:  # as no run here
            return set()
        assert "names code that would be imported" in line
        return {name for name, value in CODE.items() if value in line}
    return set()


HANDED: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"env", "torso", "exploration"}),
    ({"env": CountingHostEnv}, {"torso", "exploration"}),
    ({"env": "CartPole-v1"}, {"torso", "exploration"}),
    ({"torso": "mlp"}, {"env", "exploration"}),
    ({"explorer": Greedy()}, {"env", "torso"}),
    ({"exploration": "greedy"}, {"env", "torso"}),
    ({"seed": 3, "steps": 10}, {"env", "torso", "exploration"}),
    ({"env": CountingHostEnv, "torso": "flat", "explorer": Greedy()}, set()),
]


@pytest.mark.parametrize(("handed", "needed"), HANDED)
def test_what_is_handed_to_train_is_not_taken_from_the_file(
    handed: dict[str, Any], needed: set[str], tmp_path: Path, jobs: list[Job]
) -> None:
    run = write(tmp_path / "run", **CODE)
    new = tmp_path / "new"
    for name in (str(run), str(run / "config.json")):
        assert asked(lambda name=name: train(name, out=new, **handed)) == needed
    assert len(jobs) == (2 if not needed else 0)
    assert new.exists() == (not needed)


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("play", [evaluate, record, load_policy, export_run, resume])
def test_what_is_handed_in_is_not_taken_from_the_file(
    play: Callable[..., object], tmp_path: Path
) -> None:
    """A policy needs no environment, as long as the file of its spaces is there."""
    run = write(tmp_path / "run", env=CODE["env"])
    needs_none = play in (load_policy, export_run)
    assert asked(lambda: play(run)) == (set() if needs_none else {"env"})
    assert asked(lambda: play(run, env=CountingHostEnv)) == set()
    (run / "spaces.json").unlink()
    assert asked(lambda: play(run)) == {"env"}
    assert asked(lambda: play(run, env=CountingHostEnv)) == set()
    run = write(tmp_path / "other", env="CartPole-v1", torso=CODE["torso"])
    assert asked(lambda: play(run, env=CountingHostEnv)) == {"torso"}


def test_a_resumed_run_keeps_the_name_of_an_environment_that_is_not_used(
    tmp_path: Path, jobs: list[Job]
) -> None:
    run = write(tmp_path / "run", env=CODE["env"])
    resume(run, env=CountingHostEnv)
    assert jobs[0].config.environment.env == CODE["env"]


def test_a_run_that_is_resumed_by_train_has_the_options_of_the_call(
    tmp_path: Path, jobs: list[Job]
) -> None:
    """So what its file names is what the caller named, which needs no trust."""
    env = f"python:{CountingHostEnv.__module__}.{CountingHostEnv.__qualname__}"
    run = write(tmp_path / "run", env=env)
    given = Config(num_envs=2, env=env)
    (run / "metrics.csv").write_text("step\n")  # it is not half made
    train(given, out=run, resume=True)
    train(given, out=run, resume=True, env=CountingHostEnv)
    assert len(jobs) == 2
    for other, value in CODE.items():
        options = {"env": env, other: value}
        run = write(tmp_path / other, **options)
        (run / "metrics.csv").write_text("step\n")
        with pytest.raises(UserError, match="holds a run with other"):
            train(given, out=run, resume=True)
    assert len(jobs) == 2


def test_names_that_the_user_types_need_no_trust() -> None:
    assert config_named("python:somewhere.make").environment.env == CODE["env"]
    assert config_named("module:Id").environment.env == "module:Id"


def test_help_of_a_run_makes_use_of_nothing(tmp_path: Path) -> None:
    run = write(tmp_path / "run", **CODE)
    flat = config_named(str(run), ()).flat()
    assert all(is_inert(flat[name]) for name in CODE)


def test_every_seed_is_asked_for(tmp_path: Path, jobs: list[Job]) -> None:
    write(tmp_path / "run/seed0", seed=0, env="CartPole-v1")
    write(tmp_path / "run/seed1", seed=1, env=CODE["env"])
    assert config_named(str(tmp_path / "run")).run.num_seeds == 2  # the options of the first
    assert asked(lambda: resume(tmp_path / "run")) == {"env"}
    assert asked(lambda: evaluate(tmp_path / "run/seed1")) == {"env"}
    assert not jobs
