"""The panel of a video: where its bars and spreads are, and that it changes nothing in the game."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests import probes
from tests.host_envs import Drawing

from noisydqn import Config
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.protocol import Environment
from noisydqn.learner.policy import Policy
from noisydqn.nets.noisy import sample_noise
from noisydqn.play import lens
from noisydqn.play.panel import BOTTOM, HEIGHT, MARGIN, PANEL, SPREAD, TOP, Panel
from noisydqn.play.played import Shot
from noisydqn.play.video import film_frames, film_programs
from noisydqn.runners.build import make_policy

KEY = jax.random.key(0)


def shot(q: np.ndarray) -> Shot:
    picture = np.zeros((4, 4, 3), np.uint8)
    return Shot(picture, ("episode  1",), q, (int(np.argmax(q)),), np.zeros(1))


def some_values(actions: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of actions, and values under noise."""
    random = np.random.default_rng(actions)
    q = random.normal(5, 2, actions)
    return q, q + random.normal(0.3, 0.5, (lens.SAMPLES, actions))


# Geometry


@pytest.mark.parametrize("actions", [1, 2, 3, 6, 18, 60])
def test_bars_lie_below_each_other_and_on_one_scale(actions: int) -> None:
    q, noisy = some_values(actions)
    panel = Panel(tuple(f"ACTION {i}" for i in range(actions)))
    rows = panel.rows(shot(q), noisy)
    low, high = min(q.min(), panel.low), panel.high
    ends = np.stack([np.percentile(noisy, 10, axis=0), np.percentile(noisy, 90, axis=0)])
    assert (low, high) == (min(q.min(), ends.min()), max(q.max(), ends.max()))

    def place(value: float) -> float:
        return panel.left + (value - low) / (high - low) * (PANEL - MARGIN - panel.left)

    for i, row in enumerate(rows):
        left, top, right, bottom = row.bar
        assert left == panel.left
        assert right == pytest.approx(max(place(q[i]), left + 2))
        assert row.spread == pytest.approx((place(ends[0, i]), place(ends[1, i])))
        assert MARGIN <= left < right <= PANEL - MARGIN + 1e-6
        assert top >= TOP
        assert bottom <= BOTTOM
        assert bottom - top >= 2
    for before, after in itertools.pairwise(rows):
        assert before.bar[3] < after.bar[1]


def test_the_scale_holds_all_values_so_far() -> None:
    panel = Panel(("a", "b"))
    for q in ([0.0, 1.0], [-3.0, 0.0], [0.0, 9.0]):
        panel.rows(shot(np.array(q)), np.zeros((0, 2)))
    assert (panel.low, panel.high) == (-3, 9)


def test_invalid_actions_have_no_bar() -> None:
    q, noisy = some_values(4)
    q[1], noisy[:, 1] = -np.inf, -np.inf
    panel = Panel(tuple("abcd"))
    rows = panel.rows(shot(q), noisy)
    assert np.isfinite([panel.low, panel.high]).all()
    assert rows[1].spread is None
    assert rows[1].bar[0] == rows[1].bar[2]
    assert all(row.spread is not None and row.bar[0] < row.bar[2] for row in (rows[0], rows[2]))
    assert panel.draw(shot(q), noisy).shape == (HEIGHT, PANEL, 3)


@pytest.mark.parametrize("actions", [2, 18, 60])
def test_the_panel_is_drawn_with_noise_and_without(actions: int) -> None:
    q, noisy = some_values(actions)
    names = ("DOWNRIGHTFIRE" * 3, *map(str, range(1, actions)))
    for samples, is_noisy in ((noisy, True), (noisy[:0], False)):
        drawn = Panel(names).draw(shot(q), samples)
        assert drawn.shape == (HEIGHT, PANEL, 3)
        assert (drawn == SPREAD).all(axis=-1).any() == is_noisy
        background = drawn[0, 0]
        assert (drawn[:, : MARGIN - 2] == background).all()
        assert (drawn[:, PANEL - MARGIN + 3 :] == background).all()


# Policies in environments of all kinds


def made(kind: str, **options: Any) -> tuple[Environment, Policy]:
    config: Config = probes.SMALL.replace(**options)
    if kind == "device":
        env: Environment = DeviceEnvironment.create(CatcherPixels(), max_episode_steps=40)
    else:
        picture = np.full((8, 8, 3), 200, np.uint8)
        env = HostEnvironment.create(config.environment, partial(Drawing, [picture, picture + 9]))
    return env, make_policy(config.program, env.spec, KEY)


@pytest.mark.parametrize("kind", ["device", "host"])
def test_a_panel_changes_nothing_in_the_game(kind: str) -> None:
    env, policy = made(kind)
    panels = [True, True, False]
    films = [
        np.stack(list(film_frames(env, policy, 0.7, jax.random.key(3), panel=panel)[0]))
        for panel in panels
    ]
    assert len(films[0]) > lens.BATCH
    np.testing.assert_array_equal(films[0], films[1])
    np.testing.assert_array_equal(films[0][:, :, :-PANEL], films[2])
    assert (films[0][:, :, -PANEL:] == SPREAD).all(axis=-1).any()


def test_values_under_noise_agree_with_a_loop() -> None:
    env, policy = made("host", frame_stack=2)
    number = lens.BATCH + 3
    shape = (number, 2, *env.spec.observation.shape)
    seen = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shots = [Shot(np.zeros(1), (), np.zeros(2), (0,), x) for x in seen]
    pairs = list(lens.under_noise(shots, policy, env.spec, KEY))
    assert [x for x, _ in pairs] == shots
    keys = jax.random.split(jax.random.fold_in(KEY, lens.LENS), lens.SAMPLES)
    for k in (0, 1, lens.SAMPLES - 1):
        noise = sample_noise(policy.network, keys[k])
        for i in (0, lens.BATCH - 1, lens.BATCH, number - 1):
            expected = policy.network(policy.preprocess(jnp.asarray(seen[i])[None])[0], noise)
            np.testing.assert_allclose(pairs[i][1][k], expected, rtol=1e-4, atol=1e-5)


def test_a_policy_without_noise_has_no_spread() -> None:
    env, policy = made("host", exploration="epsilon-greedy")
    assert film_programs(env, policy) == ()
    frames = list(film_frames(env, policy, 0.2, KEY)[0])
    assert not (np.stack(frames)[:, :, -PANEL:] == SPREAD).all(axis=-1).any()


def test_the_programs_of_a_video_are_those_that_it_runs() -> None:
    env, policy = made("host", frame_stack=2)
    (program,) = film_programs(env, policy)
    next(film_frames(env, policy, 0.1, KEY)[0])
    assert program.ready


def test_a_check_comes_before_each_step() -> None:
    env, policy = made("host")
    checks: list[int] = []

    def check() -> None:
        checks.append(len(checks))
        if len(checks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(film_frames(env, policy, 1.0, KEY, check)[0])
