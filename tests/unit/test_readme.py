"""README and docs are true: tables come from the data, code runs, links lead somewhere."""

import ast
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from benchmarks.readme import PAGES, README, ROOT, with_tables
from tests.recorded import write_study

import noisydqn
from noisydqn.cli.compare import parse_compare
from noisydqn.cli.train import parse_train
from noisydqn.learner.agent import Agent, sample_update_noise
from noisydqn.learner.gradient import Descent
from noisydqn.nets.network import QNetwork
from noisydqn.nets.torsos import Flatten
from noisydqn.runners.exploration import Boltzmann, Noisy
from noisydqn.types import Batch, Transition

pytestmark = pytest.mark.slow

DOCS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"(<!-- test: \w+ -->\n)?```python\n(.*?)```", re.DOTALL)
"""Examples that have a test of their own say so."""

EXAMPLES = [
    pytest.param(code, id=f"{page.stem}: {code.splitlines()[0]}")
    for page in DOCS
    for elsewhere, code in FENCE.findall(page.read_text())
    if not elsewhere
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_made_from_the_saved_results(page: Path) -> None:
    text = page.read_text()
    assert "<!-- table:" in text
    assert with_tables(text) == text


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_pictures_and_pages_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_public_name_is_explained_under_its_path() -> None:
    explained = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {f"noisydqn.{name}" for name in noisydqn.__all__} <= set(explained)


@pytest.mark.parametrize("code", EXAMPLES)
def test_code_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {})  # noqa: S102


# Docstrings


def docstring_examples() -> dict[str, list[str]]:
    """The indented code in docstrings, by module."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            blocks = re.findall(r"\n\n((?:    .*\n?)+)", (text or "") + "\n")
            code = [inspect.cleandoc("\n" + block) for block in blocks]
            name = str(path.relative_to(ROOT / "src" / "noisydqn"))
            found.setdefault(name, []).extend(block for block in code if is_code(block))
    return {name: blocks for name, blocks in found.items() if blocks}


def is_code(text: str) -> bool:
    """Formulas, which are set the same way, do not parse as statements."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return "(" in text and "eps_" not in text


def network() -> QNetwork:
    return QNetwork(Flatten(4), (8,), 2, key=jax.random.key(0))


def for_agent() -> dict[str, Any]:
    agent = Agent(Descent(optax.adam(1e-3), 0.0, 1.0), True, None, 1, 1.0)
    x, zeros = jnp.zeros((3, 4)), jnp.zeros(3)
    batch = Batch(Transition(x, jnp.zeros(3, jnp.int32), zeros, zeros, x), *batch_rest())
    names: dict[str, Any] = {"agent": agent, "network": network(), "batch": batch, "batch_size": 3}
    return names | {"sample_update_noise": sample_update_noise, "key": jax.random.key(1)}


def batch_rest() -> list[Any]:
    """Return the rest of a batch of three beside its transitions."""
    names = [name for name in Batch._fields if name != "transitions"]
    return [jnp.ones(3) if name == "weights" else jnp.zeros(3, jnp.int32) for name in names]


def for_run() -> dict[str, Any]:
    def train(*args: Any, **kwargs: Any) -> None:
        """Check that the arguments are accepted; training is tested elsewhere."""
        inspect.signature(noisydqn.train).bind(*args, **kwargs)

    class Module:
        PRESETS = noisydqn.PRESETS

    Module.train = staticmethod(train)  # pyright: ignore[reportAttributeAccessIssue]
    return {"noisydqn": Module, "MyEnv": gymnasium.Env, "Boltzmann": Boltzmann}


def for_explorer() -> dict[str, Any]:
    names: dict[str, Any] = {"explorer": Noisy(), "network": network(), "num_envs": 2}
    names |= {
        "values_fn": lambda *_, **__: jnp.zeros((2, 3)),
        "observation": jnp.zeros((2, 4)),
        "step": jnp.int32(0),
    }
    flags = {"updated": jnp.bool_(True), "ended": jnp.zeros(2, jnp.bool_)}
    return names | flags | {"key": jax.random.key(0)}


def for_policy() -> dict[str, Any]:
    noisydqn.train(env="CartPole-v1", steps=1_000, video_seconds=0, out="runs/one", quiet=True)
    return {"noisydqn": noisydqn, "observation": np.zeros(4)}


def for_a_run() -> dict[str, Any]:
    write_study(Path("studies"), seeds=1)
    run = next(Path("studies").rglob("config.json")).parent
    Path("runs").mkdir()
    run.rename("runs/one")
    return {"noisydqn": noisydqn}


def for_runs() -> dict[str, Any]:
    write_study(Path("runs"), seeds=2)
    return {"noisydqn": noisydqn}


NAMES: dict[str, Callable[[], dict[str, Any]]] = {
    "learner/agent.py": for_agent,
    "nets/noisy.py": lambda: {
        "sample_noise": noisydqn.sample_noise,
        "network": network(),
        "key": jax.random.key(0),
        "x": jnp.zeros(4),
    },
    "envs/spec.py": lambda: {"Statistic": noisydqn.Statistic},
    "runners/explorer.py": for_explorer,
    "torch.py": lambda: {"torch": torch, **vars(__import__("noisydqn.torch", fromlist=["x"]))},
    "runs/api.py": for_run,
    "runs/diagnosis.py": for_a_run,
    "runs/loaded.py": for_runs,
    "runs/saved.py": for_policy,
}
"""Names that the examples in a module's docstrings use, by module."""


def test_every_module_with_examples_is_known() -> None:
    assert set(docstring_examples()) == set(NAMES)


@pytest.mark.parametrize("module", NAMES)
def test_docstring_examples_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = NAMES[module]()
    for block in docstring_examples()[module]:
        exec(compile(block, module, "exec"), names)  # noqa: S102


PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "train": parse_train,
    "compare": parse_compare,
}
"""The commands that take options of a run."""


def shown_commands() -> list[str]:
    blocks = [x for path in DOCS for x in re.findall(r"```\w*\n(.*?)```", path.read_text(), re.S)]
    lines = [line for block in blocks for line in block.splitlines() if "$" not in line]
    return sorted({x for x in lines if x.startswith(tuple(f"noisydqn {y} " for y in PARSERS))})


@pytest.mark.parametrize("line", shown_commands())
def test_the_options_of_a_shown_command_exist(line: str) -> None:
    _, command, *words = shlex.split(line, comments=True)
    if not {"-h", "--help", "--help-all"} & set(words):
        PARSERS[command](words)
