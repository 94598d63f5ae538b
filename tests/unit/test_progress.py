"""The transitions of a run's progress, without any training."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from noisydqn.checkpoint.format import File, Manifest, decode, encode
from noisydqn.envs.spec import Statistic
from noisydqn.play.evaluate import Evaluation
from noisydqn.runners.report import Episode, SeedChunk
from noisydqn.runs.progress import Goals, Progress, SeedProgress, StoredRun

GOALS = Goals(budget=1_000, window=2)
RETURN = Goals(budget=1_000, window=2, stop_at_return=10.0)
CONFIRMED = Goals(budget=1_000, window=2, stop_at_return=10.0, stop_at_evaluation=8.0)


def chunk(*returns: float, updates: int = 5, first: int = 1) -> SeedChunk:
    """A chunk whose episodes end at the steps from `first` on."""
    episodes = [Episode(step, x, 1) for step, x in enumerate(returns, first)]
    return SeedChunk(updates, episodes, {}, {}, 0.0)


def trained(goals: Goals, *returns: float, steps: int = 100) -> Progress:
    return Progress.start(1).after_chunk(steps, 1.0, [chunk(*returns)], goals)


def evaluated(progress: Progress, *returns: float, goals: Goals = GOALS) -> Progress:
    progress = progress.after_evaluations_started()
    return progress.after_evaluation(0, Evaluation(returns), goals)


def test_a_chunk_counts_and_keeps_the_newest_returns() -> None:
    progress = trained(GOALS, 1.0, 2.0).after_chunk(200, 2.5, [chunk(3.0, updates=9)], GOALS)
    assert (progress.steps, progress.seconds) == (200, 2.5)
    (seed,) = progress.seeds
    assert (seed.num_updates, seed.num_episodes, seed.recent_returns) == (9, 3, (2.0, 3.0))


def test_a_chunk_that_was_left_counts_steps_alone() -> None:
    before = trained(GOALS, 1.0)
    after = before.after_unfinished_chunk(130, 1.5)
    assert (after.steps, after.seconds, after.seeds) == (130, 1.5, before.seeds)


def test_transitions_leave_the_old_progress_as_it_is() -> None:
    before = trained(GOALS, 1.0)
    evaluated(before, 3.0)
    assert before.evaluated_at == 0
    assert before.seeds[0].pending == ()


def test_solved_by_the_episode_that_completes_the_window() -> None:
    progress = trained(RETURN, 10.0, 9.0, 11.0, 30.0)
    assert progress.seeds[0].solved_at == (3, 1.0)
    later = progress.after_chunk(200, 2.0, [chunk(99.0)], RETURN)
    assert later.seeds[0].solved_at == (3, 1.0)


def test_a_window_that_is_not_full_reaches_nothing() -> None:
    assert not trained(RETURN, 99.0).seeds[0].reached_return(RETURN)
    assert not trained(GOALS, 99.0, 99.0).seeds[0].reached_return(GOALS)  # without a goal


def test_the_best_and_the_newest_evaluation() -> None:
    progress = evaluated(evaluated(trained(GOALS), 4.0, 6.0), 3.0)
    (seed,) = progress.seeds
    assert (seed.best_return, seed.newest_return, seed.pending) == (5.0, 3.0, ())
    assert seed.is_best(Evaluation((5.0,)))  # of equal ones the newest
    assert not seed.is_best(Evaluation((4.9,)))
    assert SeedProgress().is_best(Evaluation((-1e9,)))


def test_an_evaluation_solves_what_has_no_goal_of_returns() -> None:
    started = trained(GOALS).after_evaluations_started()
    wins = Statistic("wins", "won", part="won", goal=0.9)
    outcome = Evaluation((1.0,), 0, {"wins": 1.0}, (wins,))
    later = started.after_chunk(300, 3.0, [chunk()], GOALS)
    assert later.after_evaluation(0, outcome, GOALS).seeds[0].solved_at == (100, 1.0)
    assert later.after_evaluation(0, outcome, RETURN).seeds[0].solved_at is None


def test_pending_evaluations_leave_in_their_order() -> None:
    progress = trained(GOALS).after_evaluations_started()
    progress = progress.after_chunk(200, 2.0, [chunk()], GOALS).after_evaluations_started()
    assert progress.evaluated_at == 200
    assert progress.seeds[0].pending == ((100, 1.0), (200, 2.0))
    assert progress.after_failed_evaluation(0).seeds[0].pending == ((200, 2.0),)
    assert progress.after_failed_evaluation(0).seeds[0].newest_return is None


@pytest.mark.parametrize(("steps", "expected"), [(99, False), (100, True), (205, True)])
def test_evaluations_are_scheduled_by_steps(steps: int, expected: bool) -> None:
    goals = Goals(budget=1_000, evaluation_every=100)
    progress = trained(goals, steps=steps)
    assert progress.should_evaluate(goals) == expected
    assert not progress.after_evaluations_started().should_evaluate(goals)


def test_training_that_is_good_enough_is_evaluated_after_each_chunk() -> None:
    assert trained(CONFIRMED, 10.0, 10.0).should_evaluate(CONFIRMED)
    assert not trained(CONFIRMED, 10.0, 9.0).should_evaluate(CONFIRMED)
    assert not trained(RETURN, 10.0, 10.0).should_evaluate(RETURN)


def test_training_stops_at_its_goals() -> None:
    assert not trained(GOALS, 99.0, 99.0).should_stop(GOALS)
    assert not trained(RETURN, 10.0, 9.0).should_stop(RETURN)
    assert trained(RETURN, 10.0, 10.0).should_stop(RETURN)


def test_an_evaluation_confirms_the_end_only_while_training_returns_are_good() -> None:
    good = trained(CONFIRMED, 10.0, 10.0)
    assert not good.should_stop(CONFIRMED)
    assert not evaluated(good, 7.9, goals=CONFIRMED).should_stop(CONFIRMED)
    confirmed = evaluated(good, 8.0, goals=CONFIRMED)
    assert confirmed.should_stop(CONFIRMED)
    assert not confirmed.after_chunk(200, 2.0, [chunk(0.0)], CONFIRMED).should_stop(CONFIRMED)


def test_all_seeds_have_to_reach_the_goal() -> None:
    start = Progress.start(2)
    one = start.after_chunk(100, 1.0, [chunk(10.0, 10.0), chunk(0.0)], RETURN)
    assert not one.should_stop(RETURN)
    assert one.after_chunk(200, 2.0, [chunk(), chunk(30.0)], RETURN).should_stop(RETURN)


def test_the_time_is_used_up() -> None:
    goals = Goals(budget=1_000, max_seconds=1.0)
    assert trained(goals).should_stop(goals)
    assert not trained(Goals(budget=1_000, max_seconds=1.1)).should_stop(
        Goals(budget=1_000, max_seconds=1.1)
    )


def test_a_request_to_stop_ends_this_budget_but_not_a_larger_one() -> None:
    requested = Progress.start(1).after_stop_request(GOALS)
    assert not requested.should_stop(GOALS)  # a chunk comes first
    stopped = requested.after_chunk(100, 1.0, [chunk()], GOALS)
    assert stopped.should_stop(GOALS)
    assert not stopped.should_stop(Goals(budget=1_001))


def test_progress_survives_storage() -> None:
    progress = evaluated(trained(RETURN, 10.0, 10.0), 4.0).after_evaluations_started()
    stored = StoredRun(progress, ((1, 2, 3),))
    assert StoredRun.decode(msgspec.json.decode(msgspec.json.encode(stored.encode()))) == stored


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_survive_a_checkpoint(number: float) -> None:
    """JSON has none: a manifest would hold null instead, and could not be resumed."""
    progress = evaluated(trained(RETURN, number, 10.0), number).after_evaluations_started()
    stored = StoredRun(progress, ((1, 2, 3),), config={"env_kwargs": "nan"})
    state = File("state-00000001.bin", 0, "")
    manifest = Manifest(1, 0, 1, 1, state, {}, {}, stored.encode())
    read = decode(encode(manifest), Path("checkpoint-00000001.json"))
    assert repr(StoredRun.decode(read.run)) == repr(stored)  # as NaN is not itself
    assert repr(number) in repr(stored)


FORMAT_1: dict[str, Any] = {
    "steps": 400,
    "seconds": 4.5,
    "evaluated": 300,
    "seeds": [
        {
            "episodes": 17,
            "updates": 181,
            "recent": [19.0, 22.0],
            "best_return": 22.5,
            "newest_return": 21.0,
            "solved_at": [120, 1.5],
            "pending": [[400, 4.25]],
            "sizes": [990, 258, 74],
        }
    ],
}


def test_format_1_is_upgraded() -> None:
    stored = StoredRun.decode(FORMAT_1)
    seed = SeedProgress(181, 17, (19.0, 22.0), 22.5, 21.0, (120, 1.5), ((400, 4.25),))
    assert stored == StoredRun(Progress((seed,), 400, 4.5, 300), ((990, 258, 74),))


@pytest.mark.parametrize("damage", [{"steps": "x"}, {"progress": {}}, {"more": 1}])
def test_other_values_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        StoredRun.decode(FORMAT_1 | damage)


def test_progress_that_is_nested_too_deeply_is_refused() -> None:
    progress: list[Any] = []
    for _ in range(100_000):
        progress = [progress]
    with pytest.raises(msgspec.ValidationError, match="nested too deeply"):
        StoredRun.decode({"progress": progress})
