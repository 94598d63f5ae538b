"""The gate for names of code in files.

A config can name code: an environment, a torso, an explorer. The files of a run can come from
anyone, and what they name would be imported and called. So a config that was read from a file is a
`StoredConfig`, and only `StoredConfig.admit` makes a `Config` of it. It asks whether the caller
trusts the file, and takes the sting out of names that the caller does not use.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from noisydqn.config.config import Config
from noisydqn.envs.names import BSUITE, GYMNAX, prefix
from noisydqn.errors import UserError
from noisydqn.imports import PYTHON, inert, is_inert

NETWORK = ("torso", "exploration")
"""Options whose code a policy needs."""
ALL = ("env", *NETWORK)
"""Options that can name code."""


def named_code(options: Mapping[str, Any]) -> dict[str, str]:
    """Find what options name that would be imported, by option.

    Ids that Gymnasium, gymnax or bsuite registers need no trust: their code is installed. Their
    arguments need it where they could name a module, a file or an address.

    Args:
        options: of a config, by their flat names.
    """
    env = str(options["env"])
    named = {name: str(options[name]) for name in NETWORK}
    code = {name: value for name, value in named.items() if value.startswith(PYTHON)}
    if prefix(env) not in ("", BSUITE, GYMNAX):
        code["env"] = env
    elif any(map(_leads_out, _texts(json.loads(options["env_kwargs"])))):
        code["env"] = f"{env} with {options['env_kwargs']}"
    return {name: code[name] for name in ALL if name in code and not is_inert(code[name])}


def _texts(value: object) -> Iterable[str]:
    """Yield every text in a value of JSON, keys included."""
    waiting: list[Any] = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case list() as items:
                waiting += items
            case dict() as items:
                waiting += [*items, *items.values()]
            case _:
                pass


def _leads_out(text: str) -> bool:
    """Tell whether a text could name a module, a file or an address."""
    return text.startswith((".", "~")) or any(sign in text for sign in ":/\\")


def refuse_code(path: Path, code: Mapping[str, str], otherwise: str = "") -> NoReturn:
    """Refuse a file that is not trusted.

    Args:
        path: of the file.
        code: what it names, by option, as `named_code` finds it.
        otherwise: what else than trust helps.

    Raises:
        UserError: always.
    """
    named = ", ".join(f"{name} {value}" for name, value in code.items())
    raise UserError(
        f"{path} names code that would be imported and run ({named}): if you trust whoever wrote "
        f"it, repeat with --trust (in Python trust=True){otherwise}"
    )


@dataclasses.dataclass(frozen=True)
class StoredConfig:
    """The options that a file holds, checked as those of a config; nothing in it is imported.

    Args:
        options: by their flat names.
        path: of the file.
    """

    options: dict[str, Any]
    path: Path

    def admit(self, uses: Iterable[str] = ALL, *, trust: bool) -> Config:
        """Return the options as a config that can be run.

        Args:
            uses: which of `ALL` the caller makes use of. Names of code in the others are made
                inert: nothing can import them.
            trust: whether the caller trusts the file.

        Raises:
            UserError: the file is not trusted, and names code in an option that is used.
        """
        used, code = set(uses), named_code(self.options)
        asked = {name: value for name, value in code.items() if name in used}
        if asked and not trust:
            refuse_code(self.path, asked, " or pass env= yourself" if "env" in asked else "")
        idle = {name: inert(str(self.options[name])) for name in code if name not in used}
        return Config(**{**self.options, **idle})
