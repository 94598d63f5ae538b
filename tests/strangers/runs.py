"""Spoiled runs, by name: links, damage, and options that no run has."""

import json
from collections.abc import Iterator, Set
from typing import Any

from tests.strangers import spoil
from tests.strangers.spoil import (
    LINKS,
    OTHERS,
    Attack,
    Spoil,
    at,
    inserted,
    numbers,
    options,
    write,
)
from tests.strangers.victim import (
    EVERY,
    OPTIONS,
    PLAY,
    POLICY,
    PUSH,
    REPORT,
    RESUME,
    START,
    Victim,
)

# What has the path of a file

ON, ENDS = {"resume"}, {"resume the end"}
TOUCHED: dict[str, Set[str]] = {
    "config.json": EVERY | REPORT,
    "spaces.json": EVERY - OPTIONS,
    "best.safetensors": PLAY | POLICY | PUSH | ON | START,
    "final.safetensors": PUSH | ON,
    "summary.json": {"export"} | PUSH | ON | REPORT | START,
    "policy.mp4": {"record"} | PUSH | ON | REPORT,
    "policy.safetensors": {"export"},
    "policy.safetensors.json": {"export"},
    "curves.png": PUSH | ON,
    "report.html": ON,
    "metrics.csv": PUSH | ON | REPORT,
    "episodes.csv": PUSH | ON | REPORT,
    "evaluations.csv": PUSH | ON | REPORT,
    "tracking.json": ON,
    "tensorboard": ON,
    "checkpoints": RESUME | START,
    "lock": RESUME,
    "checkpoints/none-yet": ON,
    spoil.MANIFEST: ON | REPORT | START,
    spoil.STATE: ON | START,
    "checkpoints/rows-00000001-000000.bin": ON | START,
    "checkpoints/checkpoint-00000002.json": ON,
    "checkpoints/state-00000002.bin": ON,
    "checkpoints/rows-00000002-000000.bin": ON,
}
"""The paths of a run, and the commands that read or write them."""
READ: dict[str, Set[str]] = {
    "config.json": EVERY | REPORT,
    "spaces.json": EVERY - OPTIONS - PUSH,
    "best.safetensors": PLAY | POLICY | START,
}
"""Files whose loss a command cannot do without."""

AT_EVERY_PATH = {"link", "dangling link", "hard link", "pipe", "folder", "sparse file"}
AT_THESE = {"config.json", "best.safetensors", "metrics.csv", "tensorboard", "checkpoints"}
"""The other kinds are refused by the same code, so they are tried at these paths alone."""


def paths() -> Iterator[Attack]:
    """Put everything that is no plain file at every path of a run."""
    for name, tried in TOUCHED.items():
        for kind, put in (LINKS | OTHERS).items():
            if kind in AT_EVERY_PATH or name in AT_THESE:
                yield Attack(f"{kind} at {name}", at(name, put), tried, READ.get(name, frozenset()))
        for kind in ("link", "dangling link", "folder"):
            writes = tried & {"export", "resume"}
            if name not in ("tensorboard", "checkpoints", "lock") and writes:
                put = (LINKS | OTHERS)[kind]
                yield Attack(f"{kind} at {name}.part", at(f"{name}.part", put), writes)


# Names of code

CANARY = "canary_of_strangers"
HARMFUL: dict[str, Any] = {
    "a module": {"x": f"{CANARY}:make"},
    "a path": {"x": "../outside/secret"},
    "a path of Windows": {"x": "..\\outside"},
    "an address": {"x": "https://example.org"},
    "a key": {f"{CANARY}:make": 1},
    "a key in a list": {"x": [1, [None, {"y": {"a:b": 1}}]]},
    "the home folder": {"x": "~"},
    "a hidden file": {"x": ".secret"},
}


def code() -> Iterator[Attack]:
    """Name code in every option that can."""
    runs = EVERY - PUSH
    needs = runs - POLICY
    for env in ("python:os.system", f"python:{CANARY}.make", f"{CANARY}:Canary-v0", "x:y:z", ":"):
        yield Attack(f"env {env}", options(env=env), refused=needs)

    def command(victim: Victim) -> None:
        kwargs = json.dumps({"command": victim.command})
        options(env="python:os.system", env_kwargs=kwargs)(victim)

    yield Attack("a command", command, refused=needs)
    for name, kwargs in HARMFUL.items():
        for env in ("CartPole-v1", "GymV26Environment-v0", "noisydqn/Catcher-v0"):
            spoiled = options(env=env, env_kwargs=json.dumps(kwargs))
            yield Attack(f"{name} for {env}", spoiled, runs, needs)
    for option in ("torso", "exploration"):
        value = f"python:{CANARY}.make"
        yield Attack(f"{option} {value}", options(**{option: value}), refused=runs)

    def old(victim: Victim) -> None:
        (victim.run / "spaces.json").unlink()
        options(env=f"{CANARY}:Canary-v0")(victim)

    yield Attack("an environment for an old run", old, refused=runs)


# Contents

JSON: dict[str, Set[str]] = {
    "config.json": EVERY | REPORT,
    "spaces.json": EVERY - OPTIONS - PUSH,
    "summary.json": {"export"} | PUSH | ON | REPORT | START,
}
"""Files of JSON, and the commands that read them."""


def contents() -> Iterator[Attack]:
    """Damage files of JSON so that they are no JSON, or not what was expected."""
    for name, tried in JSON.items():
        for kind, damage in spoil.DAMAGED.items():
            refused = frozenset() if name == "summary.json" else tried
            yield Attack(f"{kind} in {name}", write(name, damage), tried, refused)
    for key in ("steps", "hidden", "learning_rate", "version"):
        for kind, damage in numbers(key).items():
            yield Attack(f"{kind} in config.json", write("config.json", damage), {"load_config"})
    for kind, damage in numbers("steps").items():
        yield Attack(f"{kind} in summary.json", write("summary.json", damage), {"export"} | PUSH)
    for kind, damage in spoil.DAMAGED.items():
        yield Attack(f"{kind} as a manifest", write(spoil.MANIFEST, damage), ON | START, ON | START)

        def inside(data: bytes, damage: spoil.Change = damage) -> bytes:
            return spoil.sign(damage(data.partition(b"\n")[2]))

        yield Attack(f"{kind} in a manifest", write(spoil.MANIFEST, inside), ON | START)
        if kind != "UTF-16":
            weights = write("best.safetensors", damage)
            refused = {"load_policy"} if kind != "a byte order mark" else frozenset[str]()
            yield Attack(f"{kind} in weights", weights, {"load_policy"}, refused)


EVALUATIONS: dict[str, Any] = {
    "a list": [],
    "a text": "good",
    "a number": 3,
    "true": True,
    "no return": {"episodes": 3},
    "a text as a return": {"mean_return": "high"},
    "an object as a return": {"mean_return": {"x": 1}},
    "a name with lines": {"mean_return": 1, "x\n---\ny": 2},
}


def summaries() -> Iterator[Attack]:
    """Change the summary, whose evaluation is repeated in the last lines and on the hub."""
    tried = {"export"} | PUSH | ENDS | REPORT

    def summary(**changes: Any) -> Spoil:
        return lambda victim: spoil.edit(victim, "summary.json", **changes)

    for name, value in EVALUATIONS.items():
        yield Attack(f"{name} as the evaluation", summary(evaluation=value), tried)
    for key, value in {"steps": "many", "preset": ["x"], "seed": {}, "env": None}.items():
        yield Attack(f"{value} as {key} of the summary", summary(**{key: value}), tried)
    deep = write("summary.json", inserted('"x": ' + "[" * 300 + "]" * 300))
    yield Attack("a nested summary", deep, tried)


# Options

LARGE: dict[str, dict[str, Any]] = {
    "wide layers": {"hidden": [2**30] * 3},
    "widths beyond 64 bits": {"hidden": [2**70]},
    "many layers": {"hidden": [1] * 10_000},
    "many layers of the torso": {"torso": "mlp", "torso_widths": [1] * 10_000},
    "many layers of streams": {"dueling": True, "dueling_hidden": [1] * 10_000},
    "many atoms": {"distribution": "categorical", "atoms": 2**30, "v_min": -1.0, "v_max": 1.0},
    "many quantiles": {"distribution": "quantile", "quantiles": 2**30},
    "many acting quantiles": {
        "distribution": "implicit-quantile",
        "quantiles": 8,
        "acting_quantiles": 2**30,
    },
    "many environments": {"num_envs": 2**30},
    "many seeds": {"num_seeds": 2**30},
    "a large batch": {"batch_size": 2**30},
    "a large replay buffer": {"replay_capacity": 2**30},
    "a late last seed": {"seed": 2**32 - 1, "num_seeds": 2},
    "many episodes": {"evaluation_episodes": 2**30},
    "a long timeout": {"step_timeout": 1e300, "vectorization": "subprocess"},
}
NAMES = [
    "x" * 10_000_000,
    "../../x",
    "/etc/passwd",
    "..",
    "\0",
    "a\nb",
    "\x1b[2J",
    "\x9b2J",
    "\ud800",
]


def configs() -> Iterator[Attack]:
    """Give options values that no machine can hold, and names that lead elsewhere."""
    for name, changes in LARGE.items():
        yield Attack(name, options(**changes), OPTIONS | POLICY | {"evaluate", "resume"})
    few = {"train", "load_policy", "evaluate"} | REPORT
    for option in ("preset", "env", "torso", "exploration", "distribution", "env_kwargs"):
        for value in NAMES:
            yield Attack(f"{value[:12]!r} as {option}", options(**{option: value}), few)
            if option in ("torso", "exploration", "env"):
                inert = options(**{option: f"python:<{value}>"})
                yield Attack(f"python:<{value[:12]!r}> as {option}", inert, few)
    for depth in (15, 300, 900, 990, 3_000):
        nested = '{"x": ' + "[" * depth + "]" * depth + "}"
        yield Attack(f"env_kwargs {depth} deep", options(env_kwargs=nested), few, {"evaluate"})
    many = json.dumps({"x": [0] * 3_000_000})
    yield Attack("long env_kwargs", options(env_kwargs=many), few, few)
    yield Attack("a control character", options(env_kwargs='{"x": "\x9b2J\x7f"}'), few, few)
    twice = write("config.json", lambda data: data.rstrip(b"}\n ") + b', "env": "x:y"}')
    yield Attack("an option twice, the last one code", twice, refused=EVERY - POLICY - PUSH)
    yield Attack("an option that is none", options(**{"x" * 10_000_000: 1}), few, few)
    yield Attack("version true", options(version=True))
    yield Attack("a nested version", options(version=[[1] * 10_000]), refused=EVERY)


def seeds() -> Iterator[Attack]:
    """Put a run into a folder whose name a terminal would obey."""
    for name in ("seed\x1b[2J", "seed\n", "seed..", "seed\udcff", "seed1"):

        def nest(victim: Victim, name: str = name) -> None:
            inside = victim.root / "inside"
            victim.run.rename(inside)
            victim.run.mkdir()
            inside.rename(victim.run / name)

        refused = frozenset[str]() if name == "seed1" else {"load_config", "evaluate"}
        tried = {"load_config", "evaluate", "resume"} | REPORT
        yield Attack(f"a run in {name!r}", nest, tried, refused)


# Files of metrics

CSV: dict[str, bytes] = {
    "no numbers": b"step,return,mean_return\nx,y,z\n,,\n",
    "no columns": b"\n\n\n",
    "other columns": b"a,b\n1,2\n",
    "zeros": bytes(10_000),
    "long fields": b"step,return,mean_return\n" + b"1" * 300_000 + b",2,3\n",
    "quotes": b'step,return,mean_return\n"1,2\n3,4\n' * 100,
    "carriage returns": b"step,return\r1,2\r3,4",
    "invalid UTF-8": b"step,return,mean_return,\xff\n1,2,3,4\n",
    "rows of other lengths": b"step,return,mean_return\n1\n1,2,3,4\n1,2\n",
    "no finite numbers": b"step,return,mean_return\nnan,inf,-inf\n1e999,1e308,-1e308\n",
    "the same columns": b"step,step,return,mean_return\n1,2,3,4\n",
    "a formula": b"step,return,mean_return,$\\frac{1}$,sigma.$x_\n1,2,3,4,5\n",
    "many layers": b"step,return,mean_return,"
    + b",".join(b"sigma.%d\x1b" % i for i in range(10_000))
    + b"\n1,2,3"
    + b",4" * 10_000
    + b"\n",
    "a long name": b"step,return,mean_return," + b"x" * 100_000 + b"\n1,2,3,4\n",
}


def tables() -> Iterator[Attack]:
    """Write files of metrics that are no tables."""
    for kind, data in CSV.items():

        def spoiled(victim: Victim, data: bytes = data) -> None:
            for name in ("metrics.csv", "episodes.csv", "evaluations.csv"):
                (victim.run / name).write_bytes(data)
            spoil.manifest(lambda m: m["run"].update(file_sizes=[[2**40] * 3]))(victim)

        yield Attack(f"tables with {kind}", spoiled, {"plot"} | PUSH | ENDS | REPORT)
