"""The actors as the learner sees them: started, given orders, watched, and started again.

Nothing waits without a limit: an actor that neither answers nor ends is ended here.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from noisydqn.errors import EnvironmentFailedError
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
from noisydqn.runners.actors.pool import ActorPool
from noisydqn.runners.stop import Stop

START_SECONDS = 180.0
"""Seconds that an actor has, besides `step_timeout`, to start and to compile."""
SLOW_SECONDS = 30.0
"""Seconds without a segment of an actor after which a line says so."""
POLL_SECONDS = 0.2
"""Seconds between two looks at whether a stop was requested."""
MOST_DEATHS = 5
"""Deaths of an actor without a segment in between, after which the run ends."""


@dataclasses.dataclass
class Member:
    """An actor.

    Args:
        setup: what it is made of.
        next: the number of the segment that is to come from it.
    """

    setup: Setup
    next: int = 0
    life: int = 0  # counts how often it was started before
    is_alive: bool = False
    heard: float = 0.0  # when it last answered
    ordered: float = 0.0  # when it got something to do
    is_new: bool = True  # it has sent no segment
    deaths: int = 0  # without a segment in between
    told: bool = False  # that it is slow
    orders: deque[Order] = dataclasses.field(default_factory=deque[Order])  # that wait
    segments: int = 0  # that came

    @property
    def share(self) -> Share:
        """Its share of the environments."""
        return self.setup.share


class Mode(Protocol):
    """What the ways of playing decide about an actor that died."""

    def rejoin(self, member: Member) -> tuple[Stand, Sequence[Order]]:
        """Return where it is to stand, and the orders to give it."""
        ...

    def restored(self, member: Member, ready: Ready) -> None:
        """Take note that it is there."""
        ...


class Crew:
    """The actors of a run.

    Args:
        pool: where they run.
        setups: what they are made of.
        timeout: seconds that an actor has for a segment.
        warn: told of what happens to them.
        stop: requests to stop end the waiting.
    """

    def __init__(
        self,
        pool: ActorPool,
        setups: Sequence[Setup],
        timeout: float,
        warn: Callable[[str], None],
        stop: Stop,
    ) -> None:
        self.pool, self._timeout, self._warn, self._stop = pool, timeout, warn, stop
        self.members = [Member(setup) for setup in setups]
        self.lost = 0  # segments that actors did not finish
        self.repeated = 0  # segments that came twice
        self.restarts = 0
        self.seed = setups[0].seed  # of all environments
        self._seen: set[str] = set()

    @property
    def num_alive(self) -> int:
        """Actors that are alive and ready."""
        return sum(member.is_alive for member in self.members)

    def start(self, member: Member, stand: Stand, orders: Sequence[Order]) -> None:
        """Start an actor and give it its first orders."""
        now = time.monotonic()
        member.is_alive, member.is_new, member.told = False, True, False
        member.heard = member.ordered = now
        member.orders.clear()
        self.pool.start(member.setup, stand, member.life)
        for order in orders:
            self.order(member, order)

    def order(self, member: Member, order: Order) -> None:
        """Give an actor an order."""
        if not member.orders:
            member.ordered = time.monotonic()
        member.orders.append(order)
        self.pool.order(member.share.actor, order)

    def wait(self, mode: Mode, ready: Callable[[], bool], take: Callable[..., None]) -> bool:
        """Take segments until something is ready, or a stop is requested.

        Args:
            mode: decides about actors that died.
            ready: tells whether there is enough.
            take: receives each segment, with its member.

        Returns:
            Whether it is ready.

        Raises:
            EnvironmentFailedError: an environment failed, or an actor died too often.
        """
        seconds = 0.0  # what is there already comes first
        while True:
            for answer in self.pool.answers(seconds):
                self._receive(answer, mode, take)
            if ready():
                return True
            if self._stop.asked:
                return False
            self._look(mode)
            seconds = POLL_SECONDS

    def _receive(self, answer: Answer, mode: Mode, take: Callable[..., None]) -> None:
        member, content = self.members[answer.actor], answer.content
        if answer.life != member.life:  # of an actor that was given up
            self.repeated += isinstance(content, Segment)
            return
        now = time.monotonic()
        if isinstance(content, Failed):
            raise EnvironmentFailedError(content.message)
        if isinstance(content, Died):
            self._lose(member, content.how, mode)
        elif isinstance(content, Ready):
            member.is_alive, member.heard = True, now
            for line in content.notices:
                self._tell_once(line)
            mode.restored(member, content)
        elif content.number != member.next:
            self.repeated += 1
        else:
            member.heard = member.ordered = now
            member.next, member.deaths = member.next + 1, 0
            member.is_new = member.told = False
            member.segments += 1
            member.orders.popleft()
            take(member, content)

    def _tell_once(self, line: str) -> None:
        if line not in self._seen:
            self._seen.add(line)
            self._warn(line)

    def _look(self, mode: Mode) -> None:
        """Look for actors that are slow, and end those that take too long."""
        now = time.monotonic()
        for member in self.members:
            if member.is_alive and not member.orders:
                continue
            silent = now - max(member.heard, member.ordered)
            limit = self._timeout + (START_SECONDS if member.is_new else 0.0)
            if silent > limit:
                self.pool.end(member.share.actor)
                self._lose(member, f"did not answer within {limit:g} s", mode)
            elif silent > SLOW_SECONDS and not member.told and not member.is_new:
                member.told = True
                self._warn(
                    f"actor {member.share.actor} is slow: nothing has come from it for "
                    f"{SLOW_SECONDS:g} s"
                )

    def _lose(self, member: Member, how: str, mode: Mode) -> None:
        """Start an actor again that died.

        Raises:
            EnvironmentFailedError: it died too often.
        """
        index = member.share.actor
        member.deaths += 1
        if member.deaths >= MOST_DEATHS:
            raise EnvironmentFailedError(
                f"actor {index} was lost {MOST_DEATHS} times in a row (the last time, {how}): see "
                "that its environment runs there and that there is memory for it"
            )
        self.restarts += 1
        member.life += 1
        stand, orders = mode.rejoin(member)
        self._warn(f"actor {index} was lost ({how}): it is started again")
        self.start(member, stand, orders)
