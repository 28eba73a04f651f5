"""The findings of the inpainting experiment as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import unroll_jax as uj
from experiments.inpainting.measuring import Found, Perturbed, Quality
from experiments.inpainting.networks import VARIANTS, History
from experiments.inpainting.settings import Settings
from experiments.report import Table, command_line, listed_figures

_TASKS = {"hole": "the hole", "random": "random masks"}
_CAPTIONS = {
    "layers": "Restorations layer by layer; the last column has the known pixels as they were measured.",
    "perturbed": "Restorations of the first crop from perturbed measurements, by the perturbation's norm.",
    "samples": "Random images of the flow that was trained for likelihood, at temperature 0.7.",
    "descent": "PSNR over the hole and both measures after every layer (mean; the measures relative to layer 1).",
    "training": "Loss and multipliers over the training steps.",
}


class NetworkFindings(NamedTuple):
    """Everything measured of one network.

    Attributes:
        tasks: by mask.
        certificates: on the task with the hole, by measure.
        history: of its training.
    """

    tasks: Mapping[str, Found]
    certificates: Mapping[str, uj.Certificate]
    history: History


class Results(NamedTuple):
    """One run of the experiment, complete."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    num_images: int
    num_params: int
    flow_bits: float
    gaussian_bits: float
    flow_seconds: Mapping[str, float]
    networks: Mapping[str, NetworkFindings]
    others: Mapping[str, Mapping[str, Quality]]
    perturbed: Mapping[str, Perturbed]
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [
        *(_quality_table(results, task) for task in _TASKS),
        *(_layers_table(results, variant.name) for variant in VARIANTS),
        _perturbation_table(results),
        _flow_table(results),
    ]


def summary(results: Results) -> str:
    """The main tables, with what their columns mean."""
    return "\n\n".join(f"{table.title}\n\n{table.with_note()}" for table in tables(results))


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    settings, where = results.settings, results.environment
    command = command_line("inpainting", results.command)
    skipped = ", ".join(f"{name} {found.history.num_skipped}" for name, found in results.networks.items())
    parts = [
        "# GLOW-Prox: inpainting with a flow in every layer",
        f"""`{command}`, {where["date_utc"]}, {results.total_seconds:.0f} s on {where["device_kind"]}
({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}.""",
        f"""{settings.num_layers} layers x+ = clip(G^-1(G(x - mu A'(A x - b)) / (1 + strength)), 0, 1), each with a flow
G of {results.num_params:,} parameters, a step size mu in (0, 2) and a strength per level of its own. G is a flow around
the smooth fill of the measurement, with which x starts, in the contrast of the known pixels, and is shown both and the
mask. All flows start as one that was trained by itself: for likelihood, given nothing ({settings.flow_steps} steps of
{settings.flow_batch} crops, {results.flow_seconds["flow"]:.0f} s), and then for its most probable image given a
measurement to be near the truth ({settings.tuning_steps} steps of {settings.tuning_batch} crops,
{results.flow_seconds["tuned flow"]:.0f} s), with a little of its likelihood given noisy measurements.

Colour crops of {settings.crop_size} x {settings.crop_size} from {results.num_images} images, of which the share
{settings.held_out_share:g} is held out; a hole of {settings.hole_size} x {settings.hole_size}, and random masks that
hide {100 * settings.hidden_share:g} %. {settings.train_steps} training steps of {settings.batch_size} crops; "descent"
asks layers 2 to {settings.num_layers} to lower the means of ||A'(A x - b)|| and of the latents' norm ||z|| by
{100 * settings.train_rate:g} % each, and the first one for latents no longer than those of the flow's own images, with
noise on the measurement and between the layers; "plain" neither. The last
step's networks are reported; none is chosen on held-out crops. Steps skipped, as latents of a crop overflowed:
{skipped}.""",
    ]
    for table in tables(results):
        parts += [f"## {table.title}", table.with_note()]
    parts.append("## Figures")
    for figure in listed_figures(figure_paths, folder, _CAPTIONS):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    parts += ["## Files", "`metrics.json` holds every number above with settings and versions."]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""

    def mean(quality: Quality) -> dict[str, Any]:
        return {name: np.mean(values, axis=0) for name, values in quality._asdict().items()}

    return {
        "experiment": "inpainting",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        "command": results.command,
        "settings": vars(results.settings),
        "environment": results.environment,
        "num_images": results.num_images,
        "num_params": results.num_params,
        "bits_per_dimension": {"flow": results.flow_bits, "gaussian": results.gaussian_bits},
        "flow_seconds": results.flow_seconds,
        "networks": {
            name: {
                "training_seconds": found.history.seconds,
                "num_skipped": found.history.num_skipped,
                "final_loss": found.history.loss[-1],
                "final_multipliers": {key: values[-1] for key, values in found.history.multipliers.items()},
                "certificates": found.certificates,
                "tasks": {
                    task: {
                        "layers": mean(each.layers),
                        "restored": mean(each.restored),
                        "measures": {key: np.mean(values, axis=0) for key, values in each.measures.items()},
                    }
                    for task, each in found.tasks.items()
                },
            }
            for name, found in results.networks.items()
        },
        "others": {
            task: {name: mean(quality) for name, quality in found.items()} for task, found in results.others.items()
        },
        "perturbed": {name: np.mean(found.hole_psnr, axis=1) for name, found in results.perturbed.items()},
        "total_seconds": results.total_seconds,
    }


def _quality_table(results: Results, task: str) -> Table:
    rows = []
    found = dict(results.others[task]) | {
        variant.name: results.networks[variant.name].tasks[task].restored for variant in VARIANTS
    }
    reference = found["total variation"].hole_psnr
    for name, quality in found.items():
        gain = quality.hole_psnr - reference
        error = 2 * np.std(gain) / np.sqrt(len(gain))
        rows.append(
            [
                name,
                f"{np.mean(quality.hole_psnr):.2f}",
                f"{np.mean(gain):+.2f} ± {error:.2f}",
                f"{np.mean(quality.psnr):.2f}",
                f"{np.mean(quality.hole_ssim):.4f}",
                f"{np.mean(quality.ssim):.4f}",
            ]
        )
    note = f"""Means over {len(reference)} held-out crops of what is restored, with the known pixels as they were
measured: PSNR in dB and SSIM over the hidden pixels and over all; the gain over total variation in the PSNR over the
hidden pixels, ± two standard errors, crop by crop. "harmonic" is where the networks start,
"one flow" the most probable image of the flow that all their layers start with."""
    headers = ["method", "hidden PSNR", "over TV", "PSNR", "hidden SSIM", "SSIM"]
    return Table(f"Quality: {_TASKS[task]}", note, headers, rows)


def _layers_table(results: Results, name: str) -> Table:
    found = results.networks[name]
    layers, settings = found.tasks["hole"].layers, results.settings
    rows = []
    for layer in range(settings.num_layers + 1):
        row: list[str] = [
            str(layer),
            f"{np.mean(layers.hole_psnr[:, layer]):.2f}",
            f"{np.mean(layers.psnr[:, layer]):.2f}",
            f"{np.mean(layers.hole_ssim[:, layer]):.4f}",
            f"{np.mean(layers.ssim[:, layer]):.4f}",
        ]
        for certificate in found.certificates.values():
            if layer < 2:
                row += [f"{certificate.mean_value[0]:.3f}" if layer else "-", "-", "-", "-"]
            else:
                row += [
                    f"{certificate.mean_value[layer - 1]:.3f}",
                    f"{certificate.mean_violation[layer - 2]:+.4f}",
                    f"{certificate.violation_bound[layer - 2]:+.4f}",
                    f"{100 * certificate.descent_frequency[layer - 2]:.1f}",
                ]
        rows.append(row)
    note = f"""On held-out crops with the hole: quality of every layer's image as it is, the start first; mean of both
measures, the mean violation of E m_l <= {1 - settings.rate:g} E m_(l-1), its {100 * settings.confidence:g} % upper
bound (by betting; measures saturated at their largest value on training crops), and the share of crops that descend,
in %. Crops of one image are not independent, so the bounds speak of further crops from the held-out images."""
    headers = ["layer", "hole PSNR", "PSNR", "hole SSIM", "SSIM"]
    for measure in found.certificates:
        headers += [f"{measure} mean", f"{measure} violation", f"{measure} bound", f"{measure} desc. %"]
    return Table(f"Layer by layer: {name}", note, headers, rows)


def _perturbation_table(results: Results) -> Table:
    rows = []
    for name, found in results.perturbed.items():
        means = np.mean(found.hole_psnr, axis=1)
        rows.append([name, f"{means[0]:.2f}", *(f"{value - means[0]:+.2f}" for value in means[1:])])
    note = """PSNR over the hole, in dB, and by how much it changes where the image was moved by this norm in a random
direction before it was masked."""
    headers = ["method", "clean", *(f"p = {level:g}" for level in results.settings.perturbations)]
    return Table("Perturbed measurements", note, headers, rows)


def _flow_table(results: Results) -> Table:
    note = """Bits per dimension of held-out crops, 8 bits each number, with dequantization noise. The Gaussian has the
mean and the covariance of the training crops."""
    rows = [["flow", f"{results.flow_bits:.3f}"], ["Gaussian", f"{results.gaussian_bits:.3f}"]]
    return Table("Likelihood", note, ["density", "bits per dimension"], rows)
