"""Presets for other environments, and preset files: what is read over what, refused, written."""

import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest
from benchmarks.readme import ROOT
from tests.commands import refused
from tests.runs import create_folders

from noisydqn import PRESETS, Config, UserError, load_preset
from noisydqn.cli import main
from noisydqn.cli.arguments import options_of
from noisydqn.cli.train import TrainArgs, config_of, parse_train
from noisydqn.config.config import VARIANTS
from noisydqn.config.stored import to_stored
from noisydqn.config.toml_file import MAX_TOML_BYTES
from noisydqn.presets import DEFAULT_PRESET, OWN, config_for, parallel, replay
from noisydqn.runners.exploration import Imported
from noisydqn.runs.folder import RunFolder, write_config
from noisydqn.runs.preset_file import OF_THE_COMMAND, WIDTH, config_over, preset_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def config_given(*words: str) -> Config:
    """Return the config that a command line with a preset file trains with."""
    args, options = parse_train(words)
    config = config_of(args, options)
    assert isinstance(config, Config)
    return config.replace(**options)


# Base, file, flags


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", PRESETS[DEFAULT_PRESET]),
        ("seed = 3", PRESETS[DEFAULT_PRESET].replace(seed=3)),
        ('preset = "rainbow"', PRESETS["rainbow"]),
        ('preset = "cartpole"\nlearning_rate = 1e-2', PRESETS["cartpole"]),
        ('env = "CartPole-v1"', PRESETS["cartpole"]),
        ('env = "FrozenLake-v1"', config_for("FrozenLake-v1")),
        ('env = "gymnax:Asterix-MinAtar"', config_for("gymnax:Asterix-MinAtar")),
        (
            'preset = "cartpole"\nenv = "FrozenLake-v1"',
            PRESETS["cartpole"].replace(env="FrozenLake-v1"),
        ),
        ('env = "CartPole-v1"\nlearner = "parallel"', config_for("CartPole-v1", "parallel")),
        ('preset = "minatar"\nlearner = "replay"', PRESETS["minatar-replay"]),
    ],
)
def test_a_file_changes_its_base(file: Path, text: str, config: Config) -> None:
    file.write_text(text)
    assert load_preset(file) == config.replace(
        learning_rate=1e-2 if "learning_rate" in text else config.flat()["learning_rate"]
    )


def test_values_are_those_of_their_options(file: Path) -> None:
    file.write_text(
        'preset = "catcher"\nhidden = [64, 32]\nexploration = "both"\nepsilon = 0\n'
        'observation_clip = "none"\nsigma_init = "none"\nsteps = 2e4\ndouble = false\n'
        'env_kwargs = { size = 5, names = ["a"] }\n',
        encoding="utf-8-sig",  # as some editors write it
    )
    assert load_preset(str(file)) == PRESETS["catcher"].replace(
        hidden=(64, 32),
        exploration="both",
        epsilon=0.0,
        observation_clip=None,
        sigma_init=None,
        steps=20_000,
        double=False,
        env_kwargs='{"size": 5, "names": ["a"]}',
    )


def test_flags_change_the_file_and_name_takes_the_place_of_its_base(
    file: Path, tmp_path: Path
) -> None:
    file.write_text('preset = "cartpole"\nlearning_rate = 0.01\nseed = 7\n')
    given = "--preset-file", str(file)
    mine = PRESETS["cartpole"].replace(learning_rate=0.01, seed=7)
    assert config_given(*given) == mine
    assert config_given(*given, "--seed", "8") == mine.replace(seed=8)
    lander = PRESETS["lunarlander"].replace(learning_rate=0.01, seed=7)
    assert config_given("lunarlander", *given) == lander
    assert config_given("FrozenLake-v1", *given).environment.env == "FrozenLake-v1"
    file.write_text('env = "CartPole-v1"\nseed = 7\n')
    assert config_given("FrozenLake-v1", *given) == config_for("FrozenLake-v1").replace(seed=7)
    (tmp_path / "run").mkdir()
    write_config(RunFolder.at(tmp_path / "run"), PRESETS["acrobot"])
    assert config_given(str(tmp_path / "run"), *given) == PRESETS["acrobot"].replace(seed=7)


def test_a_flag_may_choose_another_variant_than_the_file(file: Path) -> None:
    """The options of the file's variant then do not count, as those of a preset do not."""
    file.write_text('preset = "cartpole"\nexploration = "noisy"\nacting_noise = "episode"\n')
    given = config_given("--preset-file", str(file), "--exploration", "epsilon-greedy")
    assert given == PRESETS["cartpole"].replace(exploration="epsilon-greedy")
    file.write_text('preset = "cartpole"\nseed = 1')
    given = config_given("--preset-file", str(file), "--learner", "parallel")
    assert given == config_for("CartPole-v1", "parallel").replace(seed=1)


def test_without_a_file_name_is_passed_on() -> None:
    for words in ([], ["cartpole"], ["cartpole", "--seed", "1"]):
        args, options = parse_train(words)
        assert config_of(args, options) == ("cartpole" if words else None)


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (["--preset", "acrobot"], PRESETS["acrobot"]),
        (
            ["FrozenLake-v1", "--preset", "acrobot"],
            PRESETS["acrobot"].replace(stop_at_return=None, stop_at_evaluation=None, window=50),
        ),
        (["CartPole-v1", "--preset", "cartpole"], PRESETS["cartpole"]),
        (
            ["FrozenLake-v1", "--preset", "pendulum"],
            PRESETS["pendulum"].replace(action_bins=None),
        ),
        (
            ["FrozenLake-v1", "--preset", "minatar", "--learner", "replay"],
            PRESETS["minatar-replay"].replace(env="FrozenLake-v1"),
        ),
        (["FrozenLake-v1", "--preset=rainbow", "--seed", "1"], PRESETS["rainbow"].replace(seed=1)),
    ],
)
def test_a_preset_serves_another_environment_without_its_goals_and_arguments(
    words: list[str], config: Config
) -> None:
    env = words[0] if words[0][0] != "-" else config.environment.env
    assert config_given(*words) == config.replace(env=env)


def test_presets_are_named_once_and_those_of_single_environments_are_theirs() -> None:
    assert len(PRESETS) == len(replay.PRESETS) + len(parallel.PRESETS)
    assert {env: PRESETS[name].environment.env for env, name in OWN.items()} == {e: e for e in OWN}


# What is refused


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("learning_rate =", "(TOMLDecodeError: Invalid value (at end of document)): give a TOML"),
        ("seed = 1\nseed = 2", "(TOMLDecodeError: Cannot overwrite a value"),
        (b"\xff\xfe", "(it is not UTF-8: byte 0xff at 0): give a TOML file with options, such as"),
        ("x" * (MAX_TOML_BYTES + 1), "(it has more than 1,048,576 bytes): give a TOML file with"),
        (f"x = {'[' * 100_000}", "(RecursionError: "),
        (f"seed = {'1' * 10_000}", "(ValueError: Exceeds the limit"),
        (None, "(No such file or directory): give a TOML file with options, such as learning"),
        ("learning_rte = 1", ": unknown option 'learning_rte': did you mean learning_rate?"),
        ("lr = 1", ": unknown option 'lr': did you mean learning_rate?"),
        ("xyzzy = 1", ": unknown option 'xyzzy': noisydqn train --help-all lists the options"),
        ('"a\\nb" = 1', ": unknown option 'a\\nb': "),
        ("version = 5", ": unknown option 'version': "),
        ("[learner]\nn_step = 3", ": [learner] is a table: write its options without it, one a"),
        ("[options]\nseed = 3", ": [options] is a table: write its options without it"),
        ("out = 'here'", ": out is not an option of a run: give --out beside it"),
        ("trust = true", ": trust is not an option of a run: give --trust beside it"),
        ("preset_file = 'x'", ": preset_file is not an option of a run: give --preset-file"),
        ("learning_rate = '1e-3'", ": --learning-rate must be a number, got '1e-3'"),
        ("steps = 1.5", ": --steps must be a whole number, got 1.5"),
        ("steps = true", ": --steps must be a whole number, got True"),
        ("steps = 'none'", ": --steps must be a whole number, got 'none'"),
        ("steps = 2020-01-01", ": --steps must be a whole number, got datetime.date(2020, 1, 1)"),
        ("steps = [1]", ": --steps must be a whole number, got [1]"),
        ("hidden = 128", ": --hidden must be whole numbers such as (128, 128), got 128"),
        ("hidden = [8, 'x']", ": --hidden must be whole numbers such as (128, 128), got [8, 'x']"),
        ("double = 1", ": --double must be True or False, got 1"),
        ("noise = 'white'", ": --noise must be one of factorised, independent, indexed, got"),
        ("exploration = 'x'", ": --exploration must be one of noisy, "),
        ("learner = 'x'", ": --learner must be one of replay, parallel, got 'x'"),
        ("learner = 3", ": --learner must be text, got 3"),
        ("discount = 1.1", ": --discount must be between 0 and 1, got 1.1"),
        ("discount = nan", ": --discount must be between 0 and 1, got nan"),
        ("reward_scale = inf", ": --reward-scale must be above zero, got inf"),
        ("seed = -1", ": --seed must be between 0 and 4294967295, got -1"),
        ("epsilon = 0.1", ": --epsilon 0.1 and --exploration noisy exclude each other"),
        ("epochs = 2", ": --epochs 2 and --learner replay exclude each other"),
        ("env_kwargs = '{'", ": --env-kwargs must be a JSON object such as"),
        ("env_kwargs = { day = 2020-01-01 }", ": --env-kwargs must be what JSON can hold"),
        ("preset = 'cartpol'", ": no preset 'cartpol': did you mean cartpole?"),
        ("preset = 'x'", ": no preset 'x': there are default, catcher, "),
        ("preset = 3", ": --preset must be text, got 3"),
        ("env = 'CartPole-v7'", ": no environment 'CartPole-v7': did you mean CartPole-v1"),
        ("env = 3", ": --env must be text, got 3"),
        ("env = ''", ": no environment ''"),
    ],
)
def test_files_that_are_refused(
    file: Path, text: str | bytes | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(capsys, "train", "--preset-file", str(file))
    assert said.startswith(f"noisydqn: {file} cannot be used")
    assert line in said
    with pytest.raises(UserError) as error:
        load_preset(file)
    assert said == f"noisydqn: {error.value}\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset-file"], "--preset-file needs a value: a path"),
        (["--preset-file", ""], "--preset-file must be a path, got ''"),
        (["--preset-file", "FOLDER"], "cannot be used (it is not a regular file)"),
        (["FILE"], "FILE is not a run: a preset file is given as noisydqn train --preset-file "),
        (["nowhere", "--preset-file", "FILE"], "no environment 'nowhere'"),
        (["minatar", "--preset-file", "FILE"], "FILE cannot be used: --n-step 3 and --learner"),
        (["--preset-file", "FILE", "--epsilon", "1"], "--epsilon 1.0 and --exploration noisy"),
    ],
)
def test_command_lines_that_are_refused(
    file: Path, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("n_step = 3")
    paths = {"FILE": str(file), "FOLDER": str(file.parent)}
    words = [paths.get(word, word) for word in words]
    assert line.replace("FILE", str(file)) in refused(capsys, "train", *words)


def test_other_commands_say_where_preset_files_go(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "compare", "--preset-file", "x")
    assert "unknown option --preset-file: noisydqn train takes it; in Python," in said


def test_arguments_of_the_command_are_known() -> None:
    ours = {name.rstrip("_") for name in options_of(TrainArgs)}
    assert set(OF_THE_COMMAND) == ours - {"preset"}  # which a file names, too


# Code that a file names

CODE = [
    ("env", "env = 'python:canary.make'"),
    ("env", "env = 'canary:Bird-v0'"),
    ("env", "env = 'CartPole-v1'\nenv_kwargs = { x = 'canary:Bird' }"),
    ("env", "preset = 'cartpole'\nenv_kwargs = '{\"x\": \"/etc/passwd\"}'"),
    ("torso", "torso = 'python:canary.torso'"),
    ("exploration", "exploration = 'python:canary.Explorer'"),
]


@pytest.mark.parametrize(("option", "text"), CODE)
def test_code_in_a_preset_file_needs_trust(
    option: str,
    text: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    (tmp_path / "canary.py").write_text(f"open({str(tmp_path / 'sang')!r}, 'w')")
    file.write_text(text)
    said = refused(capsys, "train", "--preset-file", str(file))
    assert f"{file} names code that would be imported and run ({option} " in said
    assert "repeat with --trust (in Python trust=True)" in said
    assert (" or give NAME" in said) == ("env = " in text)
    with pytest.raises(SystemExit):
        main(["train", "--preset-file", str(file), "--help"])
    if option != "env":
        with pytest.raises(UserError, match="names code"):
            config_given("cartpole", "--preset-file", str(file))
    trusted = load_preset(file, trust=True).flat()
    assert str(trusted[option]) in text or trusted["env_kwargs"] in text
    assert not (tmp_path / "sang").exists()


def test_code_that_is_replaced_needs_no_trust(file: Path) -> None:
    file.write_text("env = 'python:canary.make'\ntorso = 'python:canary.torso'\n")
    given = "--preset-file", str(file)
    config = config_given("cartpole", *given, "--torso", "flat")
    assert config == PRESETS["cartpole"].replace(torso="flat")
    with pytest.raises(UserError, match=r"\(torso python:canary.torso\)"):
        config_given("cartpole", *given)
    with pytest.raises(UserError, match=r"\(env python:canary.make\)"):
        config_given(*given, "--torso", "flat")
    file.write_text("env_kwargs = { file = '/etc/passwd' }")
    assert config_given("cartpole", *given, "--env-kwargs", "{}") == PRESETS["cartpole"]


def test_names_that_were_typed_need_no_trust_but_arguments_of_the_file_do(file: Path) -> None:
    given = "python:canary.make", "--preset-file", str(file)
    file.write_text("seed = 1")
    assert config_given(*given).environment.env == "python:canary.make"
    file.write_text("env_kwargs = { size = 5 }")
    with pytest.raises(UserError, match=r'\(env python:canary.make with {"size": 5}\)'):
        config_given(*given)
    assert config_given(*given, "--trust").environment.env_kwargs == '{"size": 5}'


def test_a_run_that_is_the_base_needs_its_own_trust(file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_config(RunFolder.at(tmp_path / "run"), Config(torso="python:canary.torso"))
    file.write_text("seed = 1")
    given = str(tmp_path / "run"), "--preset-file", str(file)
    with pytest.raises(UserError, match=r"config.json names code"):
        config_given(*given)
    assert config_given(*given, "--trust").network.torso == "python:canary.torso"
    file.write_text("torso = 'flat'")
    assert config_given(*given).network.torso == "flat"


# What is written


def read_back(file: Path, text: str) -> Config:
    file.write_text(text)
    return load_preset(file)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_is_shown_makes_the_same_config(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["presets", "--show", name]) == 0
    text = capsys.readouterr().out
    file.write_text(text)
    assert config_given("--preset-file", str(file)) == PRESETS[name]
    assert tomllib.loads(text).keys() == PRESETS[name].flat().keys()
    assert all(len(line) <= WIDTH for line in text.splitlines() if line.startswith("#"))
    assert text.startswith(f"# {name}: ")
    assert "\n\n\n" not in text
    assert text.endswith("\n")


KINDS = [dict(zip(VARIANTS, names, strict=True)) for names in itertools.product(*VARIANTS.values())]


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: " ".join(kinds.values()))
def test_every_variant_is_written(kinds: dict[str, str], file: Path) -> None:
    config = config_for("FrozenLake-v1", kinds["learner"]).replace(**kinds)
    assert read_back(file, preset_text(config)) == config


def test_values_are_written_so_that_they_are_read_again(file: Path) -> None:
    config = config_for("CartPole-v1").replace(
        env_kwargs='{"quote": "it\'s", "path": "a b", "n": [1e-3, null, true]}',
        torso="python:<somewhere.torso>",
        learning_rate=1e-10,
        hidden=(),
        max_seconds=1e15,
        video_seconds=0,
    )
    assert read_back(file, preset_text(config)) == config
    umlauts = config.replace(env_kwargs='{"ä": "\\ud83d\\ude00 ☃"}')
    assert read_back(file, preset_text(umlauts)) == umlauts
    own = config.replace(exploration=Imported("python:somewhere.Explorer"))
    file.write_text(preset_text(own))
    assert config_over(file, trust=True) == own


def test_what_differs_from_the_default_is_said() -> None:
    lines = preset_text(PRESETS["minatar"]).splitlines()
    assert 'preset = "minatar"' in lines
    assert 'learning_rate_final = 0.0  # default "none"' in lines
    assert "steps = 5_000_000  # default 200_000" in lines
    assert 'learner = "parallel"  # default "replay"' in lines
    assert "epochs = 2" in lines  # the default of its learner
    plain = preset_text(config_for("FrozenLake-v1"))
    assert "# default" not in plain
    assert "preset =" not in plain


# The docs


@pytest.mark.parametrize("page", ["train", "options"])
def test_files_in_the_docs_are_read(page: str, file: Path) -> None:
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    config = read_back(file, block)
    assert config.preset == "cartpole"
    stored = to_stored(config) | {"env_kwargs": json.loads(config.environment.env_kwargs)}
    for name, value in tomllib.loads(block).items():
        given = stored[name]
        given = list(given) if isinstance(given, tuple) else given
        assert given == (None if value == "none" else value)


def test_the_base_in_a_file_counts_beside_from(tmp_path: Path) -> None:
    """The run of --from gives the weights; it is the base only if the file names none."""
    run, _ = create_folders(Config(env="CartPole-v1", discount=0.9), tmp_path / "run")
    (file := tmp_path / "mine.toml").write_text('env = "Acrobot-v1"\n')
    config = config_of(TrainArgs(preset_file=file, from_=run), {})
    assert isinstance(config, Config)
    assert config.environment.env == "Acrobot-v1"
    file.write_text("n_step = 2\n")
    config = config_of(TrainArgs(preset_file=file, from_=run), {})
    assert isinstance(config, Config)
    assert (config.environment.env, config.learning.discount) == ("CartPole-v1", 0.9)
