"""The figures: training, learned splines, plug-and-play step by step, and restored images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.drawing import save_figures
from experiments.lipschitz_denoiser.networks import History
from experiments.lipschitz_denoiser.restoration import Blurred, Restoration
from experiments.lipschitz_denoiser.settings import Settings
from unroll_jax.splines import LinearSpline

_COLORS = {"spline": "tab:blue", "relu": "tab:orange", "unconstrained": "tab:red"}


def draw_all(
    folder: Path,
    settings: Settings,
    histories: Mapping[str, History],
    splines: Mapping[str, Sequence[LinearSpline]],
    blurred: Blurred,
    chosen: Mapping[str, Restoration],
    boldest: Mapping[str, Restoration],
) -> list[Path]:
    """All figures as PNG files in `folder`; their paths."""
    matplotlib.use("Agg")  # no screen is needed
    drawn = {
        "residuals": _draw_residuals(chosen, boldest),
        "images": _draw_images(blurred, chosen),
        "activations": _draw_activations(settings, splines),
        "training": _draw_training(histories),
    }
    return save_figures(drawn, folder, dpi=130)


def _draw_residuals(chosen: Mapping[str, Restoration], boldest: Mapping[str, Restoration]):
    """How far every step of plug-and-play goes, one panel per choice of parameters."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    titles = ("chosen on training images, each", "largest step, whole denoiser")
    for panel, runs, title in zip(panels, (chosen, boldest), titles, strict=True):
        for name, run in runs.items():
            steps = 1 + np.arange(len(run.changes))
            label = f"{name} (step {run.parameters.step_size:g}, relaxation {run.parameters.relaxation:g})"
            panel.plot(steps, run.changes, color=_COLORS[name], label=label, lw=1.5)
        panel.set(title=title, xlabel="step k", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel(r"$\|x_{k+1} - x_k\|$")
    return figure


def _draw_images(blurred: Blurred, chosen: Mapping[str, Restoration]):
    truth, measured = (np.asarray(image)[..., 0] for image in (blurred.truth, blurred.problem.measurement))
    noise = -10 * np.log10(np.mean((measured - truth) ** 2))
    shown = {"truth": truth, f"blurred, {noise:.2f} dB": measured}
    shown |= {f"{name}, {run.psnr:.2f} dB": run.image for name, run in chosen.items()}
    figure, panels = plt.subplots(1, len(shown), figsize=(2.6 * len(shown), 2.9), layout="constrained")
    for panel, (title, image) in zip(panels, shown.items(), strict=True):
        panel.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()
    return figure


def _draw_activations(settings: Settings, splines: Mapping[str, Sequence[LinearSpline]]):
    """All learned splines, one panel per block, one row per network."""
    unit = settings.sigma / 255 / settings.kernel_size
    points = np.linspace(-settings.knot_range, settings.knot_range, 1001)
    columns = settings.num_blocks
    figure, panels = plt.subplots(
        len(splines), columns, figsize=(2.7 * columns, 2.5 * len(splines)), squeeze=False, layout="constrained"
    )
    for row, (name, layers) in zip(panels, splines.items(), strict=True):
        for index, (panel, spline) in enumerate(zip(row, layers, strict=True)):
            x = jnp.broadcast_to(jnp.asarray(unit * points)[:, None], (len(points), settings.num_filters))
            values = np.asarray(spline(x)) / unit
            colors = plt.colormaps["viridis"](np.linspace(0, 0.95, values.shape[1]))
            for channel, color in enumerate(colors):
                panel.plot(points, values[:, channel], color=color, lw=0.8)
            panel.set_title(f"{name}, block {index + 1}", fontsize=9)
            panel.grid(alpha=0.3)
        row[0].set_ylabel("value / noise", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("response / noise", fontsize=9)
    return figure


def _draw_training(histories: Mapping[str, History]):
    figure, panel = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, history in histories.items():
        panel.plot(history.step, history.loss, color=_COLORS[name], label=name, lw=1.2)
    panel.set(xlabel="training step", ylabel="loss (squared error / variance of the noise)", yscale="log")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)
    return figure
