"""One figure for each problem: the reconstructions side by side, and the objective."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.reconstruction.problems import Measured
from experiments.reconstruction.solvers import Restored


class Shown(NamedTuple):
    """What a figure shows.

    Attributes:
        measured: the image.
        methods: its reconstructions.
        objective: `(num_steps + 1,)`, of the regularizer, step by step.
    """

    measured: Measured
    methods: Mapping[str, Restored]
    objective: np.ndarray


def draw(path: Path, name: str, shown: Shown) -> None:
    """Draw the figure of the problem `name` to `path`."""
    matplotlib.use("Agg")  # no screen is needed
    images = {"truth": np.asarray(shown.measured.truth)}
    images |= {f"{method}, {each.psnr:.2f} dB": each.image for method, each in shown.methods.items()}
    figure, panels = plt.subplots(1, len(images) + 1, figsize=(2.9 * (len(images) + 1), 3.2), layout="constrained")
    for panel, (title, image) in zip(panels, images.items(), strict=False):
        panel.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=9)
        panel.set_axis_off()
    excess = shown.objective - np.min(shown.objective)
    panels[-1].semilogy(excess[:-1] + 1e-9 * np.abs(shown.objective[:-1]))
    panels[-1].set(title="objective less its minimum", xlabel="step")
    panels[-1].title.set_fontsize(9)
    panels[-1].grid(alpha=0.3)
    figure.suptitle(name, fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
