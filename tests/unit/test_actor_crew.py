"""The crew of actors: who is started again, who is waited for, and what is said."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from noisydqn.errors import EnvironmentFailedError
from noisydqn.runners.actors import crew as crews
from noisydqn.runners.actors.crew import Crew, Member
from noisydqn.runners.actors.messages import (
    Answer,
    Died,
    Failed,
    Order,
    Ready,
    Segment,
    Setup,
    Share,
    Stand,
)
from noisydqn.runners.stop import Stop

STAND = Stand([], None, None)


class Pool:
    """Answers what it was told to, a few at a time."""

    def __init__(self, *answers: Any) -> None:
        self.coming: deque[list[Answer]] = deque(answers)
        self.started: list[tuple[int, int]] = []
        self.ended: list[int] = []

    def start(self, setup: Setup, stand: Stand, life: int) -> None:
        del stand
        self.started.append((setup.share.actor, life))

    def publish(self, weights: Any) -> Any:
        return weights

    def order(self, actor: int, order: Order) -> None:
        pass

    def answers(self, seconds: float) -> list[Answer]:
        del seconds
        return self.coming.popleft() if self.coming else []

    def end(self, actor: int) -> None:
        self.ended.append(actor)

    def close(self) -> None:
        pass


class Anyhow:
    """A mode that starts actors again with the same orders."""

    def rejoin(self, member: Member) -> tuple[Stand, Sequence[Order]]:
        return STAND, list(member.orders)

    def restored(self, member: Member, ready: Ready) -> None:
        pass


def segment(number: int) -> Segment:
    nothing: Any = None
    return Segment(number, 0, 0, nothing, np.zeros((1, 1)), None, {}, STAND, {}, 0.0)


def ready(*lines: str) -> Ready:
    return Ready(list(lines), np.zeros(1, bool), 1)


def crew_of(pool: Pool, warned: list[str], stop: Stop | None = None, seconds: float = 60.0) -> Crew:
    nothing: Any = None
    setups = [Setup(nothing, nothing, nothing, nothing, Share(i, i, 1), 0, None) for i in range(2)]
    crew = Crew(pool, setups, seconds, warned.append, stop or Stop())
    for member in crew.members:
        crew.start(member, STAND, [Order(i, i, None) for i in range(3)])
    return crew


def wait_for(crew: Crew, number: int) -> list[tuple[int, int]]:
    """Take so many segments; returns their actors and numbers."""
    taken: list[tuple[int, int]] = []

    def take(member: Member, segment: Segment) -> None:
        taken.append((member.share.actor, segment.number))

    crew.wait(Anyhow(), lambda: len(taken) >= number, take)
    return taken


def test_segments_count_once_and_only_of_actors_that_live() -> None:
    warned: list[str] = []
    pool = Pool(
        [Answer(0, 0, ready("a line")), Answer(1, 0, ready("a line"))],
        [Answer(0, 0, segment(0)), Answer(0, 0, segment(0)), Answer(1, 0, Died("was killed"))],
        [Answer(1, 0, segment(0)), Answer(1, 0, Died("again"))],  # of the one that died
        [Answer(1, 1, ready()), Answer(1, 1, segment(0))],
    )
    crew = crew_of(pool, warned)
    assert wait_for(crew, 2) == [(0, 0), (1, 0)]
    assert pool.started == [(0, 0), (1, 0), (1, 1)]
    assert (crew.repeated, crew.restarts, crew.num_alive) == (2, 1, 2)
    assert warned == ["a line", "actor 1 was lost (was killed): it is started again"]


def test_an_actor_that_always_dies_ends_the_run() -> None:
    pool = Pool(*([Answer(0, life, Died("its process was killed"))] for life in range(9)))
    warned: list[str] = []
    with pytest.raises(EnvironmentFailedError, match=r"actor 0 was lost 5 times in a row \(the la"):
        wait_for(crew_of(pool, warned), 1)
    assert len(warned) == 4


def test_an_environment_that_fails_ends_the_run() -> None:
    pool = Pool([Answer(0, 0, Failed("the environment broke\nTraceback"))])
    with pytest.raises(EnvironmentFailedError, match=r"^the environment broke$") as caught:
        wait_for(crew_of(pool, []), 1)
    assert caught.value.traceback == "Traceback"


def test_an_actor_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "START_SECONDS", 0.0)
    pool = Pool([], [Answer(0, 1, segment(0)), Answer(1, 1, segment(0))])
    warned: list[str] = []
    crew = crew_of(pool, warned, seconds=0.0)
    wait_for(crew, 2)
    assert pool.ended == [0, 1]
    assert warned[0] == "actor 0 was lost (did not answer within 0 s): it is started again"


def test_a_slow_actor_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "SLOW_SECONDS", 0.0)
    first = [Answer(i, 0, content) for content in (ready(), segment(0)) for i in range(2)]
    pool = Pool(first, [], [], [Answer(0, 0, segment(1))])
    warned: list[str] = []
    wait_for(crew_of(pool, warned), 3)
    assert warned == [f"actor {i} is slow: nothing has come from it for 0 s" for i in range(2)]


def test_a_stop_ends_the_waiting() -> None:
    stop = Stop()
    stop.request()
    crew = crew_of(Pool(), [], stop)
    assert not crew.wait(Anyhow(), lambda: False, lambda *_: None)
