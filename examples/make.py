"""Execution of the notebooks, which keeps their outputs but not their videos.

python -m examples.make
"""

import time
from pathlib import Path

import nbclient
import nbformat

EXAMPLES = Path(__file__).parent


def without_videos(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove embedded videos, which would make the file large; their text stays."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "<video" in output.get("data", {}).get("text/html", ""):
                del output["data"]["text/html"]
    return notebook


def main() -> None:
    """Execute each notebook in a separate process, and write it with its outputs."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = nbformat.read(path, 4)
        client = nbclient.NotebookClient(
            notebook,
            timeout=1_800,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute()
        nbformat.write(without_videos(notebook), path)
        size = path.stat().st_size
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size:,} bytes")


if __name__ == "__main__":
    main()
