"""Reports from folders: what is found, what is written, and what is refused in one line."""

import csv
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.commands import refused
from tests.recorded import job, write_comparison, write_run, write_study

import noisydqn
from noisydqn import UserError
from noisydqn.cli import main
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.pages import write_page
from noisydqn.runs.recorded import read_recorded
from noisydqn.runs.reporting import report


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as text:
        return list(csv.DictReader(text))


# Finding


def test_runs_are_found_below_a_folder_and_named_by_what_differs(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=2)
    runs = read_recorded([tmp_path])
    assert [(run.variant, run.seed) for run in runs] == [
        ("exploration=epsilon-greedy", 0),
        ("exploration=epsilon-greedy", 1),
        ("exploration=noisy", 0),
        ("exploration=noisy", 1),
    ]
    run = runs[-1]
    assert (run.env, run.status, run.steps, run.seconds) == ("CartPole-v1", "finished", 1_000, 2.0)
    assert run.evaluations.updates.tolist() == [50.0 * i for i in range(1, 11)]
    assert run.episodes.knows("seconds")


def test_a_comparison_names_its_variants_and_lists_what_failed(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "CartPole-v1" / "n" / f"seed-{seed}", seed)
    jobs = [
        job("CartPole-v1", "n", 0),
        job("CartPole-v1", "n", 1, "diverged", reason="the loss is nan"),
        job("CartPole-v1", "n", 2, "failed", reason="the disk is full"),
        job("CartPole-v1", "n", 3, "waiting"),
    ]
    write_comparison(tmp_path, jobs)
    runs = read_recorded([tmp_path])
    assert [(x.variant, x.seed, x.status, x.reason) for x in runs] == [
        ("n", 0, "finished", ""),
        ("n", 1, "diverged", "the loss is nan"),
        ("n", 2, "failed", "the disk is full"),
        ("n", 3, "waiting", ""),
    ]
    page = report(tmp_path, out=tmp_path / "x.html").read_text()
    assert "1 run diverged: n on CartPole-v1, seed 1. Counted with the last return: 1." in page
    assert "failed: the disk is full" in page
    assert "noisydqn compare --vary exploration=noisy" in page
    assert len(table(tmp_path / "x.csv")) == 4


def test_presets_of_a_comparison_are_named_by_their_environment(tmp_path: Path) -> None:
    jobs: list[dict[str, Any]] = []
    for name, env in {"one": "CartPole-v1", "two": "CartPole-v1", "three": "Acrobot-v1"}.items():
        write_run(tmp_path / name / "n" / "seed-0", 0, env=env)
        jobs += [job(name, "n", 0), job(name, "n", 1, "waiting")]
    write_comparison(tmp_path, jobs)
    envs = [run.env for run in read_recorded([tmp_path])]
    assert envs == ["one", "one", "two", "two", "Acrobot-v1", "Acrobot-v1"]


def test_a_run_that_was_stopped_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, status="unfinished")
    (run,) = read_recorded([tmp_path])
    assert run.status == "unfinished"
    (tmp_path / "a" / "summary.json").unlink()
    (run,) = read_recorded([tmp_path])
    assert (run.status, run.steps, run.seconds) == ("unfinished", 1_000, 2.0)


def test_what_is_inside_a_run_is_not_searched(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "a" / "inner", 1)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(read_recorded([tmp_path])) == 1


# Writing


def test_the_command_writes_a_page_and_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "runs", seeds=6)
    out = tmp_path / "deep" / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    rows = table(out.with_suffix(".csv"))
    assert list(rows[0]) == (
        ["variant", "env", "seed", "steps", "seconds", "final_return", "auc", "solved_at_step"]
    )
    assert len(rows) == 12
    assert "| noisy |" in out.with_suffix(".md").read_text()
    assert r"\begin{tabular}" in out.with_suffix(".tex").read_text()
    page = out.read_text()
    assert "epsilon-greedy below noisy on CartPole-v1" in page
    again = report(tmp_path / "runs", out=tmp_path / "again.html")
    assert again.read_bytes() == out.read_bytes()


def test_names_are_free_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", 0)
    monkeypatch.chdir(tmp_path)
    assert report("run") == Path("report.html")
    (tmp_path / "report-2.csv").touch()
    assert report("run") == Path("report-3.html")


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", 0)
    out = tmp_path / "report.html"
    out.with_suffix(".tex").write_text("mine")
    line = refused(capsys, "report", str(tmp_path / "run"), "--out", str(out))
    assert f"--out {out.with_suffix('.tex')} exists, nothing was changed: name a new file" in line
    assert not out.exists()


class Parsed(HTMLParser):
    """What an HTML file refers to, and the tags that it leaves open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [x or "" for name, x in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def figures_of(page: str) -> list[Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", seeds=5, envs=("CartPole-v1", "Acrobot-v1"))
    (tmp_path / "runs" / "Acrobot-v1" / "exploration=noisy" / "seed-0" / "policy.mp4").write_bytes(
        b"a video"
    )
    page = report(tmp_path / "runs", out=tmp_path / "x.html").read_text()
    parsed = Parsed(page)
    assert parsed.open == []
    assert all(source.startswith("data:") for source in parsed.sources)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in unescape(page)
    assert len(page) < 400_000
    places = [int(x) for x in re.findall(r'data-figure="(\d+)"', page)]
    assert places == list(range(len(figures_of(page))))


def test_names_of_strangers_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=https://example.org onerror=alert(2)>"
    write_run(tmp_path / "CartPole-v1" / "n" / "seed-0", 0)
    folder = "CartPole-v1/n/seed-0"
    entry = job("CartPole-v1", evil, 0, "failed", reason=evil) | {"folder": folder}
    write_comparison(tmp_path, [entry], command=evil)
    page = report(tmp_path, out=tmp_path / "x.html").read_text()
    assert "<img" not in page
    assert page.count("<script") == 2
    parsed = Parsed(page)
    assert parsed.open == []
    assert evil in "".join(parsed.text)
    assert figures_of(page)[0]["groups"][0]["name"] == evil


def test_the_page_of_a_run_is_small(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0)
    write_page(RunFolder.at(tmp_path / "run"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert len(page) < 100_000
    titles = [(figure["title"], figure["y"]) for figure in figures_of(page)]
    assert ("CartPole-v1", "mean return of an evaluation without exploration") in titles
    assert ("noisy on CartPole-v1", "mean |sigma| of each layer") in titles
    assert "One seed says little" in page
    assert f"these options: noisydqn train {tmp_path / 'run'} --seed 1<" in page


KINDS = (
    "share of obs",
    "entropy of the greedy action",
    "spread of Q",
    "return with mean",
    "mean |",
)
"""How the words of the noise's figures start."""


def noise_of(page: str) -> list[Any]:
    return [figure for figure in figures_of(page) if figure.get("y", "").startswith(KINDS)]


def test_the_page_of_a_run_draws_its_noise_and_says_how_to_read_it(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0)
    page = report(tmp_path / "run", out=tmp_path / "x.html").read_text()
    drawn = noise_of(page)
    assert [figure["y"].startswith(kind) for figure, kind in zip(drawn, KINDS, strict=True)]
    text = "".join(Parsed(page).text)
    assert all(figure["note"] in text for figure in drawn)
    assert all("noise" in figure["note"] for figure in drawn)
    _, entropy, spread, returns, sigma = drawn
    assert entropy["groups"][0]["middle"]["steps"]["y"][:2] == [0.6, 0.3]
    assert [(group["name"], group["middle"]["steps"]["y"][1]) for group in spread["groups"]] == [
        ("spread of Q", 0.5),
        ("gap between the two best actions", 0.4),
    ]
    assert [group["name"] for group in returns["groups"]] == ["mean weights", "under noise"]
    assert [group["name"] for group in sigma["groups"]] == ["hidden.0", "advantage"]
    assert "return of training episodes, exploring" not in [x["y"] for x in figures_of(page)]


def test_a_comparison_draws_the_noise_of_its_noisy_variants(tmp_path: Path) -> None:
    write_study(tmp_path / "runs", seeds=2, envs=("CartPole-v1", "Acrobot-v1"))
    drawn = noise_of(report(tmp_path / "runs", out=tmp_path / "x.html").read_text())
    kinds = [next(i for i, kind in enumerate(KINDS) if x["y"].startswith(kind)) for x in drawn]
    assert kinds == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert ["note" in figure for figure in drawn] == [True, False] * 5
    titles = {figure["title"] for figure in drawn[4:]}
    assert titles == {f"noisy on {env}" for env in ("CartPole-v1", "Acrobot-v1")}
    assert [len(figure["groups"]) for figure in drawn[:4]] == [2, 2, 1, 1]


def test_a_run_without_noise_has_its_episodes_instead(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0, exploration="epsilon-greedy")
    page = report(tmp_path / "run", out=tmp_path / "x.html").read_text()
    assert noise_of(page) == []
    assert "return of training episodes, exploring" in [x["y"] for x in figures_of(page)]


def test_a_run_of_before_draws_what_it_recorded(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 0)
    file = tmp_path / "run" / "metrics.csv"
    file.write_text(file.read_text().replace("noise.", "other."))
    drawn = noise_of(report(tmp_path / "run", out=tmp_path / "x.html").read_text())
    assert [figure["y"][:6] for figure in drawn] == ["share ", "return", "mean |"]


def test_the_page_of_several_seeds(tmp_path: Path) -> None:
    seeds = [RunFolder.at(write_run(tmp_path / f"seed{i}", i)) for i in range(5)]
    write_page(RunFolder.at(tmp_path), seeds)
    page = (tmp_path / "report.html").read_text()
    assert "noisy on CartPole-v1" in page
    assert "5 seeds" in page


# Refusals


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "DIR is missing: the form is noisydqn report DIR... [options]"),
        (["none"], "none does not exist: name a folder of runs, or a log"),
        (["empty"], "empty holds no run (no config.json, monitor.csv, evaluations.npz or"),
        (["run", "run"], "run and run are the same run: seed 0 of noisy on CartPole-v1"),
        (["run", "--out", "page.pdf"], "--out page.pdf must end in .html"),
        (["run", "--out", "run/config.json/x.html"], "cannot be written"),
        (["run", "--threshold", "high"], "--threshold must be a number"),
        (["run", "--treshold", "1"], "unknown option --treshold: did you mean --threshold?"),
        (["broken"], "broken/compare.json cannot be used ("),
        (["escape"], "escape/compare.json cannot be used: '..' is not a plain name"),
        (["damaged"], "damaged/episodes.csv is damaged (ValueError: line 3: could not convert"),
        (["unbegun"], "nothing to report of unbegun"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    argv: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), 0)
    for name in ("empty", "broken", "escape", "unbegun"):
        Path(name).mkdir()
    Path("broken/compare.json").write_text('{"jobs": [{}]}')
    write_comparison(Path("escape"), [job("a", "b", 0) | {"folder": "../run"}])
    write_comparison(Path("unbegun"), [job("a", "b", 0, "waiting")])
    write_run(Path("damaged"), 0)
    Path("damaged/episodes.csv").write_text("step,return\n1,2\n3,x\n")
    assert line in refused(capsys, "report", *argv)
    assert not Path("report.html").exists()


def test_training_does_not_import_what_its_page_needs() -> None:
    code = (
        "import noisydqn.runs.api, sys\n"
        "assert not {'jinja2', 'scipy.stats', 'noisydqn.report.page'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_from_python_an_unknown_option_is_refused() -> None:
    with pytest.raises(UserError, match="unknown option 'treshold'"):
        report("runs", treshold=1)
    with pytest.raises(UserError, match="there is nothing to report: name a folder of runs"):
        report()


# From Python


def test_tables_in_pandas(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=2)
    tables = noisydqn.load_runs(tmp_path)
    assert list(tables.runs.columns) == [
        *("variant", "env", "seed", "steps", "seconds", "final_return", "auc", "solved_at_step"),
        *("status", "folder"),
    ]
    assert len(tables.runs) == 4
    assert tables.runs["seed"].dtype == "int64"
    assert len(tables.evaluations) == 40
    last = tables.evaluations.query("step == 1000 and seed == 1")
    finals = tables.runs.query("seed == 1")["final_return"]
    assert last["mean_return"].tolist() == finals.tolist()
    assert {"sigma.hidden.0", "action_change", "updates"} <= set(tables.metrics.columns)
    assert set(tables.episodes["variant"]) == {"exploration=noisy", "exploration=epsilon-greedy"}


def test_tables_without_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path, seeds=1)
    monkeypatch.setitem(sys.modules, "pandas", None)
    tables = noisydqn.load_runs([tmp_path])
    assert isinstance(tables.runs, dict)
    assert tables.runs["seed"].tolist() == [0, 0]
    assert len(tables.metrics["loss"]) == 20
