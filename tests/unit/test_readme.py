"""What the README says is true: its tables come from the data, its code runs."""

import re
from pathlib import Path

import pytest
from benchmarks.readme import PAGES, README, with_tables

PYTHON = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_made_from_the_saved_results(page: Path) -> None:
    text = page.read_text()
    assert "<!-- table:" in text
    assert with_tables(text) == text


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    assert len(pictures) == 2
    assert all((README.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_code_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
