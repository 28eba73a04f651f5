"""The tables of several runs laid over each other, row by row and column by column."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.comparison.cells import join_cells
from experiments.comparison.reading import MISSING, Run, facts_of, settings_of
from experiments.report import Table


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The names of the settings that are not the same in all runs."""
    settings = [settings_of(run) for run in runs]
    names = merged_lists(list(one) for one in settings)
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def are_joined(runs: Sequence[Run]) -> bool:
    """Whether runs become one table of means: they differ in the seed alone, or in nothing."""
    return len(runs) > 1 and set(differing_settings(runs)) <= {"seed"}


def cautions_of(runs: Sequence[Run]) -> list[str]:
    """What makes the spread over joined runs something else than that of the seeds."""
    if not are_joined(runs):
        return []
    facts = [facts_of(run) for run in runs]
    names = [name for name in ("commit", "device", "versions") if len({one[name] for one in facts}) > 1]
    cautions = []
    if names:
        cautions.append(f"the runs differ in {' and '.join(names)} too, so the deviations are not the seed's alone.")
    seeds = [settings_of(run).get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        cautions.append("some runs have the same seed, so the deviations are too small for those over seeds.")
    return cautions


class Aligned(NamedTuple):
    """Tables of one title over the runs that have it, row by row and column by column.

    Attributes:
        tables: the runs' own.
        label_header: of the column of row labels.
        headers: of the other columns.
        rows: label, and `cells[column][run]`.
    """

    runs: list[Run]
    tables: list[Table]
    label_header: str
    headers: list[str]
    rows: list[tuple[str, list[list[str]]]]


def align(title: str, runs: Sequence[Run]) -> Aligned:
    """The tables called `title` over the runs that have one."""
    runs = [run for run in runs if title in run.tables]
    tables = [run.tables[title] for run in runs]
    # rows and columns of one name are told apart by their order
    columns = merged_lists(_numbered(table.headers[1:]) for table in tables)
    labels = merged_lists(_numbered([row[0] for row in table.rows]) for table in tables)
    cells = [
        {
            (label, column): cell
            for label, row in zip(_numbered([row[0] for row in table.rows]), table.rows, strict=True)
            for column, cell in zip(_numbered(table.headers[1:]), row[1:], strict=True)
        }
        for table in tables
    ]
    rows = [
        (str(label[0]), [[str(one.get((label, column), MISSING)) for one in cells] for column in columns])
        for label in labels
    ]
    return Aligned(runs, tables, tables[0].headers[0], [str(name) for name, _ in columns], rows)


def joined_table(aligned: Aligned) -> Table:
    """One table for all runs: each cell by `join_cells`."""
    rows = [[label, *map(join_cells, columns)] for label, columns in aligned.rows]
    return Table(aligned.tables[0].title, "", [aligned.label_header, *aligned.headers], rows)


def joined_remarks(aligned: Aligned) -> list[str]:
    """What a reader of `joined_table` must know."""
    if len(aligned.runs) == 1:
        return []
    seeds = ", ".join(settings_of(run).get("seed", MISSING) for run in aligned.runs)
    over = f"{len(aligned.runs)} runs (seeds {seeds})"
    remarks = [f"Mean ± standard deviation over {over}; a value that all share stands alone."]
    if any("±" in cell for _, columns in aligned.rows for cells in columns for cell in cells):
        remarks.append("The ± of each single run is left out.")
    return remarks


def titles_of(runs: Sequence[Run]) -> list[str]:
    """The titles of all tables, each once."""
    return merged_lists(list(run.tables) for run in runs)


def merged_lists(lists: Iterable[list[Any]]) -> list[Any]:
    """All items once, each behind what it follows in its own list."""
    merged: list[Any] = []
    for items in lists:
        place = next((merged.index(item) for item in items if item in merged), len(merged))
        for item in items:
            if item in merged:
                place = merged.index(item) + 1
            else:
                merged.insert(place, item)
                place += 1
    return merged


def _numbered(names: Sequence[Any]) -> list[tuple[Any, int]]:
    return [(name, sum(other == name for other in names[:index])) for index, name in enumerate(names)]
