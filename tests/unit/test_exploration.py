"""Explorers: their actions, their state, and how a run finds one again."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests import explorers
from tests.explorers import EzGreedy
from tests.probes import SMALL, CountingEnv, train
from tests.unit.test_resume import results, tiny, train_until

import noisydqn
from noisydqn import Config, NoisyLinear, UserError
from noisydqn.config.stored import from_stored, to_stored
from noisydqn.distributions import Expected
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.runners.core import program_key
from noisydqn.runners.cores import make_core
from noisydqn.runners.exploration import (
    EXPLORERS,
    Boltzmann,
    Both,
    EpsilonGreedy,
    Greedy,
    Imported,
    Noisy,
    RandomFirst,
    findable,
)

KEY = jax.random.key(0)
STEP = jnp.int32(0)
ENVS = 20_000


def values_fn(observation: Any, /, noise: Any = None, *, shared: bool = True) -> jax.Array:
    """The values are the observations."""
    del noise, shared
    return observation


def shares(actions: jax.Array, number: int) -> np.ndarray:
    return np.bincount(np.asarray(actions), minlength=number) / len(actions)


def test_boltzmann_follows_the_softmax() -> None:
    q = jnp.tile(jnp.array([0.0, 1.0, 2.0]), (ENVS, 1))
    actions, _ = Boltzmann(temperature=0.5).act((), values_fn, q, STEP, KEY)
    expected = np.exp([0, 2, 4]) / np.exp([0, 2, 4]).sum()
    np.testing.assert_allclose(shares(actions, 3), expected, atol=0.015)
    assert actions.dtype == jnp.int32


@pytest.mark.parametrize(("step", "epsilon"), [(0, 0.8), (50, 0.5), (100, 0.2), (900, 0.2)])
def test_epsilon_goes_linearly(step: int, epsilon: float) -> None:
    q = jnp.tile(jnp.array([0.0, 3.0, 1.0]), (ENVS, 1))
    explorer = EpsilonGreedy(epsilon=0.8, epsilon_final=0.2, epsilon_steps=100)
    actions, _ = explorer.act((), values_fn, q, jnp.int32(step), KEY)
    expected = [epsilon / 3, 1 - 2 * epsilon / 3, epsilon / 3]
    np.testing.assert_allclose(shares(actions, 3), expected, atol=0.015)


def test_greedy_actions_are_the_best() -> None:
    q = jax.random.normal(KEY, (50, 4))
    actions, _ = Greedy().act((), values_fn, q, STEP, KEY)
    np.testing.assert_array_equal(actions, np.argmax(q, -1))


@pytest.mark.parametrize("acting_noise_shared", [True, False])
@pytest.mark.parametrize("goal", [0.02, 0.2])
def test_noise_is_scaled_until_it_changes_as_many_actions_as_it_should(
    goal: float, acting_noise_shared: bool
) -> None:
    layer = NoisyLinear(1, 2, sigma_init=0.05, key=KEY)
    x, envs = jnp.ones((64, 1)), 64

    def values(observation: Any, /, noise: Any = None) -> jax.Array:
        axis = None if acting_noise_shared else 0
        return jax.vmap(layer, in_axes=(0, None if noise is None else axis))(observation, noise)

    explorer = Noisy("step", acting_noise_shared, noise_goal=goal, noise_goal_steps=64 * 200)
    state = explorer.init(layer, envs, KEY)  # pyright: ignore[reportArgumentType]

    def step(state: Any, i: jax.Array) -> tuple[Any, Any]:
        _, state = explorer.act(state, values, x, i * envs, KEY)
        key = jax.random.fold_in(KEY, i)
        nothing = jnp.zeros(envs, jnp.bool_)
        state = explorer.resample(state, layer, updated=jnp.bool_(False), ended=nothing, key=key)  # pyright: ignore[reportArgumentType]
        return state, explorer.metrics(state)

    _, metrics = jax.lax.scan(step, state, jnp.arange(6_000))
    assert metrics["noise_goal"][0] == 1.0
    np.testing.assert_allclose(metrics["noise_goal"][100], (1 + goal) / 2, atol=0.01)
    np.testing.assert_allclose(metrics["noise_goal"][-1], goal, rtol=1e-5)
    np.testing.assert_allclose(np.mean(metrics["changed_actions"][3_000:]), goal, rtol=0.15)
    factor = np.asarray(metrics["noise_factor"])
    assert factor[-1] > 2.0  # so little noise at the start changed nothing
    assert factor.max() <= 1_000.01


def test_random_actions_come_first() -> None:
    q = jnp.tile(jnp.array([0.0, 1.0]), (ENVS, 1))
    explorer = RandomFirst(Greedy(), 10)
    actions, _ = explorer.act((), values_fn, q, jnp.int32(9), KEY)
    np.testing.assert_allclose(shares(actions, 2), [0.5, 0.5], atol=0.015)
    actions, _ = explorer.act((), values_fn, q, jnp.int32(10), KEY)
    assert (actions == 1).all()


def test_an_ez_greedy_action_is_held_until_it_or_the_episode_ends() -> None:
    """The user's explorer of these tests, step by step."""
    explorer = EzGreedy(epsilon=1.0)
    q, state = jnp.zeros((500, 5)), explorer.init(None, 500, KEY)
    began = changed = 0
    for i in range(30):
        before, left = state
        actions, state = explorer.act(state, values_fn, q, STEP, jax.random.key(i))
        held = np.asarray(left) > 0
        np.testing.assert_array_equal(np.asarray(actions)[held], np.asarray(before)[held])
        began += int((~held).sum())
        changed += int(held.sum())
    assert began > 1000
    assert changed > 1000
    _, left = explorer.resample(state, None, updated=None, ended=jnp.arange(500) < 250, key=None)
    assert not left[:250].any()
    assert left[250:].any()


# Named in a config


def test_a_config_can_name_every_explorer() -> None:
    for name, kind in EXPLORERS.items():
        assert Config(exploration=name).exploration == kind()


@pytest.mark.parametrize(
    "explorer",
    [
        Noisy(acting_noise="episode", acting_noise_shared=True),
        EpsilonGreedy(0.5, 0.25, 10),
        Both(acting_noise="step", epsilon=0.1),
        Greedy(),
        Boltzmann(temperature=0.3),
        EzGreedy(),
    ],
)
def test_an_explorer_is_found_again_by_its_options(explorer: Any) -> None:
    config = Config(exploration=findable(explorer))
    again = from_stored(to_stored(config), Path("config.json")).admit(trust=True)
    assert again == config
    assert again.exploration.build() == explorer
    spec = EnvironmentSpec(jax.ShapeDtypeStruct((3,), jnp.float32), 2, ("0", "1"))
    core = make_core(again.replace(random_steps=7).program, spec)
    assert core.acting.explorer == RandomFirst(explorer, 7)


def test_functions_and_classes_of_a_module_are_found_again() -> None:
    often = findable(explorers.often)
    assert often == Imported("python:tests.explorers.often")
    assert often.build() == EzGreedy(epsilon=0.8)
    assert findable(EzGreedy) == Imported("python:tests.explorers.EzGreedy")
    config = Config(exploration="python:tests.explorers.Loud")
    assert config.exploration.build().noisy_layers


def test_programs_of_a_users_explorer_have_no_name() -> None:
    assert program_key(Config().program) is not None
    assert program_key(Config(exploration="python:tests.explorers.EzGreedy").program) is None


@dataclasses.dataclass(frozen=True)
class Needy(EzGreedy):
    """Cannot be made without arguments."""

    needed: dataclasses.InitVar[int] = dataclasses.field(kw_only=True)


@pytest.mark.parametrize(
    ("explorer", "message"),
    [
        (EzGreedy(epsilon=0.8), "is not what its class makes without arguments"),
        (lambda: EzGreedy(), "cannot be found again by its name"),  # noqa: PLW0108
        (explorers.broken, "failed without arguments (RuntimeError: a cable is loose)"),
        (explorers.nothing, "made int, expected a noisydqn.Explorer"),
        (Needy(needed=1), "failed without arguments (TypeError"),
        (3, "cannot be found again by its name"),
    ],
)
def test_explorers_that_cannot_be_found_again(explorer: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        noisydqn.train(env="CartPole-v1", explorer=explorer)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Boltzmann(temperature=0), "--temperature must be above zero, got 0"),
        (lambda: EpsilonGreedy(epsilon=1.5), "--epsilon must be between 0 and 1, got 1.5"),
        (lambda: EpsilonGreedy(epsilon_steps=0), "--epsilon-steps must be at least 1, got 0"),
        (lambda: Noisy(acting_noise="day"), "--acting-noise must be one of step, update, episode"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_options_have_constraints(make: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        make()
    assert message in str(refused.value)


def test_a_config_takes_only_what_it_can_name() -> None:
    for wrong in (EzGreedy(), Expected()):
        with pytest.raises(UserError, match="--exploration must be one of noisy, epsilon-greedy"):
            Config(exploration=wrong)
    with pytest.raises(UserError, match="--distribution must be one of expected, categorical"):
        Config(distribution=Greedy())


# Whole runs


@pytest.mark.slow
@pytest.mark.parametrize("explorer", [Boltzmann(temperature=0.1), EzGreedy()])
def test_explorers_train_several_seeds_on_the_device(explorer: Any) -> None:
    config = SMALL.replace(num_seeds=2, exploration=findable(explorer))
    chunks = train(config, CountingEnv())
    assert all(seed.updates > 0 for seed in chunks[-1].seeds)
    assert chunks[-1].seeds[0].sigma == {}


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "gymnax:CartPole-v1"])
def test_a_run_with_a_users_explorer_is_resumed_with_the_same_bits(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the explorer is part of a checkpoint, its name part of the config."""
    options = tiny(env=env, learner="replay", explorer=EzGreedy(), steps=160)
    noisydqn.train(out=tmp_path / "whole", **options)
    parts = tmp_path / "parts"
    train_until(3, monkeypatch, out=parts, checkpoint_seconds=1e-9, **options)
    noisydqn.resume(parts, quiet=True, trust=True)
    assert results(parts) == results(tmp_path / "whole")
    stored = json.loads((parts / "config.json").read_text())
    assert stored["exploration"] == "python:tests.explorers.EzGreedy"
    assert noisydqn.load_policy(parts, trust=True).predict(np.zeros(4, np.float32))[0] in (0, 1)


def test_a_run_whose_explorer_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisydqn.train(out=tmp_path, **tiny(env="CartPole-v1", explorer=EzGreedy(), steps=40))
    monkeypatch.delattr(explorers, "EzGreedy")
    with pytest.raises(UserError, match="EzGreedy names nothing that can be imported"):
        noisydqn.resume(tmp_path, steps=80, quiet=True, trust=True)


@pytest.mark.slow
def test_what_an_explorer_reports_is_in_the_files(tmp_path: Path) -> None:
    out = tmp_path / "run"
    noisydqn.train(out=out, **tiny(env="CartPole-v1", noise_goal=0.1, noise_goal_share=0.5))
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    goals = [float(row["exploration.noise_goal"]) for row in rows]
    assert goals[0] > goals[-1]
    np.testing.assert_allclose(goals[-1], 0.1, rtol=1e-5)
    assert float(rows[-1]["exploration.noise_factor"]) > 0
    assert 0 <= float(rows[-1]["exploration.changed_actions"]) <= 1
    assert (out / "curves.png").stat().st_size > 10_000
