"""Pictures of any form, and the frames of a video that are made of them."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tests import probes
from tests.host_envs import Drawing

from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.envs.host import HostEnvironment
from noisydqn.envs.pictures import as_picture
from noisydqn.errors import UserError
from noisydqn.folders import File
from noisydqn.play import video as film
from noisydqn.play.panel import PANEL
from noisydqn.runners.build import make_policy

RGB = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
GREY = RGB[..., :1].repeat(3, axis=2)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (RGB, RGB),
        ([RGB + 1, RGB], RGB),
        (RGB.tolist(), RGB),
        (RGB.astype(np.int64), RGB),
        (np.concatenate([RGB, RGB[..., :1]], axis=2), RGB),
        (np.moveaxis(RGB, 2, 0), RGB),
        (RGB[..., 0], GREY),
        (RGB[..., :1], GREY),
        (RGB.astype(np.float64), RGB),
        (RGB / 255, RGB),
        (RGB > 7, np.where(RGB > 7, 255, 0)),
    ],
)
def test_pictures_of_every_form(drawn: Any, expected: np.ndarray) -> None:
    got = as_picture(drawn)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def frames_of(pictures: list[Any]) -> list[np.ndarray]:
    env = HostEnvironment.create(probes.SMALL.environment, partial(Drawing, pictures))
    policy = make_policy(probes.SMALL.program, env.spec, jax.random.key(0))
    frames, rate = film.film_frames(env, policy, 0.1, jax.random.key(0))
    assert rate == 30  # the environment declares none that could be
    return list(frames)


def test_a_picture_does_not_change_with_the_canvas() -> None:
    """An environment may draw all of its pictures into one array."""
    canvas = np.zeros((8, 8, 3), np.uint8)
    assert not np.shares_memory(as_picture(canvas), canvas)


def test_pictures_of_other_sizes_keep_the_size_of_the_first() -> None:
    shapes = [(40, 60, 3), (7, 3, 3), (500, 301, 3)]
    frames = frames_of([np.full(shape, 255, np.uint8) for shape in shapes])
    assert {frame.shape for frame in frames} == {(384, 576 + PANEL, 3)}
    games = [frame[:, :576] for frame in frames]
    assert games[0].min() == 255
    assert [int(game[:, 288].min()) for game in games] == [255] * 3
    assert [int(game[:, 0].max()) for game in games] == [255, 0, 0]


def test_a_wide_picture_makes_no_endless_frame() -> None:
    frames = frames_of([np.zeros((1, 5_000), np.uint8)])
    assert frames[0].shape == (384, film.MAX_WIDTH + PANEL, 3)


def test_a_picture_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    env = HostEnvironment.create(probes.SMALL.environment, partial(Drawing, [RGB, None]))
    policy = make_policy(probes.SMALL.program, env.spec, jax.random.key(0))
    with pytest.raises(UserError, match="the environment rendered no picture at step 1: "):
        film.save_film(File.at(tmp_path / "film.mp4"), env, policy, 0.2, jax.random.key(0))
    assert not list(tmp_path.iterdir())


def test_catcher_with_a_limit_is_drawn() -> None:
    env = DeviceEnvironment.create(CatcherPixels(), max_episode_steps=2)
    policy = make_policy(probes.SMALL.program, env.spec, jax.random.key(0))
    frames, rate = film.film_frames(env, policy, 0.2, jax.random.key(0))
    assert len(list(frames)) == round(0.2 * rate)
