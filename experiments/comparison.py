"""`python -m experiments report`: runs side by side, as one HTML page that needs no network.

Any experiment takes part whose `metrics.json` has "tables" and "figures" (`experiments.report.Table` and `Figure`).
"""

import base64
import dataclasses
import json
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from experiments.files import replacing
from experiments.report import Figure, Table

_MISSING = "-"
# options that say where a run was written or taken up again, not what it computes
_NOT_SETTINGS = ("out", "resume")
_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}

_NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_UNCERTAINTY = r"(?: ?± ?[\d.,]+(?:[eE][-+]?\d+)?)?"
# "27.31", "+0.030 ± 0.002", "12 %", "0.61 (79 %)"
_CELL = re.compile(rf"{_NUMBER}{_UNCERTAINTY}( ?(?:%|[a-zA-Z]{{1,3}}))?(?: \({_NUMBER}{_UNCERTAINTY}( ?%)?\))?")
_LOOKS_NUMERIC = re.compile(r"[-+<>~]?\d.*|-|nan|[-+]?inf")


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


class Run(NamedTuple):
    """A finished run, as its folder tells it.

    Attributes:
        label: a letter, how tables call it.
        folder: as given.
        metrics: all of `metrics.json`.
        tables: by title.
        figures: in the run's order; their files may be missing.
    """

    label: str
    folder: Path
    metrics: Mapping[str, Any]
    tables: Mapping[str, Table]
    figures: Sequence[Figure]


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
    return Comparison(_page(runs), _summary(runs))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, labelled A, B, ...; raises as `compare` does."""
    if not folders:
        raise ValueError("`RUN` must name at least one run folder, such as runs/sparse-coding-20260101-120000.")
    seen: dict[Path, Path] = {}
    for folder in folders:
        resolved = folder.resolve()
        if resolved in seen:
            raise ValueError(f"`RUN` must name each run once, got {seen[resolved]} and {folder}.")
        seen[resolved] = folder
    return [_read_run(_label(index), folder) for index, folder in enumerate(folders)]


def settings_of(run: Run) -> dict[str, str]:
    """All that decides what a run computes, seed included, as text by name; nested names have dots.

    An option that overrides a setting counts by the setting it led to.
    """
    settings = _mapping(run.metrics.get("settings"))
    options = {
        name: value
        for name, value in _mapping(run.metrics.get("command")).items()
        if name not in settings and name not in _NOT_SETTINGS
    }
    experiment = {"experiment": run.metrics.get("experiment")}
    return {name: _setting_text(value) for name, value in _flat({**experiment, **options, **settings})}


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The names of the settings that are not the same in all runs."""
    settings = [settings_of(run) for run in runs]
    names = _merged(list(one) for one in settings)
    return [name for name in names if len({one.get(name) for one in settings}) > 1]


def join_cells(cells: Sequence[str]) -> str:
    """One cell for the cells of several runs: mean ± standard deviation (of a sample, n - 1) where they are numbers.

    What all runs share stays as it is. A run's own uncertainty is left out. Cells that are no numbers, or of
    different form, are listed.

    >>> join_cells(["0.194", "0.196", "0.201"])
    '0.197 ± 0.004'
    >>> join_cells(["157 (79 %)", "163 (79 %)"]), join_cells(["10", "10"]), join_cells(["yes", "no"])
    ('160 ± 4 (79 %)', '10', 'yes / no')
    """
    if len(cells) == 1:
        return cells[0]
    matches = [_CELL.fullmatch(cell) for cell in cells]
    parts = [match.groups() for match in matches if match]
    # number, unit, number in brackets, its unit
    same_form = len(parts) == len(cells) and len({(part[1], part[2] is None, part[3]) for part in parts}) == 1
    if not same_form or not all(math.isfinite(_number(text)) for part in parts for text in part[::2] if text):
        return cells[0] if len(set(cells)) == 1 else " / ".join(cells)
    _, unit, second, second_unit = parts[0]
    joined = _mean_and_deviation([part[0] for part in parts]) + (unit or "")
    if second is not None:
        joined += f" ({_mean_and_deviation([part[2] for part in parts])}{second_unit or ''})"
    return joined


# --- reading ---


def _label(index: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    return (_label(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _read_run(label: str, folder: Path) -> Run:
    if not folder.exists():
        raise FileNotFoundError(f"`RUN`: nothing lies at {folder}.")
    if not folder.is_dir():
        raise ValueError(f"`RUN` must name run folders, got the file {folder}.")
    path = folder / "metrics.json"
    if not path.is_file():
        if (folder / "config.json").is_file() or (folder / "checkpoints").is_dir():
            raise ValueError(f"`RUN` {folder} is unfinished: it has no metrics.json. `--resume {folder}` finishes it.")
        raise ValueError(f"`RUN` {folder} is no run folder: it has no metrics.json.")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is damaged: it is no JSON ({error}).") from error
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, got {type(metrics).__name__}.")
    if "tables" not in metrics:
        raise ValueError(f'{path} has no "tables": an older version wrote it. Run the experiment again.')
    try:
        tables = [_read_table(value) for value in metrics["tables"]]
        figures = [Figure(str(value["path"]), str(value["caption"])) for value in metrics.get("figures") or []]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f'{path} is damaged: its "tables" or "figures" cannot be read ({error!r}).') from error
    by_title = {table.title: table for table in tables}
    if len(by_title) < len(tables):
        raise ValueError(f"{path} is damaged: two of its tables have one title.")
    return Run(label, folder, metrics, by_title, figures)


def _read_table(value: Mapping[str, Any]) -> Table:
    headers = [str(header) for header in value["headers"]]
    rows = [[_cell_text(cell) for cell in row] for row in value["rows"]]
    if not headers or any(len(row) != len(headers) for row in rows):
        raise ValueError(f"the rows of {value['title']!r} do not fit its headers")
    return Table(str(value["title"]), str(value["note"] or ""), headers, rows)


def _cell_text(value: object) -> str:
    if isinstance(value, list | dict):
        raise TypeError(f"a cell must be a text or a number, got {type(value).__name__}")
    if isinstance(value, bool):
        return "yes" if value else "no"
    # a run writes NaN and infinities as null
    return _MISSING if value is None else str(value)


def _setting_text(value: object) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# --- joining ---


class _Aligned(NamedTuple):
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


def _align(title: str, runs: Sequence[Run]) -> _Aligned:
    runs = [run for run in runs if title in run.tables]
    tables = [run.tables[title] for run in runs]
    # rows and columns of one name are told apart by their order
    columns = _merged(_numbered(table.headers[1:]) for table in tables)
    labels = _merged(_numbered([row[0] for row in table.rows]) for table in tables)
    cells = [
        {
            (label, column): cell
            for label, row in zip(_numbered([row[0] for row in table.rows]), table.rows, strict=True)
            for column, cell in zip(_numbered(table.headers[1:]), row[1:], strict=True)
        }
        for table in tables
    ]
    rows = [
        (str(label[0]), [[str(one.get((label, column), _MISSING)) for one in cells] for column in columns])
        for label in labels
    ]
    return _Aligned(runs, tables, tables[0].headers[0], [str(name) for name, _ in columns], rows)


def _titles(runs: Sequence[Run]) -> list[str]:
    return _merged(list(run.tables) for run in runs)


def _are_joined(runs: Sequence[Run]) -> bool:
    return len(runs) > 1 and set(differing_settings(runs)) <= {"seed"}


def _numbered(names: Sequence[Any]) -> list[tuple[Any, int]]:
    return [(name, sum(other == name for other in names[:index])) for index, name in enumerate(names)]


def _merged(lists: Iterable[list[Any]]) -> list[Any]:
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


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _mean_and_deviation(texts: Sequence[str]) -> str:
    numbers = [_number(text) for text in texts]
    if len(set(numbers)) == 1:
        return texts[0]
    mean, deviation = statistics.fmean(numbers), statistics.stdev(numbers)
    sign = "+" if any(text.startswith("+") for text in texts) else ""
    if not 1e-4 <= max(map(abs, numbers)) < 1e7:
        return f"{mean:{sign}z.2e} ± {deviation:.1e}"
    # the deviation has two digits up to 3.54, else one (Particle Data Group); a mean over runs has at most one
    # digit more than they
    exponent = math.floor(math.log10(deviation))
    digits = (1 if deviation < 3.55 * 10.0**exponent else 0) - exponent
    digits = min(digits, 1 + max(map(_num_decimals, texts)))
    group = "," if any("," in text for text in texts) else ""
    shown = f"{group}.{max(0, digits)}f"
    return f"{round(mean, digits):{sign}z{shown}} ± {round(deviation, digits):{shown}}"


def _num_decimals(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


# --- Markdown ---


def _summary(runs: Sequence[Run]) -> str:
    titles = _titles(runs)
    if not titles:
        return "The runs have no tables."
    aligned = _align(titles[0], runs)
    if _are_joined(runs) or len(aligned.runs) == 1:
        table, remarks = _joined(aligned), _joined_remarks(aligned)
    else:
        rows = [
            [label, run.label, *(cells[index] for cells in columns)]
            for label, columns in aligned.rows
            for index, run in enumerate(aligned.runs)
        ]
        table, remarks = Table(titles[0], "", [aligned.label_header, "run", *aligned.headers], rows), []
    cautions = [f"Beware: {caution}" for caution in _cautions(runs)]
    return "\n\n".join([table.markdown(), *remarks, *cautions, "\n".join(map(_name_of, runs))])


def _joined(aligned: _Aligned) -> Table:
    rows = [[label, *map(join_cells, columns)] for label, columns in aligned.rows]
    return Table(aligned.tables[0].title, "", [aligned.label_header, *aligned.headers], rows)


def _joined_remarks(aligned: _Aligned) -> list[str]:
    if len(aligned.runs) == 1:
        return []
    seeds = ", ".join(settings_of(run).get("seed", _MISSING) for run in aligned.runs)
    over = f"{len(aligned.runs)} runs (seeds {seeds})"
    remarks = [f"Mean ± standard deviation over {over}; a value that all share stands alone."]
    if any("±" in cell for _, columns in aligned.rows for cells in columns for cell in cells):
        remarks.append("The ± of each single run is left out.")
    return remarks


def _cautions(runs: Sequence[Run]) -> list[str]:
    """What makes the spread over joined runs something else than that of the seeds."""
    if not _are_joined(runs):
        return []
    facts = [_facts(run) for run in runs]
    names = [name for name in ("commit", "device", "versions") if len({one[name] for one in facts}) > 1]
    cautions = []
    if names:
        cautions.append(f"the runs differ in {' and '.join(names)} too, so the deviations are not the seed's alone.")
    seeds = [settings_of(run).get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        cautions.append("some runs have the same seed, so the deviations are too small for those over seeds.")
    return cautions


# --- HTML ---


def _page(runs: Sequence[Run]) -> str:
    experiments = _merged([str(run.metrics.get("experiment") or "unnamed experiment")] for run in runs)
    title = f"{', '.join(experiments)}: {_count(len(runs), 'run')}"
    tables, previous = [], ("", "")
    for index, name in enumerate(_titles(runs)):
        aligned = _align(name, runs)
        # the same note or remark is said once for tables in a row
        said = _notes(aligned), _remark(aligned, runs)
        note, remark = ("" if new == old else new for new, old in zip(said, previous, strict=True))
        tables.append(
            f'<section id="table-{index + 1}">\n<h2>{escape(name)}</h2>\n{note}{_table_html(aligned, runs)}\n'
            f"{remark}</section>\n"
        )
        previous = said
    figures = _figures(runs)
    links = [("runs", "Runs"), ("settings", "Settings")]
    links += [(f"table-{index + 1}", name) for index, name in enumerate(_titles(runs))]
    links += [("figures", "Figures")] if figures else []
    navigation = "\n".join(f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links)
    cautions = "".join(f'<p class="caution">Beware: {escape(caution)}</p>\n' for caution in _cautions(runs))
    command = shlex.join(["python", "-m", "experiments", "report", *(str(run.folder) for run in runs)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(_verdict(runs))}</p>
{cautions}</header>
<nav aria-label="Contents">
<ul>
{navigation}
</ul>
</nav>
<main>
<section id="runs">
<h2>Runs</h2>
{_runs_table(runs)}
</section>
<section id="settings">
<h2>Settings</h2>
{_settings_tables(runs)}
</section>
{"".join(tables)}{figures}</main>
<footer>
<p>Made by <code>{escape(command)}</code></p>
</footer>
</body>
</html>
"""


def _verdict(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return "One run, with its tables and figures as they are."
    if _are_joined(runs):
        what = "differ in the seed alone" if differing_settings(runs) else "have the same settings"
        return f"The runs {what}, so their numbers are joined: mean ± standard deviation over the runs."
    return "The runs differ in their settings, so their numbers stand side by side, grey where all runs agree."


def _facts(run: Run) -> dict[str, str]:
    where = _mapping(run.metrics.get("environment"))
    commit, _, dirty = str(where.get("git_commit") or "unknown").partition("-")
    device = str(where.get("device_kind") or "unknown")
    count, cores = where.get("device_count"), where.get("cpu_count")
    device += f" x {count}" if isinstance(count, int) and count > 1 else ""
    device += f", {cores} CPU cores" if cores else ""
    device += ", double precision" if where.get("x64") else ""
    versions = [f"{name} {version}" for name, version in sorted(_mapping(where.get("versions")).items()) if version]
    return {
        "folder": str(run.folder),
        "experiment": str(run.metrics.get("experiment") or _MISSING),
        "seed": settings_of(run).get("seed", _MISSING),
        "date": str(where.get("date_utc") or _MISSING).replace("T", " ").replace("+00:00", " UTC"),
        "commit": commit[:12] + (" and changes not committed" if dirty else ""),
        "device": device,
        "versions": ", ".join(versions) or _MISSING,
        "total time": _duration(run.metrics.get("total_seconds")),
    }


def _runs_table(runs: Sequence[Run]) -> str:
    facts = [_facts(run) for run in runs]
    rows = [(name, [one[name] for one in facts]) for name in facts[0]]
    return _plain_table("Runs", ["", *(run.label for run in runs)], rows)


def _settings_tables(runs: Sequence[Run]) -> str:
    settings = [settings_of(run) for run in runs]
    differing = differing_settings(runs)
    shared = [(name, [value]) for name, value in settings[0].items() if name not in differing]
    parts = []
    if differing:
        rows = [(name, [one.get(name, _MISSING) for one in settings]) for name in differing]
        parts.append(_plain_table("Settings in which the runs differ", ["", *(run.label for run in runs)], rows))
    elif len(runs) > 1:
        parts.append("<p>The same in all runs.</p>")
    if shared:
        what = "setting" if len(runs) == 1 else "shared setting"
        parts.append(
            f"<details>\n<summary>{_count(len(shared), what)}</summary>\n"
            f"{_plain_table('Settings', ['', 'value'], shared)}\n</details>"
        )
    return "\n".join(parts)


def _plain_table(name: str, headers: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = [
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for label, cells in rows
    ]
    return _scrolling(name, f"<thead><tr>{head}</tr></thead>", body, "facts")


def _table_html(aligned: _Aligned, runs: Sequence[Run]) -> str:
    is_one_table = _are_joined(runs) or len(aligned.runs) == 1
    return _joined_html(aligned) if is_one_table else _beside_html(aligned)


def _remark(aligned: _Aligned, runs: Sequence[Run]) -> str:
    remarks = [f"In {_names(aligned.runs)} only."] if len(aligned.runs) < len(runs) else []
    remarks += _joined_remarks(aligned) if _are_joined(runs) else []
    return f'<p class="remark">{escape(" ".join(remarks))}</p>\n' if remarks else ""


def _joined_html(aligned: _Aligned) -> str:
    table = _joined(aligned)
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)] or [False] * len(table.headers)
    head = "".join(_th("col", str(header), is_number) for header, is_number in zip(table.headers, numeric, strict=True))
    body = []
    for row in table.rows:
        cells = zip(row[1:], numeric[1:], strict=True)
        row_html = _th("row", str(row[0]), numeric[0]) + "".join(_td(str(cell), is_number) for cell, is_number in cells)
        body.append(f"<tr>{row_html}</tr>")
    return _scrolling(table.title, f"<thead><tr>{head}</tr></thead>", body)


def _beside_html(aligned: _Aligned) -> str:
    labels = [run.label for run in aligned.runs]
    numeric = [
        _is_numeric([cell for _, columns in aligned.rows for cell in columns[index]])
        for index in range(len(aligned.headers))
    ]
    is_number = _is_numeric([label for label, _ in aligned.rows])
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(labels)}" class="group first">{escape(header)}</th>'
        for header in aligned.headers
    )
    letters = "".join(
        _th("col", label, column_is_number, is_first=index == 0)
        for column_is_number in numeric
        for index, label in enumerate(labels)
    )
    corner = f'<th scope="col" rowspan="2"{_classes(is_number)}>{escape(aligned.label_header)}</th>'
    body = []
    for label, columns in aligned.rows:
        row_html = _th("row", label, is_number)
        for cells, column_is_number in zip(columns, numeric, strict=True):
            agree = len(set(cells)) == 1
            row_html += "".join(_td(cell, column_is_number, agree, index == 0) for index, cell in enumerate(cells))
        body.append(f"<tr>{row_html}</tr>")
    return _scrolling(aligned.tables[0].title, f"<thead><tr>{corner}{groups}</tr>\n<tr>{letters}</tr></thead>", body)


def _scrolling(name: str, head: str, body: Sequence[str], kind: str = "numbers") -> str:
    rows = "\n".join(body)
    # reached by the keyboard too
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">\n<table class="{kind}">\n{head}\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _th(scope: str, text: str, is_number: bool, is_first: bool = False) -> str:
    return f'<th scope="{scope}"{_classes(is_number, is_first=is_first)}>{escape(text)}</th>'


def _td(text: str, is_number: bool, agrees: bool = False, is_first: bool = False) -> str:
    return f"<td{_classes(is_number, agrees, is_first)}>{escape(text)}</td>"


def _classes(is_number: bool, agrees: bool = False, is_first: bool = False) -> str:
    names = [name for name, holds in (("number", is_number), ("same", agrees), ("first", is_first)) if holds]
    return f' class="{" ".join(names)}"' if names else ""


def _is_numeric(cells: Sequence[Any]) -> bool:
    return any(cell != _MISSING for cell in cells) and all(_LOOKS_NUMERIC.fullmatch(str(cell)) for cell in cells)


def _notes(aligned: _Aligned) -> str:
    notes = [table.note for table in aligned.tables]
    if len(set(notes)) == 1:
        return _prose(notes[0])
    return "".join(
        f"<p>{run.label}:</p>\n{_prose(note)}" for run, note in zip(aligned.runs, notes, strict=True) if note.strip()
    )


def _prose(text: str) -> str:
    """Paragraphs and lists of Markdown as HTML."""

    def line(words: str) -> str:
        return escape(re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", " ".join(words.split())))

    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("- "):
            items = "".join(f"<li>{line(item)}</li>\n" for item in re.split(r"(?:^|\n)- ", block)[1:])
            parts.append(f"<ul>\n{items}</ul>\n")
        elif block:
            parts.append(f"<p>{line(block)}</p>\n")
    return "".join(parts)


def _figures(runs: Sequence[Run]) -> str:
    """Figures of one path next to each other; those without a file are left out."""
    captions: dict[str, str] = {}
    for run in runs:
        for figure in run.figures:
            captions.setdefault(figure.path, figure.caption)
    parts = []
    for path in _merged(list(dict.fromkeys(figure.path for figure in run.figures)) for run in runs):
        images = [(run, _data_uri(run.folder, path)) for run in runs if path in {f.path for f in run.figures}]
        shown = "".join(
            f'<figure>\n<img src="{uri}" alt="{escape(f"{captions[path]} Run {run.label}.")}">\n'
            f"<figcaption>{escape(_name_of(run))}</figcaption>\n</figure>\n"
            for run, uri in images
            if uri is not None
        )
        if shown:
            parts.append(f'<h3>{escape(captions[path])}</h3>\n<div class="figures">\n{shown}</div>\n')
    return f'<section id="figures">\n<h2>Figures</h2>\n{"".join(parts)}</section>\n' if parts else ""


def _data_uri(folder: Path, path: str) -> str | None:
    file = folder / path
    kind = _IMAGE_TYPES.get(file.suffix.lower())
    # a page that is passed on shows nothing from outside the run
    is_inside = file.resolve().is_relative_to(folder.resolve())
    if kind is None or not is_inside or not file.is_file():
        return None
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _name_of(run: Run) -> str:
    return f"{run.label}: {run.folder}"


def _names(runs: Sequence[Run]) -> str:
    labels = [run.label for run in runs]
    return f"run {labels[0]}" if len(labels) == 1 else f"runs {', '.join(labels[:-1])} and {labels[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _duration(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return _MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_STYLE = """\
:root {
  --ground: #ffffff; --ink: #1b1f24; --soft: #5b6470; --faint: #69727d; --line: #d7dce2; --band: #f5f7f9;
  --link: #0b5cad; --caution: #8a4b00; --caution-ground: #fff4e0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --ink: #e4e7eb; --soft: #a5adb8; --faint: #87909b; --line: #343a42; --band: #1d2126;
    --link: #7ab7ff; --caution: #ffc774; --caution-ground: #35280f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 100rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0 0 0.5rem; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.25rem; }
h3 { margin: 1.75rem 0 0.5rem; font-size: 1rem; font-weight: 600; }
p, ul { max-width: 48rem; margin: 0 0 0.75rem; }
section > ul { padding-left: 1.25rem; }
section > p, section > ul { color: var(--soft); }
a { color: var(--link); }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav ul {
  display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; max-width: none; margin: 1rem 0 0; padding: 0;
  list-style: none;
}
.caution { padding: 0.6rem 0.9rem; border-left: 3px solid; background: var(--caution-ground); color: var(--caution); }
.remark { margin-top: 0.5rem; font-size: 0.875rem; }
.scroll {
  width: fit-content; max-width: 100%; overflow-x: auto; margin: 0 0 0.75rem; border: 1px solid var(--line);
  border-radius: 6px;
}
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.875rem; line-height: 1.4; }
th, td { padding: 0.35rem 0.7rem; text-align: left; vertical-align: top; }
thead th { background: var(--band); border-bottom: 1px solid var(--line); font-weight: 600; vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
tbody th, thead tr:first-child > :first-child { position: sticky; left: 0; background: var(--band); }
.numbers td, .numbers thead th { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.group { text-align: center; }
.first { border-left: 1px solid var(--line); }
.same { color: var(--faint); }
.facts td { min-width: 9rem; max-width: 24rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--link); margin-bottom: 0.5rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; max-width: 60rem; }
img {
  display: block; width: 100%; height: auto; padding: 0.25rem; border: 1px solid var(--line); border-radius: 6px;
  background: #ffffff;
}
figcaption { margin-top: 0.25rem; color: var(--soft); font-size: 0.875rem; overflow-wrap: anywhere; }
footer {
  margin-top: 3rem; padding-top: 0.75rem; border-top: 1px solid var(--line); color: var(--soft); font-size: 0.875rem;
}
footer p { max-width: none; }
@media print { .scroll { overflow: visible; } nav { display: none; } }
"""
