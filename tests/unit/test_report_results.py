"""Runs in order: variants, final returns, thresholds, comparisons, and the verdict in words."""

import math
from typing import Any

import numpy as np
import pytest
from tests.recorded import recorded

from noisydqn import Config, UserError
from noisydqn.report import comparison, figures, summaries
from noisydqn.report.records import Run, Series
from noisydqn.report.results import Results, make_results, newest_means
from noisydqn.report.statistics import Interval
from noisydqn.report.tables import Table, show, to_csv, to_latex, to_markdown
from noisydqn.report.variants import differences, environment_name, name_variants, shortened
from noisydqn.report.verdict import verdicts, warnings


def options(**changes: Any) -> dict[str, Any]:
    return Config(env="Maze-v0").replace(**changes).flat()


# Variants


def named(*all_options: dict[str, Any], envs: tuple[str, ...] = ()) -> list[str]:
    envs = envs or ("Maze-v0",) * len(all_options)
    runs = [
        recorded(seed, variant="", env=env, options=each)
        for seed, (env, each) in enumerate(zip(envs, all_options, strict=True))
    ]
    return [run.variant for run in name_variants(runs)]


def test_variants_are_named_by_the_options_that_differ() -> None:
    got = named(options(), options(exploration="epsilon-greedy"), options(seed=7))
    assert got == ["exploration=noisy", "exploration=epsilon-greedy", "exploration=noisy"]
    assert named(options(n_step=3, hidden=(8, 8)), options(n_step=1, hidden=(8,))) == [
        "hidden=8 8,n_step=3",
        "hidden=8,n_step=1",
    ]


def test_options_of_a_choice_are_named_where_they_differ() -> None:
    greedy = {"exploration": "epsilon-greedy"}
    got = named(options(), options(**greedy, epsilon_final=0.1), options(**greedy))
    assert got[0] == "exploration=noisy"
    assert got[1].startswith("exploration=epsilon-greedy,epsilon_final=0.1")
    assert got[1] != got[2]


def test_options_that_suit_an_environment_are_not_variants() -> None:
    small, large = options(hidden=(8,)), options(hidden=(64,))
    assert named(small, large, envs=("A", "B")) == ["noisy", "noisy"]
    assert named(options(video_seconds=0), options()) == ["noisy", "noisy"]


def test_a_name_that_was_given_stays() -> None:
    runs = [recorded(0, variant="ours", options=options()), recorded(1, variant="", options={})]
    assert [run.variant for run in name_variants(runs)] == ["ours", "noisydqn"]


def test_names_of_one_option_are_shortened_on_the_page() -> None:
    def short(*names: str) -> list[str]:
        runs = [recorded(i, variant=name) for i, name in enumerate(names)]
        return [run.variant for run in shortened(runs)]

    assert short("exploration=noisy", "exploration=greedy") == ["noisy", "greedy"]
    for names in (["a=1", "b=1"], ["a=1", "x"], ["a=1,b=2", "a=2,b=2"], ["noisy"], ["a=", "a=1"]):
        assert short(*names) == names


def test_arguments_are_part_of_an_environments_name() -> None:
    assert environment_name(options()) == "Maze-v0"
    made = options(env_kwargs='{"size": 10, "wind": true}')
    assert environment_name(made) == "Maze-v0 (size=10,wind=True)"


def test_differences_of_configs() -> None:
    runs = [
        recorded(0, variant="a", options=options(n_step=3)),
        recorded(1, variant="a", options=options(n_step=5)),
        recorded(2, variant="b", options=options(n_step=1, seed=3)),
        recorded(3, variant="sb3"),
    ]
    assert differences(runs) == [("n_step", {"a": "3 / 5", "b": "1"})]


# Results


def test_a_run_that_is_there_twice_is_refused() -> None:
    runs = [recorded(0), recorded(0, place="elsewhere")]
    line = "runs/0 and elsewhere are the same run: seed 0 of noisy on Maze-v0"
    with pytest.raises(UserError, match=line):
        make_results(runs)


def test_runs_without_returns_are_refused() -> None:
    empty: dict[str, Any] = {"evaluations": Series.of([], []), "episodes": Series.of([], [])}
    with pytest.raises(UserError, match="nothing to report of runs/0: no run that has ended"):
        make_results([recorded(0, **empty)])
    with pytest.raises(UserError, match="nothing to report of runs/0 and others"):
        make_results([recorded(0, status="running"), recorded(1, **empty)])


def test_final_returns_and_areas() -> None:
    run = recorded(0)
    (cell,) = make_results([run]).cells
    assert cell.finals[0] == run.evaluations.values[-1]
    x, y = run.evaluations.steps, run.evaluations.values
    fine = np.interp(np.linspace(0, 1_000, 200_001), x, y).mean()
    assert cell.areas[0] == pytest.approx(fine, abs=1e-4)


def test_runs_without_evaluations_make_all_count_by_episodes() -> None:
    exploring = recorded(1, evaluations=Series.of([], []))
    (scene,) = make_results([recorded(0), exploring]).scenes
    assert (scene.curve, scene.final) == ("episodes", "episodes")
    few = Series.of([10, 20, 30], [1, 2, 6])
    (cell,) = make_results([recorded(0, episodes=few, evaluations=Series.of([], []))]).cells
    assert cell.finals[0] == 3


def test_one_evaluation_is_no_curve_but_a_final_return() -> None:
    (scene,) = make_results([recorded(0, evaluations=Series.of([1_000], [7.0]))]).scenes
    assert (scene.curve, scene.final) == ("episodes", "evaluations")
    assert scene.cells["noisy"].finals[0] == 7


def test_the_median_run_is_one_of_the_runs() -> None:
    runs = [recorded(i, evaluations=Series.of([1, 2], [0, x])) for i, x in enumerate([5, 1, 9, 3])]
    (cell,) = make_results(runs).cells
    assert cell.median_run().seed == 3


def test_means_of_the_newest_episodes() -> None:
    values = np.random.default_rng(0).normal(size=50)
    got = newest_means(values)
    assert np.isnan(got[:19]).all()
    expected = [values[i - 19 : i + 1].mean() for i in range(19, 50)]
    np.testing.assert_allclose(got[19:], expected)
    assert np.isnan(newest_means(values[:5])).all()


def test_thresholds() -> None:
    run = recorded(0, evaluations=Series.of([10, 20, 30], [1, 5, 2], seconds=[1, 2, 3]))
    assert make_results([run]).scenes[0].threshold is None
    (cell,) = make_results([run], threshold=4).cells
    assert (cell.solved_steps[0], cell.solved_seconds[0], cell.solved[0]) == (20, 2, True)
    (cell,) = make_results([run], threshold=6).cells
    assert (cell.solved_steps[0], cell.solved[0]) == (1_000, False)
    registered = make_results([recorded(0, env="CartPole-v1")]).scenes[0].threshold
    assert registered is not None
    assert registered.words == "a return of 475 (registered with Gymnasium)"
    goal = make_results([recorded(0, solved_at=(300.0, 0.5)), recorded(1)])
    assert goal.scenes[0].threshold is not None
    assert goal.scenes[0].threshold.words == "the goal of the run or of its environment"
    assert goal.cells[0].solved.tolist() == [True, False]
    assert goal.cells[0].solved_steps.tolist() == [300, 1_000]


def test_bins_hold_means_of_equal_spans() -> None:
    series = Series.of([1, 2, 3, 95, 100], [1, 2, 3, 10, 20], seconds=[1, 2, 3, 4, 5])
    binned = series.binned(10)
    assert binned.steps.tolist() == [3, 100]
    assert binned.values.tolist() == [2, 15]
    assert binned.seconds.tolist() == [3, 5]


# Comparisons


def pair(gain: float, seeds: int = 10, other_seeds: int | None = None) -> Results:
    ours = [recorded(seed, gain) for seed in range(seeds)]
    others = range(seeds if other_seeds is None else other_seeds)
    return make_results([*ours, *(recorded(seed, 10, variant="greedy") for seed in others)])


def sentence(made: comparison.Comparison | comparison.Overall) -> str:
    return f"{made.claim}: {made.numbers}"


def outcome(results: Results) -> comparison.Comparison:
    (scene,) = results.scenes
    (made,) = comparison.compare_first(scene)
    return made


def test_verdicts_claim_what_the_seeds_allow() -> None:
    above, below = outcome(pair(13.0)), outcome(pair(7.0))
    assert (above.outcome, below.outcome) == ("above", "below")
    assert above.paired
    assert sentence(above).startswith("noisy above greedy on Maze-v0: probability of improvement ")
    assert ", paired difference of medians +" in sentence(above)
    assert sentence(above).endswith(", 10 seeds")
    near = outcome(pair(10.2))
    assert near.outcome == "not told apart"
    assert sentence(near).startswith("noisy and greedy not told apart on Maze-v0: ")


def test_few_seeds_make_no_verdict() -> None:
    few = outcome(pair(1_000.0, seeds=4))
    assert few.outcome == "too few"
    assert not few.difference.known
    assert sentence(few).startswith("noisy and greedy on Maze-v0, too few seeds to judge: ")
    assert sentence(few).endswith("4 seeds, no intervals below 5 seeds")
    uneven = outcome(pair(1_000.0, other_seeds=7))
    assert sentence(uneven).endswith("10 and 7 seeds")
    assert not uneven.paired


def test_equal_returns_are_level() -> None:
    same = Series.of([1, 2], [0, 500])
    runs = [recorded(i, evaluations=same, variant=x) for i in range(6) for x in ("a", "b")]
    made = outcome(make_results(runs))
    assert made.outcome == "level"
    assert sentence(made).startswith("a level with b on Maze-v0: probability of improvement 0.50")


def test_equal_methods_are_rarely_told_apart() -> None:
    """The claim needs two intervals and a test to agree, so it is wrong in at most 5%."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        x, y = rng.normal(size=(2, 10))
        cells = [
            make_results(
                [recorded(i, evaluations=Series.of([1, 2], [0, z])) for i, z in enumerate(values)]
            ).cells[0]
            for values in (x, y)
        ]
        wrong += comparison.compare(*cells).outcome in ("above", "below")
    assert wrong <= 16


def several(envs: int = 3) -> Results:
    runs = [
        recorded(seed, gain * (1 + i), variant=variant, env=f"E{i}")
        for i in range(envs)
        for variant, gain in (("noisy", 13.0), ("greedy", 10.0))
        for seed in range(6)
    ]
    return make_results(runs)


def test_scores_are_normalized_by_the_runs_of_an_environment() -> None:
    results = several()
    scores = comparison.normalized(results)
    for i, scene in enumerate(results.scenes):
        finals = np.concatenate([cell.finals for cell in scene.cells.values()])
        both = np.concatenate([scores[variant][i] for variant in results.variants])
        assert (both.min(), both.max()) == (0, 1)
        assert np.argsort(both).tolist() == np.argsort(finals).tolist()
    equal = [recorded(i, evaluations=Series.of([1, 2], [0, 5])) for i in range(3)]
    assert comparison.normalized(make_results(equal))["noisy"][0].tolist() == [1, 1, 1]


def test_over_environments() -> None:
    (overall,) = comparison.compare_overall(several())
    assert sentence(overall).startswith(
        "noisy above greedy over 3 environments: probability of improvement "
    )
    assert comparison.compare_overall(pair(13.0)) == []
    matrix = comparison.improvements(several())
    one, other = matrix["noisy", "greedy"], matrix["greedy", "noisy"]
    assert one.estimate + other.estimate == pytest.approx(1)
    assert one.excludes(0.5)


def test_an_environment_that_a_variant_lacks_is_left_out_of_the_whole() -> None:
    extra = [recorded(seed, variant="noisy", env="Other") for seed in range(6)]
    results = make_results([*several().runs, *extra])
    assert [scene.env for scene in results.complete] == ["E0", "E1", "E2"]
    line = "Some variants have no returns on Other: left out of what is said over environments."
    assert line in warnings(results)
    table = summaries.aggregate_table(results)
    assert table is not None
    assert " 1 without runs of every variant are left out." in table.note


# Words


def test_one_seed_is_said_to_say_little() -> None:
    results = make_results([recorded(3)])
    (line,) = verdicts(results)
    final = show(float(results.cells[0].finals[0]))
    assert line.claim == "noisy on Maze-v0, seed 3"
    assert line.numbers == f"final return {final} after 1,000 steps in 1 s"
    assert any(x.startswith("One seed says little") for x in warnings(results))
    nothing = "There is one variant: nothing to compare."
    assert nothing not in warnings(results)
    assert nothing in warnings(make_results([recorded(3), recorded(4)]))


def test_runs_that_did_not_end_well_are_told() -> None:
    empty: dict[str, Any] = {"evaluations": Series.of([], []), "episodes": Series.of([], [])}
    runs = [
        *(recorded(seed) for seed in range(5)),
        recorded(5, status="failed", reason="the disk is full"),
        recorded(6, status="diverged", **empty),
        recorded(7, status="running"),
        recorded(8, status="waiting", **empty),
    ]
    results = make_results(runs)
    lines = warnings(results)
    named = "noisy on Maze-v0, seed"
    assert f"1 run failed: {named} 5. Counted with the last return: 1." in lines
    assert f"1 run diverged: {named} 6. Not counted: 1." in lines
    assert f"1 run still running: {named} 7. Not counted: 1." in lines
    assert f"1 run not begun: {named} 8. Not counted: 1." in lines
    assert len(results.cells[0].runs) == 6
    rows = summaries.seed_table(results).rows
    assert len(rows) == 9
    assert rows[5][-1] == "failed: the disk is full"


def test_runs_with_returns_of_another_kind_are_told() -> None:
    nothing = Series.of([], [])
    runs = [recorded(0, episodes=nothing), recorded(1, evaluations=nothing)]
    results = make_results(runs)
    line = "1 run left out, as the others have returns of another kind: noisy on Maze-v0, seed 1."
    assert line in warnings(results)
    assert len(results.cells[0].runs) == 1


def test_seeds_that_options_were_tuned_on_are_told() -> None:
    results = make_results([recorded(seed) for seed in range(3)])
    (line,) = [x for x in warnings(results, [1, 2, 9]) if "tuned" in x]
    assert line.startswith("Options were tuned on seeds 1, 2, which are reported here")
    assert not [x for x in warnings(results, [9]) if "tuned" in x]


# Tables


TABLE = Table("A_b", ("x|y", "z"), (("<b>", 1_234), (None, Interval(1.5, 1.0, math.inf))))


def test_values_as_text() -> None:
    shown = {
        0.0: "0",
        0.004321: "0.0043",
        0.123456: "0.123",
        45.678: "45.7",
        456.78: "456.8",
        500.0: "500",
        -12345.6: "-12,346",
        math.nan: "-",
        -math.inf: "-∞",
    }
    assert {x: show(x) for x in shown} == shown
    assert show(Interval(0.5)) == "0.5"


def test_forms_of_tables() -> None:
    markdown = to_markdown([TABLE])
    assert markdown == (
        "## A_b\n\n| x\\|y | z |\n| --- | --- |\n| &lt;b> | 1,234 |\n| - | 1.5 [1, ∞] |\n"
    )
    latex = to_latex([TABLE])
    assert r"\caption{A\_b}" in latex
    assert r"1.5 [1, $\infty$] \\" in latex
    assert to_csv(("a", "b"), [(1.23456789, None), ("x,y", math.nan)]) == (
        'a,b\n1.23456789,\n"x,y",\n'
    )


def test_the_columns_of_the_seeds() -> None:
    assert ",".join(summaries.SEED_COLUMNS) == (
        "variant,env,seed,steps,seconds,final_return,auc,solved_at_step"
    )
    (row,) = summaries.seed_rows(make_results([recorded(0)], threshold=-100))
    assert row[:5] == ("noisy", "Maze-v0", 0, 1_000, 1.0)
    assert row[-1] == 100


# Figures


def middles(run: Run, *more: Run) -> dict[str, Any]:
    results = make_results([run, *more])
    figure = figures.curves(results.scenes[0], {"noisy": 0})
    assert figure is not None
    return figure["groups"][0]["middle"]


def test_seeds_that_were_measured_together_are_not_interpolated() -> None:
    drawn = middles(recorded(0), recorded(1))["steps"]
    both = np.stack([recorded(seed).evaluations.values for seed in (0, 1)])
    np.testing.assert_allclose(drawn["y"], both.mean(0), rtol=1e-4)
    assert drawn["x"] == recorded(0).evaluations.steps.tolist()
    assert "low" not in drawn
    assert "low" in middles(*(recorded(seed) for seed in range(5)))["updates"]


def test_a_seed_that_has_ended_keeps_its_last_value() -> None:
    short = Series.of([100, 200], [0, 10], [1, 2], [1, 2])
    long = Series.of([150, 300], [0, 20], [1, 2], [1, 2])
    drawn = middles(recorded(0, evaluations=short), recorded(1, evaluations=long))["steps"]
    assert (drawn["x"][0], drawn["x"][-1]) == (150, 300)
    assert drawn["y"][0] == pytest.approx(2.5)
    assert drawn["y"][-1] == 15


def test_axes_that_a_run_lacks_are_not_offered() -> None:
    unknown = Series.of([1, 2], [3, 4])
    results = make_results([recorded(0), recorded(1, evaluations=unknown)])
    figure = figures.curves(results.scenes[0], {"noisy": 0})
    assert figure is not None
    assert list(figure["axes"]) == ["steps"]
