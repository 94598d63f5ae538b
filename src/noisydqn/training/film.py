"""Films of a policy: the game beside the action values that drive it."""

import contextlib
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from PIL import Image, ImageDraw

from noisydqn.agent import values
from noisydqn.build import Policy
from noisydqn.envs import catcher
from noisydqn.envs.catcher import CatcherState
from noisydqn.envs.device import DeviceEnvironment, VectorEnvironment
from noisydqn.errors import UserError
from noisydqn.types import TimeStep

FRAMES_PER_SECOND = 30
SCALE = 6  # of the game's 64 x 64 pixels
GAME = catcher.SIZE * SCALE
PANEL = 192  # width of the panel beside the game, pixels
ACTIONS = ("left", "right", "stay")
BAR_HEIGHT = 120
DARK, LIGHT, CHOSEN = (18, 18, 24), (150, 150, 160), (255, 170, 60)


_render = jax.jit(catcher.render)


class _Played(NamedTuple):
    games: tuple[CatcherState, CatcherState]  # [decisions], after each of the two ticks
    q: Float[Array, "decisions actions"]
    action: Int[Array, " decisions"]
    caught: Int[Array, " decisions"]
    missed: Int[Array, " decisions"]


@partial(jax.jit, static_argnums=(0, 1))
def _play(env: DeviceEnvironment, decisions: int, policy: Policy, key: PRNGKeyArray) -> _Played:
    """Play with mean weights for some decisions, through as many games as fit."""
    vector = VectorEnvironment(env, env.default_params, 1)
    reset_key, play_key = jax.random.split(key)

    def decide(carry: tuple[Any, TimeStep], key: PRNGKeyArray) -> tuple[Any, _Played]:
        states, time_step = carry
        q = values(policy.network, policy.preprocess(time_step.observation), None)
        action = jnp.argmax(q, axis=-1).astype(jnp.int32)
        states, time_step = vector.step(key, states, action, time_step.last)
        info = time_step.info
        games = (states.previous, states.game)
        played = _Played(games, q, action, info["caught"], info["missed"])
        return (states, time_step), jax.tree.map(lambda x: x[0], played)

    _, played = jax.lax.scan(decide, vector.reset(reset_key), jax.random.split(play_key, decisions))
    return played._replace(caught=jnp.cumsum(played.caught), missed=jnp.cumsum(played.missed))


def _panel(played: _Played, i: int, low: float, high: float) -> np.ndarray:
    """The panel of decision i: the score, and a bar for each action's value."""
    image = Image.new("RGB", (PANEL, GAME), DARK)
    draw = ImageDraw.Draw(image)
    draw.text((16, 16), f"caught  {played.caught[i]}", fill=LIGHT, font_size=20)
    draw.text((16, 44), f"missed  {played.missed[i]}", fill=LIGHT, font_size=20)
    draw.text((16, 110), "action values", fill=LIGHT, font_size=16)
    bottom = 150 + BAR_HEIGHT
    for action, name in enumerate(ACTIONS):
        height = (float(played.q[i, action]) - low) / max(high - low, 1e-6) * BAR_HEIGHT
        left = 16 + action * 56
        colour = CHOSEN if action == played.action[i] else LIGHT
        draw.rectangle((left, bottom - max(height, 2), left + 40, bottom), fill=colour)
        draw.text((left, bottom + 8), name, fill=colour, font_size=16)
        draw.text((left, bottom + 32), f"{played.q[i, action]:.2f}", fill=colour, font_size=14)
    return np.asarray(image)


def film_frames(
    env: DeviceEnvironment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames of a film, 30 a second: every tick of the game, and the panel beside it."""
    decisions = max(round(seconds * FRAMES_PER_SECOND / 2), 1)
    played = jax.tree.map(np.asarray, _play(env, decisions, policy, key))
    low, high = float(played.q.min()), float(played.q.max())
    for i in range(decisions):
        panel = _panel(played, i, low, high)
        for state in played.games:
            screen = np.asarray(_render(jax.tree.map(lambda x, i=i: x[i], state)))
            game = screen.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            yield np.concatenate([game, panel], axis=1)


def save_film(
    path: Path, env: DeviceEnvironment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> None:
    """Film a policy that plays with mean weights, as an MP4 of `seconds` seconds.

    The file appears when the film is whole.

    Raises:
        UserError: the path does not end in .mp4, or the film cannot be written there.
    """
    if path.suffix != ".mp4" or not path.parent.is_dir():
        raise UserError(f"{path} cannot be a film: name an .mp4 file in a folder that exists")
    part = path.with_name(f"{path.stem}.part.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{GAME + PANEL}x{GAME}"]
    command += ["-r", str(FRAMES_PER_SECOND), "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", str(part)]
    # Not imageio_ffmpeg's own writer: it forks, which JAX's threads do not survive. The process
    # has a group of its own, so that Ctrl-C reaches only us.
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stderr=pipe, process_group=0)  # noqa: S603
    try:
        with contextlib.suppress(BrokenPipeError):  # ffmpeg stopped; its message is read below
            for frame in film_frames(env, policy, seconds, key):
                process.stdin.write(frame.tobytes())  # pyright: ignore[reportOptionalMemberAccess]
        _, errors = process.communicate()
        if process.returncode != 0:
            reason = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{path} cannot be written: {' '.join(reason)}")
        part.replace(path)
    finally:
        process.kill()
        process.wait()
        part.unlink(missing_ok=True)
