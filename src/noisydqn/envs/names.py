"""The forms of an environment's name. They are told apart here, before anything is imported."""

CATCHER, DEEP_SEA = "noisydqn/Catcher-v0", "noisydqn/DeepSea-v0"

ATARI, MINATAR = "ALE/", "MinAtar/"
"""Namespaces of ids that Gymnasium knows once their packages are imported."""

GYMNAX, BSUITE = "gymnax:", "bsuite:"
"""Prefixes of packages' names; that of functions is `imports.PYTHON`, any other is a module."""


def namespace(name: str) -> str:
    """Return the namespace of an id with its slash, such as "ALE/"; "" if it has none."""
    return name[: name.find("/") + 1]


def prefix(name: str) -> str:
    """Return what says where to look for a name, with its colon; "" for an id of Gymnasium."""
    return name[: name.find(":") + 1]
