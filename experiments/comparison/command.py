"""The command `report`: the comparison as a page, and its main table as Markdown."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments.comparison.joining import (
    align,
    are_joined,
    cautions_of,
    joined_remarks,
    joined_table,
    titles_of,
)
from experiments.comparison.page import page_html
from experiments.comparison.reading import Run, name_of, read_runs
from experiments.files import replacing
from experiments.report import Table


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Compare runs side by side, in one HTML page that needs no network.

    Runs that differ in the seed alone are joined: each number becomes the mean ± the standard deviation over the runs.
    Others stand next to each other, with the settings in which they differ. The main table is printed too, as Markdown.

    Example: `python -m experiments report runs/seed0 runs/seed1 runs/seed2 --out seeds.html`.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, of one experiment or several."""

    out: Path = Path("report.html")
    """The page to write, an .html file; an older one is replaced."""

    def run(self) -> None:
        """Write the page and print the main table."""
        if self.out.is_dir():
            raise ValueError(f"`--out` {self.out} is a folder. Name a file, such as {self.out / 'report.html'}.")
        # so that a slip does not replace a run's own file
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"`--out` must end in .html, got {self.out}.")
        comparison = compare(self.runs)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.out) as partial:
                partial.write_text(comparison.page, encoding="utf-8")
        except OSError as error:
            raise OSError(f"`--out` {self.out} cannot be written ({error}). Choose another file.") from error
        print(comparison.summary)
        print(f"\nWritten to {self.out}.")


class Comparison(NamedTuple):
    """Runs side by side.

    Attributes:
        page: HTML, complete in itself.
        summary: the main table over the runs, as Markdown, and which run is which.
    """

    page: str
    summary: str


def compare(folders: Sequence[Path]) -> Comparison:
    """The comparison of the runs in `folders`.

    Args:
        folders: run folders, each once.

    Raises:
        FileNotFoundError: where there is no folder.
        ValueError: for no runs, a run named twice, an unfinished run, and a folder or metrics.json that cannot be used.
    """
    runs = read_runs(folders)
    return Comparison(page_html(runs), _summary(runs))


def _summary(runs: Sequence[Run]) -> str:
    titles = titles_of(runs)
    if not titles:
        return "The runs have no tables."
    aligned = align(titles[0], runs)
    if are_joined(runs) or len(aligned.runs) == 1:
        table, remarks = joined_table(aligned), joined_remarks(aligned)
    else:
        rows = [
            [label, run.label, *(cells[index] for cells in columns)]
            for label, columns in aligned.rows
            for index, run in enumerate(aligned.runs)
        ]
        table, remarks = Table(titles[0], "", [aligned.label_header, "run", *aligned.headers], rows), []
    cautions = [f"Beware: {caution}" for caution in cautions_of(runs)]
    return "\n\n".join([table.markdown(), *remarks, *cautions, "\n".join(map(name_of, runs))])
