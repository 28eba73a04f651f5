"""Tables as HTML: of runs joined, of runs side by side, and plain ones."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from experiments.comparison.joining import Aligned, are_joined, joined_remarks, joined_table
from experiments.comparison.reading import MISSING, Run

_LOOKS_NUMERIC = re.compile(r"[-+<>~]?\d.*|-|nan|[-+]?inf")


def table_html(aligned: Aligned, runs: Sequence[Run]) -> str:
    """The runs' tables as one: joined where they differ in the seed alone, else side by side."""
    is_one_table = are_joined(runs) or len(aligned.runs) == 1
    return _joined_html(aligned) if is_one_table else _beside_html(aligned)


def remark_html(aligned: Aligned, runs: Sequence[Run]) -> str:
    """What must be known of a table, below it."""
    remarks = [f"In {_names(aligned.runs)} only."] if len(aligned.runs) < len(runs) else []
    remarks += joined_remarks(aligned) if are_joined(runs) else []
    return f'<p class="remark">{escape(" ".join(remarks))}</p>\n' if remarks else ""


def notes_html(aligned: Aligned) -> str:
    """The notes of the runs' tables, once where they agree."""
    notes = [table.note for table in aligned.tables]
    if len(set(notes)) == 1:
        return _prose(notes[0])
    return "".join(
        f"<p>{run.label}:</p>\n{_prose(note)}" for run, note in zip(aligned.runs, notes, strict=True) if note.strip()
    )


def plain_table_html(name: str, headers: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of texts, its first column the rows' labels."""
    head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
    body = [
        f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for label, cells in rows
    ]
    return _scrolling(name, f"<thead><tr>{head}</tr></thead>", body, "facts")


def _joined_html(aligned: Aligned) -> str:
    table = joined_table(aligned)
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)] or [False] * len(table.headers)
    head = "".join(_th("col", str(header), is_number) for header, is_number in zip(table.headers, numeric, strict=True))
    body = []
    for row in table.rows:
        cells = zip(row[1:], numeric[1:], strict=True)
        row_html = _th("row", str(row[0]), numeric[0]) + "".join(_td(str(cell), is_number) for cell, is_number in cells)
        body.append(f"<tr>{row_html}</tr>")
    return _scrolling(table.title, f"<thead><tr>{head}</tr></thead>", body)


def _beside_html(aligned: Aligned) -> str:
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
    return any(cell != MISSING for cell in cells) and all(_LOOKS_NUMERIC.fullmatch(str(cell)) for cell in cells)


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


def _names(runs: Sequence[Run]) -> str:
    labels = [run.label for run in runs]
    return f"run {labels[0]}" if len(labels) == 1 else f"runs {', '.join(labels[:-1])} and {labels[-1]}"
