"""bsuite's environments: the same steps as without the adapter, seeded; bad names are refused."""

import sys
from collections.abc import Iterator
from typing import Any

import bsuite
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tests.commands import refused

from noisydqn.envs.bsuite import BsuiteEnv, settings_named, settings_of
from noisydqn.envs.deep_sea import DeepSea
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.registry import make_environment
from noisydqn.errors import UserError

pytestmark = pytest.mark.slow

IDS = [
    "bandit/3",
    "bandit_noise/7",
    "cartpole/0",
    "cartpole_noise/5",
    "cartpole_swingup/2",
    "catch/0",
    "catch_scale/3",
    "discounting_chain/1",
    "memory_len/4",
    "memory_size/2",
    "mountain_car/0",
    "umbrella_distract/3",
    "umbrella_length/2",
]


def loaded(bsuite_id: str) -> Any:
    """Load an environment of bsuite itself."""
    return bsuite.load(bsuite_id.partition("/")[0], settings_of(bsuite_id))


def layers(env: Any) -> Iterator[Any]:
    """Yield an environment of bsuite and those that it wraps."""
    while env is not None:
        yield env
        env = vars(env).get("_env")


def seed_again(env: Any, seed: int) -> None:
    """Seed an environment of bsuite as the adapter does: each generator with a seed of its own."""
    random = [layer for layer in layers(env) if "_rng" in vars(layer)]
    seeds = np.random.SeedSequence(seed).generate_state(len(random))
    for layer, own in zip(random, seeds, strict=True):
        layer._rng.seed(own)


@pytest.mark.parametrize("bsuite_id", IDS)
def test_steps_are_those_of_bsuite(bsuite_id: str) -> None:
    env, raw = BsuiteEnv(bsuite_id), loaded(bsuite_id)
    choose = np.random.default_rng(0)
    sums: dict[str, float] = dict.fromkeys(env.episode_counts, 0.0)
    for episode in range(6):
        seed_again(raw, episode)
        step = raw.reset()
        observation, info = env.reset(seed=episode)
        assert info == {}
        np.testing.assert_array_equal(observation, step.observation)
        assert env.observation_space.contains(observation)
        while not step.last():
            action = np.int64(choose.integers(raw.action_spec().num_values))
            step = raw.step(int(action))
            observation, reward, terminated, truncated, info = env.step(action)
            np.testing.assert_array_equal(observation, step.observation)
            assert reward == step.reward
            assert (terminated, truncated) == (step.last(), False)
            assert set(info) == (set(env.episode_counts) if terminated else set())
        sums = {name: total + info[name] for name, total in sums.items()}
    counts = {name: float(x) for name, x in raw.bsuite_info().items() if name != "best_episode"}
    assert sums == pytest.approx(counts)


@pytest.mark.parametrize("bsuite_id", ["catch/0", "cartpole_noise/5", "umbrella_length/2"])
def test_an_episode_follows_from_its_seed(bsuite_id: str) -> None:
    def play(env: BsuiteEnv, seed: int) -> list[float]:
        seen = [env.reset(seed=seed)[0]]
        over = False
        while not over:
            observation, reward, over, _, _ = env.step(np.int64(0))
            seen += [observation, np.float32(reward)]
        return [float(x) for y in seen for x in np.ravel(y)]

    one, other = BsuiteEnv(bsuite_id), BsuiteEnv(bsuite_id)
    play(one, 8)  # what was played before does not matter
    assert play(one, 3) == play(other, 3)
    assert play(one, 3) != play(one, 4)


def test_the_generators_of_a_wrapped_environment_differ() -> None:
    """Noise of rewards must not repeat the numbers that move the cart."""
    raw = loaded("cartpole_noise/5")
    seed_again(raw, 0)
    first, second = (layer._rng.rand() for layer in layers(raw) if "_rng" in vars(layer))
    assert first != second


def test_gymnasium_checks_pass() -> None:
    check_env(BsuiteEnv("catch/0"), skip_render_check=True)
    space = BsuiteEnv("catch/0").observation_space
    assert space == gymnasium.spaces.Box(0, 1, (10, 5), np.float32)
    assert BsuiteEnv("cartpole/0").action_space == gymnasium.spaces.Discrete(3)


class Step:
    """The last step of an episode that a time limit ends."""

    observation, reward, discount = np.zeros(1, np.float32), 1.0, 1.0

    def last(self) -> bool:
        return True


def test_a_last_step_with_a_discount_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    env = BsuiteEnv("catch/0")
    env.reset(seed=0)
    raw: Any = vars(env)["_env"]
    monkeypatch.setattr(raw, "step", lambda _: Step())
    assert env.step(np.int64(0))[2:4] == (False, True)


def made(name: str, **options: Any) -> Any:
    return make_environment(EnvironmentOptions(env=name, **options))


def test_deep_sea_runs_on_the_device_and_the_rest_on_the_host() -> None:
    sea, stochastic = made("bsuite:deep_sea/2"), made("bsuite:deep_sea_stochastic/0")
    assert isinstance(sea, DeviceEnvironment)
    assert sea.env == DeepSea(14)
    assert stochastic.env == DeepSea(10, deterministic=False)
    kwargs = '{"size": 14}'
    assert sea == made("noisydqn/DeepSea-v0", env_kwargs=kwargs)  # the same programs
    catch = made("bsuite:catch/0")
    assert isinstance(catch, HostEnvironment)
    assert catch.spec.observation.shape == (10, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bsuite:ctch/0", "bsuite has no setting 'ctch/0': did you mean catch/0"),
        ("bsuite:catch/20", "bsuite has no setting 'catch/20': did you mean catch/"),
        ("bsuite:xyzzy", "bsuite has no setting 'xyzzy': there are bandit, bandit_noise"),
    ],
)
def test_unknown_settings_are_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "train", name)


def test_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "train", "bsuite:catch/0", "--env-kwargs", '{"rows": 5}')
    assert "--env-kwargs: bsuite:catch/0 takes none, as bsuite sets its arguments" in line


def test_data_that_cannot_be_downloaded_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(bsuite, "load", offline)
    line = refused(capsys, "train", "bsuite:mnist/0")
    assert "bsuite's mnist/0 cannot be made (OSError: no route): bsuite downloads its data" in line


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bsuite.sweep", None)
    for argv in (["train", "bsuite:catch/0"], ["bsuite", "catch"]):
        assert "pip install 'noisydqn[bsuite]'" in refused(capsys, *argv)


def test_names_stand_for_settings() -> None:
    assert settings_named(["deep_sea/3", "catch/1", "deep_sea/0"]) == [
        "catch/1",
        "deep_sea/0",
        "deep_sea/3",
    ]
    assert len(settings_named(["deep_sea"])) == 21
    explores = settings_named(["exploration"])
    experiments = {name.partition("/")[0] for name in explores}
    assert experiments == {"cartpole_swingup", "deep_sea", "deep_sea_stochastic"}
    with pytest.raises(UserError, match="no experiment, tag or setting 'explore': did you mean ex"):
        settings_named(["explore"])
