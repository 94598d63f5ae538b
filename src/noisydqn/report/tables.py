"""Tables, and their forms: CSV, Markdown and LaTeX."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence

from noisydqn.report.statistics import Interval

Value = str | float | int | Interval | None

NONE = "-"
"""What stands for a number that is not known."""
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "∞": r"$\infty$",
    }
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of values, which are shown with three or four digits."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""

    @property
    def shown(self) -> list[list[str]]:
        """The rows as text."""
        return [[show(value) for value in row] for row in self.rows]


def show(value: Value) -> str:
    """Show a value as text for people."""
    match value:
        case None:
            return NONE
        case Interval() if value.known and not math.isinf(value.low):
            return f"{show(value.estimate)} [{show(value.low)}, {show(value.high)}]"
        case Interval():
            return show(value.estimate)
        case str():
            return value
        case int():
            return f"{value:,}"
        case _:
            return _number(value)


def _number(x: float) -> str:
    if math.isnan(x):
        return NONE
    if math.isinf(x):
        return "∞" if x > 0 else "-∞"
    if abs(x) >= 1_000:
        return f"{x:,.0f}"
    if x == 0 or abs(x) >= 0.01:
        return f"{x:.3g}" if abs(x) < 100 else f"{x:.1f}".removesuffix(".0")
    return f"{x:.2g}"


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Write rows as CSV: numbers with all digits, and nothing for what is not known."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_raw(value) for value in row])
    return text.getvalue()


def _raw(value: Value) -> str | float | int:
    unknown = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if unknown else show(value) if isinstance(value, Interval) else value  # pyright: ignore


def to_markdown(tables: Iterable[Table]) -> str:
    """Write tables as Markdown."""
    parts: list[str] = []
    for table in tables:
        lines = [table.header, ["---"] * len(table.header), *table.shown]
        rows = ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
        parts += [f"## {table.title}", *([table.note] if table.note else []), "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    """Escape what would end a cell of Markdown, or begin a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def to_latex(tables: Iterable[Table]) -> str:
    """Write tables for LaTeX with the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        columns = "l" * len(table.header)
        rows = [" & ".join(x.translate(LATEX) for x in row) + r" \\" for row in table.shown]
        head = " & ".join(x.translate(LATEX) for x in table.header) + r" \\"
        parts += [
            "\n".join(
                [
                    r"\begin{table}",
                    rf"\caption{{{table.title.translate(LATEX)}}}",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    head,
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        ]
    return "\n\n".join(parts) + "\n"
