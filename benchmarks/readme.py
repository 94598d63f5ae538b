"""Tables of README and docs, written from the saved results alone.

python -m benchmarks.readme
"""

import re
from pathlib import Path

from benchmarks import (
    account,
    actors,
    atari_parallel,
    bsuite_sweep,
    catcher,
    checkpoint,
    control,
    coverage,
    deepsea,
    indexed,
    learners,
    lens,
    minatar,
    misfortune,
    notebook_update,
    parallel,
    pqn,
    replay,
    results,
    solve,
    throughput,
    torso,
    update,
)

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ("design.md", "resume.md", "benchmarks.md", "how-to/report.md", "how-to/cluster.md")
PAGES = (README, *(ROOT / "docs" / page for page in DOCS))
MODULES = (
    *(account, actors, atari_parallel, bsuite_sweep, catcher, checkpoint, control, coverage),
    *(
        deepsea,
        indexed,
        learners,
        lens,
        minatar,
        misfortune,
        notebook_update,
        parallel,
        pqn,
        replay,
    ),
    *(throughput, torso, update),
)
TABLES = {
    **{
        module.NAME: lambda module=module: module.table(results.load(module.NAME))
        for module in MODULES
    },
    solve.NAME: lambda: solve.table(solve.load()),
}


def with_tables(text: str) -> str:
    """Generate each table between its markers again and return the text."""

    def made(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- table: {name} -->\n\n{TABLES[name]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
