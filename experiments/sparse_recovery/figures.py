"""The figures: errors layer by layer, with and without descent constraints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.drawing import save_figures
from experiments.sparse_recovery.evaluation import Baseline, Evaluation
from experiments.sparse_recovery.problem import decibels


def draw_all(
    folder: Path,
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    baselines: Mapping[str, Sequence[Baseline]],
    descent: Mapping[str, Mapping[str, Evaluation]],
) -> list[Path]:
    """All figures as PNG files in `folder`; their paths.

    Args:
        folder: where to.
        evaluations: by SNR and coder.
        baselines: by SNR.
        descent: by SNR and kind of training.
    """
    matplotlib.use("Agg")  # no screen is needed
    drawn = {"layers": _draw_layers(evaluations, baselines)}
    if descent:
        drawn["descent"] = _draw_descent(descent)
    return save_figures(drawn, folder, dpi=130)


def title_of(snr: str) -> str:
    """An SNR as text."""
    return "noiseless" if snr == "inf" else f"SNR {snr} dB"


def _panels(snrs: Sequence[str]) -> tuple[Any, list[Any]]:
    figure, panels = plt.subplots(1, len(snrs), figsize=(1 + 4 * len(snrs), 4.2), squeeze=False, layout="constrained")
    for panel, snr in zip(panels[0], snrs, strict=True):
        panel.set(title=title_of(snr), xlabel="layer")
        panel.grid(alpha=0.3)
    return figure, list(panels[0])


def _draw_layers(
    evaluations: Mapping[str, Mapping[str, Evaluation]], baselines: Mapping[str, Sequence[Baseline]]
) -> Any:
    figure, panels = _panels(list(evaluations))
    for panel, (snr, found) in zip(panels, evaluations.items(), strict=True):
        num_layers = 0
        for index, (name, evaluation) in enumerate(found.items()):
            num_layers = len(evaluation.nmse)
            style = {"color": f"C{index}", "marker": "o", "markersize": 3}
            panel.plot(decibels(evaluation.nmse), label=name, **style)
        for index, baseline in enumerate(baselines[snr]):
            if len(baseline.nmse) == num_layers:
                style = {"color": "black", "linestyle": (":", "--")[index % 2], "linewidth": 1}
                panel.plot(decibels(baseline.nmse), label=baseline.name, **style)
    panels[0].set_ylabel("NMSE on test codes in dB")
    panels[-1].legend(fontsize=7)
    return figure


def _draw_descent(descent: Mapping[str, Mapping[str, Evaluation]]) -> Any:
    figure, panels = _panels(list(descent))
    for panel, found in zip(panels, descent.values(), strict=True):
        for kind, evaluation in found.items():
            share = np.asarray(evaluation.certificate.descent_frequency)
            panel.plot(np.arange(1, len(share) + 1), 100 * share, marker="o", markersize=3, label=kind)
    panels[0].set_ylabel("test codes that come closer, in %")
    panels[-1].legend(fontsize=8)
    return figure
