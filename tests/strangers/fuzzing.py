"""Mutations of the files of a run, in any number: each command works or refuses.

`python -m benchmarks.fuzz` tries ten thousand, `tests/unit/test_strangers_fuzz.py` a few.
"""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from noisydqn.folders import File
from noisydqn.runs import plots
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.tables import CsvFile
from tests.checkpoints import DAMAGE, Damage
from tests.strangers import spoil
from tests.strangers.victim import COMMANDS, Victim, attempt, real_curves

TABLES = ("metrics.csv", "episodes.csv", "evaluations.csv")

Mutation = tuple[list[int], Any]
"""Numbers that choose a place in JSON, and what is put there; `DROP` removes it."""

DROP = "drop this entry"
NAMES = ["python:os.system", "canary_of_strangers:Canary-v0", "../x", "/etc/passwd", "~", "\x1b[2J"]
_LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70_000),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from([*NAMES, DROP, "x" * 5_000]),
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
MUTATIONS: st.SearchStrategy[Mutation] = st.tuples(
    st.lists(st.integers(0, 1_000), min_size=1, max_size=8), _VALUES
)
CELLS = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["step", "return", "mean_return", "success", "loss", "sigma.x", "", "$"]
            ),
            st.floats().map(str),
            st.integers().map(str),
            st.text(max_size=5),
        ),
        max_size=5,
    ),
    max_size=6,
)
"""The fields of a table, by row."""


def mutated(contents: Any, mutation: Mutation) -> Any:
    """Put something at a place of a value of JSON."""
    places, value = mutation
    whole = place = {"": contents}
    key: Any = ""
    for number in places:
        inside: Any = place[key]
        if not isinstance(inside, dict | list) or not inside:
            break
        keys: Any = list(inside) if isinstance(inside, dict) else range(len(inside))
        place, key = inside, keys[number % len(keys)]
    if value == DROP:
        del place[key]
    else:
        place[key] = value
    return whole.get("")


class Fuzz:
    """A run whose files are mutated again and again, and the commands that are tried on it."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim

    def _json(self, name: str, change: Mutation | Damage, *commands: str) -> None:
        path = self.victim.copy() / name
        data = path.read_bytes()
        if callable(change):
            path.write_bytes(change(data))
        else:
            path.write_text(json.dumps(mutated(json.loads(data), change)))
        for command in commands:
            attempt(self.victim, COMMANDS[command])

    def config(self, change: Mutation | Damage) -> None:
        """Change `config.json`."""
        self._json("config.json", change, "load_config", "load_policy")

    def spaces(self, change: Mutation | Damage) -> None:
        """Change `spaces.json`."""
        self._json("spaces.json", change, "load_policy")

    def summary(self, change: Mutation | Damage) -> None:
        """Change `summary.json`."""
        self._json("summary.json", change, "export", "push")

    def card(self, change: Mutation | Damage) -> None:
        """Change the card of an exported policy, whose checksum is corrected; or any byte."""
        victim = self.victim
        data = victim.policy.read_bytes()
        if callable(change):
            victim.given.write_bytes(change(data))
        else:

            def changed(text: str) -> str:
                return json.dumps(mutated(json.loads(text), change))

            victim.given.write_bytes(spoil.card(changed)(data))
        attempt(victim, COMMANDS["load file"])

    def manifest(self, mutation: Mutation) -> None:
        """Change a manifest, whose checksum is corrected, and resume the run."""
        path = self.victim.copy() / spoil.MANIFEST
        contents = json.loads(path.read_bytes().partition(b"\n")[2])
        path.write_bytes(spoil.sign(json.dumps(mutated(contents, mutation)).encode()))
        attempt(self.victim, COMMANDS["resume"])

    def table(self, change: list[list[str]] | Damage) -> None:
        """Change a table, which is read, and to which a row is added."""
        path = self.victim.copy() / "evaluations.csv"
        if callable(change):
            path.write_bytes(change(path.read_bytes()))
        else:
            text = "\n".join(",".join(row) for row in change)
            path.write_bytes(text.encode(errors="surrogatepass"))
        attempt(self.victim, lambda _: plots.read_columns(File.at(path), "mean_return"))
        warnings: list[str] = []
        table = CsvFile(File.at(path), path.stat().st_size, warnings.append)
        table.write({"step": 1, "mean_return": 2.0})
        table.close()

    def curves(self, rows: list[list[str]]) -> None:
        """Change all tables, and draw their curves."""
        run = self.victim.copy()
        header = "step,return,mean_return,loss,sigma.x\n"
        for name in TABLES:
            text = header + "\n".join(",".join((row + ["1"] * 5)[:5]) for row in rows)
            (run / name).write_bytes(text.encode(errors="surrogatepass"))
        attempt(self.victim, lambda _: real_curves(RunFolder.at(run)))


ANY: st.SearchStrategy[Mutation | Damage] = st.one_of(MUTATIONS, DAMAGE)
KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Fuzz, Any], None]]] = {
    "configs": (ANY, Fuzz.config),
    "spaces": (ANY, Fuzz.spaces),
    "summaries": (ANY, Fuzz.summary),
    "exported policies": (ANY, Fuzz.card),
    "manifests of runs": (MUTATIONS, Fuzz.manifest),
    "tables": (st.one_of(CELLS, DAMAGE), Fuzz.table),
    "curves": (CELLS, Fuzz.curves),
}
"""What is mutated, how, and what is tried on it."""
