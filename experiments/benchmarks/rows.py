"""What a case reports: rows of figures, each beside its target, as a table and as JSON."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.harness import Comparison
from experiments.report import Table, environment

PEERS = ("torch", "scico", "jaxopt", "optimistix", "scikit-learn", "skglm", "celer", "scikit-image")

_TARGET = re.compile(r"(<=|>=) ([\d.]+)")


class Row(NamedTuple):
    """One figure of a case.

    Attributes:
        what: names it, once in a case.
        value: the figure; None where it could not be measured.
        unit: such as "x" (times), "ms", "GFLOP/s".
        spread: the quartiles of the rounds; None where there is one measurement.
        target: such as "<= 2.0"; "" for a figure that is stated as it comes.
        seconds: of what it was computed from, by side.
        note: what else is to be told, such as why it could not be measured.
    """

    what: str
    value: float | None
    unit: str = "x"
    spread: tuple[float, float] | None = None
    target: str = ""
    seconds: Mapping[str, float] = {}
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none, or no value."""
        if not self.target or self.value is None:
            return None
        found = _TARGET.fullmatch(self.target)
        if found is None:
            raise ValueError(f"`target` must be '<= NUMBER' or '>= NUMBER', got {self.target!r}.")
        bound = float(found[2])
        return self.value <= bound if found[1] == "<=" else self.value >= bound


def ratio_row(what: str, compared: Comparison, over: str, under: str, target: str = "", note: str = "") -> Row:
    """The seconds of `over` in units of those of `under`; without a value where either was not timed.

    Where `over` is a peer and `under` the library, it is how many times faster the library is.
    """
    for name in (over, under):
        if name in compared.absent:
            return Row(what, None, target=target, note=compared.absent[name])
    ratio = compared.ratio(over, under)
    seconds = {name: compared.median(name) for name in (over, under)}
    return Row(what, ratio.median, "x", (ratio.low, ratio.high), target, seconds, note)


def rate_row(what: str, compared: Comparison, name: str, work: float, unit: str, note: str = "") -> Row:
    """`work` per second of a side, in the `unit` that `work` is in."""
    if name in compared.absent:
        return Row(what, None, unit, note=compared.absent[name])
    rates = sorted(work / seconds for seconds in compared.seconds[name])
    quartiles = rates[len(rates) // 4], rates[(3 * len(rates)) // 4]
    return Row(what, work / compared.median(name), unit, quartiles, seconds={name: compared.median(name)}, note=note)


def seconds_row(what: str, compared: Comparison, name: str, target: str = "", note: str = "") -> Row:
    """The median milliseconds of a side."""
    if name in compared.absent:
        return Row(what, None, "ms", target=target, note=compared.absent[name])
    times = sorted(1e3 * seconds for seconds in compared.seconds[name])
    quartiles = times[len(times) // 4], times[(3 * len(times)) // 4]
    return Row(what, 1e3 * compared.median(name), "ms", quartiles, target, {name: compared.median(name)}, note)


def scaled(row: Row, factor: float) -> Row:
    """A row whose figure and quartiles are `factor` times those of `row`."""
    if row.value is None or row.spread is None:
        return row
    low, high = row.spread
    return row._replace(value=factor * row.value, spread=(factor * low, factor * high))


def memory_row(what: str, compiled: Any) -> Row:
    """What XLA takes beside the arguments and results of a compiled function."""
    analysis = compiled.memory_analysis()
    size = None if analysis is None else analysis.temp_size_in_bytes / 1e6
    return Row(what, size, "MB", note="XLA does not tell" if size is None else "XLA's temporary memory")


def table(title: str, note: str, rows: Sequence[Row]) -> Table:
    """The rows of a case as a table."""
    headers = ["what", "measured", "quartiles", "target", "met", "milliseconds", "note"]
    return Table(title, note, headers, [_cells(row) for row in rows])


def as_json(row: Row) -> dict[str, Any]:
    """A row with all its numbers, and whether its target is met."""
    return row._asdict() | {"is_met": row.is_met}


def machine() -> dict[str, Any]:
    """Versions, also of the peers that are installed (None: not), the processor, and how busy it was just now."""
    found = environment()
    versions = found["versions"] | {name: _version(name) for name in PEERS}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return found | {"versions": versions, "processor": _processor(), "load_average": load}


def _cells(row: Row) -> list[str]:
    met = {None: "", True: "yes", False: "no"}[row.is_met]
    value = "-" if row.value is None else f"{_number(row.value)} {row.unit}".strip()
    spread = "" if row.spread is None else " to ".join(_number(value) for value in row.spread)
    times = " / ".join(f"{_number(1e3 * value)} ({name})" for name, value in row.seconds.items())
    return [row.what, value, spread, row.target, met, times, row.note]


def _number(value: float) -> str:
    """Three digits: two ratios are not known to more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
