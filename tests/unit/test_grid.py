"""Grids of comparisons: products, names, files, and what is refused."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisydqn import UserError
from noisydqn.cli.compare import divided, parse_compare
from noisydqn.study.grid import Draft, Grid, Variant, as_text, product, read_draft

EXPLORATION = ("exploration", ("noisy", "epsilon-greedy"))


def draft(**changes: Any) -> Draft:
    return msgspec.structs.replace(Draft(environments=("CartPole-v1",), seeds=2), **changes)


def test_every_combination_is_a_variant() -> None:
    grid = draft(vary=(EXPLORATION, ("n_step", (1, 3)))).grid()
    assert [variant.name for variant in grid.variants] == [
        "exploration=noisy,n_step=1",
        "exploration=noisy,n_step=3",
        "exploration=epsilon-greedy,n_step=1",
        "exploration=epsilon-greedy,n_step=3",
    ]
    assert grid.variants[1].options == {"exploration": "noisy", "n_step": 3}
    assert grid.seeds == (0, 1)
    assert len(grid) == 8


@given(st.lists(st.integers(1, 4), max_size=4))
def test_a_product_has_each_combination_once(sizes: list[int]) -> None:
    vary = [(f"option{i}", list(range(size))) for i, size in enumerate(sizes)]
    found = [tuple(variant.options.values()) for variant in product([], vary)]
    assert found == list(itertools.product(*(values for _, values in vary)))


def test_variants_that_set_several_options_are_varied_too() -> None:
    tuned = Variant("tuned", {"exploration": "epsilon-greedy", "epsilon_final": 0.01})
    noisy = Variant("noisy", {"exploration": "noisy"})
    grid = draft(variants=(tuned, noisy), vary=(("double", (True, False)),)).grid()
    names = ["tuned,double=true", "tuned,double=false", "noisy,double=true", "noisy,double=false"]
    assert [variant.name for variant in grid.variants] == names
    assert grid.variants[1].options == tuned.options | {"double": False}


def test_a_grid_without_variants_compares_environments() -> None:
    assert draft().grid().variants == (Variant("default", {}),)
    assert draft(variants=(Variant("", {}),)).grid() == draft().grid()


def test_the_seed_is_the_first_of_the_seeds() -> None:
    grid = draft(options={"seed": 100, "steps": 5}, seeds=3).grid()
    assert grid.seeds == (100, 101, 102)
    assert grid.options == {"steps": 5}
    assert len(draft(seeds=None).grid().seeds) == 10


def test_values_get_the_types_of_their_options() -> None:
    assert draft(options={"sigma_init": "none"}).grid().options == {"sigma_init": None}
    vary = (("hidden", ([8, 8], [])), ("sigma_init", (1, 0.5)))
    grid = draft(vary=vary, options={"steps": 1e3}).grid()
    assert grid.options == {"steps": 1_000}
    assert grid.variants[0].options == {"hidden": (8, 8), "sigma_init": 1.0}
    stored = msgspec.json.decode(msgspec.json.encode(grid), type=Grid)
    assert stored.checked() == grid


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "none"), ((8, 8), "8 8"), ((), "[]"), (0.5, "0.5"), ("noisy", "noisy")],
)
def test_values_are_named_as_they_are_typed(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environments": ()}, "the grid is empty, as it has no environment: give --env"),
        ({"environments": ("a", "a")}, "the environment a is there twice: leave one out"),
        ({"environments": ("",)}, "one environment has an empty name: give it one"),
        ({"seeds": 0}, "--seeds must be between 1 and 10000, got 0"),
        ({"seeds": -1}, "--seeds must be between 1 and 10000, got -1"),
        ({"options": {"seed": 2**32}}, "the seeds must differ and be between 0 and"),
        ({"options": {"seed": "x"}}, "--seed must be a whole number, got 'x'"),
        ({"options": {"num_seeds": 3}}, "num_seeds cannot be among the options: give --seeds"),
        ({"options": {"preset": "x"}}, "preset cannot be among the options: name it as an env"),
        ({"options": {"stepz": 3}}, "unknown option 'stepz' in the options: did you mean steps?"),
        ({"options": {"steps": "many"}}, "--steps must be a whole number, got 'many'"),
        ({"vary": (("exploration", ()),)}, "--vary exploration has no values: name some"),
        ({"vary": (EXPLORATION, EXPLORATION)}, "--vary exploration is given twice: give all"),
        ({"vary": (("exploration", ("noisy", "noisy")),)}, "exploration=noisy is there twice"),
        ({"vary": (("seed", (1, 2)),)}, "seed cannot be among the variant seed=1: every seed is"),
        ({"vary": (("env", ("x",)),)}, "env cannot be among the variant env=x: give --env A B"),
        ({"vary": (("xyzzy", (1,)),)}, "unknown option 'xyzzy' in the variant xyzzy=1: noisydqn"),
        (
            {"variants": (Variant("a", {"double": True}),), "vary": (("double", (True,)),)},
            "--vary double varies what the variant a sets: leave one out",
        ),
        (
            {"environments": tuple(f"e{i}" for i in range(101)), "seeds": 100},
            "the grid has 10,100 runs, expected at most 10,000: divide it",
        ),
    ],
)
def test_grids_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        draft(**changes).grid()
    assert message in str(refused.value)


# Files

FILE = """
env = ["CartPole-v1", "Acrobot-v1"]
seeds = 3

[options]
steps = 5000
hidden = [8, 8]

[vary]
double = [true, false]

[[variant]]
name = "tuned"
options = { exploration = "epsilon-greedy", epsilon_final = 0.01 }
"""


def test_a_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "grid.toml").write_text(FILE)
    found = read_draft(path)
    assert found == Draft(
        ("CartPole-v1", "Acrobot-v1"),
        (Variant("tuned", {"exploration": "epsilon-greedy", "epsilon_final": 0.01}),),
        (("double", (True, False)),),
        3,
        {"steps": 5000, "hidden": [8, 8]},
    )
    assert len(found.grid()) == 12


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    (path := tmp_path / "grid.toml").write_text(FILE)
    words = "--env X --seeds 1 --steps 7 --vary n_step=1,3"
    _, _, flags = parse_compare(words.split())
    both = flags.over(read_draft(path))
    assert (both.environments, both.seeds) == (("X",), 1)
    assert both.options == {"steps": 7, "hidden": [8, 8]}
    assert [name for name, _ in both.vary] == ["double", "n_step"]
    assert Draft().over(both) == both
    assert Draft().is_empty
    assert not both.is_empty


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("env = [", "Invalid"),
        ("envs = 'X'", "unknown field `envs`"),
        ("seeds = 'three'", "Expected `int | null`, got `str`"),
        ("vary = 3", "Expected `object`, got `int`"),
        ("[[variant]]\nname = 'a'", "missing required field `options`"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "grid.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_draft(path)
    assert f"{path} cannot be used (" in str(refused.value)
    assert reason in str(refused.value)
    assert "give a TOML file with env, seeds, [options], [vary] and [[variant]]" in str(
        refused.value
    )


# Flags


def test_flags_of_the_grid_and_of_the_runs() -> None:
    words = "--vary exploration=noisy,epsilon-greedy --vary hidden=[8,8],[16] --vary double=no,yes"
    words += " --env CartPole-v1 Acrobot-v1 --env X --seeds 3 --steps 5e3 --layer-norm --out here"
    args, _, found = parse_compare(words.split())
    assert found.environments == ("CartPole-v1", "Acrobot-v1", "X")
    assert found.vary == (
        EXPLORATION,
        ("hidden", ((8, 8), (16,))),
        ("double", (False, True)),
    )
    assert found.options == {"steps": 5_000, "layer_norm": True}
    assert (found.seeds, args.out) == (3, Path("here"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("[8, 8], [16]", ["[8, 8]", "[16]"]),
        ('{"a": [1, 2]},{}', ['{"a": [1, 2]}', "{}"]),
        ("a", ["a"]),
        ("", [""]),
    ],
)
def test_commas_in_brackets_do_not_divide(text: str, parts: list[str]) -> None:
    assert divided(text) == parts
