"""The notebooks run, with short budgets, and lie there with their outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = ["catcher", "lunarlander", "noisy_layer_in_your_framework"]
LARGEST = 1_000_000  # bytes: a page that loads


def test_no_notebook_is_left_out() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.filterwarnings("default")  # of the client's own
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("NOISYDQN_NOTEBOOK_STEPS", "2000")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lies_there_with_its_outputs(name: str) -> None:
    path = EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    cells: list[Any] = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    pictures = [x for cell in code for x in cell["outputs"] if "image/png" in x.get("data", {})]
    assert len(pictures) >= 2
