"""Checks of an environment before training: what Gymnasium says, and what random play shows."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tests.commands import refused
from tests.host_envs import BrokenEnv, CountingHostEnv, Fetch, Symbols
from tests.mask_envs import JaxKnapsack, Knapsack, TicTacToe

from noisydqn.cli import main
from noisydqn.envs import check
from noisydqn.envs.check import RULES, STEPS, Played, describe, notices_of, problems_of
from noisydqn.envs.notices import Notices
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.envs.registry import make_environment
from noisydqn.errors import EnvironmentFailedError

N = STEPS


def play(**changes: Any) -> Played:
    """Random play in which nothing is wrong: episodes of ten steps with a reset after each."""
    at = np.arange(N)
    fields: dict[str, Any] = {
        "observations": np.random.default_rng(0).normal(size=(N + 1, 3)),
        "rewards": np.where(at % 11 == 10, 0.0, 1.0),
        "last": at % 11 == 9,
        "ignored": at % 11 == 10,
    }
    return Played(**(fields | changes))


LARGE = np.random.default_rng(0).normal(size=(N + 1, 3)) * 1e4
CONSTANT = np.random.default_rng(0).normal(size=(N + 1, 3)) * [1, 0, 0] + 2
NEVER = np.zeros(N, bool)
AT_ONCE = np.arange(N) % 2 == 0
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "never_ends": ("no episode ended in 1,000", {"last": NEVER, "ignored": NEVER}),
    "ends_at_once": ("ended with its first step", {"last": AT_ONCE, "ignored": ~AT_ONCE}),
    "one_reward": ("no reward in 1,000", {"rewards": np.zeros(N)}),
    "large_rewards": ("rewards reach 500:", {"rewards": np.linspace(-500, 0, N)}),
    "outside_space": ("7 of 1,001 observations lie outside", {"outside": 7}),
    "large_observations": ("observations reach", {"observations": LARGE}),
    "constant_elements": ("2 elements of the observation never changed (number 1, 2)", {}),
}
WRONG["constant_elements"][1]["observations"] = CONSTANT


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in RULES} == WRONG.keys()


@pytest.mark.parametrize("rule", WRONG)
def test_a_rule_finds_what_is_wrong(rule: str) -> None:
    words, changes = WRONG[rule]
    assert any(words in line for line in problems_of(play(**changes), numbers=True))


def test_a_healthy_environment_has_no_problems() -> None:
    assert problems_of(play(), numbers=True) == []
    for seen in (LARGE, CONSTANT):  # one-hot vectors, say
        assert problems_of(play(observations=seen), numbers=False) == []
    images = np.zeros((N + 1, 4, 4), np.uint8)
    assert problems_of(play(observations=images), numbers=True) == []


def test_play_is_described() -> None:
    told = "1,000 random steps: 91 episodes of 10 steps that returned 10; rewards 1"
    assert describe(play()) == told
    assert "no episode ended; rewards 0 to 1" in describe(play(last=NEVER, ignored=NEVER))


class Forgetful(gymnasium.Env[np.ndarray, np.int64]):
    """Draws from NumPy's global generator, and shows a number outside of its space."""

    def __init__(self, outside: bool = False) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.outside = outside

    def _seen(self) -> np.ndarray:
        if self.outside:
            return np.array([3.0, 0.5], np.float32)
        return np.random.uniform(-1, 1, 2).astype(np.float32)  # noqa: NPY002

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed, options=options)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        del action
        return self._seen(), 1.0, False, False, {}


def environment(maker: Any, **options: Any) -> Any:
    return make_environment(EnvironmentOptions(**options), maker, Notices(None))


def test_gymnasiums_check_is_told_in_a_line() -> None:
    (line,) = notices_of(environment(Forgetful))
    assert line.startswith("Gymnasium's check says: ")
    assert "\n" not in line
    assert len(line) < 300
    outside = notices_of(environment(lambda: Forgetful(outside=True)))
    assert any("not within the observation space" in line for line in outside)
    found = check.examine(environment(lambda: Forgetful(outside=True)), steps=50)
    assert any("51 of 51 observations lie outside" in line for line in found.problems)


def test_an_environment_is_checked_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unclosed(Forgetful):
        def close(self) -> None:
            raise RuntimeError("it is stuck")

    assert len(notices_of(environment(Unclosed))) == 1
    (line,) = notices_of(environment(lambda: BrokenEnv("reset")))
    assert "RuntimeError: the tank is 100% empty" in line
    monkeypatch.setattr(check, "PATIENCE", -1.0)  # the reset takes too long
    assert notices_of(environment(Forgetful)) == []


def test_environments_of_known_packages_and_instances_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from noisydqn.envs.given import accept

    monkeypatch.setattr(check, "_by_gymnasium", lambda *_: ["it was called"])
    assert notices_of(make_environment(EnvironmentOptions(env="CartPole-v1"))) == []
    assert notices_of(environment(accept(CountingHostEnv()).entry)) == []
    assert notices_of(environment(CountingHostEnv)) == ["it was called"]
    assert notices_of(make_environment(EnvironmentOptions(env="noisydqn/Catcher-v0"))) == []


def test_an_episode_that_does_not_repeat_is_found() -> None:
    found = check.examine(environment(Forgetful), steps=200)
    assert any("give another episode from step 0 on" in line for line in found.problems)


# The command


def test_the_command_looks_at_an_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--env", "CartPole-v1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CartPole-v1: vector (4,), 2 actions"
    assert lines[1].startswith("CartPole-v1: 1,000 random steps: ")
    assert lines[2:] == ["  nothing looks wrong"]
    kwargs = ["--env-kwargs", '{"sutton_barto_reward": true}']
    assert main(["doctor", "--env", "CartPole-v1", *kwargs, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["env"] == "CartPole-v1"
    assert "rewards -1 to 0" in told["facts"][1]


@pytest.mark.slow
def test_the_command_looks_at_an_environment_in_jax(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--env", "noisydqn/DeepSea-v0"]) == 0
    out = capsys.readouterr().out
    assert "episodes of 10 steps" in out


def test_what_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "CartPole" in refused(capsys, "doctor", "--env", "CartPol-v1")
    assert "one after the other" in refused(capsys, "doctor", "x", "--env", "CartPole-v1")


def test_masks_hide_no_problem() -> None:
    class Outside(Knapsack):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Box(0, 0.01, self.observation_space.shape, np.float32)

    found = check.examine(environment(Outside), steps=50)
    assert any("lie outside of the bounds" in line for line in found.problems)
    with pytest.raises(EnvironmentFailedError, match=r"at step .* allows no action"):
        check.examine(environment(lambda: JaxKnapsack(stuck_at=1)), steps=50)


@pytest.mark.parametrize("maker", [Knapsack, TicTacToe, JaxKnapsack, Fetch, Symbols])
def test_masks_and_images_beside_vectors_are_played(maker: Any) -> None:
    """An invalid action would raise in these environments."""
    found = check.examine(environment(maker), steps=120)
    assert "120 random steps: " in found.facts[1]
    assert not any("Gymnasium's check" in line for line in found.problems)
    assert not any("give another episode" in line for line in found.problems)
