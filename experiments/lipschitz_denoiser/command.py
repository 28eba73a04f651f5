"""`python -m experiments lipschitz-denoiser`: from images to denoisers, and plug-and-play with them."""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import unroll_jax as uj
from experiments.data import Image
from experiments.lipschitz_denoiser import blocks, figures, measuring, networks, report, restoration
from experiments.lipschitz_denoiser import settings as all_settings
from experiments.lipschitz_denoiser.networks import VARIANTS, Variant
from experiments.lipschitz_denoiser.problem import Problem, make_problem
from experiments.lipschitz_denoiser.settings import Settings
from experiments.report import environment
from experiments.run_command import RunCommand, write_results


@dataclasses.dataclass(frozen=True, kw_only=True)
class LipschitzDenoiserCommand(RunCommand):
    """Train a denoiser that is 1-Lipschitz by construction, with splines, and use it as a prior.

    Trains a chain of averaged blocks with learned splines, the same with ReLU, and the same with splines but without
    any constraint; reports their PSNR and Lipschitz constants on images that are held out; and deblurs one of these by
    plug-and-play, which converges with the constrained denoisers.

    Examples: `python -m experiments lipschitz-denoiser`, about 4 minutes on 2 cores;
    `python -m experiments lipschitz-denoiser --data bsd400/ --test-data set12/ bsd68/`;
    `python -m experiments lipschitz-denoiser --resume runs/lipschitz-denoiser-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "lipschitz-denoiser"
    FILES = "report.md, metrics.json, config.json, figures/, solvers/, training/"

    data: Path | None = None
    """A folder or a zip of images to learn from. Default: the photographs that come with scikit-image."""

    test_data: tuple[Path, ...] = ()
    """Folders or zips of images to test on, each its own column; of the first one, the first image is deblurred.
    Default: a share of the images of --data, which are held out of training."""

    seed: int = 0
    """Decides the split of the images, the patches, the batches and the noise."""

    sigma: float | None = None
    """Standard deviation of the noise to remove, in 8-bit units, in place of 10."""

    num_steps: int | None = None
    """Training steps of each denoiser, in place of 600."""

    num_blocks: int | None = None
    """Blocks of each denoiser, in place of 4."""

    num_filters: int | None = None
    """Filters of each block, in place of 24."""

    def settings(self) -> Settings:
        """The default settings with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        overrides = self.given_options(("sigma", "num_steps", "num_blocks", "num_filters"))
        settings = dataclasses.replace(all_settings.DEFAULTS, **overrides)
        blocks.cosine_filters(settings.kernel_size, settings.num_filters)  # checks their number
        return settings

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        started = time.monotonic()
        problem = make_problem(settings, self.data, self.test_data, self.seed)
        for name in ("solvers", "figures"):
            (folder / name).mkdir(exist_ok=True)
        denoisers, histories = {}, {}
        for variant in VARIANTS:
            trained = networks.train(problem.patches, settings, variant, self.seed, folder)
            denoisers[variant.name], histories[variant.name] = trained
            uj.export.save_params(folder / "solvers" / f"{variant.name}.npz", denoisers[variant.name])

        first = next(iter(problem.tests.values()))[0]
        blurred = restoration.make_blurred(first, settings.restored_size, settings, index=0)
        tuning = _tuning_images(problem, settings)
        findings = {
            variant.name: _findings(denoisers[variant.name], variant, problem, settings, blurred, tuning)
            for variant in VARIANTS
        }
        figure_paths = figures.draw_all(
            folder / "figures",
            settings,
            histories,
            {name: found for name, each in denoisers.items() if (found := networks.splines_of(each))},
            blurred,
            {name: found.chosen for name, found in findings.items()},
            {name: found.boldest for name, found in findings.items()},
        )
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            num_train_images=len(problem.train_images),
            noisy_psnr={
                name: measuring.denoised_psnr(None, images, settings) for name, images in problem.tests.items()
            },
            blurred_psnr=float(measuring.psnr(blurred.problem.measurement, blurred.truth)),
            restored_image=first.name,
            findings=findings,
            histories=histories,
            total_seconds=time.monotonic() - started,
        )
        return write_results(folder, report, results, figure_paths)


def _tuning_images(problem: Problem, settings: Settings) -> list[restoration.Blurred]:
    """Two images to train on, blurred."""
    large: list[Image] = [
        image for image in problem.train_images if min(image.pixels.shape) >= settings.tuning_size
    ]  # make_problem sees to one
    return [
        restoration.make_blurred(image, settings.tuning_size, settings, index)
        for index, image in enumerate(large[:2], start=1)
    ]


def _findings(
    denoiser: nnx.Sequential,
    variant: Variant,
    problem: Problem,
    settings: Settings,
    blurred: restoration.Blurred,
    tuning: list[restoration.Blurred],
) -> report.Findings:
    fixed, splines = blocks.frozen(denoiser), networks.splines_of(denoiser)
    tests = list(problem.tests.values())
    options = {"tolerance": settings.tolerance, "max_steps": settings.max_steps}
    chosen = restoration.best_parameters(fixed, tuning, settings)
    return report.Findings(
        num_params=sum(leaf.size for leaf in jax.tree.leaves(denoiser)),
        num_knots=float(np.mean([_mean_knots(spline) for spline in splines])) if splines else None,
        lipschitz=uj.splines.lipschitz_bound(denoiser),
        averagedness=blocks.averagedness_of(denoiser),
        psnr={name: measuring.denoised_psnr(fixed, images, settings) for name, images in problem.tests.items()},
        local_constants=measuring.local_constants(fixed, tests[0], settings),
        chosen=restoration.restore(fixed, blurred, chosen, **options),
        boldest=restoration.restore(fixed, blurred, restoration.boldest_parameters(settings), **options),
    )


def _mean_knots(spline: uj.splines.LinearSpline) -> float:
    """How many knots a channel's spline bends at, and its two ends."""
    kinks = uj.splines.kinks(spline.feasible_coefficients, spline.grid)
    return float(np.mean(np.sum(np.abs(np.asarray(kinks)) > report.KINK, axis=-1)) + 2)
