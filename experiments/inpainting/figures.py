"""The figures: restorations layer by layer and under perturbation, samples of the flow, descent, training."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.drawing import save_figures
from experiments.inpainting.measuring import Perturbed, Task
from experiments.inpainting.report import NetworkFindings
from experiments.inpainting.settings import Settings

_COLORS = {"plain": "tab:orange", "descent": "tab:blue"}


def draw_all(
    folder: Path,
    settings: Settings,
    task: Task,
    networks: Mapping[str, NetworkFindings],
    perturbed: Mapping[str, Perturbed],
    samples: np.ndarray,
) -> list[Path]:
    """All figures as PNG files in `folder`; their paths."""
    matplotlib.use("Agg")  # no screen is needed
    drawn = {
        "layers": _draw_layers(task, networks),
        "perturbed": _draw_perturbed(settings, task, perturbed),
        "samples": _draw_samples(samples),
        "descent": _draw_descent(networks),
        "training": _draw_training(networks),
    }
    return save_figures(drawn, folder, dpi=100)


def _show(panel, image: np.ndarray, title: str = "") -> None:
    panel.imshow(np.clip(image, 0, 1), interpolation="nearest")
    panel.set_title(title, fontsize=8)
    panel.set_axis_off()


def _draw_layers(task: Task, networks: Mapping[str, NetworkFindings]):
    """Some crops, a row for each network and crop."""
    shown = range(min(3, len(task.images)))
    num_layers = next(iter(networks.values())).tasks["hole"].examples.shape[1]
    rows = [(name, index) for index in shown for name in networks]
    figure, panels = plt.subplots(
        len(rows), num_layers + 3, figsize=(1.3 * (num_layers + 3), 1.45 * len(rows)), layout="constrained"
    )
    for line, (name, index) in zip(panels, rows, strict=True):
        found = networks[name].tasks["hole"]
        image, mask = task.images[index], task.masks[index]
        _show(line[0], image, "truth")
        _show(line[1], image * mask, "measured")
        for layer in range(num_layers):
            psnr = found.layers.hole_psnr[index, layer]
            _show(line[2 + layer], found.examples[index, layer], f"{'start' if layer == 0 else layer}, {psnr:.1f} dB")
        _show(line[-1], np.where(mask == 1, image, found.examples[index, -1]), f"restored, {name}")
    return figure


def _draw_perturbed(settings: Settings, task: Task, perturbed: Mapping[str, Perturbed]):
    levels = (0.0, *settings.perturbations)
    figure, panels = plt.subplots(
        len(perturbed),
        len(levels) + 1,
        figsize=(1.4 * (len(levels) + 1), 1.55 * len(perturbed)),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, found) in zip(panels, perturbed.items(), strict=True):
        _show(line[0], task.images[0], "truth")
        for index, level in enumerate(levels):
            _show(
                line[1 + index], found.examples[index, 0], f"{name}\np = {level:g}, {found.hole_psnr[index, 0]:.1f} dB"
            )
    return figure


def _draw_samples(samples: np.ndarray):
    columns = min(8, len(samples))
    rows = -(-len(samples) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(1.1 * columns, 1.1 * rows), squeeze=False, layout="constrained"
    )
    for panel in panels.ravel():
        panel.set_axis_off()
    for panel, sample in zip(panels.ravel(), samples, strict=False):
        _show(panel, sample)
    return figure


def _draw_descent(networks: Mapping[str, NetworkFindings]):
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for name, found in networks.items():
        each = found.tasks["hole"]
        panels[0].plot(np.mean(each.layers.hole_psnr, axis=0), "o-", color=_COLORS[name], label=name)
        for panel, (measure, values) in zip(panels[1:], each.measures.items(), strict=True):
            mean = np.mean(values[:, 1:], axis=0)
            panel.plot(1 + np.arange(len(mean)), mean / mean[0], "o-", color=_COLORS[name], label=name)
            panel.set_title({"x": r"$\|A^*(Ax_l - b)\|$", "z": r"$\|z_l\|$"}[measure])
    panels[0].set_title("PSNR over the hole, dB")
    for panel in panels:
        panel.set_xlabel("layer")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure


def _draw_training(networks: Mapping[str, NetworkFindings]):
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, found in networks.items():
        history = found.history
        made = np.isfinite(history.loss)
        width = max(1, np.sum(made) // 60)
        smooth = np.convolve(history.loss[made], np.ones(width) / width, mode="valid")
        panels[0].plot(history.step[made][width - 1 :], smooth, color=_COLORS[name], label=name, lw=1.2)
        for measure, values in history.multipliers.items():
            style = {"x": "-", "z": "--"}.get(measure, ":")
            for layer in range(values.shape[1]):
                label = f"{measure}, layer {layer + 2}" if values.shape[1] > 1 else measure
                panels[1].plot(history.step[made], values[made, layer], style, lw=1, label=label)
    panels[0].set(xlabel="training step", ylabel="loss, dB")
    panels[1].set(xlabel="training step", ylabel="multiplier")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    return figure
