"""The figures: training and validation, filters, activations and potentials."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.drawing import save_figures
from experiments.train_regularizer.settings import Settings
from experiments.train_regularizer.training import History
from unroll_jax.regularizers import Ridge, RidgeParams, prepare_ridge
from unroll_jax.splines import linear_spline, spline_potential


def draw_all(folder: Path, params: RidgeParams, history: History, settings: Settings) -> list[Path]:
    """All figures as PNG files in `folder`; their paths."""
    matplotlib.use("Agg")  # no screen is needed
    drawn = {
        "training": _draw_training(history, settings),
        "filters": _draw_filters(params, settings),
        "activations": _draw_activations(params, settings),
    }
    return save_figures(drawn, folder, dpi=120)


def _draw_training(history: History, settings: Settings):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(history.step, history.loss, lw=1.2)
    unit = "8-bit units" + (", squared" if settings.loss == "squared" else "")
    left.set(xlabel="training step", ylabel=f"loss, {unit}", yscale="log")
    for name, values in history.validation.items():
        right.plot(history.validation_step, values - values[-1], marker="o", ms=3, label=f"sigma {name}")
    right.set(xlabel="training step", ylabel="validation PSNR less the last, dB")
    right.legend(fontsize=8)
    for panel in (left, right):
        panel.grid(alpha=0.3, which="both")
    return figure


def _draw_filters(params: RidgeParams, settings: Settings):
    kernel = np.asarray(prepare_ridge(params, settings.validation_sigmas[-1] / 255).kernel)[:, :, 0]
    norms = np.sqrt(np.sum(kernel**2, axis=(0, 1)))
    columns = min(12, len(norms))
    rows = -(-len(norms) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(columns, rows), squeeze=False, layout="constrained")
    for panel in panels.ravel():
        panel.set_axis_off()
    for panel, index in zip(panels.ravel(), np.argsort(-norms), strict=False):
        largest = np.max(np.abs(kernel[:, :, index])) or 1
        panel.imshow(kernel[:, :, index], cmap="gray", vmin=-largest, vmax=largest)
    return figure


def _draw_activations(params: RidgeParams, settings: Settings):
    figure, panels = plt.subplots(1, 3, figsize=(14, 3.8), layout="constrained")
    for sigma in settings.validation_sigmas:
        ridge = prepare_ridge(params, sigma / 255)
        middle = int(np.argsort(ridge.scales)[len(ridge.scales) // 2])
        points = jnp.linspace(-1.1, 1.1, 2_001) * _reach(ridge, middle)
        values, potential = _at(ridge, middle, points)
        panels[0].plot(points, values, lw=1.2, label=f"sigma {sigma:g}")
        panels[1].plot(points, potential, lw=1.2, label=f"sigma {sigma:g}")
    points = jnp.linspace(-1.1, 1.1, 2_001) * max(_reach(ridge, index) for index in range(len(ridge.scales)))
    for index in range(len(ridge.scales)):
        panels[2].plot(points, _at(ridge, index, points)[1], lw=0.6, color="black", alpha=0.5)
    panels[0].set(xlabel="response of the filter with the median scale", ylabel="activation")
    panels[1].set(xlabel="response of the filter with the median scale", ylabel="potential")
    panels[2].set(xlabel=f"response, sigma {sigma:g}", ylabel="potentials of all filters")
    for panel in panels:
        panel.grid(alpha=0.3)
    for panel in panels[:2]:
        panel.legend(fontsize=8)
    return figure


def _reach(ridge: Ridge, index: int) -> float:
    """The response beyond which the potential of a filter is almost flat."""
    coefficients, _ = _own(ridge, index)
    bent = np.abs(coefficients) > 0.02 * np.max(np.abs(coefficients))
    return float(np.max(np.abs(np.asarray(ridge.grid.knots)[bent]), initial=0.0) / ridge.scales[index])


def _at(ridge: Ridge, index: int, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The activation and the potential of a filter at `points`, responses."""
    coefficients, scale = _own(ridge, index)
    values = linear_spline(points * scale, coefficients, ridge.grid, extrapolation="constant") / scale
    potential = spline_potential(points * scale, coefficients, ridge.grid, extrapolation="constant") / scale**2
    return values, potential


def _own(ridge: Ridge, index: int) -> tuple[jax.Array, jax.Array]:
    """The coefficients of a filter, and its scale."""
    return ridge.coefficients if ridge.coefficients.ndim == 1 else ridge.coefficients[index], ridge.scales[index]
