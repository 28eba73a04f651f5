"""`python -m experiments denoise`: one picture in, one without noise out."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from experiments.config import kept_options
from experiments.data import load_picture
from experiments.denoising.measuring import psnr, ssim
from experiments.denoising.weights import load_weights, noisy_version
from experiments.files import CONFIG, METRICS, default_run_path, run_folder
from experiments.report import Figure, Table, environment, write_json
from unroll_jax.regularizers import ridge_denoise


@dataclasses.dataclass(frozen=True)
class DenoiseCommand:
    """Remove noise of a known level from a picture, by a learned regularizer.

    Writes denoised.png, a figure that shows before and after side by side, and PSNR and SSIM where the clean picture
    is known. Each channel of a colour picture is denoised by itself.

    Examples: `python -m experiments denoise --image noisy.png --sigma 25`;
    `python -m experiments denoise --image noisy.png --sigma 25 --clean clean.png`;
    `python -m experiments denoise --image clean.png --sigma 25 --add-noise`, to see what it can do.
    """

    image: Path | None = None
    """The picture: a PNG, JPEG, TIFF or the like, of 8 or 16 bits."""

    sigma: float = 25.0
    """Standard deviation of the noise in 8-bit units, between 0 and 30."""

    clean: Path | None = None
    """The same picture without noise, to compare with."""

    add_noise: bool = False
    """Take --image as the clean picture, and add noise of --sigma to it."""

    weights: str = "wcrr"
    """The regularizer: wcrr (weakly convex), crr (convex), or a run folder of train-regularizer."""

    tolerance: float = 1e-4
    """The relative change of the image at which to stop."""

    max_steps: int = 1_000
    """The most iterations."""

    seed: int = 0
    """Decides the noise of --add-noise."""

    out: Path | None = None
    """The run folder to make; it must not exist. Default: runs/denoise-DATE-TIME."""

    config: Path | None = None
    """A TOML or JSON file of these options by name, or a run's config.json; options given beside it come first."""

    def run(self) -> None:
        """Denoise the picture and write the folder.

        Raises:
            ValueError: for options that do not fit each other.
        """
        if self.image is None:
            raise ValueError("`--image` is missing: the picture to denoise.")
        if self.add_noise and self.clean is not None:
            raise ValueError("`--add-noise` takes --image as the clean picture, so --clean must not be given too.")
        if not self.sigma > 0:
            raise ValueError(f"`--sigma` must be positive, got {self.sigma}.")
        pixels = load_picture(self.image)
        clean = pixels if self.add_noise else None if self.clean is None else load_picture(self.clean)
        if clean is not None and clean.shape != pixels.shape:
            raise ValueError(f"`--clean` must have the size of --image, {pixels.shape}, got {clean.shape}.")
        noisy = np.asarray(noisy_version(pixels, self.sigma, self.seed, 0)) if self.add_noise else pixels
        out = self.out or default_run_path("denoise")
        with run_folder(out) as folder:
            write_json(folder / CONFIG, {"experiment": "denoise", "command": kept_options(self)})
            table = self._denoise(noisy, clean, folder)
        print(f"{table.with_note()}\n\nWritten to {out}: denoised.png, report.md, metrics.json, figures/.")

    def _denoise(self, noisy: np.ndarray, clean: np.ndarray | None, folder: Path) -> Table:
        params = load_weights(self.weights)
        if noisy.shape[2] > 1:
            warnings.warn(
                f"the picture has {noisy.shape[2]} channels and the regularizer was trained on gray images: each "
                "channel is denoised by itself, which leaves some colour noise",
                stacklevel=3,
            )

        @jax.jit
        def solve(channel: jax.Array) -> Any:
            sigma = jnp.asarray(self.sigma / 255, jnp.float32)
            return ridge_denoise(params, channel, sigma, tolerance=self.tolerance, max_steps=self.max_steps)

        _warn_of_sigma(params, self.sigma)
        solutions = [solve(jnp.asarray(noisy[:, :, [index]])) for index in range(noisy.shape[2])]
        denoised = np.concatenate([np.asarray(solution.state.x) for solution in solutions], axis=2)
        num_steps = [int(solution.num_steps) for solution in solutions]
        converged = all(bool(solution.converged) for solution in solutions)

        versions = {"noisy": noisy, "denoised": denoised}
        rows = [
            [name] + (["-", "-"] if clean is None else [f"{psnr(image, clean):.2f}", f"{ssim(image, clean):.4f}"])
            for name, image in versions.items()
        ]
        note = f"""PSNR in dB without clipping. {", ".join(map(str, num_steps))} iterations to a relative change of
{self.tolerance:g}{"" if converged else ", **which was not reached**"}, with the weights {self.weights} at noise of
{self.sigma:g}/255."""
        table = Table("Denoising", note, ["image", "PSNR", "SSIM"], rows)

        (folder / "figures").mkdir()
        _save_picture(folder / "denoised.png", denoised)
        _draw(folder / "figures" / "comparison.png", versions | ({} if clean is None else {"clean": clean}), rows)
        figure = Figure("figures/comparison.png", "Before and after.")
        text = f"# Denoising of {self.image.name if self.image else ''}\n\n{table.with_note()}\n\n"
        (folder / "report.md").write_text(f"{text}![{figure.caption}]({figure.path})\n", encoding="utf-8")
        found = {
            "experiment": "denoise",
            "tables": [table],
            "figures": [figure],
            "environment": environment(),
            "num_steps": num_steps,
            "converged": converged,
        }
        write_json(folder / METRICS, found)
        return table


def _warn_of_sigma(params: Any, sigma: float) -> None:
    # inside of jit the noise level is not known, so nothing warns there
    grid = params.noise_grid
    if not grid.low <= sigma <= grid.high:
        warnings.warn(
            f"`--sigma` {sigma:g} is beyond the noise levels {grid.low:g} to {grid.high:g} of the training; the "
            "regularizer is extrapolated",
            stacklevel=4,
        )


def _save_picture(path: Path, pixels: np.ndarray) -> None:
    import PIL.Image

    rounded = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    PIL.Image.fromarray(rounded[:, :, 0] if rounded.shape[2] == 1 else rounded).save(path)


def _draw(path: Path, versions: dict[str, np.ndarray], rows: list[list[str]]) -> None:
    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt

    titles = {row[0]: row[0] if row[1] == "-" else f"{row[0]}, {row[1]} dB" for row in rows}
    height, width = next(iter(versions.values())).shape[:2]
    figure, panels = plt.subplots(
        1, len(versions), figsize=(4.2 * len(versions), 4.2 * height / width + 0.4), layout="constrained", squeeze=False
    )
    for panel, (name, image) in zip(panels[0], versions.items(), strict=True):
        panel.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(titles.get(name, name), fontsize=10)
        panel.set_axis_off()
    figure.savefig(path, dpi=130)
    plt.close(figure)
