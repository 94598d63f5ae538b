"""The rules of `noisydqn doctor`: each with runs that trigger it, and with runs that do not."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import refused
from tests.recorded import write_run
from tests.runs import flags, tiny

import noisydqn
from noisydqn import PRESETS, Config
from noisydqn.cli import main
from noisydqn.report.records import Run, Series
from noisydqn.report.rules import RULES, diagnose, rises
from noisydqn.runs.diagnosis import findings_of
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.pages import write_page

ROWS, EPISODES = 20, 60
STEPS = 20_000
FALLING = np.geomspace(1.0, 0.1, ROWS)
RISING = np.linspace(10.0, 200.0, EPISODES) + np.sin(np.arange(EPISODES))
FLAT = 20.0 + np.sin(np.arange(EPISODES))


def run_of(
    metrics: Mapping[str, Any] | None = None,
    returns: Any = RISING,
    lengths: Any = None,
    evaluations: Any = (),
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Run:
    """A run on CartPole with a healthy network, or what is given in its place."""
    steps, ends = np.linspace(0, STEPS, ROWS + 1)[1:], np.linspace(0, STEPS, len(returns) + 1)[1:]
    values = {
        "step": steps,
        "updates": steps / 2,
        "loss": FALLING,
        "q_max": np.full(ROWS, 50.0),
        "q_min": np.zeros(ROWS),
        "action_change": np.linspace(0.4, 0.1, ROWS),
        "sigma.hidden.0": np.linspace(0.1, 0.05, ROWS),
        "reward_min": np.zeros(ROWS),
        "reward_max": np.ones(ROWS),
        "constant_observations": np.zeros(ROWS),
    }
    table = {name: np.asarray(x, float) for name, x in (values | dict(metrics or {})).items()}
    lengths = np.asarray(returns, float) if lengths is None else np.asarray(lengths, float)
    at = np.linspace(0, STEPS, len(evaluations) + 1)[1:]
    run = Run(
        place="runs/one",
        env="CartPole-v1",
        seed=0,
        steps=STEPS,
        budget=STEPS,
        episodes=Series.of(ends, returns),
        evaluations=Series.of(at, list(evaluations)),
        options=Config(**({"env": "CartPole-v1", "steps": STEPS} | options)).flat(),
        tables={
            "metrics": table,
            "episodes": {"step": ends, "return": np.asarray(returns, float), "length": lengths},
            "evaluations": {"step": at, "episodes": np.full(len(at), 10.0)},
        },
    )
    return dataclasses.replace(run, **(changes or {}))


GREEDY = {"exploration": "epsilon-greedy"}
STARTED: dict[str, Any] = {"about": {"started from": "the best weights of one"}}
CATEGORICAL = {"distribution": "categorical", "v_min": -10.0, "v_max": 200.0}
QUIET = {"q_max": np.zeros(ROWS)}
WRONG: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "starts-too-late": [
        ("starts after 20,000 steps", {"learning_starts": STEPS}),
        ("--rollout-steps", {"learner": "parallel", "num_envs": 1_024, "rollout_steps": 32}),
    ],
    "no-updates": [
        ("no update was made in 20,000", {"metrics": {"updates": np.zeros(ROWS)}}),
        (
            "none ended",
            {
                "metrics": {"updates": np.zeros(ROWS)},
                "updates_per_step": 0.0,
                "updates_per_episode": 2,
            },
        ),
    ],
    "no-episodes": [("in 5,000 steps of each environment", {"returns": ()})],
    "not-finite": [
        ("after 20,000 steps", {"metrics": {"loss": [*FALLING[:-1], math.nan]}}),
        ("after 2,000 steps", {"metrics": {"loss": [1, math.inf, *FALLING[2:]]}}),
    ],
    "loss-grows": [
        (
            "from 3.17 to 75.7",
            {"metrics": {"loss": np.geomspace(1, 1e3, ROWS) ** 0.7}, "returns": FLAT},
        )
    ],
    "values-impossible": [
        ("reach 900, far above", {"metrics": {"q_max": np.full(ROWS, 900.0)}}),
        ("reach -400, far below", {"metrics": {"q_min": np.full(ROWS, -400.0)}}),
        (
            "lower --learning-rate, --return-lambda or --epochs",
            {"metrics": {"q_max": np.full(ROWS, 900.0)}, "learner": "parallel"},
        ),
        (
            "(-2e+04 to 2e+04:".replace("2e+04", "20,000"),  # by the greatest return, 200
            {
                "metrics": {
                    "q_max": np.full(ROWS, 9e4),
                    "reward_min": np.full(ROWS, math.nan),
                    "reward_max": np.full(ROWS, math.nan),
                },
                "returns": np.linspace(10, 200, EPISODES),
            },
        ),
    ],
    "outside-support": [
        (
            "single rewards of 0 to 500",
            {"metrics": {"reward_max": np.full(ROWS, 500.0)}, **CATEGORICAL},
        ),
        ("discounted returns of", {**CATEGORICAL, "v_max": 20.0, "metrics": QUIET}),
        ("action values reach 198", {"metrics": {"q_max": np.full(ROWS, 198.0)}, **CATEGORICAL}),
    ],
    "noise-gone": [
        (
            "since step 6,000",
            {"metrics": {"action_change": [0.4] * 5 + [0.001] * 15}, "returns": FLAT},
        ),
        ("from the start", {"metrics": {"action_change": np.zeros(ROWS)}, "returns": FLAT}),
    ],
    "returns-flat": [
        ("20 in the first third and 20 in the last", {"returns": FLAT}),
        ("a larger --epsilon-share, or --exploration noisy", {**GREEDY, "returns": FLAT}),
        ("a larger --discount or --return-lambda", {"learner": "parallel", "returns": FLAT}),
        ("no reward was found", {"returns": np.zeros(EPISODES), "lengths": FLAT}),
        ("all 60 training episodes returned 500, while", {"returns": np.full(EPISODES, 500.0)}),
    ],
    "epsilon-high": [
        ("52% of actions", {**GREEDY, "epsilon_steps": 2 * STEPS}),
        ("60% of actions", {**GREEDY, "epsilon_final": 0.6}),
    ],
    "replay-small": [
        ("250 steps of each environment", {"replay_capacity": 1_000, "lengths": [400] * EPISODES}),
        ("holds 1,000 steps, and", {"replay_capacity": 1_000, "lengths": [240] * EPISODES}),
    ],
    "constant-observations": [
        ("1 element of", {"metrics": {"constant_observations": [math.nan] + [1] * 19}}),
        ("3 elements of", {"metrics": {"constant_observations": [5] * 10 + [3] * 10}}),
    ],
    "evaluation-apart": [
        ("the policy is far worse", {"evaluations": [100, 9]}),
        ("exploration costs most", {"evaluations": [100, 1_200]}),
    ],
}
"""Runs in which something is wrong, by the rule that finds it, with words of the finding."""

RIGHT: dict[str, list[dict[str, Any]]] = {
    "starts-too-late": [{}, {"learning_starts": STEPS - 1}],
    "no-updates": [
        {},
        {
            "metrics": {"updates": np.zeros(ROWS)},
            "learning_starts": 19_500,
            "changes": {"steps": 19_000},
        },
    ],
    "no-episodes": [{"returns": [1.0]}, {"returns": (), "changes": {"steps": 900}}],
    "not-finite": [
        {"metrics": {"loss": [math.nan, *FALLING[1:]], "updates": [0, *range(1, ROWS)]}},
    ],
    "loss-grows": [
        {"metrics": {"loss": np.geomspace(1, 1e3, ROWS)}},  # returns rise
        {"metrics": {"loss": np.geomspace(1, 5, ROWS)}, "returns": FLAT},
        {"metrics": {"loss": np.geomspace(1, 1e3, ROWS)}, "returns": FLAT, "changes": STARTED},
    ],
    "values-impossible": [
        {"metrics": {"q_max": np.full(ROWS, 110.0)}},
        {"discount": 1.0, "metrics": {"q_max": np.full(ROWS, 900.0)}},
        {"metrics": {"q_max": np.full(ROWS, 300.0)}, "noise": "indexed", "prior_scale": 100.0},
    ],
    "outside-support": [CATEGORICAL, {"metrics": {"q_max": np.full(ROWS, 900.0)}}],
    "noise-gone": [
        {"metrics": {"action_change": [0.4] * 5 + [0.001] * 15}},  # returns rise
        {
            "metrics": {
                "action_change": np.zeros(ROWS),
                "exploration.changed_actions": np.full(ROWS, 0.05),  # noise is scaled to a goal
            },
            "returns": FLAT,
        },
        {"metrics": {"action_change": np.zeros(ROWS)}, "returns": FLAT, "changes": STARTED},
        {"metrics": {"action_change": [0.4] * 19 + [0.001]}, "returns": FLAT},
        {"metrics": {"action_change": np.zeros(ROWS)}, "returns": FLAT, "evaluations": [1, 9, 90]},
    ],
    "returns-flat": [
        {},
        {"metrics": {"loss": np.ones(ROWS)}, "returns": FLAT},
        {"returns": FLAT, "evaluations": [10, 20, 90]},
        {"returns": FLAT, "changes": {"solved_at": (100, 1.0)}},
        {"returns": FLAT, "changes": STARTED},
        {"returns": FLAT[:20]},
    ],
    "epsilon-high": [{}, GREEDY, {**GREEDY, "epsilon_share": 0.5}],
    "replay-small": [
        {"replay_capacity": STEPS, "lengths": [9_000] * EPISODES},
        {"replay_capacity": 1_000, "lengths": [100] * EPISODES},
        {"learner": "parallel"},
    ],
    "constant-observations": [
        {},
        {"metrics": {"constant_observations": np.full(ROWS, math.nan)}},
        {"metrics": {"constant_observations": [4, *[0] * 19]}},
    ],
    "evaluation-apart": [
        {"evaluations": [100, 190]},
        {"evaluations": [100, 300]},
        {"evaluations": [9], "returns": RISING[:20]},
    ],
}
"""Runs in which a rule finds nothing, by rule."""

CASES = [(rule, words, given) for rule, cases in WRONG.items() for words, given in cases]


def test_every_rule_is_tested() -> None:
    assert WRONG.keys() == RIGHT.keys()
    assert len(WRONG) == len(RULES)


@pytest.mark.parametrize(("rule", "words", "given"), CASES, ids=[f"{x[0]}, {x[1]}" for x in CASES])
def test_a_rule_finds_what_is_wrong(rule: str, words: str, given: dict[str, Any]) -> None:
    found = {finding.rule: finding for finding in diagnose(run_of(**given))}
    assert words in found[rule].problem + found[rule].remedy
    assert "--" in found[rule].remedy or rule == "constant-observations"


@pytest.mark.parametrize("rule", RIGHT)
def test_a_rule_stays_silent(rule: str) -> None:
    for given in RIGHT[rule]:
        assert rule not in {finding.rule for finding in diagnose(run_of(**given))}, given


def test_a_healthy_run_has_no_findings() -> None:
    assert diagnose(run_of()) == []


def test_flags_in_remedies_exist() -> None:
    """Whatever exploration, learner or distribution a run has."""
    names = {f"--{name.replace('_', '-')}" for name in noisydqn.config.config.option_hints()}
    for _, _, given in CASES:
        for finding in diagnose(run_of(**given)):
            flags = [word.strip(",()") for word in finding.remedy.split() if "--" in word]
            assert {x.lstrip("(") for x in flags} <= names, finding.remedy


@pytest.mark.parametrize("preset", PRESETS)
def test_rules_take_the_options_of_every_preset(preset: str) -> None:
    """And runs of which nothing, or nearly nothing, is recorded."""
    options = PRESETS[preset].flat()
    run = Run(place="x", env="x", seed=0, steps=100, budget=options["steps"], options=options)
    assert diagnose(run) == []
    one = {"step": np.array([1.0]), "loss": np.array([math.nan]), "updates": np.array([0.0])}
    episodes = Series.of([1], [2])
    few = dataclasses.replace(run, tables={"metrics": one, "episodes": {}}, episodes=episodes)
    assert diagnose(few) == []


def test_runs_of_other_libraries_have_no_findings() -> None:
    assert diagnose(dataclasses.replace(run_of(returns=FLAT), options={})) == []


def test_rising_is_judged_against_chance() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(300)
    found = [rises(Series.of(steps, rng.normal(size=300))) for _ in range(200)]
    assert np.mean(found) < 0.06  # of a normal beyond two standard errors, one side: 2.3%
    assert rises(Series.of(steps, rng.normal(size=300) + np.linspace(0, 1, 300)))
    assert not rises(Series.of(steps, rng.normal(size=300) - np.linspace(0, 1, 300)))
    assert rises(Series.of([1, 2], [1, 2]))
    assert not rises(Series.of([1], [1]))
    assert not rises(Series.of([], []))


# The command


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    """The folder of a run whose learning starts after its end."""
    return write_run(tmp_path / "sick", 0, learning_starts=5_000)


def test_the_command_says_what_is_wrong(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(sick.parent / "well", 1, learning_starts=0)
    assert main(["doctor", str(sick), str(sick.parent / "well")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{sick}:"
    assert "learning starts after 5,000 steps, and the run has 1,000" in lines[1]
    assert lines[2].strip() == "try: raise --steps, or lower --learning-starts"
    assert lines[-1] == f"{sick.parent / 'well'}: nothing looks wrong"


def test_the_command_prints_json(sick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(sick), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["folder"] == str(sick)
    assert told["findings"][0]["rule"] == "starts-too-late"
    (same,) = noisydqn.doctor(sick)
    assert same.findings[0].problem == told["findings"][0]["problem"]


def test_a_finding_of_several_seeds_is_one_line(sick: Path) -> None:
    other = write_run(sick.parent / "other", 1, learning_starts=5_000)
    (line,) = findings_of([RunFolder.at(sick), RunFolder.at(other)])
    assert line.endswith("; try: raise --steps, or lower --learning-starts (seed 0, 1)")


@pytest.mark.slow
def test_training_ends_with_the_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*flags(tiny(learning_starts=500, steps=80))[1:], "--out", str(tmp_path / "run")]
    assert main(["train", "CartPole-v1", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("what looks wrong, and what to try:")
    assert lines[at + 1].startswith("- learning starts after 500 steps, and the run has 80")
    assert lines[-1].startswith("next: ")


def test_the_page_of_a_run_shows_the_findings(sick: Path) -> None:
    write_page(RunFolder.at(sick))
    page = (sick / "report.html").read_text()
    assert "Diagnosis" in page
    assert "lower --learning-starts" in page
    well = write_run(sick.parent / "well", 1, learning_starts=0)
    write_page(RunFolder.at(well))
    assert "Diagnosis" not in (well / "report.html").read_text()


def test_what_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "DIR is missing" in refused(capsys, "doctor")
    assert "does not exist" in refused(capsys, "doctor", str(tmp_path / "none"))
    assert "holds no run" in refused(capsys, "doctor", str(tmp_path))
    run = write_run(tmp_path / "run", 0)
    (run / "metrics.csv").write_text("a,b\n1,2\n")
    assert "metrics.csv is damaged" in refused(capsys, "doctor", str(run))
    with pytest.raises(noisydqn.UserError, match="nothing to look at"):
        noisydqn.doctor()
    log = tmp_path / "CartPole-v1" / "theirs" / "seed-0"
    log.mkdir(parents=True)
    about = '#{"t_start": 1.0, "env_id": "CartPole-v1"}'
    (log / "monitor.csv").write_text(f"{about}\nr,l,t\n9.0,9,0.1\n8.0,8,0.2\n")
    with pytest.raises(noisydqn.UserError, match="holds no run of noisydqn"):
        noisydqn.doctor(log)
