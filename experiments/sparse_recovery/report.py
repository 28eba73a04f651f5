"""The sparse recovery experiment's findings as tables, text and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.report import Table, command_line, listed_figures
from experiments.sparse_recovery.evaluation import Baseline, Evaluation
from experiments.sparse_recovery.figures import title_of
from experiments.sparse_recovery.problem import decibels
from experiments.sparse_recovery.settings import Settings

_CAPTIONS = {
    "layers": "NMSE on the test codes after every layer.",
    "descent": "Share of test codes to which a layer comes closer, trained with and without descent constraints.",
}


class Results(NamedTuple):
    """One run of the experiment, complete.

    Attributes:
        command: its options.
        settings: its settings.
        environment: where it ran.
        evaluations: by SNR and coder.
        baselines: by SNR.
        descent: by SNR and kind of training.
        descent_coder: which coder that is.
        num_trained: by coder, the numbers that are trained.
        seconds: by SNR and training, how long it took.
        total_seconds: of the whole run.
    """

    command: Mapping[str, Any]
    settings: Settings
    environment: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Evaluation]]
    baselines: Mapping[str, Sequence[Baseline]]
    descent: Mapping[str, Mapping[str, Evaluation]]
    descent_coder: str
    num_trained: Mapping[str, int]
    seconds: Mapping[str, Mapping[str, float]]
    total_seconds: float


def tables(results: Results) -> list[Table]:
    """All tables of a run, the main one first."""
    made = [_recovery_table(results), _training_table(results)]
    return [*made, _descent_table(results)] if results.descent else made


def summary(results: Results) -> str:
    """The main table, one row per coder, and what its columns mean."""
    table = _recovery_table(results)
    return f"{table.markdown()}\n\n{table.note}"


def markdown(results: Results, figure_paths: Sequence[Path], folder: Path) -> str:
    """The report of a run, with its figures by relative path."""
    settings, where = results.settings, results.environment
    command = command_line("sparse-recovery", results.command)
    parts = [
        "# Sparse recovery with the LISTA family",
        f"""`{command}`, {where["date_utc"]}, {results.total_seconds:.0f} s on {where["device_kind"]}
({where["cpu_count"]} CPU cores), jax {where["versions"]["jax"]}.""",
        f"""The problem of Open-L2O (Chen et al. 2022): a {settings.num_measurements} x {settings.num_atoms} matrix of
normal entries with columns of unit norm; codes of which each entry is not zero with probability
{settings.share:g}, and standard normal then; {settings.num_layers} layers. Every training of
{settings.num_steps} steps of {settings.batch_size} codes draws them anew, {settings.num_test} test codes are
seen by nothing before, and the last step's network is reported. The loss is the mean over the layers of log NMSE, in
the last {settings.last_layer_share:.0%} of the steps that of the last layer alone: all layers are trained at once,
where the published networks are trained layer by layer, for longer. Encoders start from the analytic one of ALISTA;
support selection lets {settings.support_growth:.1%} more entries pass in every layer, up to
{settings.support_limit:.0%}.""",
    ]
    for table in tables(results):
        parts += [f"## {table.title}", table.markdown(), table.note]
    parts.append("## Figures")
    for figure in listed_figures(figure_paths, folder, _CAPTIONS):
        parts += [figure.caption, f"![{Path(figure.path).stem}]({figure.path})"]
    parts += [
        "## Files",
        """`metrics.json` holds every number above, the errors of every layer, settings and versions; `solvers/*.npz`
the trained parameters.""",
    ]
    return "\n\n".join(parts) + "\n"


def metrics(results: Results, figure_paths: Sequence[Path], folder: Path) -> dict[str, Any]:
    """All numbers of a run, with its tables and figures (paths relative to `folder`), for `write_json`."""
    return {
        "experiment": "sparse-recovery",
        "tables": tables(results),
        "figures": listed_figures(figure_paths, folder, _CAPTIONS),
        "command": results.command,
        "settings": vars(results.settings),
        "environment": results.environment,
        "coders": _of_evaluations(results.evaluations),
        "baselines": {
            snr: {
                b.name: {
                    "nmse_db": decibels(b.nmse[: results.settings.num_layers + 1]),
                    "l1_weight": b.l1_weight,
                    "final_nmse_db": decibels(b.nmse[-1]),
                }
                for b in found
            }
            for snr, found in results.baselines.items()
        },
        "descent": _of_evaluations(results.descent),
        "descent_coder": results.descent_coder,
        "num_trained": results.num_trained,
        "seconds": results.seconds,
        "total_seconds": results.total_seconds,
    }


def _of_evaluations(found: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, Any]:
    return {
        snr: {name: {"nmse_db": decibels(each.nmse), "certificate": each.certificate} for name, each in by_name.items()}
        for snr, by_name in found.items()
    }


def _recovery_table(results: Results) -> Table:
    settings, snrs = results.settings, list(results.evaluations)
    headers = ["coder", *map(title_of, snrs)]

    def row(label: str, of_snr: Any) -> list[str]:
        return [label, *(f"{decibels(of_snr(snr)[-1]):.1f}" for snr in snrs)]

    rows = [row(name, lambda snr, name=name: results.evaluations[snr][name].nmse) for name in results.num_trained]
    labels = {
        "ISTA": f"ISTA, {settings.num_layers} steps",
        "FISTA": f"FISTA, {settings.num_layers} steps",
        "Lasso": "Lasso solution",
    }
    for index, baseline in enumerate(results.baselines[snrs[0]]):
        rows.append(row(labels[baseline.name], lambda snr, index=index: results.baselines[snr][index].nmse))
    note = f"""NMSE in dB, 10 log10(E||x - code||^2 / E||code||^2), means over {settings.num_test} test codes, after
{settings.num_layers} layers. SNR in dB: 10 log10(E||A code||^2 / E||noise||^2); networks are trained at the SNR
that they are tested at. ISTA and FISTA have the l1 weight that is best on {settings.num_validation} validation codes;
the Lasso solution is that of {settings.num_converged} steps of FISTA. `slista` is given the Lasso problem with the
weight of FISTA after {settings.num_layers} steps; `tista` knows the noise's variance and
starts from the codes' true distribution."""
    return Table("Recovery", note, headers, rows)


def _training_table(results: Results) -> Table:
    snrs = list(results.seconds)
    rows = [
        [name, f"{count}", *(f"{results.seconds[snr][name]:.0f}" for snr in snrs)]
        for name, count in results.num_trained.items()
    ]
    note = "Numbers that are trained, and seconds of training at each SNR, compilation included."
    return Table("Training", note, ["coder", "trained", *map(title_of, snrs)], rows)


def _descent_table(results: Results) -> Table:
    settings = results.settings
    percent = f"{100 * settings.confidence:g} %"
    headers = ["SNR", "training", "NMSE dB", "worst change %", "descend", "certified", "worst layer %", "all layers %"]
    rows = []
    for snr, by_kind in results.descent.items():
        for kind, found in by_kind.items():
            certificate = found.certificate
            mean = np.asarray(certificate.mean_value)
            change = mean[1:] / mean[:-1] - 1
            rows.append(
                [
                    title_of(snr),
                    kind,
                    f"{decibels(found.nmse[-1]):.1f}",
                    f"{100 * np.max(change):+.2f}",
                    f"{np.sum(change < 0)}",
                    f"{np.sum(certificate.holds)}",
                    f"{100 * np.min(certificate.descent_frequency):.1f}",
                    f"{100 * certificate.monotone_frequency:.1f}",
                ]
            )
    note = f"""`{results.descent_coder}` in three trainings.

- last: the loss is that of the last layer alone.
- descent: the same, under constraints by `primal_dual`: every layer is to lower the mean distance to the code by
  {settings.train_rate:.1%}, and to move away by at most {settings.tail_allowance:.1%} of the distance, on average over
  all codes.
- layers: the training of the tables above, whose loss counts every layer.

- worst change: of the mean distance to the code, at the layer where it is largest.
- descend, certified: of {settings.num_layers} layers, those that lower the mean distance on the test codes, and those
  for which that is certain at {percent}.
- worst layer, all layers: share of test codes that come closer, at the layer where it is smallest; that come closer at
  every layer."""
    return Table("Descent constraints", note, headers, rows)
