"""Actors in the process of the test: in an order of its choice, with the faults that it wants."""

import random
from collections import deque
from collections.abc import Callable

import pytest

from noisydqn.runners.actors.messages import Answer, Died, Order, Segment, Setup, Stand, Weights
from noisydqn.runners.actors.pool import ActorPool
from noisydqn.runners.actors.serving import Serving, packed
from noisydqn.runs.actors import Here


class InlineActors:
    """An `ActorPool` that plays an order of a random actor each time it is asked for answers.

    Args:
        seed: of the order in which actors play.
        dies: tells whether an actor dies in place of playing an order.
        twice: whether every segment arrives twice.
        speeds: how often each actor plays, compared with the others.
    """

    def __init__(
        self,
        seed: int = 0,
        dies: Callable[[int, Order], bool] = lambda *_: False,
        *,
        twice: bool = False,
        speeds: tuple[int, ...] = (),
    ) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._dies, self._twice, self._speeds = dies, twice, speeds
        self._actors: dict[int, tuple[Serving, int]] = {}
        self._orders: dict[int, deque[Order | None]] = {}
        self.most_waiting = 0

    def start(self, setup: Setup, stand: Stand, life: int) -> None:
        self.end(setup.share.actor)
        index = setup.share.actor
        self._actors[index] = Serving(packed(setup, stand)), life
        self._orders[index] = deque([None])

    def publish(self, weights: Weights) -> Weights:
        return weights

    def order(self, actor: int, order: Order) -> None:
        self._orders[actor].append(order)
        self.most_waiting = max(self.most_waiting, len(self._orders[actor]))

    def answers(self, seconds: float) -> list[Answer]:
        del seconds
        able = [index for index, orders in sorted(self._orders.items()) if orders]
        if not able:
            return []
        weights = [self._speeds[index] for index in able] if self._speeds else None
        index = self._chance.choices(able, weights)[0]
        serving, life = self._actors[index]
        order = self._orders[index].popleft()
        if order is None:
            return [Answer(index, life, serving.first)]
        if self._dies(index, order):
            self.end(index)
            return [Answer(index, life, Died("was told to die"))]
        answer = Answer(index, life, serving.play(order))
        return [answer, answer] if self._twice and isinstance(answer.content, Segment) else [answer]

    def end(self, actor: int) -> None:
        if actor in self._actors:
            self._actors.pop(actor)[0].close()
            self._orders[actor].clear()

    def close(self) -> None:
        for actor in list(self._actors):
            self.end(actor)


def use(monkeypatch: pytest.MonkeyPatch, pool: ActorPool) -> None:
    """Let runs play here."""

    def make_pool(place: Here, warn: Callable[[str], None]) -> ActorPool:
        del place, warn
        return pool

    monkeypatch.setattr(Here, "make_pool", make_pool)
