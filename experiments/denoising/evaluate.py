"""`python -m experiments evaluate-denoiser`: a regularizer's denoising on a folder of clean images."""

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Image, load_images
from experiments.denoising.measuring import psnr, ssim
from experiments.denoising.weights import load_weights, noisy_version
from experiments.files import METRICS, WORK
from experiments.report import Table, environment, write_json
from experiments.run_command import RunCommand
from unroll_jax.regularizers import RidgeParams, ridge_denoise

_COLUMNS = ["image", "sigma", "noisy_psnr", "psnr", "ssim", "num_steps", "converged", "seconds"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateDenoiserCommand(RunCommand):
    """Denoise every image of a folder, with noise added, and tell PSNR and SSIM of each in a CSV.

    Examples: `python -m experiments evaluate-denoiser --data bsd68/`, 20 minutes on 2 cores;
    `python -m experiments evaluate-denoiser --data bsd68/ --sigma 25 --limit 10`;
    `python -m experiments evaluate-denoiser --resume runs/evaluate-denoiser-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "evaluate-denoiser"
    FILES = "images.csv, report.md, metrics.json, config.json"

    data: Path | None = None
    """A folder or a zip of clean images. Default: the photographs that come with scikit-image."""

    sigma: tuple[float, ...] = (5.0, 15.0, 25.0)
    """Standard deviations of the noise in 8-bit units."""

    weights: str = "wcrr"
    """The regularizer: wcrr (weakly convex), crr (convex), or a run folder of train-regularizer."""

    limit: int | None = None
    """How many images, the first by name; all by default."""

    tolerance: float = 1e-4
    """The relative change of an image at which to stop."""

    max_steps: int = 500
    """The most iterations for an image."""

    seed: int = 0
    """Decides the noise: the key of an image is fold_in(fold_in(key(seed), its index), 100 sigma)."""

    def settings(self) -> None:
        """There are none beside the options.

        Raises:
            ValueError: for numbers that make no run.
        """
        if not self.sigma or min(self.sigma) <= 0:
            raise ValueError(f"`--sigma` must be one positive number or more, got {self.sigma}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`--limit` must be at least 1, got {self.limit}.")

    def run_in(self, folder: Path, settings: None) -> str:
        """Evaluate and write the folder."""
        params = load_weights(self.weights)
        images = load_images(self.data)[: self.limit]
        rows = _evaluate(self, params, images, folder / WORK / "rows.jsonl")
        table = _table(rows, self)
        _write(folder, rows, table, self)
        return table.with_note()


def _evaluate(
    command: EvaluateDenoiserCommand, params: RidgeParams, images: Sequence[Image], kept: Path
) -> list[dict[str, Any]]:
    """A row for each image and noise level; those in `kept` are not computed again."""
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    done = {(row["image"], row["sigma"]) for row in rows}
    solve = _solver(command, params)
    with kept.open("a", encoding="utf-8") as file:
        for index, image in enumerate(images):
            for sigma in command.sigma:
                if (image.name, sigma) in done:
                    continue
                clean = image.pixels[..., None]
                noisy = noisy_version(clean, sigma, command.seed, index)
                started = time.perf_counter()
                solution = jax.block_until_ready(solve(noisy, jnp.float32(sigma / 255)))
                found = np.asarray(solution.state.x)
                row = {
                    "image": image.name,
                    "sigma": sigma,
                    "noisy_psnr": psnr(noisy, clean),
                    "psnr": psnr(found, clean),
                    "ssim": ssim(found[..., 0], clean[..., 0]),
                    "num_steps": int(solution.num_steps),
                    "converged": bool(solution.converged),
                    "seconds": time.perf_counter() - started,
                }
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
    return rows


def _solver(command: EvaluateDenoiserCommand, params: RidgeParams) -> Callable[[jax.Array, jax.Array], Any]:
    options = {"tolerance": command.tolerance, "max_steps": command.max_steps}
    return jax.jit(lambda noisy, sigma: ridge_denoise(params, noisy, sigma, **options))


def _table(rows: Sequence[dict[str, Any]], command: EvaluateDenoiserCommand) -> Table:
    cells = []
    for sigma in command.sigma:
        own = [row for row in rows if row["sigma"] == sigma]
        mean = {name: np.mean([row[name] for row in own]) for name in ("noisy_psnr", "psnr", "ssim", "num_steps")}
        lowest, highest = (pick(row["psnr"] for row in own) for pick in (min, max))
        cells.append(
            [
                f"{sigma:g}",
                f"{mean['noisy_psnr']:.3f}",
                f"{mean['psnr']:.3f}",
                f"{lowest:.2f}",
                f"{highest:.2f}",
                f"{mean['ssim']:.4f}",
                f"{mean['num_steps']:.1f}",
                f"{sum(row['converged'] for row in own)} of {len(own)}",
            ]
        )
    headers = ["sigma", "noisy", "PSNR", "lowest", "highest", "SSIM", "iterations", "converged"]
    data = "scikit-image's photographs" if command.data is None else command.data.name
    note = f"""Means over the images of {data}, PSNR in dB with a peak of 1, without clipping; lowest and highest are
those of single images. Iterations are those to a relative change of {command.tolerance:g}. Noise of seed
{command.seed}."""
    return Table(f"Denoising by {Path(command.weights).name}", note, headers, cells)


def _write(folder: Path, rows: Sequence[dict[str, Any]], table: Table, command: EvaluateDenoiserCommand) -> None:
    with (folder / "images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = f"# {table.title}\n\n{table.with_note()}\n\n`images.csv` has every image.\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    found = {
        "experiment": "evaluate-denoiser",
        "tables": [table],
        "figures": [],
        "environment": environment(),
        "command": dataclasses.asdict(command),
        "images": rows,
    }
    write_json(folder / METRICS, found)
