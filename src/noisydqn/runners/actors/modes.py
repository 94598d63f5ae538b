"""The two ways in which actors and the learner keep step with each other.

Synchronous: the learner takes in segment k of all actors at once, and segment k is played with the
weights that had learned from segments 0 to k - lag - 1. Asynchronous: the learner takes in what
comes, and every segment is ordered with the newest weights there are.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from noisydqn.envs.history import History, SavedHistory
from noisydqn.runners.actors.crew import Crew, Member
from noisydqn.runners.actors.messages import Order, Ready, Segment, Stand, Weights

Published = tuple[Weights, Any]
"""Weights, and what the pool made of them."""


class Block(NamedTuple):
    """What the learner takes in at a time."""

    source: int  # counts the shares that are taken in apart from each other
    first: int  # environment
    segment: Segment
    starts_anew: bool  # the environments were made anew since the last block of this source


class Synchronous:
    """Actors that the learner waits for.

    Args:
        crew: the actors.
        stand: of all environments, after `number` segments.
        history: of all environments, so far.
        number: segments that were taken in.
        lag: segments that actors may be ahead.
        weights: the newest versions, oldest first, that orders still need.
        differs: told of the environments [envs] that could not be restored.
    """

    def __init__(
        self,
        crew: Crew,
        stand: Stand,
        number: int,
        lag: int,
        weights: Sequence[Weights],
        differs: Callable[[np.ndarray], None],
    ) -> None:
        self._crew, self.stand, self._saved = crew, stand, stand.history
        self.number, self._lag, self._differs = number, lag, differs
        self._num_envs = sum(member.share.size for member in crew.members)
        self._history: History | None = None  # of what was taken in; its period is not known yet
        self._versions: deque[Published] = deque(maxlen=lag + 1)  # what orders may need
        for version in weights:
            self._versions.append((version, crew.pool.publish(version)))
        self._arrived: list[deque[Segment]] = [deque() for _ in crew.members]

    @property
    def weights(self) -> list[Weights]:
        """The newest versions of weights, oldest first."""
        return [weights for weights, _ in self._versions]

    @property
    def history(self) -> SavedHistory:
        """The history of all environments."""
        assert self._history is not None  # noqa: S101 - something was played
        return self._history.save()

    def begin(self) -> None:
        """Start the actors."""
        for member in self._crew.members:
            member.next = self.number
            stand = self._stand_of(member)
            orders = [self._order(self.number + i) for i in range(self._lag + 1)]
            self._crew.start(member, stand, orders)

    def block(self) -> Block | None:
        """Return the next segment of all actors; None if a stop was requested."""
        if not self._crew.wait(self, lambda: all(self._arrived), self._take):
            return None
        segment = merged([arrived.popleft() for arrived in self._arrived])
        self._record(segment)
        self.stand = segment.stand
        self.number += 1
        return Block(0, 0, segment, starts_anew=False)

    def learned(self, weights: Weights) -> None:
        """Let actors continue, as the segment was learned from."""
        self._versions.append((weights, self._crew.pool.publish(weights)))
        order = self._order(self.number + self._lag)
        for member in self._crew.members:
            self._crew.order(member, order)

    def rejoin(self, member: Member) -> tuple[Stand, Sequence[Order]]:
        """Return where an actor stood after its last segment, and the orders since then."""
        last = self.number + self._lag
        return self._stand_of(member), [self._order(i) for i in range(member.next, last + 1)]

    def restored(self, member: Member, ready: Ready) -> None:
        """Note the environments that could not be restored."""
        if self._history is None:
            action_shape = member.setup.spec.action_shape
            self._history = History(self._num_envs, ready.period, action_shape)
            if self._saved is not None:
                self._history.load(self._saved)
        if ready.differs.any():
            differs = np.zeros(self._num_envs, bool)
            differs[_slice(member)] = ready.differs
            self._history.restart(differs)
            self._differs(differs)

    def _order(self, number: int) -> Order:
        """Return the order of a segment, with the weights of its version."""
        wanted = max(number - self._lag, 0)
        weights = next(given for weights, given in self._versions if weights.version == wanted)
        setup = self._crew.members[0].setup
        steps = setup.actors.actor_steps * self._num_envs
        return Order(number, number * steps, weights)

    def _stand_of(self, member: Member) -> Stand:
        """Return where an actor stands after the segments that came from it."""
        share, arrived = _slice(member), self._arrived[member.share.actor]
        saved = self._saved if self._history is None else self._history.save()
        acting, newest = jax.tree.map(lambda x: x[share], (self.stand.acting, self.stand.newest))
        if newest is None or saved is None:
            return Stand(acting, None, None)
        saved = saved.of_share(share)
        if not arrived or self._history is None:
            return Stand(acting, newest, saved)
        action_shape = member.setup.spec.action_shape
        history = History(member.share.size, self._history.period, action_shape)
        history.load(saved)
        for segment in arrived:
            _record(history, segment)
        return arrived[-1].stand._replace(history=history.save())

    def _take(self, member: Member, segment: Segment) -> None:
        self._arrived[member.share.actor].append(segment)

    def _record(self, segment: Segment) -> None:
        assert self._history is not None  # noqa: S101 - the actors are there
        _record(self._history, segment)


class Asynchronous:
    """Actors that nobody waits for.

    Args:
        crew: the actors.
        fresh: makes the state of an actor that starts, as a `Stand` has it.
        lives: how often each actor was started before.
        number: of the first segments.
        lag: segments that actors may be ahead.
        weights: the newest.
    """

    def __init__(
        self,
        crew: Crew,
        fresh: Callable[[Member], list[np.ndarray]],
        lives: Sequence[int],
        number: int,
        lag: int,
        weights: Weights,
    ) -> None:
        self._crew, self._fresh, self._lag = crew, fresh, lag
        self._newest: Published = (weights, crew.pool.publish(weights))
        self._arrived: deque[tuple[Member, Segment]] = deque()
        self._anew: set[tuple[int, int]] = set()  # actors, and their segments that begin episodes
        self._current: Member | None = None  # whose segment was taken in last
        for member, life in zip(crew.members, lives, strict=True):
            member.life, member.next = life, number

    @property
    def lives(self) -> list[int]:
        """How often each actor was started before the present time."""
        return [member.life for member in self._crew.members]

    def begin(self) -> None:
        """Start the actors."""
        for member in self._crew.members:
            self._crew.start(member, *self._joining(member))

    def block(self) -> Block | None:
        """Return the next segment that has come; None if a stop was requested."""
        if not self._crew.wait(self, lambda: bool(self._arrived), self._take):
            return None
        member, segment = self._arrived.popleft()
        share, self._current = member.share, member
        begins = (share.actor, segment.number)
        anew = begins in self._anew
        self._anew.discard(begins)
        return Block(share.actor, share.first, segment, anew)

    def learned(self, weights: Weights) -> None:
        """Let the actor continue whose segment was learned from.

        So at most `lag` + 1 segments of each actor are ordered or wait here.
        """
        self._newest = (weights, self._crew.pool.publish(weights))
        member = self._current
        if member is not None:
            waiting = sum(other is member for other, _ in self._arrived)
            number = member.next + len(member.orders)
            if len(member.orders) + waiting <= self._lag:
                self._crew.order(member, self._order(member, number))

    def rejoin(self, member: Member) -> tuple[Stand, Sequence[Order]]:
        """Return a new start; the segment that an actor did not finish is lost."""
        self._crew.lost += 1
        return self._joining(member)

    def restored(self, member: Member, ready: Ready) -> None:
        """Do nothing: no environment is restored."""

    def _joining(self, member: Member) -> tuple[Stand, Sequence[Order]]:
        """Return the start of an actor whose environments begin anew, and its orders."""
        self._anew.add((member.share.actor, member.next))
        waiting = sum(other is member for other, _ in self._arrived)
        orders = [
            self._order(member, member.next + i) for i in range(max(self._lag + 1 - waiting, 1))
        ]
        return Stand(self._fresh(member), None, None), orders

    def _order(self, member: Member, number: int) -> Order:
        """Return the order of a segment; an actor counts steps as if all were as fast."""
        options = member.setup.options.runner
        return Order(
            number, number * member.setup.actors.actor_steps * options.num_envs, self._newest[1]
        )

    def _take(self, member: Member, segment: Segment) -> None:
        self._arrived.append((member, segment))


def merged(segments: Sequence[Segment]) -> Segment:
    """Join the segments of all shares, in their order, to one of all environments."""
    first = segments[0]
    if len(segments) == 1:
        return first

    def joined(axis: int, *trees: Any) -> Any:
        return jax.tree.map(lambda *x: np.concatenate(x, axis), *trees)

    acting = joined(0, *(segment.stand.acting for segment in segments))
    newest = joined(0, *(segment.stand.newest for segment in segments))
    return first._replace(
        time_steps=joined(1, *(segment.time_steps for segment in segments)),
        actions=joined(1, *(segment.actions for segment in segments)),
        errors=joined(1, *(segment.errors for segment in segments)),
        stats=_merged_stats(segments),
        stand=Stand(acting, newest, None),
        exploration=joined(0, *(segment.exploration for segment in segments)),
        seconds=max(segment.seconds for segment in segments),
    )


def _merged_stats(segments: Sequence[Segment]) -> dict[int, dict[str, np.ndarray]]:
    """Join the statistics of episodes; NaN where a share reported none."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for step in sorted({step for segment in segments for step in segment.stats}):
        parts = [(segment.stats.get(step, {}), segment.share) for segment in segments]
        names = dict.fromkeys(name for stats, _ in parts for name in stats)
        found[step] = {
            name: np.concatenate(
                [stats.get(name, np.full(share, np.nan)) for stats, share in parts]
            )
            for name in names
        }
    return found


def _record(history: History, segment: Segment) -> None:
    """Record the steps of a segment."""
    reached = segment.reached
    for i, actions in enumerate(segment.actions):
        last = np.asarray(reached.last[i])
        history.record(actions, np.asarray(reached.reward[i]), last, history.starts())


def _slice(member: Member) -> slice:
    first = member.share.first
    return slice(first, first + member.share.size)
