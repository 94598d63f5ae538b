"""Videos of a policy: the game beside the action values that drive it."""

import contextlib
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from jaxtyping import PRNGKeyArray
from PIL import Image, ImageDraw, ImageFont

from noisydqn.compilation import Program
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import File
from noisydqn.learner.policy import Policy
from noisydqn.play.played import Shot
from noisydqn.play.rollout import rollout

HEIGHT = 384  # of the video, pixels
MAX_WIDTH = 4 * HEIGHT  # of the game in the video
PANEL = 192  # width of the panel beside the game, pixels
BAR_HEIGHT = 120
DARK, LIGHT, CHOSEN = (18, 18, 24), (150, 150, 160), (255, 170, 60)
FAINT = (70, 70, 78)  # the names of invalid actions


def film_programs(env: Environment, policy: Policy) -> tuple[Program[Any], ...]:
    """Return the programs that a video of policies like `policy` runs."""
    return rollout(env).shot_programs(policy)


def _width(picture: np.ndarray) -> int:
    """Compute the width, an even number, of a picture scaled to the video's height."""
    height, width = picture.shape[:2]
    return min(max(round(width * HEIGHT / height / 2) * 2, 2), MAX_WIDTH)


def _scaled(picture: np.ndarray, width: int) -> np.ndarray:
    """Scale a picture to [HEIGHT, width, 3], with black borders if its aspect ratio differs.

    Small pictures are enlarged by copying pixels, which keeps them sharp.
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
"""The font of a size, cached, because a font draws a text faster the second time."""


def _panel(shot: Shot, names: tuple[str, ...], low: float, high: float) -> np.ndarray:
    """Draw the panel: lines of text, and a bar for each action's value."""
    image = Image.new("RGB", (PANEL, HEIGHT), DARK)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(shot.lines):
        draw.text((16, 16 + 28 * i), line, fill=LIGHT, font=_font(20))
    draw.text((16, 114), "action values", fill=LIGHT, font=_font(16))
    bottom = 150 + BAR_HEIGHT
    stride = min((PANEL - 24) / len(names), 56)
    few = len(names) <= 3
    for action, name in enumerate(names):
        valid = np.isfinite(shot.q[action])
        left = 16 + action * stride
        color = CHOSEN if action == shot.action else LIGHT if valid else FAINT
        if valid:
            height = (float(shot.q[action]) - low) / max(high - low, 1e-6) * BAR_HEIGHT
            box = (left, bottom - max(height, 2), left + stride * 0.7, bottom)
            draw.rectangle(box, fill=color)
        font = _font(16 if few else 11)
        draw.text((left, bottom + 8), name[: 5 if few else 2], fill=color, font=font)
        if few and valid:
            draw.text((left, bottom + 32), f"{shot.q[action]:.2f}", fill=color, font=_font(14))
    best = float(shot.q[shot.action])
    if not few:
        draw.text((16, bottom + 40), f"best  {best:.2f}", fill=CHOSEN, font=_font(16))
    return np.asarray(image)


def film_frames(
    env: Environment, policy: Policy, seconds: float, key: PRNGKeyArray
) -> tuple[Generator[np.ndarray], float]:
    """Return the frames [height, width, 3] of a video, and their number per second.

    Raises:
        UserError: the environment cannot be rendered.
    """
    if (problem := env.video_problem) is not None:
        raise UserError(f"no video: {problem}")
    playing, names = rollout(env), env.spec.action_names

    def film() -> Generator[np.ndarray]:
        low, high = np.inf, -np.inf  # of the values so far
        width = None
        for shot in playing.shots(policy, seconds, key):
            valid = shot.q[np.isfinite(shot.q)]  # -infinity where the action is invalid
            low, high = min(low, float(valid.min())), max(high, float(valid.max()))
            width = _width(shot.picture) if width is None else width
            game = _scaled(shot.picture, width)
            yield np.concatenate([game, _panel(shot, names, low, high)], axis=1)

    return film(), playing.frame_rate


def save_film(
    file: File,
    env: Environment,
    policy: Policy,
    seconds: float,
    key: PRNGKeyArray,
    check: Callable[[], None] = lambda: None,
    *,
    new: bool = False,
) -> None:
    """Record a policy that plays with mean weights, as an MP4 of `seconds` seconds.

    The file appears when the video is complete, and with `new` never replaces another. `check` is
    called before each frame, and may raise to abandon the video.

    Raises:
        UserError: the path does not end in .mp4, the video cannot be written there, or the
            environment cannot be rendered or fails.
    """
    if file.path.suffix != ".mp4" or not file.folder.exists():
        raise UserError(f"{file} cannot be a video: name an .mp4 file in a folder that exists")
    film, rate = film_frames(env, policy, seconds, key)

    def checked() -> Iterator[np.ndarray]:
        for frame in film:
            check()
            yield frame

    with contextlib.closing(film), tempfile.TemporaryDirectory() as made:
        part = Path(made) / "film.mp4"
        _encode(part, file, checked(), rate)
        try:
            file.take(part, new=new)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error


def _encode(part: Path, file: File, film: Iterator[np.ndarray], rate: float) -> None:
    """Write a film to a path of our own; messages name the file that it is for."""
    first = next(film)
    height, width = first.shape[:2]
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
            raise UserError(f"{file} cannot be written: {' '.join(reason)}")
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.communicate()  # closes its pipes
