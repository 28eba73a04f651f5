"""The findings of the reconstructions as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reconstruction.problems import describe
from experiments.reconstruction.settings import Settings
from experiments.report import Figure, Table


class Outcome(NamedTuple):
    """What came out of one problem; values by method are lists over the test images.

    Attributes:
        psnr: in dB, by method.
        ssim: by method.
        num_steps: by method.
        converged: by method, how many images.
        strength: of the regularizer, in units of ||A||^2.
        sigma: its noise level, in 8-bit units.
        tv_strength: of the total variation, in units of ||A||^2.
        num_tried: candidates in the search for these.
        largest_rise: of the regularizer's objective from one step to the next, relative; not positive where it falls.
    """

    psnr: Mapping[str, Sequence[float]]
    ssim: Mapping[str, Sequence[float]]
    num_steps: Mapping[str, Sequence[int]]
    converged: Mapping[str, int]
    strength: float
    sigma: float
    tv_strength: float
    num_tried: int
    largest_rise: float


class Results(NamedTuple):
    """One run, complete; `outcomes` by problem, each an `Outcome` as JSON has it."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    outcomes: Mapping[str, Mapping[str, Any]]
    test_images: Sequence[str]
    tuning_images: Sequence[str]
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [_quality_table(results), _parameters_table(results)]


def summary(results: Results) -> str:
    """All tables, with what their columns mean."""
    return "\n\n".join(f"{table.title}\n\n{table.with_note()}" for table in tables(results))


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    where = results.environment
    parts = [
        "# Inverse problems with one learned regularizer",
        f"""{where["date_utc"]}, {results.total_seconds:.0f} s on {where["device_kind"]}
({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}, weights
{Path(results.command["weights"]).name}, seed {results.command["seed"]}.""",
    ]
    for table in tables(results):
        parts += [f"## {table.title}", table.with_note()]
    parts.append("## Problems")
    for figure in _figures(figure_paths, folder):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    return {
        "experiment": "reconstruct",
        "tables": tables(results),
        "figures": _figures(figure_paths, folder),
        **results._replace(settings=vars(results.settings))._asdict(),  # pyright: ignore[reportArgumentType]
    }


def _quality_table(results: Results) -> Table:
    methods = list(next(iter(results.outcomes.values()))["psnr"])
    headers = ["problem", *methods, "gain over TV", *(f"SSIM {method}" for method in methods)]
    rows: list[list[str]] = []
    for name, outcome in results.outcomes.items():
        mean = {method: float(np.mean(outcome["psnr"][method])) for method in methods}
        gain = mean["regularizer"] - mean["total variation"]
        similarity = [f"{np.mean(outcome['ssim'][method]):.4f}" for method in methods]
        rows.append([name, *(f"{mean[method]:.2f}" for method in methods), f"{gain:+.2f}", *similarity])
    settings, size = results.settings, results.settings.test_size
    problems = "\n".join(f"- {name}: {describe(name, settings)}" for name in results.outcomes)
    note = f"""Mean PSNR in dB, without clipping, over the middles, {size} x {size}, of
{", ".join(results.test_images)}.

{problems}

"plain" is what the others start from: the blurred or enlarged or zero-filled image, a filtered backprojection, or the
mean where nothing is known."""
    return Table("Quality", note, headers, rows)


def _parameters_table(results: Results) -> Table:
    headers = ["problem", "strength", "sigma", "TV strength", "tried", "iterations", "TV iterations", "largest rise"]
    rows: list[list[str | int]] = [
        [
            name,
            f"{outcome['strength']:g}",
            f"{outcome['sigma']:g}",
            f"{outcome['tv_strength']:g}",
            outcome["num_tried"],
            f"{np.mean(outcome['num_steps']['regularizer']):.0f}",
            f"{np.mean(outcome['num_steps']['total variation']):.0f}",
            f"{outcome['largest_rise']:.1e}",
        ]
        for name, outcome in results.outcomes.items()
    ]
    settings = results.settings
    size = settings.tuning_size
    note = f"""Found on {", ".join(results.tuning_images)} (middles, {size} x {size}); strengths are in units of
||A||^2, sigma is the noise level that the regularizer is set to, in 8-bit units. Iterations are means, to a relative
change of {settings.tolerance:g}, at most {settings.max_steps} and {settings.tv_steps}. The largest rise is that of the
regularizer's objective from one step to the next, relative to it, on the first image."""
    return Table("Parameters", note, headers, rows)


def _figures(paths: Sequence[Path], folder: Path) -> list[Figure]:
    return [Figure(path.relative_to(folder).as_posix(), f"The problem {path.stem}, first image.") for path in paths]
