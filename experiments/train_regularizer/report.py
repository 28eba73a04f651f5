"""The findings of a regularizer's training as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report import Table, command_line, listed_figures
from experiments.train_regularizer.measuring import SIZE, Bounds
from experiments.train_regularizer.settings import Settings, error_in_words, potentials_in_words
from experiments.train_regularizer.training import History

_CAPTIONS = {
    "training": "Loss over the training steps, and PSNR on the validation images.",
    "filters": "The filters, collapsed to one kernel, by their norm; gray is zero.",
    "activations": "The activation psi' of one filter, that of the median scale, and the potential psi it is the slope "
    "of, at one noise level per line; all filters together at the last.",
}


class Results(NamedTuple):
    """One run, complete."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    num_images: int
    num_validation: int
    validation_size: int
    num_params: int  # that training changed
    num_potentials: int
    best_step: int
    history: History
    bounds: Bounds
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [_validation_table(results), _bounds_table(results)]


def summary(results: Results) -> str:
    """All tables, with what their columns mean."""
    return "\n\n".join(f"{table.title}\n\n{table.with_note()}" for table in tables(results))


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    settings, where = results.settings, results.environment
    command = command_line("train-regularizer", results.command, short=True)
    kind = f"{settings.rho:g}-weakly convex" if settings.rho else "convex"
    how = {
        "equilibrium": f"""at its fixed point (at most {settings.max_steps} steps), with conjugate gradients for the
implicit gradient (relative residual {settings.adjoint_tolerance:g}, at most {settings.adjoint_steps} steps)""",
        "jacobian-free": f"""at its fixed point (at most {settings.max_steps} steps), without the inverse in its
derivative""",
        "unrolled": f"through {settings.num_unrolled} gradient steps",
    }[settings.mode]
    parts = [
        f"# A {kind} ridge regularizer",
        f"""`{command}`, {where["date_utc"]}, {results.history.seconds:.0f} s of training on
{where["device_kind"]} ({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}.""",
        f"""{results.num_params:,} trained parameters: filters {" -> ".join(map(str, (1, *settings.channels)))} of
{settings.kernel_size} x {settings.kernel_size}, {potentials_in_words(results.num_potentials)},
and a scale of each filter over the noise level. Trained as a denoiser of noise between 0 and {settings.max_sigma:g},
{how},
by {error_in_words(settings.loss, settings.margin)}, the filters with
{settings.optimizer.capitalize()}, in {settings.num_steps} steps of {settings.batch_size} patches of
{settings.patch_size} x {settings.patch_size} from {results.num_images} images at the scales
{", ".join(map(str, settings.scales))}.
Step {results.best_step} was the best in validation and is what `regularizer.npz` holds.""",
    ]
    for table in tables(results):
        parts += [f"## {table.title}", table.with_note()]
    parts.append("## Figures")
    for figure in listed_figures(figure_paths, folder, _CAPTIONS):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    parts += [
        "## Files",
        """`regularizer.npz` holds the regularizer (`unroll_jax.regularizers.load_ridge`), `training.jsonl` what every
step reported, `metrics.json` every number above with settings and versions.""",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    return {
        "experiment": "train-regularizer",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        **results._replace(settings=vars(results.settings))._asdict(),  # pyright: ignore[reportArgumentType]
    }


def _validation_table(results: Results) -> Table:
    history = results.history
    headers = ["step", *(f"sigma {name}" for name in history.validation)]
    rows = [
        [str(step), *(f"{values[index]:.2f}" for values in history.validation.values())]
        for index, step in enumerate(history.validation_step)
    ]
    size = results.validation_size
    margin = results.settings.margin
    inside = f" {margin} pixels from their edge on," if margin else ""
    note = f"""Mean PSNR in dB on the middles, {size} x {size}, of {results.num_validation} validation
images,{inside} without clipping, with the same noise in every row."""
    return Table("Validation", note, headers, rows)


def _bounds_table(results: Results) -> Table:
    bounds = results.bounds
    rows = [
        ["norm of the filters", "-", f"{bounds.norm_bound:.6f}", f"{bounds.norm_found:.6f}"],
        ["curvature, from below", f"{0 - bounds.rho:g}", f"{0 - bounds.rho:g}", f"{bounds.lowest:.4f}"],
        ["curvature, from above", "-", f"{bounds.mu:.3f}", f"{bounds.highest:.3f}"],
    ]
    note = f"""What is certified, whatever the image, and the extremes found: of the norm by power iteration, of the
curvature v'Hv / v'v of R at {bounds.num_pairs} random images of {SIZE} x {SIZE} and directions, half of which live at
the border.
{"All lie within the bounds." if bounds.holds else "**A bound is broken.**"}"""
    return Table("Bounds", note, ["quantity", "asked for", "certified", "found"], rows)
