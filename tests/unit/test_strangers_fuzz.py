"""Files of a run that were mutated at random, always in the same way: read or refused."""

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from tests.strangers.fuzzing import KINDS, Fuzz
from tests.strangers.victim import Victim

pytestmark = pytest.mark.slow

EXAMPLES = {"manifests of runs": 25, "curves": 10, "summaries": 30}


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    return Fuzz(Victim(tmp_path_factory.mktemp("victim")))


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_read_or_refused(kind: str, fuzz: Fuzz) -> None:
    strategy, check = KINDS[kind]

    @settings(
        max_examples=EXAMPLES.get(kind, 60),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
    )
    @given(change=strategy)
    def tried(change: Any) -> None:
        check(fuzz, change)

    tried()
