"""Loading of mutated files of every kind, checksums corrected: correct, or refused in one line.

python -m benchmarks.fuzz [--examples 10000]

The tests have a smaller set.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.checkpoints import DAMAGE, FORGERIES, Corpus
from tests.strangers.fuzzing import KINDS, Fuzz
from tests.strangers.victim import Victim

from benchmarks import results

SHARES = {"manifests of runs": 0.06, "curves": 0.01}
"""Shares of the examples of what takes long; the others have equal ones."""


def main() -> None:
    """Fuzz and save the numbers of examples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="in all")
    examples = parser.parse_args().examples
    corpus = Corpus()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Victim(Path(folder)))
        files = st.tuples(st.sampled_from(corpus.files), DAMAGE)
        kinds: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
            "checkpoint files": (files, lambda x: corpus.damaged_checkpoint(*x)),
            "forged manifests": (FORGERIES, lambda x: corpus.forged_manifest(*x)),
            "weights": (DAMAGE, corpus.damaged_weights),
        }
        for kind, (strategy, check) in KINDS.items():
            kinds[kind] = (strategy, lambda x, check=check: check(fuzz, x))
        even = (1 - sum(SHARES.values())) / (len(kinds) - len(SHARES))
        data: dict[str, Any] = {}
        for kind, (strategy, check) in kinds.items():
            started = time.perf_counter()
            count = tried(strategy, check, round(examples * SHARES.get(kind, even)))
            data[kind] = {"examples": count, "seconds": time.perf_counter() - started}
            print(kind, data[kind], flush=True)
    corpus.close()
    results.save("fuzz", "python -m benchmarks.fuzz " + " ".join(sys.argv[1:]), data)


def tried(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> int:
    """Try a check on examples; returns their number."""
    count = 0

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
    @given(example=strategy)
    def try_one(example: Any) -> None:
        nonlocal count
        count += 1
        check(example)

    try_one()
    return count


if __name__ == "__main__":
    main()
