"""`python -m experiments sparse-recovery`: from random codes to trained sparse coders and a report on them."""

import dataclasses
import time
from pathlib import Path

import numpy as np

import unroll_jax as uj
from experiments.report import environment
from experiments.run_command import RunCommand, write_results
from experiments.sparse_recovery import evaluation, figures, report, training
from experiments.sparse_recovery.coders import CODERS
from experiments.sparse_recovery.problem import make_task
from experiments.sparse_recovery.settings import Settings

_DESCENT_CODER = "alista"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseRecoveryCommand(RunCommand):
    """Train the LISTA family to recover sparse codes from few measurements.

    Trains the nine sparse coders of Open-L2O on random codes, noiseless and at 40, 30 and 20 dB, compares them with
    ISTA, FISTA and the Lasso solution, and trains one of them again under descent constraints.

    Examples: `python -m experiments sparse-recovery`, about 25 minutes on 2 cores;
    `python -m experiments sparse-recovery --coders alista tista --snr inf`, a few minutes;
    `python -m experiments sparse-recovery --resume runs/sparse-recovery-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "sparse-recovery"
    FILES = "report.md, metrics.json, config.json, figures/, solvers/, training/"

    coders: tuple[str, ...] = tuple(CODERS)
    """Which coders: lista, lista-cp, lista-cpss, tilista, alista, glista, lamp, slista, tista."""

    snr: tuple[str, ...] = Settings.snrs
    """Signal-to-noise ratios in dB; inf is noiseless."""

    seed: int = 0
    """Decides the matrix, the codes and the noise."""

    num_steps: int | None = None
    """Training steps of each network, in place of 400."""

    num_layers: int | None = None
    """Layers of each network, in place of 16."""

    def settings(self) -> Settings:
        """The defaults with what was set by hand.

        Raises:
            ValueError: for options that make no run.
        """
        unknown = [name for name in self.coders if name not in CODERS]
        if unknown or not self.coders:
            raise ValueError(f"`--coders` must be among {', '.join(CODERS)}, got {', '.join(unknown) or 'none'}.")
        for snr in self.snr:
            if not _is_snr(snr):
                raise ValueError(f"`--snr` must be numbers of decibels, or inf, got {snr!r}.")
        if not self.snr or len({float(snr) for snr in self.snr}) < len(self.snr):
            raise ValueError(f"`--snr` must be one or several different numbers, got {' '.join(self.snr) or 'none'}.")
        overrides = self.given_options(("num_steps", "num_layers"), at_least=1)
        return dataclasses.replace(Settings(), snrs=tuple(self.snr), **overrides)

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        started = time.monotonic()
        for name in ("solvers", "figures"):
            (folder / name).mkdir(exist_ok=True)
        evaluations, baselines, descent, seconds, num_trained = {}, {}, {}, {}, {}
        for snr in settings.snrs:
            task = make_task(settings, snr, self.seed)
            baselines[snr] = evaluation.baselines(task, settings)
            l1_weight = next(b.l1_weight for b in baselines[snr] if b.name == "FISTA")
            evaluations[snr], seconds[snr] = {}, {}

            def train(name: str, kind: training.Kind, task=task, snr=snr, l1_weight=l1_weight) -> evaluation.Evaluation:
                label = name if kind == "layers" else f"{name}-{kind}"
                run_name = f"{label}-{snr}"
                network, history = training.train(
                    task, settings, CODERS[name], run_name, folder, kind=kind, l1_weight=l1_weight
                )
                uj.export.save_params(folder / "solvers" / f"{run_name}.npz", network.params)
                seconds[snr][label] = history.seconds
                num_trained[name] = CODERS[name].num_trained(network)
                return evaluation.evaluate(network, task, settings, l1_weight)

            for name in self.coders:
                evaluations[snr][name] = train(name, "layers")
            if _DESCENT_CODER in self.coders:
                kinds: tuple[training.Kind, ...] = ("last", "descent")
                descent[snr] = {kind: train(_DESCENT_CODER, kind) for kind in kinds}
                descent[snr]["layers"] = evaluations[snr][_DESCENT_CODER]

        figure_paths = figures.draw_all(folder / "figures", evaluations, baselines, descent)
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            evaluations=evaluations,
            baselines=baselines,
            descent=descent,
            descent_coder=_DESCENT_CODER,
            num_trained=num_trained,
            seconds=seconds,
            total_seconds=time.monotonic() - started,
        )
        return write_results(folder, report, results, figure_paths)


def _is_snr(text: str) -> bool:
    try:
        return not np.isnan(float(text)) and float(text) > -np.inf
    except ValueError:
        return False
