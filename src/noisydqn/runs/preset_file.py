"""Preset files: options as a flat TOML table, over those of a preset or an environment.

Such a file may come from anyone. It is data: code that it names is refused unless it is trusted.
"""

import contextlib
import json
import textwrap
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from noisydqn.config.config import (
    ABOUT_VARIANTS,
    SECTIONS,
    VARIANTS,
    Config,
    option_hints,
    option_texts,
    owners,
)
from noisydqn.config.gate import ALL, named_code, refuse_code
from noisydqn.config.toml_file import NONE, from_toml, read_toml
from noisydqn.envs.names import prefix
from noisydqn.errors import ConfigError, UserError
from noisydqn.files import Place, given_path
from noisydqn.options import JsonObject, first_sentence, flag, hints_of
from noisydqn.presets import DEFAULT_PRESET, PRESETS, config_for, with_learner
from noisydqn.runs.named import config_named, preset_named

OF_THE_COMMAND = (
    *("out", "quiet", "cache", "resume", "trust", "preset_file"),
    *("from", "from_weights", "from_replay", "ray"),
)
"""Arguments of `noisydqn train` that are not options of a run."""
CONTENTS = 'options, such as learning_rate = 1e-3 and exploration = "noisy"'
WIDTH = 100
"""Columns of a file that is written."""
HEAD = """\
A preset file: noisydqn train --preset-file FILE trains with these options. Flags override them,
and an option that is left out is that of the preset. "none" stands for no value. A value that is
not the default has the default beside it."""


# Reading


def load_preset(path: Place, *, trust: bool = False) -> Config:
    """Load the options of a preset file: `train(load_preset("mine.toml"), seed=1)`.

    The file is a flat TOML table of options by their names, such as `learning_rate = 1e-3`. They
    change those of its `preset`, or those that suit its `env`.

    Args:
        path: the file.
        trust: whether code that the file names, such as an environment of one's own, may be
            imported.

    Raises:
        UserError: the file cannot be used, or it names code without `trust`.
    """
    return config_over(path, trust=trust)


def config_over(
    path: Place,
    name: str | None = None,
    flags: Mapping[str, Any] | None = None,
    uses: Iterable[str] = ALL,
    *,
    trust: bool,
    otherwise: str | None = None,
) -> Config:
    """Put the options of a preset file over those of its base.

    Args:
        path: the file.
        name: the base, as NAME of `noisydqn train`. None takes the file's own: its `preset`, else
            its `env`, else the default preset.
        flags: options that the caller puts over the result. What they replace needs no trust.
        uses: as in `StoredConfig.admit`.
        trust: as in `StoredConfig.admit`.
        otherwise: the base if neither `name` nor the file gives one.

    Raises:
        UserError: the file cannot be used, names code and is not trusted, or as `config_named`.
    """
    path, flags = given_path(path, "--preset-file"), flags or {}
    file = _read(path)
    preset, learner = file.pop("preset", None), file.get("learner", flags.get("learner"))
    uses = [option for option in uses if option not in flags]
    if name is None and preset is None and "env" not in file:
        name = otherwise
    if name is None:
        with _naming(path):
            base = _base(preset, file.get("env"), learner)
    else:
        file.pop("env", None)
        others = [option for option in uses if option not in file]
        base = config_named(name, others, trust=trust, learner=learner)
    with _naming(path):
        config = base.replace(**file)
    code = _code(config, file, flags)
    if (asked := {option: code[option] for option in uses if option in code}) and not trust:
        refuse_code(path, asked, " or give NAME" if "env" in file and "env" in asked else "")
    if "env" in file and "env" in uses:
        with _naming(path):
            _check_environment(config.environment.env)
    return config


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Name the file in the message of an error."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{path} cannot be used: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """Read the options of a preset file, converted to their types."""
    options, hints = read_toml(path, dict[str, Any], CONTENTS), option_hints()
    with _naming(path):
        for name, value in options.items():
            if name in OF_THE_COMMAND:
                raise UserError(f"{name} is not an option of a run: give {flag(name)} beside it")
            takes_table = name in hints and JsonObject in hints[name].marks
            if isinstance(value, dict) and not takes_table:
                raise UserError(f"[{name}] is a table: write its options without it, one a line")
        return from_toml(options)


def _base(preset: str | None, env: str | None, learner: str | None) -> Config:
    """Find the options that a file changes."""
    if preset is None and env is not None:
        return config_for(env, learner)
    return with_learner(preset_named(DEFAULT_PRESET if preset is None else preset), learner)


def _check_environment(env: str) -> None:
    """Refuse an id that Gymnasium does not know; other names are found when they are used."""
    from noisydqn.envs.catalogue import is_registered, unknown

    if not prefix(env) and not is_registered(env):
        raise UserError(unknown(env))


def _code(config: Config, file: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, str]:
    """Find the code that a file names, by option; what flags replace is left out.

    Arguments that a file gives to the code of somebody else need trust, too.
    """
    code = named_code(config.flat())
    given = [name for name in file if name not in flags]
    if "env" in code and "env" not in given:
        if "env_kwargs" in given:
            code["env"] = f"{config.environment.env} with {config.environment.env_kwargs}"
        else:
            del code["env"]
    return {name: value for name, value in code.items() if name == "env" or name in given}


# Writing


def preset_text(config: Config, about: str = "") -> str:
    """Write a config as a preset file, from which `load_preset` makes the same config.

    Args:
        config: the options. All are written, so the file does not depend on later defaults.
        about: what the preset is for, for the first line.
    """
    flat, defaults = config.flat(), _defaults(config)
    lines = [*_comment(about), *([""] if about else []), *_comment(HEAD), ""]
    if config.preset in PRESETS:
        lines += [_assigned("preset", config.preset), ""]
    for title, names in _groups(config):
        lines += [f"# {f' {title} ':-^{WIDTH - 2}}", ""]
        for name in names:
            line = _assigned(name, flat[name])
            if flat[name] != defaults[name] and name != "env":
                line += f"  # default {_value(defaults[name])}"
            lines += [*_comment(_explained(name)), line, ""]
    return "\n".join(lines)


def _groups(config: Config) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the options of each section, in the order of `--help-all`."""
    for kind in SECTIONS.values():
        yield first_sentence(kind.__doc__ or ""), list(hints_of(kind))
    for section, title in ABOUT_VARIANTS.items():
        own = hints_of(type(getattr(config, section)))
        yield title, [section, *(name for name in owners(section) if name in own)]


def _defaults(config: Config) -> dict[str, Any]:
    """Return the defaults of a config's options, given its variants."""
    chosen = {section: getattr(config, section) for section in VARIANTS}
    default = {
        section: type(variant)() if type(variant) in VARIANTS[section].values() else variant
        for section, variant in chosen.items()
    }
    plain = Config().flat()
    return Config(**default).flat() | {section: plain[section] for section in VARIANTS}


def _explained(name: str) -> str:
    """Explain an option in a sentence, with the values that it may have."""
    text, kind = first_sentence(option_texts()[name]), option_hints()[name].kind
    choices = list(VARIANTS[name]) if name in VARIANTS else []
    if get_origin(kind) is Literal:
        choices = list(get_args(kind))
    if choices and choices[0] not in text:
        text += f": {', '.join(choices)}"
    return f"{text}."


def _comment(text: str) -> list[str]:
    lines = textwrap.wrap(
        " ".join(text.split()), WIDTH - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"# {line}" for line in lines]


def _assigned(name: str, value: Any) -> str:
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """Write the value of an option, which TOML writes as JSON does."""
    value = NONE if value is None else value
    if isinstance(value, int) and value >= 10_000:
        return f"{value:_}"
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # without escapes
    return json.dumps(value, ensure_ascii=False)
