"""The figures: fits, the distance from the optimum, knots, networks and what their activations have learned."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from matplotlib.ticker import NullFormatter

from experiments.drawing import save_figures
from experiments.spline_fit import networks
from experiments.spline_fit.convex import Optimum
from experiments.spline_fit.fitting import METHODS, Fits
from experiments.spline_fit.network_pruning import Pruned
from experiments.spline_fit.networks import Examples, Trained
from experiments.spline_fit.problem import NETWORK_TARGETS, TARGETS, Task
from experiments.spline_fit.settings import Settings
from unroll_jax import splines

_COLORS: dict[str, str] = dict(zip(METHODS, ("tab:blue", "tab:orange", "tab:gray"), strict=True))
_MARKERS: dict[str, str] = dict(zip(METHODS, ("o", "s", "^"), strict=True))


def draw_all(
    folder: Path,
    settings: Settings,
    task: Task,
    optimum: Optimum,
    fits: Mapping[str, Fits],
    held_out: Examples,
    trained: Mapping[str, Trained],
    pruned: Pruned,
) -> list[Path]:
    """All figures as PNG files in `folder`; their paths."""
    matplotlib.use("Agg")  # no screen is needed
    drawn = {
        "fits": _draw_fits(settings, task, optimum, fits[METHODS[0]]),
        "optimum": _draw_excess(settings, task, fits),
        "knots": _draw_knots(settings, task, optimum, fits),
        "networks": _draw_networks(held_out, trained),
        "errors": _draw_errors(trained),
        "activations": _draw_activations(settings, held_out, trained[networks.SPLINES.name], pruned),
    }
    return save_figures(drawn, folder, dpi=110)


def _by_target(settings: Settings, values: np.ndarray) -> np.ndarray:
    """`(num_targets, num_weights)`."""
    return np.reshape(values, (len(TARGETS), len(settings.tv2_weights)))


def _draw_fits(settings: Settings, task: Task, optimum: Optimum, found: Fits):
    """Samples, the optimum and the pruned fit: a column per target, a row per weight."""
    num_weights = len(settings.tv2_weights)
    shown = [round(share * (num_weights - 1)) for share in (0.2, 0.6, 0.8)]
    figure, panels = plt.subplots(3, len(TARGETS), figsize=(13, 8), sharex=True, sharey="col", layout="constrained")
    for row, weight_index in zip(panels, shown, strict=True):
        for target_index, (panel, target) in enumerate(zip(row, TARGETS, strict=True)):
            index = target_index * num_weights + weight_index
            knots, values = found.pruned[index]
            panel.plot(task.sites, task.values[index], ".", color="tab:gray", ms=4, label="samples")
            panel.plot(task.sites, optimum.coefficients[index], color="tab:orange", lw=4, alpha=0.5, label="optimum")
            panel.plot(knots, values, color="tab:blue", lw=1.3, label="trained and pruned")
            panel.plot(knots[1:-1], values[1:-1], "o", color="tab:blue", ms=5, label="its knots")
            panel.grid(alpha=0.3)
            if panel in panels[0]:
                panel.set_title(target.title, fontsize=10)
        row[0].set_ylabel(f"TV2 weight {settings.tv2_weights[weight_index]:g}")
    panels[0, 0].legend(fontsize=8)
    return figure


def _draw_excess(settings: Settings, task: Task, fits: Mapping[str, Fits]):
    """How far every method ends from the optimum, on the worst target and the median one."""
    figure, panel = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, found in fits.items():
        excess = np.maximum(_by_target(settings, found.excess), 1e-8)  # as the optimum is known
        style = {"color": _COLORS[name], "marker": _MARKERS[name], "ms": 5}
        panel.plot(settings.tv2_weights, np.max(excess, axis=0), label=f"{name}, worst target", **style)
        panel.plot(settings.tv2_weights, np.median(excess, axis=0), "--", lw=0.8, color=_COLORS[name])
    panel.axhline(1e-3, color="black", lw=0.8, ls=":")
    panel.text(settings.tv2_weights[0], 1.2e-3, "1e-3", fontsize=8)
    panel.set(
        xlabel="TV2 weight",
        ylabel="objective above the optimum, relative\n(dashed: median target)",
        xscale="log",
        yscale="log",
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def _draw_knots(settings: Settings, task: Task, optimum: Optimum, fits: Mapping[str, Fits]):
    """Knots after pruning against the TV2 weight, a panel per target."""
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(13, 3.6), sharey=True, layout="constrained")
    for target_index, (panel, target) in enumerate(zip(panels, TARGETS, strict=True)):
        panel.plot(
            settings.tv2_weights,
            _by_target(settings, optimum.num_kinks)[target_index],
            color="black",
            lw=5,
            alpha=0.2,
            label="optimum",
        )
        for name, found in reversed(list(fits.items())):
            panel.plot(
                settings.tv2_weights,
                _by_target(settings, found.num_knots)[target_index],
                color=_COLORS[name],
                marker=_MARKERS[name],
                ms=4,
                lw=1,
                label=name,
            )
        panel.axhline(settings.num_sites - 2, color="black", ls=":", lw=0.8)
        panel.set(title=target.title, xlabel="TV2 weight", xscale="log", yscale="symlog")
        panel.set_ylim(-0.3, 1.5 * settings.num_sites)
        panel.set_yticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"inner knots after pruning\n(dotted: samples - 2 = {settings.num_sites - 2})")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _median_seed(found: Trained, target_index: int) -> int:
    errors = found.error[target_index]
    return int(np.argsort(errors)[len(errors) // 2])


def _draw_networks(held_out: Examples, trained: Mapping[str, Trained]):
    """What the networks are after training, those of the median seed, and by how much they are off."""
    shown = [variant for variant in networks.VARIANTS if not variant.is_wide]
    figure, panels = plt.subplots(
        len(NETWORK_TARGETS), len(shown), figsize=(14, 7), sharex=True, sharey="row", layout="constrained"
    )
    x = held_out.x[:, 0]
    for row, name, target_index in zip(panels, NETWORK_TARGETS, range(len(panels)), strict=True):
        for panel, variant in zip(row, shown, strict=True):
            found = trained[variant.name]
            seed = _median_seed(found, target_index)
            panel.plot(x, held_out.y[target_index, :, 0], color="tab:orange", lw=4, alpha=0.5, label="function")
            panel.plot(x, found.predictions[target_index, seed], color="tab:blue", lw=1.2, label="network")
            panel.text(
                0.5,
                0.02,
                f"MSE {found.error[target_index, seed]:.1e}",
                transform=panel.transAxes,
                ha="center",
                fontsize=8,
                bbox={"color": "white", "alpha": 0.7, "pad": 1},
            )
            panel.grid(alpha=0.3)
            if target_index == 0:
                panel.set_title(variant.name, fontsize=10)
        row[0].set_ylabel(name)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _draw_errors(trained: Mapping[str, Trained]):
    """Held-out errors of all networks, a panel per target."""
    figure, panels = plt.subplots(
        1, len(NETWORK_TARGETS), figsize=(11, 3.8), sharex=True, sharey=True, layout="constrained"
    )
    names = list(trained)
    for target_index, (panel, title) in enumerate(zip(panels, NETWORK_TARGETS, strict=True)):
        for row, name in enumerate(names):
            errors = trained[name].error[target_index]
            color = "tab:blue" if name == networks.SPLINES.name else "tab:gray"
            panel.plot(errors, np.full(len(errors), row), "o", color=color, ms=5, alpha=0.6)
            panel.plot(np.median(errors), row, "|", color=color, ms=18, mew=2)
        panel.set(title=title, xscale="log", xlabel="held-out mean squared error\n(dots: seeds; bars: their median)")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_yticks(range(len(names)), names)
        panel.grid(alpha=0.3)
    panels[0].invert_yaxis()
    return figure


def _draw_activations(settings: Settings, held_out: Examples, found: Trained, pruned: Pruned):
    """The learned activations of one network, dotted where nothing comes in, and what pruning makes of them."""
    target_index = list(NETWORK_TARGETS).index("wave")
    index = target_index * settings.num_seeds + _median_seed(found, target_index)
    network, sparse = (jax.tree.map(lambda leaf: leaf[index], each) for each in (found.networks, pruned.networks))
    inputs = _spline_inputs(network, jnp.asarray(held_out.x))
    figure, panels = plt.subplots(
        len(inputs),
        settings.width,
        figsize=(1.4 * settings.width, 1.7 * len(inputs)),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    layers = zip(panels, networks.spline_layers(network), networks.spline_layers(sparse), inputs, strict=True)
    for number, (row, layer, sparse_layer, entries) in enumerate(layers):
        reach = 1.15 * np.max(np.abs(entries))
        points = np.broadcast_to(np.linspace(-reach, reach, 500)[:, None], (500, settings.width))
        knots = np.asarray(sparse_layer.grid.knots)[1:-1, None] / np.asarray(sparse_layer.scale)
        is_kink = np.abs(splines.kinks(sparse_layer.feasible_coefficients, sparse_layer.grid)).T > 1e-3
        values, sparse_values, knot_values = (
            np.asarray(each(jnp.asarray(at, jnp.float32)))
            for each, at in ((layer, points), (sparse_layer, points), (sparse_layer, knots))
        )
        # where something comes in
        low, high = np.min(entries, axis=0) - 1e-6, np.max(entries, axis=0) + 1e-6
        is_seen = (points >= low) & (points <= high)
        for channel, panel in enumerate(row):
            seen, shown = is_seen[:, channel], is_kink[:, channel] & (np.abs(knots[:, channel]) < reach)
            x = points[:, channel]
            panel.plot(x, np.where(seen, values[:, channel], np.nan), color="tab:orange", lw=4, alpha=0.5)
            panel.plot(x, sparse_values[:, channel], color="tab:blue", lw=0.8, ls=":")
            panel.plot(x, np.where(seen, sparse_values[:, channel], np.nan), color="tab:blue", lw=1.2)
            panel.plot(knots[shown, channel], knot_values[shown, channel], "o", color="tab:blue", ms=3)
            panel.tick_params(labelsize=7, length=2)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(f"layer {number + 1}", fontsize=9)
    return figure


def _spline_inputs(network: nnx.Sequential, x: jax.Array) -> list[np.ndarray]:
    """What comes into every layer of splines."""
    inputs, spline_layers = [], networks.spline_layers(network)
    for layer in network.layers:
        if any(layer is each for each in spline_layers):
            inputs.append(np.asarray(x))
        x = layer(x)
    return inputs
