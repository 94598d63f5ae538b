"""Forged spaces, weights, checkpoints and exported policies, and the commands that refuse them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.strangers import spoil
from tests.strangers.runs import CANARY, LARGE
from tests.strangers.spoil import (
    NUM_COUNTS,
    Attack,
    Spoil,
    count,
    in_card,
    manifest,
    progress,
    state,
    write,
)
from tests.strangers.victim import EVERY, OPTIONS, PLAY, POLICY, PUSH, START, Victim

Named = tuple[str, Spoil]


def box(shape: Any) -> dict[str, Any]:
    """Describe a space of numbers."""
    return {"kind": "Box", "shape": shape, "dtype": "float32"}


def tuples(depth: int) -> dict[str, Any]:
    """Describe a space inside of others."""
    space = box([4])
    for _ in range(depth):
        space = {"kind": "Tuple", "spaces": [space]}
    return space


def categories(n: int, number: int) -> dict[str, Any]:
    """Describe a space of categories."""
    return {"kind": "MultiDiscrete", "nvec": [n] * number, "start": [0] * number, "shape": [number]}


SHAPES: list[Any] = [[2**28] * 2, [2**62], [2**64], [-1], [0], [], [1] * 9, [4.5], ["4"], 4, None]
PARTS = {"kind": "Tuple", "spaces": [{"kind": "Discrete", "n": 1}] * 60_000}
LONG_NAMES = [str(i) for i in range(65_536)]
SPACES: dict[str, dict[str, Any]] = {
    **{f"shape {str(shape)[:20]}": {"observation": box(shape)} for shape in SHAPES},
    **{f"spaces {depth} deep": {"observation": tuples(depth)} for depth in (16, 100, 400)},
    "a long key of many parts": {
        "observation": {"kind": "Dict", "keys": ["k" * 1_000_000], "spaces": [PARTS]}
    },
    "many categories": {"observation": categories(1, 300_000)},
    "large categories": {"observation": categories(2**28, 1_000)},
    **{
        f"{n} actions": {"actions": {"kind": "Discrete", "n": n, "start": 0}}
        for n in (0, -1, 2**28, 2**64, 65_537, 65_536)
    },
    "many actions": {
        "actions": {"kind": "Discrete", "n": 65_536, "start": -(2**62)},
        "action_names": LONG_NAMES,
    },
    "a long name of an action": {"action_names": ["x" * 1_000_000, "y"]},
    "axes": {"axes": [0, 1, 2]},
    "another version": {"version": 2},
    "an unknown key": {"x\x1b": 1},
}


def spaces() -> Iterator[Attack]:
    """Describe spaces that nothing can hold."""
    tried = EVERY - OPTIONS - PUSH - {"train --resume", "record"}
    for name, changes in SPACES.items():

        def spoiled(victim: Victim, changes: dict[str, Any] = changes) -> None:
            spoil.edit(victim, "spaces.json", **changes)

        yield Attack(name, spoiled, tried, tried)


# Weights

HEADERS: dict[str, Any] = {
    "a huge array": {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
    "an overflow": {"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
    "a negative shape": {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "a shape of zero": {"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "offsets backwards": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    "offsets outside": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [2**40, 2**40 + 4]}},
    "an unknown type": {"x": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}},
    "bfloat16": {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
    "float8": {"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
    "many arrays": {
        f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)
    },
    "no array": {},
}


def _raw() -> Iterator[tuple[str, bytes]]:
    """Make files of safetensors whose header is none."""
    for size in (0, 1, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {size}", size.to_bytes(8, "little") + b"{}"
    for kind, text in spoil.NESTED.items():
        yield f"a header of nested {kind}", len(text).to_bytes(8, "little") + text


def weights() -> Iterator[Attack]:
    """Forge weights."""
    tried = POLICY | PLAY | START
    yield Attack("weights that are not finite", spoil.infinite_weights, tried, START)
    for kind, header in HEADERS.items():
        change = spoil.with_arrays(header)
        yield Attack(f"{kind} in weights", write("best.safetensors", change), tried, tried)
    forged = list(_raw())
    for kind, text in spoil.NESTED.items():
        about = {"__metadata__": {"noisydqn": text.decode()}}
        forged.append((f"metadata of nested {kind}", spoil.tensors(about)))
    for kind, data in forged:
        spoiled = write("best.safetensors", lambda _, data=data: data)
        yield Attack(f"{kind} in weights", spoiled, tried, tried)


def policies() -> Iterator[Attack]:
    """Damage and forge exported policies and their cards."""
    tried = {"load file"}

    def of(name: str, change: spoil.Change, *, refused: bool = True) -> Attack:
        def given(victim: Victim) -> None:
            victim.given.write_bytes(change(victim.policy.read_bytes()))

        return Attack(f"{name} in a policy", given, tried, tried if refused else frozenset())

    for kind, damage in spoil.DAMAGED.items():
        if kind != "UTF-16":
            yield of(kind, damage)
            inside = spoil.card(lambda text, damage=damage: damage(text.encode()).decode("latin-1"))
            yield of(f"{kind} as the card", inside, refused="UTF-8" not in kind)
    for kind, header in HEADERS.items():
        yield of(kind, spoil.with_arrays(header))
    for kind, data in _raw():
        yield of(kind, lambda _, data=data: data)
    for option in ("torso", "exploration"):
        yield of(f"{option} of code", in_card("config", option, to=f"python:{CANARY}.make"))
    for env in ("python:os.system", f"{CANARY}:Canary-v0"):  # which a policy does not need
        yield of(f"env {env}", in_card("config", "env", to=env), refused=False)
    for name, changes in LARGE.items():
        for option, value in changes.items():
            yield of(f"{name}, {option}", in_card("config", option, to=value), refused=False)
    no_spaces = in_card("spaces", to=None)
    for shape in SHAPES:
        yield of(f"shape {str(shape)[:20]}", in_card("spaces", "observation", to=box(shape)))
        old = spoil.both(no_spaces, in_card("observation", "shape", to=shape))
        yield of(f"shape {str(shape)[:20]} without spaces", old)
    for key in ("version", "config", "spaces", "observation", "actions"):
        for value in ([], {}, "x", -1, 1e308, [[]] * 1_000):
            needed = (key, value) != ("observation", {})  # the spaces tell it
            yield of(f"{str(value)[:12]} as {key}", in_card(key, to=value), refused=needed)
    bare = spoil.both(no_spaces, in_card("observation", to={}))
    yield of("neither spaces nor observation", bare)
    names = in_card("actions", "names", to=["x"] * 10**6)
    yield of("many actions", spoil.both(no_spaces, names))
    yield from (Attack(name, spoiled, tried, tried) for name, spoiled in _sparse())


def _sparse() -> Iterator[Named]:
    """Make policies of gibibytes that take no room on the disk."""

    def grown(victim: Victim) -> None:
        victim.given.write_bytes(victim.policy.read_bytes())
        spoil.OTHERS["sparse file"](victim, victim.given)

    def array(victim: Victim) -> None:
        big = {"x": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}
        victim.given.write_bytes(spoil.with_arrays(big)(victim.policy.read_bytes())[:-4])
        with victim.given.open("ab") as file:
            file.truncate(file.tell() + 2**33)

    yield "a sparse policy", grown
    yield "a policy with a sparse array", array


# Checkpoints

FILE_NAMES = ["../secret", "/etc/passwd", "state-00000001.bin/../lock", "lock", "", "x" * 10_000]
SIZES: list[Any] = [-1, 2**40, 2**63, 2**64, 0, 1.5, "1", None, [], True]
FIELDS = ("number", "written", "slots", "block_slots", "rows", "arrays", "run", "state")
PROGRESS: dict[str, list[Any]] = {
    "num_updates": [-1, 2**31, 2**64, 1.5],
    "steps": [-1, 0, 2**31, 2**64, None],
    "evaluated_at": [-1, 2**63],
    "stopped_budget": [-1, 2**63],
    "recent_returns": [[1e308] * 1_000, ["x"], [None], 3],
    "best_return": [1e308, "x", []],
    "solved_at": [[1], [-1, -1.0], [2**70, 1.0]],
    "seconds": [-1.0, 1e308, 0.0, "1"],
    "pending": [
        [[8, 1.0], [8, 1.0]],
        [[-1, 1.0]],
        [[2**63, 1.0]],
        [[7, 1.0], [8, 1.0]],
        [[i, 1.0] for i in range(300_000)],
    ],
    "seeds": [[], None],
}
ARRAYS: dict[str, list[Any]] = {
    "history.episode": [-1, 2**62],
    "history.span": [-1, 7, 2**62],
    "history.length": [-1, 7, 2**62],
    "history.actions": [-1, 7, 2**31 - 1],
    "history.total": [np.nan],
    "history.over": [1],
    "actions": [7, -(2**31)],
    "episodes.0": [np.inf],
    "episodes.1": [-1],
    "state.replay.position": [-5, 2**31 - 1],
    "state.replay.max_priority": [np.nan],
    "state.replay.tree": [np.inf],
    "state.learner.updates": [-(2**31)],
    "state.learner.online.vector": [np.nan],
    "state.learner.optimizer.0.count": [-1],
    "seed0.final.network.hidden.0.weight_mu": [np.inf],
    "sums.vector": [np.nan],
    "time_step.reward": [np.inf],
}


def manifests() -> Iterator[Attack]:
    """Forge manifests, what they say about a run, and the arrays."""
    tried = {"resume"}
    yield Attack("impossible rows of a replay buffer", spoil.rows, START, START)
    for name in FILE_NAMES:
        forged = manifest(lambda m, name=name: m["state"].update(name=name))
        yield Attack(f"a manifest that names {name[:20]!r}", forged, tried | START, tried | START)
    for key in FIELDS:
        for value in SIZES:
            forged = manifest(lambda m, key=key, value=value: m.update({key: value}))
            yield Attack(f"{key} {value!r} in a manifest", forged, tried | START)
    for key, values in PROGRESS.items():
        for i, value in enumerate(values):
            yield Attack(f"{key} of kind {i}", progress(**{key: value}), tried)
    for size in (-1, 2**63, 2**64, 1.5, None):
        forged = manifest(lambda m, size=size: m["run"].update(file_sizes=[[size] * 3]))
        yield Attack(f"files of {size} bytes", forged, tried, tried)
    for place in range(NUM_COUNTS):
        for value in (-1, 2**20, 2**40, 2**62, -(2**63)):
            yield Attack(f"count {place} of {value}", count(place, value), tried, tried)
    yield Attack("counts that are all large", state("counts", [2**62] * NUM_COUNTS), tried, tried)
    for array, values in ARRAYS.items():
        for value in values:
            yield Attack(f"{array} of {value}", state(array, [value]), tried)
