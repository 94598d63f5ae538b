"""Gymnasium's environments by id: where they are registered, and clear words where they are not."""

import difflib
import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from noisydqn.errors import UserError

Maker = Callable[..., gymnasium.Env[Any, Any]]
"""What makes an environment."""

Entry = str | Maker
"""An id of Gymnasium (`"LunarLander-v3"`, `"module:Id"`), or what makes an environment."""

PACKAGES = {"ALE": ("ale_py", "atari"), "MinAtar": ("minatar.gym", "minatar")}
"""Namespaces of ids: the module that brings them, and our extra that installs it."""

BOX2D = ("LunarLander", "LunarLanderContinuous", "BipedalWalker", "CarRacing")

ATARI_KWARGS = {
    "stack_num": 1,  # frames are stacked by whoever sees them
    "noop_max": 0,  # sticky actions make games differ
    "use_fire_reset": False,
    "reward_clipping": False,  # rewards are clipped for learning alone
}
"""Arguments of Atari's vector environment: single grey frames of 84 x 84, every fourth, each the
maximum of two, and sticky actions of 0.25, as its ids have them (Machado et al. 2018)."""


def is_atari(entry: Entry) -> bool:
    """Whether an entry is one of the Arcade Learning Environment."""
    return isinstance(entry, str) and entry.startswith("ALE/")


def is_registered(name: str) -> bool:
    """Whether Gymnasium knows an id, with the packages that are installed."""
    register(name)
    return name in gymnasium.registry


def register(entry: str) -> None:
    """Import the package that brings an id, so that Gymnasium knows it.

    Raises:
        UserError: it is not installed.
    """
    module, extra = PACKAGES.get(entry.split("/", maxsplit=1)[0], (None, None))
    if module is None:
        return
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise UserError(
            f"{entry} needs a package that is not installed: pip install 'noisydqn[{extra}]'"
        )
    package = importlib.import_module(module)
    if module == "minatar.gym" and "MinAtar/Breakout-v1" not in gymnasium.registry:
        package.register_envs()


def make(
    entry: Entry,
    *,
    kwargs: Mapping[str, Any],
    max_episode_steps: int | None,
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]:
    """Make one environment.

    Raises:
        UserError: the id is not known, a package is missing, or the arguments do not fit.
    """
    if callable(entry):
        env = entry(**kwargs)
        return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)
    register(entry)
    rendering = {} if render_mode is None else {"render_mode": render_mode}
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pictures are wanted, not sound
    with _clear_errors(entry, kwargs):
        return gymnasium.make(
            entry,
            max_episode_steps=max_episode_steps,
            disable_env_checker=True,
            **rendering,
            **kwargs,
        )


def make_own_vector(
    entry: str, num_envs: int, *, kwargs: Mapping[str, Any], max_episode_steps: int | None
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make the vector environment that an id brings itself.

    Raises:
        UserError: it brings none, or as `make`.
    """
    register(entry)
    kwargs = dict(kwargs)
    if is_atari(entry):
        kwargs = {**ATARI_KWARGS, **kwargs}
        if max_episode_steps is not None:
            frames = max_episode_steps * kwargs.get("frameskip", 4)
            kwargs["max_num_frames_per_episode"] = frames
    elif max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps
    with _clear_errors(entry, kwargs):
        mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
        vector = gymnasium.make_vec(entry, num_envs, vectorization_mode=mode, **kwargs)
    mode = vector.metadata.get("autoreset_mode")
    if mode != gymnasium.vector.AutoresetMode.NEXT_STEP:
        raise UserError(
            f"the vector environment of {entry} resets by {mode}, expected NEXT_STEP, which shows "
            "final observations: choose --vectorisation sync or subprocess"
        )
    return vector


class _clear_errors:  # noqa: N801 - used like a function
    """Turns the errors of making an environment into one line each."""

    def __init__(self, entry: str, kwargs: Mapping[str, Any]) -> None:
        self.entry, self.kwargs = entry, kwargs

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        entry = self.entry
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            extra = "box2d" if entry.startswith(BOX2D) else None
            how = f"pip install 'noisydqn[{extra}]'" if extra else " ".join(str(error).split())
            raise UserError(f"{entry} needs a package that is not installed: {how}") from error
        if isinstance(error, gymnasium.error.UnregisteredEnv | gymnasium.error.VersionNotFound):
            raise UserError(unknown(entry)) from error
        if isinstance(error, ModuleNotFoundError):
            raise UserError(
                f"{entry} names a module that cannot be imported ({error}): start in the folder "
                "that holds it, or install it"
            ) from error
        if isinstance(error, gymnasium.error.Error | TypeError) and (
            self.kwargs or isinstance(error, gymnasium.error.Error)
        ):
            given = f" with --env-kwargs {json.dumps(dict(self.kwargs))}" if self.kwargs else ""
            reason = " ".join(str(error).split())
            raise UserError(f"{entry}{given} cannot be made: {reason}") from error


def unknown(name: str, also: Mapping[str, Any] | None = None) -> str:
    """What to say of an id that is not known; `also` holds names that would do, too."""
    known = [*(also or {}), *gymnasium.registry]
    by_lower = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    names = ", ".join(by_lower[key] for key in near)
    hint = f"did you mean {names}?" if near else "see noisydqn presets for some."
    return f"no environment {name!r}: {hint} Your own is 'module:Id'; gymnax's are 'gymnax:Name'"
