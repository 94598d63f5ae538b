"""Loading of mutated checkpoints, forged manifests and mutated weights: correct or refused.

python -m benchmarks.fuzz [--examples 10000]

The tests have a smaller set.
"""

import argparse
import sys
import time
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.checkpoints import DAMAGE, FORGERIES, Corpus, Damage

from benchmarks import results


def main() -> None:
    """Fuzz and save the numbers of examples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="in all")
    examples = parser.parse_args().examples
    corpus = Corpus()
    counts = {"checkpoint files": 0, "forged manifests": 0, "weights": 0}
    tried = settings(
        max_examples=examples // 3 + 1, deadline=None, database=None, phases=[Phase.generate]
    )

    @tried
    @given(name=st.sampled_from(corpus.files), damage=DAMAGE)
    def files(name: str, damage: Damage) -> None:
        corpus.damaged_checkpoint(name, damage)
        counts["checkpoint files"] += 1

    @tried
    @given(forgery=FORGERIES)
    def manifests(forgery: tuple[list[str], Any]) -> None:
        corpus.forged_manifest(*forgery)
        counts["forged manifests"] += 1

    @tried
    @given(damage=DAMAGE)
    def weights(damage: Damage) -> None:
        corpus.damaged_weights(damage)
        counts["weights"] += 1

    started = time.perf_counter()
    for fuzz in (files, manifests, weights):
        fuzz()
    corpus.close()
    data = {**counts, "seconds": time.perf_counter() - started}
    results.save("fuzz", "python -m benchmarks.fuzz " + " ".join(sys.argv[1:]), data)
    print(data)


if __name__ == "__main__":
    main()
