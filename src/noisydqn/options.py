"""Values and names of options: converted where that is exact, refused in one line where not.

Everything follows the type hints of a dataclass, so a call from Python, a file and the command
line agree on what an option takes.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from noisydqn.errors import ConfigError

MAX_SHOWN = 60
"""Characters of a refused value that a message shows."""


class JsonObject:
    """Mark a text option that holds a JSON object: `Annotated[str, JsonObject]` takes a dict."""


MAX_COUNT = 2**30
"""The largest whole number that an option takes: steps and updates are counted in 32 bits."""
MAX_SEED = 2**32 - 1
MAX_NAME = 1_000
"""Characters of the longest text that an option takes as a name."""


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that is not a 32-bit number.

    Raises:
        ConfigError: it is not; the message calls it `name`.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"{name} must be between 0 and {MAX_SEED}, got {seed}")


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A constraint on the values of an option: `Annotated[int, at_least(1)]`.

    None passes; infinity and counts above `MAX_COUNT` never do.
    """

    holds: Callable[[Any], bool]
    wanted: str

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that does not meet the constraint.

        Raises:
            ConfigError: the value does not.
        """
        if value is None:
            return
        if not self.holds(value) or value == math.inf:
            raise ConfigError(f"{flag(name)} must be {self.wanted}, got {value}")
        if isinstance(value, int) and value > MAX_COUNT:
            raise ConfigError(f"{flag(name)} must be at most {MAX_COUNT}, got {value}")


def at_least(least: float) -> Constraint:
    """Require numbers from `least` on."""
    words = "zero or more" if least == 0 else f"at least {least}"
    return Constraint(lambda x: x >= least, words)


def each_at_least(least: float) -> Constraint:
    """Require a tuple of numbers from `least` on."""
    return Constraint(lambda x: min(x, default=least) >= least, f"at least {least} everywhere")


def each_at_most(most: int, *, length: int) -> Constraint:
    """Require a tuple of at most `length` numbers up to `most`."""
    words = f"at most {length} numbers up to {most:,}"
    return Constraint(lambda x: len(x) <= length and max(x, default=most) <= most, words)


def at_most(most: float) -> Constraint:
    """Require numbers up to `most`."""
    return Constraint(lambda x: x <= most, f"at most {most}")


def between(low: float, high: float) -> Constraint:
    """Require numbers from `low` to `high`."""
    return Constraint(lambda x: low <= x <= high, f"between {low} and {high}")


_SHORT = f"printable text of at most {MAX_NAME:,} characters"
NAME = Constraint(lambda x: len(x) <= MAX_NAME and x.isprintable(), _SHORT)
EACH_NAME = Constraint(lambda x: all(map(NAME.holds, x)), f"texts, each {_SHORT}")
ABOVE_ZERO = Constraint(lambda x: x > 0, "above zero")
FINITE = Constraint(lambda x: abs(x) < math.inf, "a number")
DISTINCT = Constraint(lambda x: len(set(x)) == len(x), "names that each come once")


class Hint(NamedTuple):
    """A type hint, taken apart."""

    kind: Any  # a type, `tuple[X, ...]` or `Literal[...]`
    optional: bool  # None is a value
    marks: tuple[Any, ...]  # what `Annotated` adds


class _RefusedError(Exception):
    """A value does not fit; the argument says what was expected instead."""


def flag(name: str) -> str:
    """Spell an option as on the command line."""
    return f"--{name.rstrip('_').replace('_', '-')}"


@lru_cache
def hints_of(kind: type) -> Mapping[str, Hint]:
    """Return the hints of a dataclass by field."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _hint(hints[field.name]) for field in dataclasses.fields(kind)}


def _hint(hint: Any) -> Hint:
    marks: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    hint = hint.__origin__ if marks else hint
    if NoneType not in get_args(hint):
        return Hint(hint, False, marks)
    (kind,) = (arg for arg in get_args(hint) if arg is not NoneType)
    return Hint(kind, True, marks)


@lru_cache
def help_of(kind: type) -> Mapping[str, str]:
    """Return the help texts of a dataclass's fields: the strings that follow them in its source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - it is the source of a class
    texts: dict[str, str] = {}
    for field, text in itertools.pairwise(body.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def first_sentence(text: str) -> str:
    """Return the first sentence of a text in one line, without its full stop."""
    (first, *_) = re.split(r"(?<!et al)\. ", " ".join(text.split()), maxsplit=1)
    return first.removesuffix(".")


def choices(names: tuple[str, ...]) -> Any:
    """Return the type hint of an option that takes one of some names."""
    return Literal[names]


def convert_fields(options: Any) -> None:
    """Convert every field of a frozen dataclass, in place, to what its hint says.

    Raises:
        ConfigError: a value does not fit, or does not meet a `Constraint` of its field.
    """
    for name, hint in hints_of(type(options)).items():
        value = convert(name, getattr(options, name), hint)
        object.__setattr__(options, name, value)
        for mark in hint.marks:
            if isinstance(mark, Constraint):
                mark.check(name, value)


def convert(name: str, value: Any, hint: Hint) -> Any:
    """Convert the value of an option.

    Whole floats become integers, scalars of NumPy and JAX become Python's, lists become tuples and
    dictionaries JSON; text is never taken for a number, nor a number for a truth value.

    Raises:
        ConfigError: the value does not fit.
    """
    if value is None and hint.optional:
        return None
    try:
        return _converted(value, hint)
    except _RefusedError as refused:
        wanted = f"{refused} or None" if hint.optional else str(refused)
        raise ConfigError(f"{flag(name)} must be {wanted}, got {shown(value)}") from None


def argument(name: str, value: Any, kind: Any) -> Any:
    """Convert an argument of a function as `convert` does; `kind` is a type hint.

    Raises:
        ConfigError: the value does not fit.
    """
    return convert(name, value, _hint(kind))


def _converted(value: Any, hint: Hint) -> Any:
    value = _scalar(value)
    kind = hint.kind
    if get_origin(kind) is Literal:
        if isinstance(value, str) and value in get_args(kind):
            return str(value)
        raise _RefusedError(expected(kind))
    if get_origin(kind) is tuple:
        item = Hint(get_args(kind)[0], False, ())
        try:
            return tuple(_converted(x, item) for x in _items(value))
        except _RefusedError:
            raise _RefusedError(expected(kind)) from None
    if kind is str and JsonObject in hint.marks and isinstance(value, Mapping):
        return json.dumps(_json(value))
    if isinstance(value, bool):
        fits = kind is bool  # though Python takes them for integers
    elif kind in (int, float):
        value, fits = _number(value, kind)
    else:
        fits = isinstance(value, kind)
    if not fits:
        raise _RefusedError(expected(kind))
    return kind(value)


def _scalar(value: Any) -> Any:
    """Convert a scalar or an array without axes of NumPy, JAX or PyTorch to Python's value."""
    return value.item() if getattr(value, "shape", None) == () else value


def _number(value: Any, kind: type) -> tuple[Any, bool]:
    """Convert a number to another kind; also tell whether it is exactly the same."""
    if not isinstance(value, int | float):
        return value, False
    try:
        number = kind(value)
        float(number)  # beyond a float nothing is meant
    except (OverflowError, ValueError):  # infinity and NaN are no integers
        return value, False
    return number, number == value or value != value  # noqa: PLR0124 - NaN is a float


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple | list | range):
        return value
    if len(getattr(value, "shape", ())) == 1:  # an array
        return value.tolist()
    raise _RefusedError


def _json(value: Any) -> Any:
    """Convert a value to the types that JSON has.

    Raises:
        _RefusedError: it has other types, or keys that are not text.
    """
    value = _scalar(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _json(x) for key, x in value.items()}
    if isinstance(value, tuple | list):
        return [_json(x) for x in value]
    finite = isinstance(value, float) and math.isfinite(value)
    if finite or value is None or isinstance(value, str | int):
        return value
    raise _RefusedError(
        f"what JSON can hold, which {shown(value)} is not (for such arguments give "
        "env=lambda: MyEnv(...))"
    )


def takes_names(kind: Any) -> bool:
    """Tell whether an option takes several of some names: `tuple[Literal[...], ...]`."""
    return get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal


def takes_words(kind: Any) -> bool:
    """Tell whether an option takes several texts: `tuple[str, ...]`."""
    return get_origin(kind) is tuple and get_args(kind)[0] is str


def expected(kind: Any) -> str:
    """Say in words what an option of some kind takes."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if takes_names(kind):
        return f"names out of {', '.join(get_args(get_args(kind)[0]))}"
    if takes_words(kind):
        return "a tuple of texts"
    if get_origin(kind) is tuple:
        return "whole numbers such as (128, 128)"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return names.get(kind, "a path")


def shown(value: Any) -> str:
    """Show a value in one short line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer with thousands of digits
        text = "a number with too many digits to show"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


OTHER_NAMES = {
    "steps": "total_timesteps total_steps timesteps n_timesteps max_timesteps num_steps max_steps "
    "total_frames frames",
    "learning_rate": "lr step_size",
    "discount": "gamma discount_factor",
    "replay_capacity": "buffer_size memory_size capacity replay_size replay_buffer_size",
    "learning_starts": "learning_start start_timesteps min_buffer_size warmup_steps warmup",
    "target_rate": "tau polyak",
    "target_period": "target_update_interval target_network_frequency target_update_freq "
    "target_update_frequency target_update",
    "updates_per_step": "train_freq train_frequency gradient_steps update_per_step "
    "update_frequency update_freq utd",
    "actors": "num_workers n_workers num_actors n_actors num_env_runners num_rollout_workers",
    "num_envs": "n_envs n_env training_num num_environments",
    "evaluation_every": "eval_freq eval_interval eval_every",
    "evaluation_episodes": "n_eval_episodes eval_episodes num_eval_episodes",
    "checkpoint_seconds": "save_freq checkpoint_freq checkpoint_every save_every",
    "hidden": "net_arch hidden_sizes hidden_size layers policy_kwargs",
    "epsilon": "exploration_initial_eps start_e eps_start epsilon_start eps",
    "epsilon_final": "exploration_final_eps end_e eps_end epsilon_end",
    "epsilon_steps": "exploration_fraction epsilon_decay eps_decay",
    "priority_exponent": "alpha prioritized_replay_alpha",
    "importance_exponent": "beta prioritized_replay_beta prioritized_replay_beta0",
    "max_gradient_norm": "max_grad_norm clip_grad gradient_clip",
    "atoms": "n_atoms num_atoms",
    "quantiles": "n_quantiles num_quantiles",
    "n_step": "n_steps nstep estimation_step multi_step",
    "frame_stack": "n_stack stack_num",
    "window": "stats_window_size",
    "video_seconds": "capture_video video video_length film_seconds",
    "num_seeds": "seeds n_seeds",
    "env_kwargs": "env_args env_config",
    "max_episode_steps": "time_limit",
    "out": "tensorboard_log save_path log_dir logdir output output_dir folder",
    "quiet": "verbose progress_bar",
    "callbacks": "callback",
    "trackers": "tracker logger loggers",
    "env": "env_id gym_id environment task",
}
"""Names that other libraries give to options."""

NOTES = {
    "callbacks": "noisydqn.train and noisydqn.resume take them, in Python",
    "trackers": "noisydqn.train and noisydqn.resume take them, in Python; --track names services "
    "such as wandb, and metrics, episodes and TensorBoard events are files of the run's folder",
    "device": "JAX chooses it; set JAX_PLATFORMS=cpu to stay on the processor",
    "env": "the environment is NAME: noisydqn train CartPole-v1",
    "preset": "the preset is NAME: noisydqn train cartpole",
    "preset_file": "noisydqn train takes it; in Python, noisydqn.load_preset reads it",
}
"""Explanations of options that are given in another way, or not at all."""

NOTES_OF_RUNS = {
    "env": "the environment is that of the run; evaluate and record in Python take env=",
    "preset": "the options are those that the run was started with",
}
"""The same, for commands that take a run."""

WITH_HELP_ALL = ("train", "bsuite")
"""Commands whose --help shows only some of their options."""

_CANONICAL = {other: name for name, others in OTHER_NAMES.items() for other in others.split()}


def hint_of(
    name: str,
    names: Iterable[str],
    spell: Callable[[str], str] = str,
    command: str = "train",
) -> str | None:
    """Guess which of `names` was meant, also by the names that other libraries use.

    Args:
        name: what was given.
        names: what there is.
        spell: how the answer is written.
        command: that it was given to.
    """
    by_key = {_key(known): known for known in names}
    key = _key(name[:MAX_NAME])
    canonical = _CANONICAL.get(key, key)
    near = [canonical] if canonical in by_key else None
    notes = NOTES if command == "train" else NOTES | NOTES_OF_RUNS
    if near is None and canonical in notes:
        return notes[canonical]
    near = near or difflib.get_close_matches(key, by_key, n=1, cutoff=0.7)
    return f"did you mean {spell(by_key[near[0]])}?" if near else None


def _key(name: str) -> str:
    return name.lower().strip("-").replace("-", "_")


def help_command(command: str) -> str:
    """Return the command that lists all options of a command."""
    return f"noisydqn {command} {'--help-all' if command in WITH_HELP_ALL else '--help'}"


def refuse_unknown(
    given: Iterable[str], names: Iterable[str], command: str = "train", where: str = ""
) -> None:
    """Refuse options that do not exist.

    Args:
        given: what was given.
        names: what there is.
        command: whose help lists them.
        where: they were given, as in " in the options", for messages.

    Raises:
        ConfigError: one of `given` is not one of `names`.
    """
    names = list(names)
    for name in given:
        if name not in names:
            listed = f"{help_command(command)} lists the options"
            hint = hint_of(name, names, command=command) or listed
            raise ConfigError(f"unknown option {shown(name)}{where}: {hint}")


def field_names(kind: type) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [field.name for field in dataclasses.fields(kind)]
