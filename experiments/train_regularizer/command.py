"""`python -m experiments train-regularizer`: from images to a regularizer and a report on its training."""

import dataclasses
import time
from pathlib import Path
from typing import get_args

import jax

import unroll_jax as uj
from experiments.report import environment
from experiments.run_command import RunCommand, write_results
from experiments.train_regularizer import figures, measuring, report, training
from experiments.train_regularizer import settings as all_settings
from experiments.train_regularizer.problem import make_data
from experiments.train_regularizer.settings import Loss, Mode, Optimizer, Settings
from unroll_jax.regularizers import RidgeParams, mix_potentials
from unroll_jax.splines import UniformGrid

WEIGHTS = "regularizer.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRegularizerCommand(RunCommand):
    """Learn a convex or weakly convex ridge regularizer as a denoiser for all noise levels up to 30.

    Writes the regularizer that was best on the validation images, `regularizer.npz`, which `denoise`,
    `evaluate-denoiser` and `reconstruct` take by `--weights`, with a report on its training and its certified bounds.

    Examples: `python -m experiments train-regularizer --data bsd400/ --validation set12/`, about half an hour on
    2 cores; `python -m experiments train-regularizer --rho 0` for a convex one;
    `python -m experiments train-regularizer --mode jacobian-free --num-steps 300` for a cheap first phase, then
    `--init runs/.../regularizer.npz`;
    `python -m experiments train-regularizer --resume runs/train-regularizer-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "train-regularizer"
    FILES = f"{WEIGHTS}, report.md, metrics.json, config.json, figures/, training.jsonl"

    data: tuple[Path, ...] = ()
    """Folders or zips of images to learn from. Default: the photographs that come with scikit-image."""

    validation: Path | None = None
    """A folder or a zip of images to choose the best by. Default: a fifth of the images of --data, held out."""

    seed: int = 0
    """Decides the start, the patches, the batches and the noise."""

    init: Path | None = None
    """A regularizer.npz to start from, in place of random filters."""

    rho: float | None = None
    """How weakly convex the regularizer may be, in place of 1; 0 for a convex one."""

    mu: float | None = None
    """The bound of the curvature where training starts, in place of 50, of 100 for a convex regularizer, or of that of
    --init. The potentials keep their height, and their kink gets narrower with it."""

    num_potentials: int | None = None
    """How many potentials are mixed for every filter, in place of 5; 1 for one that all share. What --init has mixed
    already stays as it is."""

    mode: Mode | None = None
    """How the denoiser is differentiated: at its fixed point (equilibrium), there without the inverse (jacobian-free),
    or through a few steps (unrolled)."""

    loss: Loss | None = None
    """The error of a pixel: l1, or squared, as usual for a convex regularizer."""

    margin: int | None = None
    """Pixels along the edges of the patches whose error does not count, in place of 6: filters see zeros beyond an
    edge."""

    num_steps: int | None = None
    """Training steps, in place of 1000."""

    scales: tuple[float, ...] = ()
    """Of the images the patches are cut from, in place of 1, 0.9, 0.8 and 0.7."""

    patch_size: int | None = None
    """Pixels along a side of the patches, in place of 40."""

    batch_size: int | None = None
    """Patches of a step, in place of 16."""

    num_unrolled: int | None = None
    """Steps of the denoiser in the mode unrolled, in place of 10."""

    optimizer: Optimizer | None = None
    """What changes the filters: adam, or muon, as usual for a convex regularizer."""

    filter_rate: float | None = None
    """Learning rate of the filters, in place of 5e-3 (adam) or 5e-2 (muon); those of scales and curvature change in
    proportion."""

    spline_rate: float | None = None
    """Learning rate of the splines in the second half, in place of 0; at most 1e-6, or they pick up noise."""

    variation_weight: float | None = None
    """Weight of the splines' second-order total variation in the loss, in place of 0."""

    def settings(self) -> Settings:
        """The default settings with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        overrides = self.given_options(("rho", "margin", "filter_rate", "spline_rate", "variation_weight"), at_least=0)
        counts = ("num_steps", "batch_size", "patch_size", "num_unrolled", "num_potentials")
        overrides |= self.given_options(counts, at_least=1)
        overrides |= self.given_options(("mu", "scales"))
        for name, kind in (("mode", Mode), ("loss", Loss), ("optimizer", Optimizer)):
            value = getattr(self, name)
            if value is not None:
                if value not in get_args(kind):
                    raise ValueError(f"`--{name}` must be one of {', '.join(get_args(kind))}, got {value!r}.")
                overrides[name] = value
        if self.rho == 0:
            overrides = all_settings.CONVEX | overrides
        usual_rate = all_settings.FILTER_RATES[overrides.get("optimizer", all_settings.DEFAULTS.optimizer)]
        settings = dataclasses.replace(all_settings.DEFAULTS, **{"filter_rate": usual_rate} | overrides)
        if 2 * settings.margin >= settings.patch_size:
            raise ValueError(
                f"`--margin` must leave some of the patches, which have {settings.patch_size} pixels a side, "
                f"got {settings.margin}."
            )
        factor = settings.filter_rate / usual_rate
        rates = ("scaling_rate", "curvature_rate", "mixture_rate")
        return dataclasses.replace(settings, **{name: factor * getattr(settings, name) for name in rates})

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        started = time.monotonic()
        data = make_data(settings, self.data, self.validation, self.seed)
        start = self._start(settings)
        params, best_step, history = training.train(start, data.patches, data.validation, settings, self.seed, folder)
        uj.regularizers.save_ridge(folder / WEIGHTS, params)
        (folder / "figures").mkdir(exist_ok=True)
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            num_images=data.num_images,
            num_validation=len(data.validation),
            validation_size=data.validation.shape[1],
            num_params=_num_trained(params, settings),
            num_potentials=1 if params.mixture is None else params.mixture.shape[1],
            best_step=best_step,
            history=history,
            bounds=measuring.audit(params, settings.validation_sigmas, self.seed),
            total_seconds=time.monotonic() - started,
        )
        figure_paths = figures.draw_all(folder / "figures", params, history, settings)
        return write_results(folder, report, results, figure_paths)

    def _start(self, settings: Settings) -> RidgeParams:
        """Where training starts."""
        if self.init is not None:
            start = dataclasses.replace(uj.regularizers.load_ridge(self.init), rho=settings.rho)
            mu = self.mu
        else:
            start = uj.regularizers.ridge_params(
                jax.random.key(self.seed),
                channels=tuple(settings.channels),
                size=settings.kernel_size,
                rho=settings.rho,
                num_knots=settings.num_knots,
            )
            mu = settings.mu
        if mu is not None:
            start = training.with_curvature(start, mu)
        if start.mixture is None and settings.num_potentials > 1:
            # potentials of --init that cannot be mixed stay as they are, unless a mixture was asked for
            is_shared = start.convex.ndim == 1 and isinstance(start.grid, UniformGrid)
            if is_shared or self.num_potentials is not None:
                return mix_potentials(start, settings.num_potentials)
        if start.mixture is not None and self.num_potentials not in (None, start.mixture.shape[1]):
            raise ValueError(
                f"`--num-potentials` must be {start.mixture.shape[1]}, as `--init` has, or be left out, "
                f"got {self.num_potentials}."
            )
        return start


def _num_trained(params: RidgeParams, settings: Settings) -> int:
    """How many numbers training changed: the splines are left alone where their rate is 0."""
    fixed = (params.convex, params.concave) if settings.spline_rate == 0 else ()
    return sum(leaf.size for leaf in jax.tree.leaves(params)) - sum(leaf.size for leaf in fixed)
