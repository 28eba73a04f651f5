"""Figures as files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def save_figures(drawn: Mapping[str, Any], folder: Path, *, dpi: int) -> list[Path]:
    """Matplotlib's figures `drawn` as NAME.png in `folder`, closed; their paths."""
    paths = []
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=dpi)
        plt.close(figure)
        paths.append(path)
    return paths
