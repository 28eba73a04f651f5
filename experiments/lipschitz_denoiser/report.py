"""The findings of the experiment with Lipschitz denoisers as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lipschitz_denoiser.networks import VARIANTS, History
from experiments.lipschitz_denoiser.restoration import Restoration
from experiments.lipschitz_denoiser.settings import Settings
from experiments.report import Table, command_line, listed_figures

KINK = 0.01  # what counts as one, in units of a slope

_CAPTIONS = {
    "residuals": "How far every step of plug-and-play goes.",
    "images": "Deblurring by plug-and-play, with the parameters chosen for each denoiser.",
    "activations": "The learned splines, a curve per channel, in units of the noise behind the first filters.",
    "training": "Loss over the training steps.",
}


class Findings(NamedTuple):
    """Everything measured of one denoiser.

    Attributes:
        num_params: that are learned.
        num_knots: at which a spline bends by `KINK` or more, with its ends, on average; None without splines.
        lipschitz: the constant that holds whatever is learned.
        averagedness: the a such that it is a-averaged whatever is learned; None where there is none.
        psnr: by set, `(num_images,)`.
        local_constants: by place, `(num_images,)`, lower bounds of local Lipschitz constants.
        chosen: plug-and-play with the parameters chosen for it.
        boldest: plug-and-play with the largest step and the whole denoiser.
    """

    num_params: int
    num_knots: float | None
    lipschitz: float
    averagedness: float | None
    psnr: Mapping[str, np.ndarray]
    local_constants: Mapping[str, np.ndarray]
    chosen: Restoration
    boldest: Restoration


class Results(NamedTuple):
    """One run of the experiment, complete."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    num_train_images: int
    noisy_psnr: Mapping[str, np.ndarray]
    blurred_psnr: float
    restored_image: str
    findings: Mapping[str, Findings]
    histories: Mapping[str, History]
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [_denoisers_table(results), _constants_table(results), _restoration_table(results)]


def summary(results: Results) -> str:
    """All tables, with what their columns mean."""
    return "\n\n".join(f"{table.title}\n\n{table.with_note()}" for table in tables(results))


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    settings, where = results.settings, results.environment
    command = command_line("lipschitz-denoiser", results.command, short=True)
    parts = [
        "# A denoiser that is 1-Lipschitz by construction",
        f"""`{command}`, {where["date_utc"]}, {results.total_seconds:.0f} s on {where["device_kind"]}
({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}.""",
        f"""Chains of {settings.num_blocks} blocks x - {2 * settings.averagedness:g} W' f(W x), with filters W,
{settings.num_filters} of {settings.kernel_size} x {settings.kernel_size}; trained in {settings.num_steps} steps of
{settings.batch_size} patches of {settings.patch_size} x {settings.patch_size} from {results.num_train_images} images,
at noise of {settings.sigma:g}/255. The last step's denoiser is reported; none is chosen on images held out.
Where ||W|| <= 1 and the slopes of f lie in [0, 1], a block is a step along the gradient of a convex function, an
averaged operator and 1-Lipschitz, and so is the chain. Then plug-and-play, a gradient step of less than
2 / ||A||^2 and the denoiser, is an averaged operator too: its steps get no longer, and it converges to a fixed
point if there is one.""",
    ]
    for table in tables(results):
        parts += [f"## {table.title}", table.with_note()]
    parts.append("## Figures")
    for figure in listed_figures(figure_paths, folder, _CAPTIONS):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    parts += [
        "## Files",
        """`metrics.json` holds every number above with settings and versions; `solvers/*.npz` the trained
parameters, which `experiments.lipschitz_denoiser.networks.load_denoiser` reads.""",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    return {
        "experiment": "lipschitz-denoiser",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        "command": results.command,
        "settings": vars(results.settings),
        "environment": results.environment,
        "num_train_images": results.num_train_images,
        "noisy_psnr": results.noisy_psnr,
        "blurred_psnr": results.blurred_psnr,
        "restored_image": results.restored_image,
        "denoisers": {
            name: {
                **{field: value for field, value in found._asdict().items() if field not in ("chosen", "boldest")},
                "plug_and_play": {"chosen": _without_image(found.chosen), "boldest": _without_image(found.boldest)},
                "training_seconds": results.histories[name].seconds,
                "final_loss": results.histories[name].loss[-1],
            }
            for name, found in results.findings.items()
        },
        "total_seconds": results.total_seconds,
    }


def _denoisers_table(results: Results) -> Table:
    sets = list(results.noisy_psnr)
    headers = ["denoiser", "parameters", "knots", "Lipschitz", "averaged", *(f"PSNR {name}" for name in sets)]
    rows: list[list[str | int]] = [
        ["noisy", "-", "-", "-", "-", *(f"{np.mean(results.noisy_psnr[name]):.2f}" for name in sets)]
    ]
    for variant in VARIANTS:
        found = results.findings[variant.name]
        rows.append(
            [
                variant.name,
                found.num_params,
                "-" if found.num_knots is None else f"{found.num_knots:.1f}",
                f"{found.lipschitz:g}",
                "-" if found.averagedness is None else f"{found.averagedness:.3f}",
                *(f"{np.mean(found.psnr[name]):.2f}" for name in sets),
            ]
        )
    counts = ", ".join(f"{len(values)} of {name}" for name, values in results.noisy_psnr.items())
    note = f"""At noise of {results.settings.sigma:g}/255, means over images ({counts}), in dB, without clipping.

- knots: where a spline's slope changes by {KINK:g} or more, and its ends, on average.
- Lipschitz: the constant that holds for any image, whatever is learned.
- averaged: the a such that the denoiser is an a-averaged operator, whatever is learned."""
    return Table("Denoisers", note, headers, rows)


def _constants_table(results: Results) -> Table:
    places = list(next(iter(results.findings.values())).local_constants)
    rows = [
        [variant.name, *(f"{np.max(results.findings[variant.name].local_constants[place]):.4f}" for place in places)]
        for variant in VARIANTS
    ]
    settings, size = results.settings, results.settings.measured_size
    note = f"""The largest norm of the denoiser's derivative at {settings.num_measured} images of {size} x {size}:
clean ones, noisy ones, and noise alone. By {settings.power_steps} steps of power iteration, which approach it from
below."""
    return Table("Local Lipschitz constants", note, ["denoiser", *places], rows)


def _restoration_table(results: Results) -> Table:
    headers = ["denoiser", "step", "relaxation", "PSNR", "steps", "converged", "last change", "growth"]
    rows: list[list[str | int]] = []
    for variant in VARIANTS:
        found = results.findings[variant.name]
        for name, run in (("chosen", found.chosen), ("boldest", found.boldest)):
            rows.append(
                [
                    f"{variant.name}, {name}",
                    f"{run.parameters.step_size:g}",
                    f"{run.parameters.relaxation:g}",
                    f"{run.psnr:.2f}",
                    len(run.changes),
                    "yes" if run.converged else "no",
                    f"{run.changes[-1]:.1e}",
                    f"{run.largest_growth:.4f}",
                ]
            )
    settings, size = results.settings, results.settings.restored_size
    note = f"""Deblurring of {results.restored_image}, {size} x {size}: a Gaussian of standard deviation
{settings.blur_std:g} pixels, noise of {settings.measurement_sigma:g}/255, {results.blurred_psnr:.2f} dB to begin with.
"chosen" are the step (in units of 1 / ||A||^2) and the relaxation that were best on training images; "boldest" is the
largest step with the whole denoiser.

- steps: until the relative change is {settings.tolerance:g}, at most {settings.max_steps}.
- last change: ||x_k+1 - x_k|| at the end.
- growth: the largest ratio of two changes after each other; at most 1 where the denoiser is averaged."""
    return Table("Plug-and-play", note, headers, rows)


def _without_image(run: Restoration) -> dict[str, Any]:
    return {field: value for field, value in run._asdict().items() if field != "image"}
