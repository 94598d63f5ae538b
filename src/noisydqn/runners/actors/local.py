"""Actors in processes of this machine.

Each has a thread here that talks with it, so neither an actor that is busy nor one that was stopped
can keep the learner waiting.
"""

import atexit
import contextlib
import multiprocessing
import queue
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from noisydqn.envs.children import become_child, how_it_ended, signals_held
from noisydqn.runners.actors.messages import Answer, Died, Order, Setup, Stand, Weights
from noisydqn.runners.actors.serving import Serving, packed, use_one_thread
from noisydqn.runners.actors.shared_memory import SharedMemory

CLOSE_SECONDS = 2.0
"""Seconds that actors have to close their environments before they are killed."""


class _Actor(NamedTuple):
    process: Any
    orders: "queue.SimpleQueue[Order | None]"


class LocalActors:
    """An `ActorPool` of processes of this machine, which end with this one."""

    def __init__(self) -> None:
        self._actors: dict[int, _Actor] = {}
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._memory = SharedMemory()
        self._published: tuple[Any, Any] = None, None  # the newest parameters, and where they are
        atexit.register(self._kill)

    def start(self, setup: Setup, stand: Stand, life: int) -> None:
        """Start an actor; see `ActorPool.start`."""
        made_of, index = packed(setup, stand), setup.share.actor
        self.end(index)
        context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,))
        with signals_held():
            process.start()
        theirs.close()
        self._actors[index] = actor = _Actor(process, queue.SimpleQueue())
        talk = threading.Thread(target=self._talk, args=(index, life, actor, pipe, made_of))
        talk.daemon = True
        talk.start()

    def _talk(self, index: int, life: int, actor: _Actor, pipe: Connection, made_of: bytes) -> None:
        """Pass an actor its orders and take its answers, until its process ends."""
        message: Any = made_of
        early = True
        try:
            with contextlib.closing(pipe):
                while message is not None:
                    pipe.send(message)
                    self._answers.put(Answer(index, life, pipe.recv()))
                    early = False
                    message = actor.orders.get()
                pipe.send(None)
        except (EOFError, OSError):
            how = f"its process {how_it_ended(actor.process, early=early)}"
            self._answers.put(Answer(index, life, Died(how)))

    def publish(self, weights: Weights) -> Any:
        """Write the network's parameters where all actors read them; orders carry the rest."""
        if weights.vector is not self._published[0]:
            self._published = weights.vector, self._memory.put(weights.vector)
        return weights._replace(vector=self._published[1])

    def order(self, actor: int, order: Order) -> None:
        """Queue an order."""
        self._actors[actor].orders.put(order)

    def answers(self, seconds: float) -> list[Answer]:
        """Return what has arrived, waiting up to some seconds for the first."""
        found: list[Answer] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._answers.get(timeout=seconds))
            while True:
                found.append(self._answers.get_nowait())
        return found

    def end(self, actor: int) -> None:
        """Kill an actor."""
        if actor in self._actors:
            ended = self._actors.pop(actor)
            ended.process.kill()
            ended.orders.put(None)  # its thread may wait for one
            ended.process.join(CLOSE_SECONDS)

    def close(self) -> None:
        """Ask all actors to close their environments; kill those that do not."""
        for actor in self._actors.values():
            actor.orders.put(None)
        end = time.monotonic() + CLOSE_SECONDS
        for actor in self._actors.values():
            actor.process.join(max(end - time.monotonic(), 0))
        self._kill()
        self._memory.close()
        atexit.unregister(self._kill)

    def _kill(self) -> None:
        for actor in list(self._actors):
            self.end(actor)


def _serve(pipe: Connection) -> None:
    """Be an actor: the first message says what it is made of, the others are orders."""
    become_child()
    use_one_thread()
    with contextlib.suppress(EOFError, OSError):  # the learner is gone
        serving = Serving(pipe.recv())
        with contextlib.closing(serving):
            pipe.send(serving.first)
            while (order := pipe.recv()) is not None:
                pipe.send(serving.play(order))
