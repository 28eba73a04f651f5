"""`python -m experiments.benchmarks`: speed, measured against the peers and the machine.

Run it while nothing else runs. What belongs to other libraries comes with the extra `bench`; those that are not
installed are reported as such.
"""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.harness import DifferentResultError
from experiments.benchmarks.rows import Row, as_json, machine, table
from experiments.files import METRICS, default_run_path, run_folder
from experiments.report import Table, write_json

CASES = {
    "machine": "What the machine can do",
    "lista_step": "Training step of LISTA under constraints",
    "solvers": "Solvers",
    "splines": "Splines",
    "denoising": "Weakly convex denoising",
    "scaling": "Scaling",
    "overhead": "Import and dispatch",
}
"""The cases, each a file with a `measure(quick) -> rows`, and their titles."""

_BUSY = 0.5  # a load average above it is somebody else's work


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that `arguments` (by default the command line's) name, print and write their tables.

    Returns:
        The exit status: 0; 1 if a case failed or a side of our own computed something else. Targets that are missed do
        not change it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks", description="Speed, measured against the peers and the machine."
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, and no more")
    parser.add_argument("--out", type=Path, help="the run folder to make; default: runs/benchmarks-DATE-TIME")
    options = parser.parse_args(arguments)
    before = machine()
    if before["load_average"] is not None and before["load_average"] > _BUSY and not options.quick:
        print(f"warning: the load average is {before['load_average']:.1f}: other work disturbs what is measured.")
    out = options.out or default_run_path("benchmarks")
    started, tables, rows, failures = time.monotonic(), [], {}, {}
    with run_folder(out) as folder:
        for name in options.case:
            try:
                rows[name] = measure(name, options.quick)
            except DifferentResultError as error:
                failures[name] = str(error)
            except Exception as error:  # what the other cases found must not be lost
                traceback.print_exc()
                failures[name] = f"{type(error).__name__}: {error}"
            tables.append(_table(name, rows.get(name, []), failures.get(name)))
            print(f"\n## {tables[-1].title}\n\n{tables[-1].note}\n\n{tables[-1].markdown()}", flush=True)
        metrics = {
            "experiment": "benchmarks",
            "command": {"case": options.case, "quick": options.quick},
            "environment": before,
            "tables": tables,
            "cases": {name: [as_json(row) for row in found] for name, found in rows.items()},
            "failures": failures,
            "total_seconds": time.monotonic() - started,
        }
        (folder / "report.md").write_text(_markdown(tables, before, options.quick), encoding="utf-8")
        write_json(folder / METRICS, metrics)
    print(f"\nWritten to {out}: report.md, {METRICS}.")
    return 1 if failures else 0


def measure(name: str, quick: bool = False) -> list[Row]:
    """The rows of the case of that name."""
    return importlib.import_module(f"experiments.benchmarks.{name}").measure(quick)


def _table(name: str, rows: Sequence[Row], failure: str | None) -> Table:
    if failure is not None:
        return table(CASES[name], f"**Not measured:** {failure}.", rows)
    return table(CASES[name], importlib.import_module(f"experiments.benchmarks.{name}").NOTE, rows)


def _markdown(tables: Sequence[Table], where: dict, quick: bool) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    missing = [name for name, version in where["versions"].items() if version is None]
    lines = [
        "# Benchmarks",
        f"On {where['processor']}, {where['cpu_count']} cores, {where['device_kind']} ({where['platform']}), "
        f"{where['date_utc']}, commit {where['git_commit']}, load average {where['load_average']} at the start.",
        f"Versions: {versions}.",
        *([f"Not installed: {', '.join(missing)}."] if missing else []),
        *(["**A quick run, at tiny sizes: its figures mean nothing.**"] if quick else []),
        "Times are medians after a warm-up, of all sides in turns in one process; ratios are taken round by round. "
        "Sides that stand against each other have shown that they compute the same.",
    ]
    for each in tables:
        lines += [f"## {each.title}", each.note, each.markdown()]
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
