"""Actors on the nodes of a Ray cluster.

Weights go through Ray's object store, once for all actors. An actor that died is made anew by the
learner, as on this machine, because only the learner knows where it stood.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from noisydqn.cluster import ANSWER_SECONDS, RayCluster
from noisydqn.errors import EnvironmentFailedError, in_one_line
from noisydqn.runners.actors.messages import Answer, Died, Order, Setup, Stand, Weights
from noisydqn.runners.actors.serving import Serving, packed, use_one_thread

FULL_SECONDS = 60.0
"""Seconds without room for weights in the object store, after which the run ends."""
RETRY_SECONDS = 1.0


class RayActors:
    """An `ActorPool` on a Ray cluster.

    Args:
        cluster: the cluster.
        cores: that each actor reserves, perhaps less than one. One that is started again reserves
            none, because a cluster that lost a node may have none to give.
        warn: told of an object store that is full.
    """

    def __init__(self, cluster: RayCluster, cores: float, warn: Callable[[str], None]) -> None:
        self._ray, self._warn = cluster.ray, warn
        self._made, self._cores = self._ray.remote(OnNode), cores
        self._actors: dict[int, tuple[Any, int]] = {}  # with their lives
        self._waiting: dict[Any, tuple[int, int]] = {}  # what will be answered, oldest first

    def start(self, setup: Setup, stand: Stand, life: int) -> None:
        """Start an actor; see `ActorPool.start`."""
        index = setup.share.actor
        made_of = packed(setup._replace(cache=None if setup.cache else ""), stand)  # of its node
        self.end(index)
        placed = self._made.options(
            num_cpus=0.0 if life else self._cores, max_restarts=0, scheduling_strategy="SPREAD"
        )
        actor = placed.remote(made_of, sys.path)
        self._actors[index] = actor, life
        self._waiting[actor.first.remote()] = index, life

    def publish(self, weights: Weights) -> Any:
        """Put weights into the object store.

        Raises:
            EnvironmentFailedError: it is full, and stays so.
        """
        end, told = time.monotonic() + FULL_SECONDS, False
        while True:
            try:
                return self._ray.put(weights)
            except Exception as error:
                if time.monotonic() > end:
                    raise EnvironmentFailedError(
                        f"Ray's object store takes no weights ({in_one_line(error)}): start Ray "
                        "with more --object-store-memory"
                    ) from error
                if not told:
                    self._warn(
                        f"Ray's object store takes no weights ({in_one_line(error)}): waiting for "
                        "room"
                    )
                told = True
                time.sleep(RETRY_SECONDS)

    def order(self, actor: int, order: Order) -> None:
        """Queue an order."""
        handle, life = self._actors[actor]
        reference = handle.play.remote(order._replace(weights=None), order.weights)
        self._waiting[reference] = actor, life

    def answers(self, seconds: float) -> list[Answer]:
        """Return what has arrived, waiting up to some seconds for the first."""
        references = list(self._waiting)
        if not references:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        if not done:
            return []
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._answer(reference) for reference in sorted(done, key=references.index)]

    def _answer(self, reference: Any) -> Answer:
        actor, life = self._waiting.pop(reference)
        try:
            return Answer(actor, life, self._ray.get(reference, timeout=ANSWER_SECONDS))
        except Exception as error:  # Ray raises what it likes
            return Answer(actor, life, Died(in_one_line(error)))

    def end(self, actor: int) -> None:
        """Kill an actor."""
        if actor in self._actors:
            handle, _ = self._actors.pop(actor)
            with contextlib.suppress(Exception):  # its node is gone
                self._ray.kill(handle)
            self._waiting = {x: of for x, of in self._waiting.items() if of[0] != actor}

    def close(self) -> None:
        """Kill all actors."""
        for actor in list(self._actors):
            self.end(actor)


class OnNode:
    """An actor, as Ray makes it on a node.

    Args:
        made_of: from `packed`.
        paths: where the learner finds modules, which this node may have, too.
    """

    def __init__(self, made_of: bytes, paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        use_one_thread()
        self._serving = Serving(made_of)

    def first(self) -> Any:
        """Return the answer to being made."""
        return self._serving.first

    def play(self, order: Order, weights: Weights) -> Any:
        """Play a segment; see `Serving.play`."""
        return self._serving.play(order._replace(weights=weights))
