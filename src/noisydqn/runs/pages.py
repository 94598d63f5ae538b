"""The page that a run ends with."""

from collections.abc import Sequence

from noisydqn.runs.folder import RunFolder


def write_page(folder: RunFolder, seeds: Sequence[RunFolder] = ()) -> None:
    """Write the page of a run, `report.html`, in its folder.

    Args:
        folder: of the run.
        seeds: the folders of its seeds, if there are several.

    Raises:
        UserError: a file of the run is damaged, or it has no return.
        OSError: the page cannot be written.
    """
    # Not needed before the end of a run.
    from noisydqn.report.page import make_page, render
    from noisydqn.report.results import make_results
    from noisydqn.report.variants import name_variants
    from noisydqn.runs.recorded import read_run

    runs = name_variants([read_run(seed) for seed in seeds or [folder]])
    page = render(make_page(make_results(runs)))
    folder.report.write(page.encode(errors="backslashreplace"))
