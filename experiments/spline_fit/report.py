"""The spline fit experiment's findings as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.report import Table, listed_figures
from experiments.spline_fit import networks
from experiments.spline_fit.convex import Optimum
from experiments.spline_fit.fitting import METHODS, Fits
from experiments.spline_fit.network_pruning import Pruned
from experiments.spline_fit.networks import Trained
from experiments.spline_fit.problem import NETWORK_TARGETS, TARGETS, Task
from experiments.spline_fit.settings import Settings

_CAPTIONS = {
    "fits": "Samples, the exact optimum, and the trained and pruned spline; one column per function and box.",
    "optimum": "The objective above the exact optimum, relative to it, by way of training.",
    "knots": "Inner knots after pruning against the weight of TV2.",
    "networks": "1-Lipschitz networks of equal width after training; the median seed.",
    "errors": "Held-out error of all networks.",
    "activations": (
        "The splines that the network of the median seed has learned for the wave. Orange: as trained; blue: pruned, "
        "with the knots that are left, and dotted where nothing comes in."
    ),
}


class Results(NamedTuple):
    """One run of the experiment, complete."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    task: Task
    optimum: Optimum
    fits: Mapping[str, Fits]
    trained: Mapping[str, Trained]
    pruned: Pruned
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [_optimum_table(results), _networks_table(results), _activations_table(results), _fits_table(results)]


def summary(results: Results) -> str:
    """The two main tables with what their columns mean."""
    return "\n\n".join(table.with_note() for table in tables(results)[:2])


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    where, settings = results.environment, results.settings
    figures = {Path(figure.path).stem: figure for figure in listed_figures(figure_paths, folder, _CAPTIONS)}
    optimum, trained, activations, fits = tables(results)

    def section(table: Table, *names: str) -> list[str]:
        shown = [part for name in names for part in (figures[name].caption, f"![{name}]({figures[name].path})")]
        return [f"## {table.title}", table.with_note(), *shown]

    parts = [
        "# Splines under slope constraints, in one dimension",
        f"""`python -m experiments spline-fit --seed {results.command["seed"]}`, {where["date_utc"]},
{results.total_seconds:.0f} s on {where["device_kind"]} ({where["cpu_count"]} CPU cores),
jax {where["versions"]["jax"]}.""",
        f"""Single splines: {settings.num_sites} samples at random sites in [-1, 1], with noise of standard deviation
{settings.noise:g}; minimized is mean (f(x) - y)^2 / 2 + weight * TV2(f) over all functions f with slopes in a box.
By the representer theorem of arXiv 2408.13114 a linear spline with at most {settings.num_sites - 2} knots, among the
samples' sites, is a solution; an interior-point method (Clarabel) finds it to 1e-8.""",
        *section(optimum, "optimum", "knots", "fits"),
        *section(trained, "networks", "errors"),
        *section(activations, "activations"),
        *section(fits),
        "## Files",
        "`metrics.json` holds every number above with settings and versions.",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    task = results.task
    return {
        "experiment": "spline-fit",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        "command": results.command,
        "settings": vars(results.settings),
        "environment": results.environment,
        "fits": [
            {"target": target.title, "tv2_weight": weight, "optimum": objective, "optimal_kinks": num_kinks}
            | {name: _fit_metrics(found, index) for name, found in results.fits.items()}
            for index, (target, weight, objective, num_kinks) in enumerate(
                zip(task.targets, task.weights, results.optimum.objective, results.optimum.num_kinks, strict=True)
            )
        ],
        "networks": {
            name: {
                "error": dict(zip(NETWORK_TARGETS, found.error, strict=True)),
                "train_error": dict(zip(NETWORK_TARGETS, found.train_error, strict=True)),
                "rates": found.rates,
                "lipschitz_bound": found.bound,
                "steepest": found.steepest,
                "num_params": found.num_params,
            }
            for name, found in results.trained.items()
        },
        "total_seconds": results.total_seconds,
    }


def _fit_metrics(found: Fits, index: int) -> dict[str, Any]:
    fields = ("excess", "violation", "num_kinks", "num_knots", "pruned_excess", "iterations")
    return {name: getattr(found, name)[index] for name in fields}


def _optimum_table(results: Results) -> Table:
    settings = results.settings
    shape = len(TARGETS), len(settings.tv2_weights)
    shown = [index for index, weight in enumerate(settings.tv2_weights) if _is_decade(weight)]
    rows = []
    for name, found in results.fits.items():
        excess = np.max(np.reshape(found.excess, shape), axis=0)
        pruned_excess, num_knots = np.max(found.pruned_excess), np.max(found.num_knots)
        rows.append([name, *(_relative(excess[index]) for index in shown), _relative(pruned_excess), f"{num_knots}"])
    closest = np.min(np.diff(results.task.sites))
    note = f"""The objective above the exact optimum, relative to it, the worst of {len(TARGETS)} functions and boxes.

- proximal gradient: FISTA on the slopes (`unroll_jax.algorithms.fista`), whose proximal operator is that of the total
  variation of the slopes, clipped to the box; at most {np.max(results.fits[METHODS[0]].iterations)} iterations.
- Adam on slopes: {settings.num_steps} steps, clipped to the box after each.
- Adam on values: as many steps on the values at the knots (`LinearSpline`), which is how splines are published,
  slopes kept in the box. Kinks are second differences of values, and the closest sites here are {closest:.0e} apart, so
  this is conditioned worst by far; even grids, as networks have, are milder.
- pruned: after pruning, which may raise each objective by {settings.pruning_cost:g} of it; the worst of all weights.
- knots: inside, after pruning, the most of all weights; at most {settings.num_sites - 2} by the theorem."""
    headers = ["method", *(f"weight {settings.tv2_weights[index]:g}" for index in shown), "pruned", "knots"]
    return Table("Against the exact optimum", note, headers, rows)


def _networks_table(results: Results) -> Table:
    settings = results.settings
    rows = []
    for name, found in results.trained.items():
        medians = [f"{value:.2e}" for value in np.median(found.error, axis=1)]
        worst = [f"{value:.1e}" for value in np.max(found.error, axis=1)]
        rows.append([name, *medians, *worst, f"{found.steepest:.3f}", f"{found.bound:g}", found.num_params])
    rates = " and ".join(f"{rate:g}" for rate in settings.network_rates)
    note = f"""Mean squared error on {settings.num_held_out} held-out points, after training on {settings.num_train}
without noise. Networks of {settings.num_layers} orthonormal layers of width {settings.width} ("wide":
{2 * settings.width}, for about as many parameters as with splines), so with every activation here the Lipschitz
constant is at most 1, which is what the functions have. All are trained alike: {settings.num_network_steps} steps of
Adam on all points, with the learning rates {rates} (a tenth of it for values of splines, half of it for
their scales), of which the one with the lower training error counts. Splines have {settings.num_knots} knots
on [-1, 1], a scale each, slopes in [-1, 1], and TV2 weight {settings.network_tv2_weight:g}.

- the functions' names: the median of {settings.num_seeds} networks; worst: the worst of them.
- steepest: the largest slope between held-out points, of all networks; bound: on it, known from the structure.
- params: what is learned, in numbers."""
    worst_headers = [f"{name}, worst" for name in NETWORK_TARGETS]
    headers = ["activation", *NETWORK_TARGETS, *worst_headers, "steepest", "bound", "params"]
    return Table("Networks", note, headers, rows)


def _activations_table(results: Results) -> Table:
    settings, pruned = results.settings, results.pruned
    errors = np.median(results.trained[networks.SPLINES.name].error, axis=1)
    rows = [
        [name, f"{tv2:.2f}", f"{kinks:.1f}", f"{pruned_kinks:.1f}", f"{error:.2e}", f"{pruned_error:.2e}"]
        for name, tv2, kinks, pruned_kinks, error, pruned_error in zip(
            NETWORK_TARGETS, pruned.tv2, pruned.num_kinks, pruned.num_pruned_kinks, errors, pruned.error, strict=True
        )
    ]
    cost = 100 * settings.network_pruning_cost
    note = f"""The splines of the networks: TV2 and kinks (above 1e-3; {settings.num_knots - 2} are possible) of one
activation, the mean; the kinks that are left after pruning, which may raise the training error by {cost:g} %; held-out
errors before and after. A ReLU has TV2 = 1 and one kink."""
    headers = ["function", "TV2", "kinks", "kinks, pruned", "error", "error, pruned"]
    return Table("Learned activations", note, headers, rows)


def _fits_table(results: Results) -> Table:
    task, found = results.task, results.fits[METHODS[0]]
    rows = []
    for index, (target, weight) in enumerate(zip(task.targets, task.weights, strict=True)):
        if _is_decade(weight):
            rows.append(
                [
                    f"{target.title}, {weight:g}",
                    f"{results.optimum.objective[index]:.4e}",
                    _relative(found.excess[index]),
                    results.optimum.num_kinks[index],
                    *(results.fits[name].num_kinks[index] for name in METHODS),
                    *(results.fits[name].num_knots[index] for name in METHODS),
                    _relative(found.pruned_excess[index]),
                    f"{found.violation[index]:.0e}",
                    found.iterations[index],
                ]
            )
    note = """Function, box and TV2 weight: the optimal objective; what proximal gradient adds to it, relative; kinks of
the optimum and of the trained splines, and inner knots after pruning (proximal gradient / Adam on slopes / Adam on
values); of proximal gradient what pruning adds, the worst slope outside of the box, and iterations."""
    headers = ["fit", "optimum", "excess", "kinks"]
    headers += ["kinks PG", "kinks AS", "kinks AV", "knots PG", "knots AS", "knots AV"]
    headers += ["pruned", "violation", "iterations"]
    return Table("Single splines", note, headers, rows)


def _is_decade(weight: float) -> bool:
    exponent = np.log10(weight)
    return bool(np.isclose(exponent, np.round(exponent)))


def _relative(excess: float) -> str:
    # the optimum itself is known to about 1e-8
    return f"{excess:.1e}" if abs(excess) > 1e-8 else "<1e-8"
