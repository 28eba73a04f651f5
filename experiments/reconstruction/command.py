"""`python -m experiments reconstruct`: inverse problems, with parameters that are tuned on other images."""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Image, load_images, middle, split_images
from experiments.denoising.weights import load_weights
from experiments.files import WORK
from experiments.reconstruction import figures, report, solvers
from experiments.reconstruction import settings as all_settings
from experiments.reconstruction.problems import PROBLEMS, Measured
from experiments.reconstruction.settings import Settings
from experiments.reconstruction.solvers import Restored
from experiments.reconstruction.tuning import Found, search
from experiments.report import environment, write_json
from experiments.run_command import RunCommand, write_results
from unroll_jax.regularizers import RidgeParams

STRENGTHS = (1e-6, 10.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructCommand(RunCommand):
    """Solve inverse problems with one learned regularizer, and with total variation beside it.

    Both are tuned, coarse to fine, on images that are not those of the test: the regularizer in its weight and noise
    level, total variation in its weight.

    Examples: `python -m experiments reconstruct --problem mri`, some minutes;
    `python -m experiments reconstruct --data bsd68/ --tuning set12/`, all problems;
    `python -m experiments reconstruct --problem deblurring ct --noise 0.25`, with a quarter of the noise;
    `python -m experiments reconstruct --resume runs/reconstruct-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "reconstruct"
    FILES = "report.md, metrics.json, config.json, figures/"

    problem: tuple[str, ...] = tuple(PROBLEMS)
    """Which problems: deblurring, super-resolution, mri (one coil), multi-coil-mri, ct, inpainting."""

    data: Path | None = None
    """A folder or a zip of images to test on. Default: the photographs that come with scikit-image, half of them."""

    tuning: Path | None = None
    """A folder or a zip of images to tune on. Default: the other half."""

    limit: int = 4
    """How many images to test on, the first by name."""

    weights: str = "wcrr"
    """The regularizer: wcrr (weakly convex), crr (convex), or a run folder of train-regularizer."""

    size: int | None = None
    """The side of the middle of the images to test on, in place of 160."""

    noise: float = 1.0
    """A factor on the noise of all problems."""

    seed: int = 0
    """Decides masks and noise."""

    def settings(self) -> Settings:
        """The default settings with what was set by hand.

        Raises:
            ValueError: for values that make no run.
        """
        unknown = [name for name in self.problem if name not in PROBLEMS]
        if unknown or not self.problem:
            raise ValueError(
                f"`--problem` must be some of {', '.join(PROBLEMS)}, got {' '.join(self.problem) or 'none'}."
            )
        if self.limit < 1:
            raise ValueError(f"`--limit` must be at least 1, got {self.limit}.")
        if self.size is not None and (self.size < 32 or self.size % all_settings.DEFAULTS.factor):
            raise ValueError(
                f"`--size` must be at least 32 and a multiple of {all_settings.DEFAULTS.factor}, got {self.size}."
            )
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"`--noise` must be a factor of at least 0, got {self.noise:g}.")
        size = self.size or all_settings.DEFAULTS.test_size
        noise = {name: self.noise * getattr(all_settings.DEFAULTS, name) for name in all_settings.NOISE}
        tuning_size = min(size, all_settings.DEFAULTS.tuning_size)
        return dataclasses.replace(all_settings.DEFAULTS, test_size=size, tuning_size=tuning_size, **noise)

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Tune, reconstruct and write the folder."""
        started = time.monotonic()
        params = load_weights(self.weights)
        images = load_images(self.data)
        if self.tuning is None:
            tuning, images = split_images(images, held_out=0.5, seed=self.seed)
        else:
            tuning = load_images(self.tuning)
        images, tuning = images[: self.limit], tuning[: settings.num_tuning]
        _check_sizes(images, settings.test_size, "--data")
        _check_sizes(tuning, settings.tuning_size, "--tuning")
        (folder / "figures").mkdir(exist_ok=True)
        outcomes, figure_paths = {}, []
        for name in self.problem:
            kept = folder / WORK / f"{name}.json"
            if not kept.exists():
                outcome, shown = _solve(name, self.seed, settings, params, images, tuning)
                figures.draw(folder / "figures" / f"{name}.png", name, shown)
                write_json(kept, outcome)
            outcomes[name] = json.loads(kept.read_text(encoding="utf-8"))
            figure_paths.append(folder / "figures" / f"{name}.png")
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            outcomes=outcomes,
            test_images=[image.name for image in images],
            tuning_images=[image.name for image in tuning],
            total_seconds=time.monotonic() - started,
        )
        return write_results(folder, report, results, figure_paths)


def _solve(
    name: str,
    seed: int,
    settings: Settings,
    params: RidgeParams,
    images: Sequence[Image],
    tuning: Sequence[Image],
) -> tuple[report.Outcome, figures.Shown]:
    """One problem: tuned on some images, solved on others."""
    key = jax.random.fold_in(jax.random.key(seed), list(PROBLEMS).index(name))
    tuning_key, test_key = jax.random.split(key)
    ridge, variation = _tuned(_measure(name, tuning, settings.tuning_size, tuning_key, settings), params, settings)
    measured = _measure(name, images, settings.test_size, test_key, settings)
    (strength, sigma), (tv_strength,) = ridge.values, variation.values
    methods: dict[str, list[Restored]] = {
        "plain": [solvers.plain(each) for each in measured],
        "total variation": [
            solvers.by_variation(each, tv_strength, settings.tolerance, settings.tv_steps) for each in measured
        ],
        "regularizer": [
            solvers.by_ridge(params, each, strength, sigma, settings.tolerance, settings.max_steps) for each in measured
        ],
    }
    num_steps = methods["regularizer"][0].num_steps
    objective = solvers.objective_of_ridge(params, measured[0], strength, sigma, num_steps)
    outcome = report.Outcome(
        psnr={method: [each.psnr for each in found] for method, found in methods.items()},
        ssim={method: [each.ssim for each in found] for method, found in methods.items()},
        num_steps={method: [each.num_steps for each in found] for method, found in methods.items()},
        converged={method: sum(each.converged for each in found) for method, found in methods.items()},
        strength=strength,
        sigma=sigma,
        tv_strength=tv_strength,
        num_tried=ridge.num_tried + variation.num_tried,
        largest_rise=float(np.max(np.diff(objective) / np.abs(objective[:-1]))),
    )
    shown = figures.Shown(measured[0], {method: found[0] for method, found in methods.items()}, objective)
    return outcome, shown


def _tuned(measured: Sequence[Measured], params: RidgeParams, settings: Settings) -> tuple[Found, Found]:
    """The best parameters of the regularizer, and of total variation."""
    options: dict[str, Any] = {
        "first_factor": settings.first_factor,
        "last_factor": settings.last_factor,
        "max_rounds": settings.max_rounds,
    }
    tolerance = settings.tuning_tolerance

    def ridge_score(strength: float, sigma: float) -> float:
        steps = settings.tuning_steps
        found = [solvers.by_ridge(params, each, strength, sigma, tolerance, steps) for each in measured]
        return float(np.mean([each.psnr for each in found]))

    def variation_score(strength: float) -> float:
        steps = settings.tuning_tv_steps
        return float(np.mean([solvers.by_variation(each, strength, tolerance, steps).psnr for each in measured]))

    sigmas = (0.5, params.noise_grid.high)
    ridge = search(ridge_score, (0.1, 5.0), (STRENGTHS, sigmas), **options)
    return ridge, search(variation_score, (0.01,), (STRENGTHS,), **options)


def _measure(name: str, images: Sequence[Image], size: int, key: jax.Array, settings: Settings) -> list[Measured]:
    make = jax.jit(PROBLEMS[name], static_argnames="settings")
    keys = jax.random.split(key, len(images))
    return [
        make(jnp.asarray(middle(image.pixels, size)[..., None]), one, settings)
        for image, one in zip(images, keys, strict=True)
    ]


def _check_sizes(images: Sequence[Image], size: int, option: str) -> None:
    for image in images:
        if min(image.pixels.shape) < size:
            raise ValueError(f"`{option}` must be images of at least {size} x {size}, but {image.name} is smaller.")
