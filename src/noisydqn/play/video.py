"""Films of a policy: the game beside the action values that drive it."""

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from noisydqn.compilation import Program
from noisydqn.envs import catcher
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import (
    DeviceEnvironment,
    LimitedState,
    TimeLimit,
    VectorEnvironment,
    environment_spec,
)
from noisydqn.envs.host import HostEnvironment
from noisydqn.errors import UserError, in_one_line
from noisydqn.learner.agent import values
from noisydqn.learner.policy import Policy
from noisydqn.play.evaluate import play, policy_shapes
from noisydqn.preprocessing import frames
from noisydqn.types import TimeStep

HEIGHT = 384  # of the film, pixels
MAX_WIDTH = 4 * HEIGHT  # of the game in it
CATCHER_RATE = 30.0  # ticks a second
PANEL = 192  # width of the panel beside the game, pixels
BAR_HEIGHT = 120
DARK, LIGHT, CHOSEN = (18, 18, 24), (150, 150, 160), (255, 170, 60)


class Shot(NamedTuple):
    """One picture of a film."""

    picture: np.ndarray  # [height, width, 3], bytes
    lines: tuple[str, ...]  # what the panel says
    q: np.ndarray  # [actions]
    action: int


# Catcher, with both ticks of a decision


PART_DECISIONS = 75
"""Decisions that one compiled call plays: five seconds of video."""


class _Playing(NamedTuple):
    key: PRNGKeyArray
    env_states: Any
    time_step: TimeStep
    stack: Shaped[Array, "1 ..."]


class _Part(NamedTuple):
    pictures: UInt8[Array, "decisions ticks height width 3"]
    q: Float[Array, "decisions actions"]
    action: Int[Array, " decisions"]
    caught: Int[Array, " decisions"]
    missed: Int[Array, " decisions"]


def _begin(env: DeviceEnvironment, policy: Policy, key: PRNGKeyArray) -> _Playing:
    key, reset_key = jax.random.split(key)
    states, first = VectorEnvironment(env, env.default_params, 1).reset(reset_key)
    return _Playing(key, states, first, frames.start(first.observation, policy.frames))


def _play(env: DeviceEnvironment, policy: Policy, playing: _Playing) -> tuple[_Playing, _Part]:
    """Play with mean weights for a part of the video, through as many games as fit."""
    vector = VectorEnvironment(env, env.default_params, 1)

    def decide(playing: _Playing, _: None) -> tuple[_Playing, _Part]:
        key, step_key = jax.random.split(playing.key)
        q = values(policy.network, policy.preprocess(playing.stack), None)
        action, over = jnp.argmax(q, axis=-1).astype(jnp.int32), playing.time_step.last
        states, time_step = vector.step(step_key, playing.env_states, action, over)
        stack = frames.push(playing.stack, time_step.observation, over, policy.frames)
        state = states.inner if isinstance(states, LimitedState) else states
        ticks = [jax.vmap(catcher.render)(game) for game in (state.previous, state.game)]
        info = time_step.info
        part = _Part(jnp.stack(ticks, axis=1), q, action, info["caught"], info["missed"])
        return _Playing(key, states, time_step, stack), jax.tree.map(lambda x: x[0], part)

    return jax.lax.scan(decide, playing, length=PART_DECISIONS)


@lru_cache(maxsize=8)
def _programs(
    env: DeviceEnvironment, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> tuple[Program[_Playing], Program[tuple[_Playing, _Part]]]:
    policy: Policy = jax.tree.unflatten(structure, leaves)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    begin: Program[_Playing] = Program(
        "video", partial(_begin, env), lambda: (policy, key), runs="once"
    )
    play = Program("video", partial(_play, env), lambda: (policy, begin.shapes), runs="seldom")
    return begin, play


def film_programs(
    env: DeviceEnvironment | HostEnvironment, policy: Policy
) -> tuple[Program[Any], ...]:
    """What a video of policies like `policy` runs, to be compiled before."""
    if isinstance(env, HostEnvironment) or not _is_catcher(env):
        return ()
    return _programs(env, *policy_shapes(policy))


def _is_catcher(env: DeviceEnvironment) -> bool:
    return isinstance(env.env if isinstance(env, TimeLimit) else env, CatcherPixels)


def _catcher_shots(
    env: DeviceEnvironment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> Iterator[Shot]:
    begin, play = _programs(env, *policy_shapes(policy))
    playing, left = begin(policy, key), max(round(seconds * CATCHER_RATE / 2), 1)
    caught = missed = 0
    while left > 0:
        playing, part = play(policy, playing)
        part = jax.tree.map(np.asarray, part)
        for i in range(min(left, PART_DECISIONS)):
            caught, missed = caught + int(part.caught[i]), missed + int(part.missed[i])
            lines = (f"caught  {caught}", f"missed  {missed}")
            for picture in part.pictures[i]:
                yield Shot(picture, lines, part.q[i], int(part.action[i]))
        left -= PART_DECISIONS


# Environments of Gymnasium


def _host_shots(
    env: HostEnvironment, policy: Policy, seconds: float, seed: int, rate: float
) -> Iterator[Shot]:
    vector = env.vector(1, pictures=True)
    number = max(round(seconds * rate), 1)
    episode, total, steps, over = 0, 0.0, 0, True
    try:
        for time_step, actions, q in itertools.islice(play(vector, policy, seed), number):
            if over:
                episode, total, steps = episode + 1, 0.0, 0
            else:
                total, steps = total + float(time_step.reward[0]), steps + 1
            over = bool(time_step.last[0])
            lines = (f"episode  {episode}", f"return  {total:.1f}", f"step  {steps}")
            yield Shot(vector.picture(time_step), lines, q[0], int(actions[0]))
    finally:
        vector.close()


# The film


def video_problem(env: DeviceEnvironment | HostEnvironment) -> str | None:
    """What keeps a video of an environment from being made, in a line, or None.

    It is found by drawing one picture, so that it can be told before training.
    """
    if isinstance(env, HostEnvironment):
        return env.video_problem
    if _is_catcher(env):
        return None
    return "of the environments in JAX only Catcher draws pictures"


def _width(picture: np.ndarray) -> int:
    """The width, even, of a picture at the film's height."""
    height, width = picture.shape[:2]
    return min(max(round(width * HEIGHT / height / 2) * 2, 2), MAX_WIDTH)


def _scaled(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture [HEIGHT, width, 3]; black is added to one whose sides have another ratio.

    Small ones grow by copying, so that pixels stay sharp.
    """
    size = width, HEIGHT
    factor = HEIGHT / picture.shape[0]
    if _width(picture) != width or width == MAX_WIDTH:
        factor = min(factor, width / picture.shape[1])
        size = tuple(max(int(side * factor), 1) for side in picture.shape[1::-1])
    way = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    frame = Image.new("RGB", (width, HEIGHT))
    scaled = Image.fromarray(picture).resize((size[0], size[1]), way)
    frame.paste(scaled, ((width - size[0]) // 2, (HEIGHT - size[1]) // 2))
    return np.asarray(frame)


_font = lru_cache(maxsize=None)(ImageFont.load_default)
"""The font of a size; what it has drawn once it draws faster."""


def _panel(shot: Shot, names: tuple[str, ...], low: float, high: float) -> np.ndarray:
    """The panel: what there is to say, and a bar for each action's value."""
    image = Image.new("RGB", (PANEL, HEIGHT), DARK)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(shot.lines):
        draw.text((16, 16 + 28 * i), line, fill=LIGHT, font=_font(20))
    draw.text((16, 114), "action values", fill=LIGHT, font=_font(16))
    bottom = 150 + BAR_HEIGHT
    stride = min((PANEL - 24) / len(names), 56)
    few = len(names) <= 3
    for action, name in enumerate(names):
        height = (float(shot.q[action]) - low) / max(high - low, 1e-6) * BAR_HEIGHT
        left = 16 + action * stride
        color = CHOSEN if action == shot.action else LIGHT
        box = (left, bottom - max(height, 2), left + stride * 0.7, bottom)
        draw.rectangle(box, fill=color)
        font = _font(16 if few else 11)
        draw.text((left, bottom + 8), name[: 5 if few else 2], fill=color, font=font)
        if few:
            draw.text((left, bottom + 32), f"{shot.q[action]:.2f}", fill=color, font=_font(14))
    best = float(shot.q[shot.action])
    if not few:
        draw.text((16, bottom + 40), f"best  {best:.2f}", fill=CHOSEN, font=_font(16))
    return np.asarray(image)


def _shots(
    env: DeviceEnvironment | HostEnvironment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> tuple[Iterator[Shot], tuple[str, ...], float]:
    """The pictures of a film, the names of the actions, and pictures a second.

    Raises:
        UserError: the environment shows nothing.
    """
    if (problem := video_problem(env)) is not None:
        raise UserError(f"no video: {problem}")
    if isinstance(env, HostEnvironment):
        rate = env.frame_rate
        assert rate is not None  # noqa: S101 - there is no problem
        seed = int(jax.random.bits(key))
        return _host_shots(env, policy, seconds, seed, rate), env.spec.action_names, rate
    names = environment_spec(env).action_names
    return _catcher_shots(env, policy, seconds, key), names, CATCHER_RATE


def film_frames(
    env: DeviceEnvironment | HostEnvironment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> tuple[Generator[np.ndarray], float]:
    """The frames [height, width, 3] of a film, and how many there are a second.

    Raises:
        UserError: the environment shows nothing.
    """
    shots, names, rate = _shots(env, policy, seconds, key)

    def film() -> Generator[np.ndarray]:
        low, high = np.inf, -np.inf  # of the values so far
        width = None
        for shot in shots:
            low, high = min(low, float(shot.q.min())), max(high, float(shot.q.max()))
            width = _width(shot.picture) if width is None else width
            game = _scaled(shot.picture, width)
            yield np.concatenate([game, _panel(shot, names, low, high)], axis=1)

    return film(), rate


def save_film(
    path: Path,
    env: DeviceEnvironment | HostEnvironment,
    policy: Policy,
    seconds: float,
    key: PRNGKeyArray,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Film a policy that plays with mean weights, as an MP4 of `seconds` seconds.

    The file appears when the film is whole. `check` is called before each frame, and may raise to
    leave it.

    Raises:
        UserError: the path does not end in .mp4, the film cannot be written there, or the
            environment shows nothing or fails.
    """
    if path.suffix != ".mp4" or not path.parent.is_dir():
        raise UserError(f"{path} cannot be a film: name an .mp4 file in a folder that exists")
    film, rate = film_frames(env, policy, seconds, key)

    def checked() -> Iterator[np.ndarray]:
        for frame in film:
            check()
            yield frame

    with contextlib.closing(film):
        _encode(path, checked(), rate)


def _encode(path: Path, film: Iterator[np.ndarray], rate: float) -> None:
    first = next(film)
    height, width = first.shape[:2]
    part = path.with_name(f"{path.stem}.part.mp4")
    if part.is_dir():
        raise UserError(f"{path} cannot be written: {part} is a folder; move it away first")
    command = ["-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-r", str(rate), "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", str(part)]
    # Not imageio_ffmpeg's own writer: it forks, which JAX's threads do not survive. The process
    # has a group of its own, so that Ctrl-C reaches only us.
    pipe = subprocess.PIPE
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *command]
        process = subprocess.Popen(command, stdin=pipe, stderr=pipe, process_group=0)  # noqa: S603
    except (RuntimeError, OSError) as error:
        raise UserError(f"no video: ffmpeg cannot be started ({in_one_line(error)})") from error
    try:
        with contextlib.suppress(BrokenPipeError):  # ffmpeg stopped; its message is read below
            for frame in itertools.chain([first], film):
                process.stdin.write(frame.tobytes())  # pyright: ignore[reportOptionalMemberAccess]
        _, errors = process.communicate()
        if process.returncode != 0:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{path} cannot be written: {' '.join(reason)}")
        part.replace(path)
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()  # closes its pipes
        with contextlib.suppress(OSError):  # it would hide what went wrong before
            part.unlink(missing_ok=True)
