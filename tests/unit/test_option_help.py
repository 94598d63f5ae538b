"""Help on the options of a run: those that matter first, and all of them."""

import re
from pathlib import Path

import pytest
from benchmarks.readme import ROOT
from tests.commands import refused

from noisydqn import PRESETS
from noisydqn.cli import main
from noisydqn.cli.arguments import options_of
from noisydqn.cli.bsuite import BsuiteArgs
from noisydqn.cli.option_help import FIRST
from noisydqn.cli.train import TrainArgs, config_options
from noisydqn.config.config import option_hints, option_texts
from noisydqn.options import first_sentence, flag

PAGE = ROOT / "docs" / "how-to" / "options.md"


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> set[str]:
    return {
        name
        for word in re.findall(r"(?<=[ │])--[a-z][a-z-]+", text)
        if (name := word.removeprefix("--").removeprefix("no-").replace("-", "_"))
        not in ("help", "help_all")
    }


@pytest.mark.parametrize("name", ["default", "default-parallel"])
def test_twenty_options_matter_first(name: str) -> None:
    flat = PRESETS[name].flat()
    assert len([option for option in FIRST if option in flat]) == 20
    assert set(FIRST) <= config_options().keys()


@pytest.mark.parametrize(
    ("argv", "name", "args"),
    [
        (["train"], "catcher", TrainArgs),
        (["train", "minatar"], "minatar", TrainArgs),
        (["train", "minatar", "--learner", "replay"], "minatar-replay", TrainArgs),
        (["bsuite"], "deepsea", BsuiteArgs),
    ],
)
def test_help_shows_the_first_options_and_help_all_shows_every_one(
    argv: list[str], name: str, args: type, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {option.rstrip("_") for option in options_of(args)}  # of --from
    first = {option for option in FIRST if option in PRESETS[name].flat()}
    short = shown(capsys, *argv, "--help")
    assert flags_in(short) == first | own
    assert "--learner {replay,parallel}" in short
    assert short.splitlines()[-1].endswith(
        "--help-all shows every option, and explains each in full."
    )
    assert flags_in(shown(capsys, *argv, "--help-all")) == config_options().keys() | own


def test_help_shows_what_a_preset_file_gives(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (file := tmp_path / "mine.toml").write_text('preset = "minatar"\nlearning_rate = 0.0123\n')
    for argv in (["--preset-file", str(file)], [f"--preset_file={file}", "--seed", "1"]):
        text = shown(capsys, "train", *argv, "--help")
        assert "0.0123" in text
        assert "--return-lambda" in text
    assert "--batch-size" in shown(capsys, "train", "cartpole", *argv[:1], "--help")
    other = ["--preset-file", str(file), "--learner", "replay", "--help"]
    assert "--batch-size" in shown(capsys, "train", *other)


def test_other_commands_take_help_all_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--episodes" in shown(capsys, "evaluate", "--help-all")
    assert "noisydqn train --help-all" in " ".join(shown(capsys, "compare", "--help").split())


def test_every_option_is_explained_in_a_sentence() -> None:
    texts = option_texts()
    assert texts.keys() == option_hints().keys()
    for name, text in texts.items():
        sentence = first_sentence(text)
        assert sentence, name
        assert not sentence.endswith("."), name
        assert sentence.count("(") == sentence.count(")"), name


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One.", "One"),
        ("One. Two.", "One"),
        ("One\n  and a half. Two.", "One and a half"),
        (
            "Targets (Vieillard et al. 2020), 0.5 by default. More.",
            "Targets (Vieillard et al. 2020), 0.5 by default",
        ),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


# Presets


def test_presets_are_listed_or_shown(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "presets", "--show", "cartpol")
    assert "no preset 'cartpol': did you mean cartpole?" in said
    said = refused(capsys, "presets", "--show", "x")
    assert "no preset 'x': there are default, catcher, " in said
    said = refused(capsys, "presets", "catcher")
    assert "unexpected 'catcher': did you mean noisydqn presets --show catcher?" in said
    assert "--show needs a value: a text" in refused(capsys, "presets", "--show")
    said = refused(capsys, "presets", "--show", "catcher", "x")
    assert "unexpected 'x': the form is noisydqn presets [options]" in said


# The page


def test_the_page_explains_each_of_them_with_its_default() -> None:
    rows = re.findall(r"^\| `--([a-z-]+)` \| (.*?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(name.replace("-", "_") for name, *_ in rows) == sorted(FIRST)
    flat = PRESETS["default-parallel"].flat() | PRESETS["default"].flat()
    for name, default, text in rows:
        value = flat[name.replace("-", "_")]
        words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert default == ("none" if value is None else words), name
        assert len(text) > 20


def test_options_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(--[a-z][a-z-]+)", PAGE.read_text()))
    known = {flag(name) for name in config_options() | options_of(TrainArgs)}
    assert named <= known | {"--help", "--help-all", "--vary"}
