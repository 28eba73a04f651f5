"""What an experiment reports: tables, figures, JSON, and where and how it ran."""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.files import replacing

# a number, its uncertainty and a short unit: "-1.5e-3", "27.31 ± 0.05 dB", "12 %", "3x"
_NUMBER = re.compile(r"[-+<>~]?\d[\d.,]*(e[-+]?\d+)?( ?± ?\d[\d.,]*(e[-+]?\d+)?)?( ?(%|[a-z]{1,3}))?", re.I)
_MISSING = ("", "-", "nan", "inf", "-inf", "None")


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that reads well as plain text too; columns of numbers are aligned to the right.

    Args:
        headers: one text per column.
        rows: each with one cell per column; numbers come formatted.

    >>> print(markdown_table(["method", "PSNR"], [["noisy", "20.17"], ["WCRR", "31.2"]]))
    | method |  PSNR |
    | :----- | ----: |
    | noisy  | 20.17 |
    | WCRR   |  31.2 |
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"`rows` must have {len(headers)} cells each, like `headers`, got {list(row)}.")
    lines = [[" ".join(str(cell).replace("|", r"\|").split()) for cell in row] for row in [headers, *rows]]
    columns = []
    for cells in zip(*lines, strict=True):
        present = [cell for cell in cells[1:] if cell not in _MISSING]
        is_numeric = bool(present) and all(_NUMBER.fullmatch(cell) for cell in present)
        width = max(2, *map(len, cells))
        rule = "-" * (width - 1) + ":" if is_numeric else ":" + "-" * (width - 1)
        cells = [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in cells]
        columns.append([cells[0], rule, *cells[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


class Table(NamedTuple):
    """A table of a run, the same in `metrics.json` (under "tables"), report.md and what is printed.

    Attributes:
        title: names it, once in a run; runs are compared table by table of one title.
        note: what the columns mean, as plain Markdown (paragraphs and lists); may be empty.
        headers: one text per column; no two alike.
        rows: a label, then one cell per further column; numbers come formatted.
    """

    title: str
    note: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]

    def markdown(self) -> str:
        """The headers and rows as `markdown_table`."""
        return markdown_table(self.headers, self.rows)

    def with_note(self) -> str:
        """The same, and the note below."""
        return f"{self.markdown()}\n\n{self.note}"


class Figure(NamedTuple):
    """A figure of a run, listed in `metrics.json` under "figures".

    Attributes:
        path: relative to the run folder, with forward slashes.
        caption: what it shows.
    """

    path: str
    caption: str


def listed_figures(paths: Sequence[Path], folder: Path, captions: Mapping[str, str]) -> list[Figure]:
    """The figures at `paths` in a run's `folder`, with the captions of their names."""
    return [Figure(path.relative_to(folder).as_posix(), captions[path.stem]) for path in paths]


def command_line(experiment: str, command: Mapping[str, Any], *, short: bool = False) -> str:
    """The options of a run as one types them; those that are None are left out.

    Args:
        experiment: the sub-command.
        command: its options.
        short: give files and folders by their names alone, and leave out where the run was written to or read from, and
            options without values.

    >>> command_line("train", {"num_steps": 5, "data": Path("a/b"), "out": Path("c"), "init": None}, short=True)
    'python -m experiments train --num-steps 5 --data b'
    """
    words = [f"python -m experiments {experiment}"]
    for name, value in command.items():
        if value is None or (short and (value in ((), []) or name in ("out", "config", "resume"))):
            continue
        values = value if isinstance(value, list | tuple) else [value]
        texts = [each.name if short and isinstance(each, Path) else str(each) for each in values]
        words.append(" ".join([f"--{name.replace('_', '-')}", *texts]))
    return " ".join(words)


def write_json(path: Path, value: object) -> None:
    """`value` written to `path` as JSON, with sorted keys and each list of numbers on one line.

    Arrays become lists, with the fewest digits that give back their dtype's values; NaN and infinities, which
    JSON lacks, become null; NamedTuples become objects, paths text. The file appears complete or not at all.
    """
    text = _format(_plain(value), "") + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Where and how this process runs: versions, device, commit (None outside git), command line and date."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "unroll_jax")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "cpu_count": os.cpu_count(),
        "x64": jax.config.read("jax_enable_x64"),
        "git_commit": _git_commit(),
        "command": list(sys.argv),
        "date_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "biu":
            return array.tolist()
        if jnp.issubdtype(array.dtype, jnp.floating):
            # by way of text: 0.1, where float() of a float32 has 17 digits
            numbers = np.array([float(str(number)) for number in array.ravel()])
            return _plain(numbers.reshape(array.shape).tolist())
    raise TypeError(f"`value` must hold numbers, arrays, texts, lists and mappings, got {type(value).__name__}.")


def _format(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{_format(key, deeper)}: {_format(value[key], deeper)}" for key in sorted(value)]
        opening, closing = "{", "}"
    elif isinstance(value, list) and any(isinstance(item, list | dict | str) for item in value):
        items = [_format(item, deeper) for item in value]
        opening, closing = "[", "]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}{closing}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    # "-dirty" marks changes that are not committed; the first option keeps git from locking the index
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return output.decode().strip() or None
