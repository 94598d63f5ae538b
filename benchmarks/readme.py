"""Writes the tables of the README from the saved results, and from nothing else.

python -m benchmarks.readme
"""

import re
from pathlib import Path

from benchmarks import catcher, notebook_update, results

README = Path(__file__).parent.parent / "README.md"
TABLES = {
    catcher.NAME: catcher.table,
    notebook_update.NAME: notebook_update.table,
}


def with_tables(text: str) -> str:
    """The text with each table between its marks made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        made = table(results.load(name))
        text = re.sub(pattern, lambda m, made=made: f"{m[1]}\n{made}\n\n{m[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
