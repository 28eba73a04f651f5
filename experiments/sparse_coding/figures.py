"""The figures of MATH A.8: descent layer by layer, multipliers, robustness, sparsity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.drawing import save_figures
from experiments.sparse_coding.evaluation import Evaluation, Shift
from experiments.sparse_coding.networks import History, Variant
from experiments.sparse_coding.settings import Settings

# one colour per kind of training, one line style per start
_COLORS = {
    "plain": "tab:gray",
    "noisy": "tab:orange",
    "descent": "tab:blue",
    "descent-tail": "tab:green",
}


def draw_all(
    folder: Path,
    settings: Settings,
    variants: Sequence[Variant],
    evaluations: Mapping[str, Evaluation],
    histories: Mapping[str, History],
    shifts: Sequence[Shift],
    label_l1_norms: np.ndarray,
) -> list[Path]:
    """All figures as PNG files in `folder`; their paths."""
    matplotlib.use("Agg")  # no screen is needed
    drawn = {
        "distance": _draw_layers(variants, evaluations, lambda e: e.layers.distance, "distance to the solution"),
        "objective": _draw_layers(
            variants, evaluations, lambda e: np.maximum(e.layers.excess, 1e-9), "objective above the minimum"
        ),
        "descent": _draw_descent(settings, variants, evaluations),
        "multipliers": _draw_multipliers(variants, histories),
        "noise": _draw_robustness(
            variants,
            evaluations,
            settings.noise_levels,
            lambda e: e.noise_error,
            "noise between layers / gradient norm",
            log=True,
        ),
        "shift": _draw_robustness(
            variants,
            evaluations,
            [shift.level for shift in shifts],
            lambda e: e.shift_error,
            "standard deviation of the pixel noise",
        ),
        "sparsity": _draw_sparsity(settings, variants, evaluations, label_l1_norms),
    }
    return save_figures(drawn, folder, dpi=130)


def _style(variant: Variant) -> dict[str, Any]:
    return {
        "color": _COLORS[variant.name.split(",")[0]],
        "linestyle": "-" if variant.start == "random" else "--",
        "marker": "o" if variant.start == "random" else "s",
        "markersize": 3.5,
        "label": variant.name,
    }


def _draw_layers(variants, evaluations, values_of, label: str):
    """Mean and spread of a measure after every layer, one panel per start."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, start in zip(panels, ("random", "classical"), strict=True):
        for variant in (v for v in variants if v.start == start):
            values = values_of(evaluations[variant.name])
            mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
            layers = np.arange(len(mean))
            panel.plot(layers, mean, **_style(variant))
            # on a logarithmic axis the band must stay above zero
            low = np.maximum(mean - spread, mean / 10)
            panel.fill_between(layers, low, mean + spread, color=_style(variant)["color"], alpha=0.12, lw=0)
        panel.set(title=f"{start} start", xlabel="layer", yscale="log", xticks=layers)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel(f"{label}\n(mean ± std, held-out patches)")
    return figure


def _draw_descent(settings: Settings, variants, evaluations):
    """Share of held-out patches that descend at each layer, with the certificate's lower bound."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, start in zip(panels, ("random", "classical"), strict=True):
        for variant in (v for v in variants if v.start == start):
            certificate = evaluations[variant.name].certificate
            layers = 1 + np.arange(len(certificate.descent_frequency))
            panel.plot(layers, 100 * certificate.descent_frequency, **_style(variant))
            panel.fill_between(
                layers,
                100 * certificate.descent_bound,
                100 * certificate.descent_frequency,
                color=_style(variant)["color"],
                alpha=0.3,
                lw=0,
            )
        panel.set(title=f"{start} start", xlabel="layer", xticks=layers, ylim=(-3, 103))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel(f"patches that descend, %\n(band: down to the {100 * settings.confidence:g} % lower bound)")
    return figure


def _draw_multipliers(variants, histories):
    """Multipliers over the training steps, one panel per constrained network and constraint."""
    shown = [(v, name) for v in variants for name in histories[v.name].multipliers]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained")
    for panel in panels.flat[len(shown) :]:
        panel.set_axis_off()
    for panel, (variant, name) in zip(panels.flat, shown, strict=False):
        history = histories[variant.name]
        multipliers = history.multipliers[name]
        colors = plt.colormaps["viridis"](np.linspace(0, 0.95, multipliers.shape[1]))
        for layer, color in enumerate(colors):
            panel.plot(history.step, multipliers[:, layer], color=color, lw=1, label=f"layer {layer + 1}")
        panel.set_title(f"{variant.name}: {name}", fontsize=9)
        panel.set(xlabel="training step", ylabel="multiplier")
        panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=6, ncols=2)
    return figure


def _draw_robustness(variants, evaluations, levels, errors_of, label: str, log: bool = False):
    """Final distance against a disturbance's level, with two standard errors."""
    figure, panel = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for variant in variants:
        errors = errors_of(evaluations[variant.name])
        standard_error = np.std(errors, axis=1) / np.sqrt(errors.shape[1])
        panel.errorbar(levels, np.mean(errors, axis=1), yerr=2 * standard_error, **_style(variant))
    panel.set(xlabel=label, ylabel="final distance to the solution (mean)")
    if log:
        panel.set(xscale="log", yscale="log")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _draw_sparsity(settings: Settings, variants, evaluations, label_l1_norms: np.ndarray):
    """Histograms of the codes' l1 norm after some layers, and of the labels'."""
    layers = sorted({0, 1, 3, 5, 7, settings.num_layers - 1, settings.num_layers})
    layers = [layer for layer in layers if layer <= settings.num_layers]
    shown = [v for v in variants if v.name in ("plain", "descent-tail")]
    figure, panels = plt.subplots(1, len(shown), figsize=(5 * len(shown), 4), sharey=True, layout="constrained")
    largest = 1.5 * float(np.max(label_l1_norms))
    bins = np.linspace(0, largest, 60)
    colors = plt.colormaps["viridis"](np.linspace(0, 0.95, len(layers)))
    for panel, variant in zip(np.atleast_1d(panels), shown, strict=True):
        norms = evaluations[variant.name].layers.l1_norm
        for layer, color in zip(layers, colors, strict=True):
            panel.hist(
                np.minimum(norms[:, layer], largest),
                bins,
                histtype="step",
                color=color,
                label=f"layer {layer}",
            )
        panel.hist(label_l1_norms, bins, color="black", alpha=0.15, label="solution")
        panel.set(title=variant.name, xlabel=r"$\|y_l\|_1$ (the last bin holds all beyond)", yscale="log")
        panel.legend(fontsize=7, loc="upper center", ncols=2)
    np.atleast_1d(panels)[0].set_ylabel("held-out patches")
    return figure
