"""The sparse coding experiment's findings as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.report import Table, command_line, listed_figures
from experiments.sparse_coding.evaluation import Evaluation
from experiments.sparse_coding.networks import VARIANTS, History
from experiments.sparse_coding.problem import SparseCoding
from experiments.sparse_coding.settings import Settings

_CAPTIONS = {
    "distance": "Distance to the solution after every layer (mean and standard deviation).",
    "objective": "Lasso objective above its minimum after every layer (mean and standard deviation).",
    "descent": "Share of held-out patches that descend at each layer, and the certificate's lower bound.",
    "multipliers": "Multipliers over the training steps.",
    "noise": "Final distance under Gaussian noise between the layers (two standard errors).",
    "shift": "Final distance on patches with pixel noise, labels recomputed (two standard errors).",
    "sparsity": "l1 norm of the codes after some layers, and of the solutions.",
}


class Results(NamedTuple):
    """One run of the experiment, complete."""

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    problem: SparseCoding
    num_images: int
    evaluations: Mapping[str, Evaluation]
    histories: Mapping[str, History]
    shift_levels: Sequence[float]
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    return [_networks_table(results), *_certificate_tables(results), _noise_table(results), _shift_table(results)]


def summary(results: Results) -> str:
    """The main table, one row per network, and what its columns mean."""
    return _networks_table(results).with_note()


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    problem, settings = results.problem, results.settings
    num_pixels, num_atoms = problem.task.dictionary.matrix.shape
    where = results.environment
    command = command_line("sparse-coding", results.command)
    unit = "mean 0 and norm 1 each" if settings.normalize else f"divided by {problem.unit:.4g}, their mean norm"
    main, *certificates, noise, shift = tables(results)
    parts = [
        "# LISTA under descent constraints",
        f"""`{command}`, {where["date_utc"]}, {results.total_seconds:.0f} s on {where["device_kind"]}
({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}.""",
        f"""{results.num_images} images; {len(problem.train.x)} training and {len(problem.held_out.x)} held-out
patches of {num_pixels} pixels, brought to {unit}, from different images or different tiles of them.
Dictionary of {num_atoms} unit-norm atoms, l1 weight {problem.task.l1_weight:.4g}. Labels by FISTA,
largest relative duality gap {problem.label_gap:.1e}. {settings.num_layers} layers,
{settings.num_steps} training steps of {settings.batch_size} patches. The last step's network is
reported; none is chosen on held-out patches.""",
        f"## {main.title}",
        main.with_note(),
        "## Certificates of descent",
        certificates[0].note,
    ]
    for variant, table in zip(VARIANTS, certificates, strict=True):
        parts += [f"### {variant.name}", table.markdown()]
    for table in (noise, shift):
        parts += [f"## {table.title}", table.note, table.markdown()]
    parts.append("## Figures")
    for figure in listed_figures(figure_paths, folder, _CAPTIONS):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    parts += [
        "## Files",
        """`metrics.json` holds every number above with settings and versions; `solvers/*.npz` the trained
parameters, stacked by layer (`LISTAParams` of `unroll_jax.algorithms`), and the dictionary.""",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    problem = results.problem
    return {
        "experiment": "sparse-coding",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        "command": results.command,
        "settings": vars(results.settings),
        "environment": results.environment,
        "problem": {
            "num_images": results.num_images,
            "num_train": len(problem.train.x),
            "num_held_out": len(problem.held_out.x),
            "dictionary_shape": problem.task.dictionary.matrix.shape,
            "l1_weight": problem.task.l1_weight,
            "unit": problem.unit,
            "label_gap": problem.label_gap,
        },
        "networks": {
            variant.name: _network_metrics(
                results.evaluations[variant.name],
                results.histories[variant.name],
            )
            for variant in VARIANTS
        },
        "shift_levels": results.shift_levels,
        "total_seconds": results.total_seconds,
    }


def _network_metrics(found: Evaluation, history: History) -> dict[str, Any]:
    return {
        "training_seconds": history.seconds,
        "final_loss": history.loss[-1],
        "final_multipliers": {name: values[-1] for name, values in history.multipliers.items()},
        "nmse": found.nmse,
        "distance_mean": np.mean(found.layers.distance, axis=0),
        "distance_std": np.std(found.layers.distance, axis=0),
        "excess_mean": np.mean(found.layers.excess, axis=0),
        "excess_std": np.std(found.layers.excess, axis=0),
        "certificate": found.certificate,
        "noise_error_mean": np.mean(found.noise_error, axis=1),
        "noise_error_std": np.std(found.noise_error, axis=1),
        "noise_descent": found.noise_descent,
        "shift_error_mean": np.mean(found.shift_error, axis=1),
        "shift_error_std": np.std(found.shift_error, axis=1),
    }


def _networks_table(results: Results) -> Table:
    settings, num_layers, percent = results.settings, results.settings.num_layers, _percent(results)
    unit_noise = list(settings.noise_levels).index(1.0)
    headers = [
        "network",
        "NMSE dB",
        "NMSE",
        "worst viol.",
        "violated",
        "certified",
        "desc. %",
        "bound %",
        "all %",
        "noisy",
        "shift",
    ]
    rows = []
    for variant in VARIANTS:
        found = results.evaluations[variant.name]
        certificate = found.certificate
        rows.append(
            [
                variant.name,
                f"{10 * np.log10(found.nmse):.2f}",
                f"{found.nmse:.4f}",
                f"{np.max(certificate.mean_violation):+.4f}",
                f"{np.sum(certificate.mean_violation > 0)}",
                f"{np.sum(certificate.holds)}",
                f"{100 * np.min(certificate.descent_frequency):.1f}",
                f"{100 * np.min(certificate.descent_bound):.1f}",
                f"{100 * certificate.monotone_frequency:.1f}",
                f"{np.mean(found.noise_error[unit_noise]):.3g}",
                f"{np.mean(found.shift_error[-1]) - np.mean(found.shift_error[0]):+.4f}",
            ]
        )
    note = f"""On {len(results.problem.held_out.x)} held-out patches; distances are to the Lasso solution.

- NMSE: E||y_L - y*||^2 / E||y*||^2 of the last layer.
- worst viol.: the largest mean violation of a layer at rate {settings.rate:g}.
- violated, certified: of {num_layers} layers, those with a mean violation above 0, and those whose {percent} upper
  bound of it is not.
- desc. %: the share of patches that descend, at the layer where it is smallest; bound %: its {percent} lower bound.
- all %: the share of patches that descend at every layer.
- noisy: mean final distance under noise between the layers as large as the gradient.
- shift: growth of the mean final distance under the strongest pixel noise ({results.shift_levels[-1]:g})."""
    return Table("Networks", note, headers, rows)


def _certificate_tables(results: Results) -> list[Table]:
    """One per network, all with the same note."""
    note = f"""Per layer, from held-out patches: the mean violation of E d_l <= {1 - results.settings.rate:g} E d_(l-1)
with its upper bound (by betting; d saturated at its largest value on training patches), and the
share of descending patches with its Clopper-Pearson lower bound, each at
{_percent(results)}. Patches of one image or tile are not independent, so the bounds speak of
further patches from the held-out images or tiles."""
    headers = ["layer", "mean distance", "mean violation", "bound", "holds", "descending %", "bound %"]
    made = []
    for variant in VARIANTS:
        certificate = results.evaluations[variant.name].certificate
        rows = [
            [
                layer + 1,
                f"{certificate.mean_value[layer + 1]:.4f}",
                f"{certificate.mean_violation[layer]:+.4f}",
                f"{certificate.violation_bound[layer]:+.4f}",
                "yes" if certificate.holds[layer] else "no",
                f"{100 * certificate.descent_frequency[layer]:.1f}",
                f"{100 * certificate.descent_bound[layer]:.1f}",
            ]
            for layer in range(len(certificate.holds))
        ]
        made.append(Table(f"Certificate of descent: {variant.name}", note, headers, rows))
    return made


def _noise_table(results: Results) -> Table:
    rows = []
    for variant in VARIANTS:
        found = results.evaluations[variant.name]
        cells = [
            f"{np.mean(error):.3g} ({100 * np.min(descent):.0f})"
            for error, descent in zip(found.noise_error, found.noise_descent, strict=True)
        ]
        rows.append([variant.name, *cells])
    note = """Mean final distance under Gaussian noise of this size relative to the gradient's norm; in brackets,
in %, the share of patches that descend at the layer where it is smallest."""
    headers = ["network", *(f"{level:g}" for level in results.settings.noise_levels)]
    return Table("Noise between the layers", note, headers, rows)


def _shift_table(results: Results) -> Table:
    rows = []
    for variant in VARIANTS:
        errors = results.evaluations[variant.name].shift_error
        growth = errors[1:] - errors[:1]
        error = 2 * np.std(growth, axis=1) / np.sqrt(growth.shape[1])
        cells = [f"{mean:+.4f} ± {e:.4f}" for mean, e in zip(np.mean(growth, axis=1), error, strict=True)]
        rows.append([variant.name, *cells])
    note = """Growth of the mean final distance over the clean patches', on patches with pixel noise of this
standard deviation; ± two standard errors of the difference, patch by patch."""
    return Table("Shifted data", note, ["network", *(f"{level:g}" for level in results.shift_levels[1:])], rows)


def _percent(results: Results) -> str:
    return f"{100 * results.settings.confidence:g} %"
