"""Files of a run are opened in one module, `folders.py`; every other access to files has a reason.

This reads the package's source. It sees calls and mentions of functions that are imported from
`os`, `io`, `shutil`, `tempfile` and the like, under any name, and of methods that are called as
those of `Path` are. It cannot see:

- types: any `.open(` counts, and any `.replace(` with one argument by position alone, as
  `Path.replace` has. Those of `str` have two, those of dataclasses and configs have names;
- `Path.replace` where it is not called;
- what goes through `getattr`, or through a library that takes paths and is not listed here;
- a call of a kind that `ALLOWED` has already for its module;
- reading of folders and of what files are (`iterdir`, `glob`, `exists`, `stat`).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import noisydqn

PACKAGE = Path(noisydqn.__file__).parent
DOOR = "folders"

FUNCTIONS = re.compile(
    r"""
    builtins\.open | (io|codecs)\.(open|FileIO)\w* | (gzip|bz2|lzma|zipfile|tarfile|tempfile)\..+
    | os\.(open|remove|removedirs|unlink|renames?|replace|mk\w+|makedirs|rmdir|link|symlink)
    | os\.(truncate|chmod|chown|utime) | shutil\.(copy(?!fileobj)\w*|move|rmtree|\w*archive\w*)
    | (jax\.)?numpy\.(load\w*|save\w*|fromfile|memmap|genfromtxt) | torch\.(export\.)?(save|load)
    | safetensors\.(safe_open|\w+\.\w+_file)
    """,
    re.VERBOSE,
)
"""Functions that open, make or change files by a path."""
METHODS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "tofile"),
    *("unlink", "rename", "mkdir", "rmdir", "chmod", "symlink_to", "hardlink_to"),
}
"""Methods that do so, of `Path` or of an array. `replace` is looked at separately."""

TEMPORARY = "a folder of its own for a program, whose file `File.take` then copies"
CACHE = "the user's cache of programs, which is not in a run"
KERNEL = "the kernel's files on memory"
PARENTS = "folders that the user names or `runs/`, before there is a run in them"
ALLOWED = {
    ("cli", "os.open"): "the null device, in place of an output that is gone",
    ("output", "builtins.open"): "the null device",
    ("export", "tempfile.TemporaryDirectory"): TEMPORARY,
    ("export", ".write_bytes"): TEMPORARY,
    ("export.onnx", ".write_bytes"): TEMPORARY,
    ("export.torch", "torch.export.save"): TEMPORARY,
    ("export.torch", "torch.export.load"): TEMPORARY,
    ("play.video", "tempfile.TemporaryDirectory"): TEMPORARY,
    ("hub", "tempfile.TemporaryDirectory"): "a folder of its own for what is sent or fetched",
    ("hub", ".mkdir"): PARENTS,
    ("hub", ".rmdir"): "the folder that it made, if nothing was fetched into it",
    ("runs.tracking.service", "tempfile.TemporaryDirectory"): "a video's copy for a service",
    ("runs.tracking.service", ".open"): "the same copy",
    ("study.ray_pool", ".mkdir"): "a folder of its own for the locks of a node's cores",
    ("study.ray_pool", ".open"): "those locks",
    ("program_cache", ".mkdir"): CACHE,
    ("program_cache", ".read_bytes"): CACHE,
    ("program_cache", ".replace"): CACHE,
    ("program_cache", ".unlink"): CACHE,
    ("program_cache", "os.utime"): CACHE,
    ("program_cache", "shutil.rmtree"): CACHE,
    ("program_cache", "tempfile.TemporaryFile"): CACHE,
    ("program_cache", "tempfile.mkstemp"): CACHE,
    ("program_cache", ".read_text"): "the kernel's file on processors",
    ("runs.memory", ".read_text"): KERNEL,
    ("runners.actors.shared_memory", "os.open"): "memory that processes share",
    ("runs.folder", ".mkdir"): PARENTS,
    ("runs.weights", "safetensors.safe_open"): "of the path that `File.opened` gives",
    ("runs.exported", "safetensors.safe_open"): "of the path that `File.opened` gives",
    ("runs.session", ".open"): "a seed's session, which is no file",
    ("keras", ".replace"): "a tensor of Keras, which is no path",
    ("report.page", ".read_text"): "the page's own parts, which the package brings",
    ("report.rivals", "numpy.load"): "of bytes that were read",
    ("report.rivals", "zipfile.BadZipFile"): "an error, no file",
}
"""What else touches files, by module and call, and why it is no file of a run."""


def _imports(tree: ast.Module) -> dict[str, str]:
    """Names in a module, and the full names of what they were imported from."""
    names = {"open": "builtins.open"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                top = each.name.partition(".")[0]
                names[each.asname or top] = each.name if each.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def _full(node: ast.AST, names: dict[str, str]) -> str | None:
    """The full name of what an expression names, if it was imported."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (value := _full(node.value, names)) is not None:
        return f"{value}.{node.attr}"
    return None


def _replaces_path(node: ast.AST) -> bool:
    """Whether this may be a call of `Path.replace`, by its arguments."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "replace"
        and (len(node.args), [x.arg for x in node.keywords]) in ((1, []), (0, ["target"]))
    )


def accesses(source: str) -> Iterator[str]:
    """Yield the functions and methods of a source that touch files."""
    tree = ast.parse(source)
    names = _imports(tree)
    for node in ast.walk(tree):
        full = _full(node, names)
        if full is not None and FUNCTIONS.fullmatch(full):
            yield full
        elif _replaces_path(node):
            yield ".replace"
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield f".{node.attr}"


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def test_no_other_module_opens_a_runs_files() -> None:
    """Neither is anything allowed that is not there."""
    paths = {_module(path): path for path in PACKAGE.rglob("*.py")}
    assert DOOR in paths
    found = {
        (module, call)
        for module, path in paths.items()
        if module != DOOR
        for call in accesses(path.read_text())
    }
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("open(path)", ["builtins.open"]),
        ("opener = open", ["builtins.open"]),
        ("import io\nio.open(path)", ["io.open"]),
        ("import os\nos.open(path, os.O_RDONLY)", ["os.open"]),
        ("import os as system\nsystem.replace(a, b)", ["os.replace"]),
        ("from os import open as door\ndoor(path, 0)", ["os.open"]),
        ("import os.path\nos.unlink(path)", ["os.unlink"]),
        ("def f():\n    from shutil import copyfile\n    copyfile(a, b)", ["shutil.copyfile"]),
        ("import shutil\nmap(shutil.rmtree, paths)", ["shutil.rmtree"]),
        ("import shutil\nshutil.move(a, b)", ["shutil.move"]),
        ("import tempfile\ntempfile.mkdtemp()", ["tempfile.mkdtemp"]),
        ("import numpy as np\nnp.savez(path, x)", ["numpy.savez"]),
        ("import safetensors.numpy as st\nst.load_file(p)", ["safetensors.numpy.load_file"]),
        ("from safetensors import safe_open\nsafe_open(path)", ["safetensors.safe_open"]),
        ("(folder / name).open('w')", [".open"]),
        ("with folder.config.path.open() as file: ...", [".open"]),
        ("text = Path(place).read_text()", [".read_text"]),
        ("path.read_bytes()", [".read_bytes"]),
        ("path.write_text(text)", [".write_text"]),
        ("self.folder.summary.path.write_bytes(data)", [".write_bytes"]),
        ("path.unlink(missing_ok=True)", [".unlink"]),
        ("remove = path.unlink", [".unlink"]),
        ("for path in paths: path.rename(other)", [".rename"]),
        ("path.replace(other)", [".replace"]),
        ("path.replace(target=other)", [".replace"]),
        ("path.mkdir()", [".mkdir"]),
        ("path.touch()", [".touch"]),
        ("path.symlink_to(other)", [".symlink_to"]),
        ("array.tofile(path)", [".tofile"]),
    ],
)
def test_what_touches_files_is_seen(source: str, expected: list[str]) -> None:
    """So the test above fails if one is put into the package."""
    assert list(accesses(source)) == expected


@pytest.mark.parametrize(
    "source",
    [
        "name.replace('-', '_')",
        "name.replace('-', '_', 1)",
        "config.replace(seed=1)",
        "config.replace(**options)",
        "import dataclasses\ndataclasses.replace(config, seed=1)",
        "import os\nos.fdopen(descriptor)",
        "import shutil\nshutil.copyfileobj(source, file)",
        "folder.file(name).read()",
        "with file.replacing() as opened: opened.write(data)",
        "values.remove(1)",
        "from noisydqn.folders import File\nFile.at(path).read()",
    ],
)
def test_what_touches_no_files_is_not_seen(source: str) -> None:
    assert not list(accesses(source))
