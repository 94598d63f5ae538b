"""The notebooks run as they lie there, and their saved outputs are those of today's library."""

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

import noisydqn
from noisydqn.runs.api import train
from noisydqn.runs.result import Result

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGEST = 400_000  # bytes: pictures, but no video
TINY: dict[str, Any] = {
    "steps": 1_000,
    "torso": "flat",
    "hidden": (8,),
    "evaluation_every": 0,
    "evaluation_episodes": 1,
    "video_seconds": 0.2,
}
"""What shortens the training runs here; `make notebooks` makes them as they are."""

PICTURES = {
    "catcher": 2,
    "compare": 2,
    "lunarlander": 1,
    "noise": 3,
    "noisy_layer_in_your_framework": 2,
}
"""Notebooks, and how many pictures each shows."""
QUIET = {"compare"}
"""Notebooks of many runs, which neither print nor plot each of them."""


def code_cells(name: str) -> list[Any]:
    cells: list[Any] = json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def printed(cell: Any) -> str:
    """What a cell printed when it was saved."""
    texts = ["".join(x["text"]) for x in cell["outputs"] if x["output_type"] == "stream"]
    return "".join(texts)


def run(cell: Any, names: dict[str, Any]) -> tuple[str, Any]:
    """Run a cell here, which is faster than in a kernel; what it prints and what it ends in."""
    *statements, last = ast.parse("".join(cell["source"])).body
    is_value = isinstance(last, ast.Expr)
    body = ast.Module([*statements, *([] if is_value else [last])], [])
    value, output = None, io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(body, "cell", "exec"), names)  # noqa: S102
        if is_value:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return output.getvalue(), value


def test_no_notebook_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.filterwarnings("default")  # of the plots' own
@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny networks. Cells marked exact print what is saved: presets and sums are today's."""
    results: list[Result] = []

    def tiny_train(*args: Any, **options: Any) -> Result:
        results.append(train(*args, **options | TINY))
        return results[-1]

    monkeypatch.setattr(noisydqn, "train", tiny_train)
    mpl.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    for cell in code_cells(name):
        text, value = run(cell, names)
        shown.append(value)
        if "exact" in cell["metadata"].get("tags", []):
            assert text == printed(cell)
    plots = [x for x in shown if type(x).__name__ == "Curves"]
    assert len(plots) == (0 if name in QUIET else len(results))


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_is_stored_with_its_outputs(name: str) -> None:
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < LARGEST
    code = code_cells(name)
    assert all(cell["execution_count"] for cell in code)
    shown = [x for cell in code for x in cell["outputs"] if "image/png" in x.get("data", {})]
    assert len(shown) == PICTURES[name]
    for cell in code:
        if name not in QUIET and "noisydqn.train(" in "".join(cell["source"]):
            assert "evaluation without noise" in printed(cell)  # it was not silent
