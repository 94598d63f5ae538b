"""Videos of a policy: the game beside the action values that drive it."""

import contextlib
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from jaxtyping import PRNGKeyArray
from PIL import Image

from noisydqn.compilation import Program
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import File
from noisydqn.learner.policy import Policy
from noisydqn.play.lens import lens_programs, under_noise
from noisydqn.play.panel import HEIGHT, Panel
from noisydqn.play.played import Shot
from noisydqn.play.rollout import rollout

MAX_WIDTH = 4 * HEIGHT  # of the game in the video


def film_programs(env: Environment, policy: Policy) -> tuple[Program[Any], ...]:
    """Return the programs that a video of policies like `policy` runs."""
    if env.video_problem is not None:
        return ()
    return *rollout(env).shot_programs(policy), *lens_programs(policy, env.spec)


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


def film_frames(
    env: Environment,
    policy: Policy,
    seconds: float,
    key: PRNGKeyArray,
    check: Callable[[], None] = lambda: None,
    *,
    panel: bool = True,
) -> tuple[Generator[np.ndarray], float]:
    """Return the frames [height, width, 3] of a video, and their number per second.

    Args:
        env: the environment.
        policy: plays with mean weights.
        seconds: length of the video.
        key: of the episodes, and of the noise samples that the panel shows.
        check: called before each step of the policy; it may raise to abandon the video.
        panel: whether the action values and their spread under noise are drawn beside the game.

    Raises:
        UserError: the environment cannot be rendered.
    """
    if (problem := env.video_problem) is not None:
        raise UserError(f"no video: {problem}")
    playing, spec = rollout(env), env.spec

    def shots() -> Generator[Shot]:
        with contextlib.closing(playing.shots(policy, seconds, key)) as played:
            for shot in played:
                check()
                yield shot

    def film() -> Generator[np.ndarray]:
        width = None
        drawing = Panel(spec.action_names, spec.action_sizes)
        spread = under_noise(shots(), policy, spec, key)
        pairs = spread if panel else ((x, None) for x in shots())
        for shot, noisy in pairs:
            width = _width(shot.picture) if width is None else width
            game = _scaled(shot.picture, width)
            yield game if noisy is None else np.concatenate([game, drawing.draw(shot, noisy)], 1)

    return film(), playing.frame_rate


def save_film(
    file: File,
    env: Environment,
    policy: Policy,
    seconds: float,
    key: PRNGKeyArray,
    check: Callable[[], None] = lambda: None,
    *,
    panel: bool = True,
    new: bool = False,
) -> None:
    """Record a policy that plays with mean weights, as an MP4 of `seconds` seconds.

    The file appears when the video is complete, and with `new` never replaces another. `check` is
    called before each step, and may raise to abandon the video. `panel` is that of `film_frames`.

    Raises:
        UserError: the path does not end in .mp4, the video cannot be written there, or the
            environment cannot be rendered or fails.
    """
    if file.path.suffix != ".mp4" or not file.folder.exists():
        raise UserError(f"{file} cannot be a video: name an .mp4 file in a folder that exists")
    film, rate = film_frames(env, policy, seconds, key, check, panel=panel)
    with contextlib.closing(film), tempfile.TemporaryDirectory() as made:
        part = Path(made) / "film.mp4"
        _encode(part, file, film, rate)
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
