"""Runs as their folders tell them: tables and figures, settings, and where they were made."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report import Figure, Table

MISSING = "-"

# options that say where a run was written or taken up again, not what it computes
_NOT_SETTINGS = ("out", "resume")


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


def facts_of(run: Run) -> dict[str, str]:
    """When, where and with what a run was made, as text by name."""
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
        "experiment": str(run.metrics.get("experiment") or MISSING),
        "seed": settings_of(run).get("seed", MISSING),
        "date": str(where.get("date_utc") or MISSING).replace("T", " ").replace("+00:00", " UTC"),
        "commit": commit[:12] + (" and changes not committed" if dirty else ""),
        "device": device,
        "versions": ", ".join(versions) or MISSING,
        "total time": _duration(run.metrics.get("total_seconds")),
    }


def name_of(run: Run) -> str:
    """How a run is called outside of tables."""
    return f"{run.label}: {run.folder}"


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
    return MISSING if value is None else str(value)


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


def _duration(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
