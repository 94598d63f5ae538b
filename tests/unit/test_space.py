"""Spaces of tunings: what files and flags say, what is refused, what trials propose."""

from pathlib import Path
from typing import Any

import pytest

from noisydqn import UserError
from noisydqn.cli.tune import parse_tune
from noisydqn.study.space import Choice, Range, belongs, corners, read_space, space_of, suggest

NOISY = {"learner": "replay", "distribution": "expected", "exploration": "noisy"}
"""Variants of the base."""


class Proposing:
    """A trial that proposes the ends of dimensions, and lists what it was asked."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.asked: list[str] = []

    def suggest_float(
        self, name: str, low: float, high: float, *, step: None = None, log: bool = False
    ) -> float:
        del step
        self.asked.append(f"{name} {'log ' * log}{low} {high}")
        return (low, high)[self.place]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self.suggest_float(name, low, high, log=log)) * step

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.asked.append(f"{name} of {choices}")
        return choices[-self.place]


RAW = {
    "learning_rate": {"log-uniform": [1e-4, 1e-2]},
    "sigma_init": {"uniform": [0, 1]},
    "batch_size": {"integer": [16, 64]},
    "replay_capacity": {"log-uniform": [1e3, 1e5]},
    "n_step": [1, 3],
    "hidden": {"categorical": [[8, 8], []]},
    "double": [True, False],
}


def test_dimensions_have_the_types_of_their_options() -> None:
    assert space_of(RAW) == {
        "learning_rate": Range("log-uniform", 1e-4, 1e-2, whole=False),
        "sigma_init": Range("uniform", 0.0, 1.0, whole=False),
        "batch_size": Range("integer", 16, 64, whole=True),
        "replay_capacity": Range("log-uniform", 1_000, 100_000, whole=True),
        "n_step": Choice((1, 3)),
        "hidden": Choice(((8, 8), ())),
        "double": Choice((True, False)),
    }


def test_trials_propose_every_dimension() -> None:
    low = Proposing(0)
    assert suggest(space_of(RAW), low, NOISY) == {
        "learning_rate": 1e-4,
        "sigma_init": 0.0,
        "batch_size": 16,
        "replay_capacity": 1_000,
        "n_step": 1,
        "hidden": (8, 8),
        "double": True,
    }
    assert low.asked == [
        "learning_rate log 0.0001 0.01",
        "sigma_init 0.0 1.0",
        "batch_size 16 64",
        "replay_capacity log 1000 100000",
        "n_step of ['1', '3']",
        "hidden of ['8 8', '[]']",
        "double of ['true', 'false']",
    ]
    assert suggest(space_of(RAW), Proposing(1), NOISY)["hidden"] == ()


def test_numbers_are_rounded_within_their_range() -> None:
    class Long(Proposing):
        def suggest_float(self, *ends: Any, **_: Any) -> float:
            return ends[-1] if self.place else 0.123456789

    space = space_of({"sigma_init": {"uniform": [0.1, 0.654321]}})
    assert suggest(space, Long(0), NOISY) == {"sigma_init": 0.1235}
    assert suggest(space, Long(1), NOISY) == {"sigma_init": 0.6543}
    low = space_of({"sigma_init": {"uniform": [0.1234567, 0.2]}})
    assert suggest(low, Long(0), NOISY) == {"sigma_init": 0.1235}


def test_options_of_a_variant_are_searched_only_with_it() -> None:
    raw = {"epsilon_final": {"uniform": [0.01, 0.1]}, "exploration": ["noisy", "epsilon-greedy"]}
    space = space_of(raw)
    assert suggest(space, Proposing(0), NOISY) == {"exploration": "noisy"}
    assert suggest(space, Proposing(1), NOISY) == {
        "exploration": "epsilon-greedy",
        "epsilon_final": 0.1,
    }
    assert belongs("epsilon_final", NOISY | {"exploration": "both"})
    assert not belongs("epsilon_final", NOISY)
    assert list(corners(space, NOISY)) == [
        {"exploration": "noisy"},
        {"exploration": "epsilon-greedy"},
        {"exploration": "epsilon-greedy", "epsilon_final": 0.01},
        {"exploration": "epsilon-greedy", "epsilon_final": 0.1},
    ]


def test_corners_without_variants() -> None:
    space = space_of({"n_step": {"integer": [1, 3]}, "atoms": [11, 21]})
    assert list(corners(space, NOISY)) == [{"n_step": 1}, {"n_step": 3}, {"atoms": 11}]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "the space is empty, so there is nothing to search: give --space FILE.toml or"),
        ({"learning_rat": [1, 2]}, "unknown option 'learning_rat' in the space: did you mean lear"),
        ({"seed": [1, 2]}, "seed cannot be searched: give --first-seed"),
        ({"num_seeds": [1, 2]}, "num_seeds cannot be searched: give --seeds"),
        ({"env": ["a", "b"]}, "env cannot be searched: give it as NAME"),
        ({"n_step": 3}, "n_step in the space is 3, expected learning_rate = { log-uniform = "),
        ({"n_step": {"integer": 3}}, "n_step in the space is {'integer': 3}, expected learning_"),
        ({"n_step": {"int": [1, 3]}}, "n_step in the space is 'int', expected one of uniform, log"),
        ({"n_step": {"uniform": [1, 3]}}, "takes whole numbers: give integer or log-uniform, not "),
        ({"sigma_init": {"integer": [0, 1]}}, "takes numbers: give uniform or log-uniform, not in"),
        ({"n_step": {"integer": [1, 2, 3]}}, "n_step in the space is integer with [1, 2, 3], expe"),
        ({"n_step": {"integer": [3, 1]}}, "n_step in the space is integer from 3 to 1, expected a"),
        ({"sigma_init": {"uniform": ["none", 1]}}, "uniform from None to 1.0, expected a smaller"),
        ({"sigma_init": {"log-uniform": [0, 1]}}, "log-uniform from 0, expected numbers above ze"),
        ({"sigma_init": {"uniform": ["a", 1]}}, "--sigma-init must be a number or None, got 'a'"),
        ({"n_step": {"integer": [1.5, 3]}}, "--n-step must be a whole number, got 1.5"),
        ({"noise": {"uniform": [0, 1]}}, "noise in the space is not a number: give a list of val"),
        ({"noise": ["white", "pink"]}, "--noise must be one of factorised, independent, indexed"),
        ({"n_step": [3]}, "n_step in the space has the values '3', expected two or more that dif"),
        ({"n_step": [3, 3]}, "n_step in the space has the values '3, 3', expected two or more"),
    ],
)
def test_spaces_that_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        space_of(raw)
    assert message in str(refused.value)


def test_own_options_are_found_in_the_space() -> None:
    found = space_of({"sigma_init": {"uniform": [0.1, 1]}, "hidden": [[8], [16]]})
    assert found["sigma_init"].holds(0.5)
    assert not found["sigma_init"].holds(None)
    assert found["hidden"].holds((8,))
    assert not found["hidden"].holds((9,))
    assert (found["sigma_init"].proposed(0.5), found["hidden"].proposed((8,))) == (0.5, "8")


# Files and flags


def test_a_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "space.toml").write_text(
        "[space]\nn_step = [1, 3]\nlearning_rate = { log-uniform = [1e-4, 1e-2] }\n"
        "[options]\nsteps = 5000\n"
    )
    space, options = read_space(path)
    assert space == {"n_step": [1, 3], "learning_rate": {"log-uniform": [1e-4, 1e-2]}}
    assert options == {"steps": 5_000}
    path.write_text("n_step = [1, 3]")
    with pytest.raises(UserError, match=r"unknown field `n_step`.*give a TOML file with \[space\]"):
        read_space(path)


def test_flags_say_the_same_as_a_file() -> None:
    words = "CartPole-v1 --search learning-rate=log-uniform:1e-4,1e-2 --search n_step=1,3 "
    words += "--search hidden=[8,8],[16] --search sigma_init=none,0.5 --steps 5e3 --seed 3"
    args, _, space, options = parse_tune(words.split())
    assert space == {
        "learning_rate": {"log-uniform": [1e-4, 1e-2]},
        "n_step": {"categorical": [1, 3]},
        "hidden": {"categorical": [(8, 8), (16,)]},
        "sigma_init": {"categorical": [None, 0.5]},
    }
    assert (args.name, args.seed, options) == ("CartPole-v1", 3, {"steps": 5_000})
