"""Table cells of several runs as one: mean and deviation where they are numbers."""

import math
import re
import statistics
from collections.abc import Sequence

_NUMBER = r"([-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"

_UNCERTAINTY = r"(?: ?± ?[\d.,]+(?:[eE][-+]?\d+)?)?"

# "27.31", "+0.030 ± 0.002", "12 %", "0.61 (79 %)"
_CELL = re.compile(rf"{_NUMBER}{_UNCERTAINTY}( ?(?:%|[a-zA-Z]{{1,3}}))?(?: \({_NUMBER}{_UNCERTAINTY}( ?%)?\))?")


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
