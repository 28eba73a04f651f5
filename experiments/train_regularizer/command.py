"""`python -m experiments train-regularizer`: from images to a regularizer and a report on its training."""

import dataclasses
import time
from pathlib import Path
from typing import get_args

import jax

import unroll_jax as uj
from experiments.config import kept_options
from experiments.files import CONFIG, METRICS, default_run_path, run_folder
from experiments.report import environment, write_json
from experiments.train_regularizer import figures, measuring, report, training
from experiments.train_regularizer import settings as all_settings
from experiments.train_regularizer.problem import make_data
from experiments.train_regularizer.settings import Loss, Mode, Settings

WEIGHTS = "regularizer.npz"


@dataclasses.dataclass(frozen=True)
class TrainRegularizerCommand:
    """Learn a convex or weakly convex ridge regularizer as a denoiser for all noise levels up to 30.

    Writes the regularizer that was best on the validation images, `regularizer.npz`, which `denoise`,
    `evaluate-denoiser` and `reconstruct` take by `--weights`, with a report on its training and its certified bounds.

    Examples: `python -m experiments train-regularizer --data bsd400/ --validation set12/`, about half an hour on
    2 cores; `python -m experiments train-regularizer --rho 0` for a convex one;
    `python -m experiments train-regularizer --mode jacobian-free --num-steps 300` for a cheap first phase, then
    `--init runs/.../regularizer.npz`;
    `python -m experiments train-regularizer --resume runs/train-regularizer-20260101-120000`, after Ctrl-C or worse.
    """

    data: Path | None = None
    """A folder or a zip of images to learn from. Default: the photographs that come with scikit-image."""

    validation: Path | None = None
    """A folder or a zip of images to choose the best by. Default: a fifth of the images of --data, held out."""

    out: Path | None = None
    """The run folder to make; it must not exist. Default: runs/train-regularizer-DATE-TIME."""

    seed: int = 0
    """Decides the start, the patches, the batches and the noise."""

    init: Path | None = None
    """A regularizer.npz to start from, in place of random filters."""

    rho: float | None = None
    """How weakly convex the regularizer may be, in place of 1; 0 for a convex one."""

    mode: Mode | None = None
    """How the denoiser is differentiated: at its fixed point (equilibrium), there without the inverse (jacobian-free),
    or through a few steps (unrolled)."""

    loss: Loss | None = None
    """The error of a pixel: l1 or squared."""

    num_steps: int | None = None
    """Training steps, in place of 1000."""

    batch_size: int | None = None
    """Patches of a step, in place of 16."""

    num_unrolled: int | None = None
    """Steps of the denoiser in the mode unrolled, in place of 10."""

    filter_rate: float | None = None
    """Learning rate of the filters, in place of 5e-3; those of scales and curvature change in proportion."""

    spline_rate: float | None = None
    """Learning rate of the splines in the second half, in place of 0; at most 1e-6, or they pick up noise."""

    variation_weight: float | None = None
    """Weight of the splines' second-order total variation in the loss, in place of 0."""

    config: Path | None = None
    """A TOML or JSON file of these options by name, or a run's config.json; options given beside it come first."""

    resume: Path | None = None
    """The folder of a run that was stopped, to go on with; all other options are taken from it."""

    def settings(self) -> Settings:
        """The default settings with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        if self.seed < 0:
            raise ValueError(f"`--seed` must be non-negative, got {self.seed}.")
        overrides = {}
        for name in (
            "rho",
            "filter_rate",
            "spline_rate",
            "variation_weight",
            "num_steps",
            "batch_size",
            "num_unrolled",
        ):
            value = getattr(self, name)
            if value is not None:
                smallest = 1 if isinstance(value, int) else 0
                if not value >= smallest:
                    raise ValueError(f"`--{name.replace('_', '-')}` must be at least {smallest}, got {value}.")
                overrides[name] = value
        for name, kind in (("mode", Mode), ("loss", Loss)):
            value = getattr(self, name)
            if value is not None:
                if value not in get_args(kind):
                    raise ValueError(f"`--{name}` must be one of {', '.join(get_args(kind))}, got {value!r}.")
                overrides[name] = value
        settings = dataclasses.replace(all_settings.DEFAULTS, **overrides)
        factor = settings.filter_rate / all_settings.DEFAULTS.filter_rate
        return dataclasses.replace(
            settings, scaling_rate=factor * settings.scaling_rate, curvature_rate=factor * settings.curvature_rate
        )

    def run(self) -> None:
        """Run the training and write its folder."""
        settings = self.settings()
        out = self.resume or self.out or default_run_path("train-regularizer")
        with run_folder(out, is_resumed=self.resume is not None) as folder:
            if self.resume is None:
                paths = {"validation": self.validation, "init": self.init}
                options = kept_options(self) | {name: path and str(path.resolve()) for name, path in paths.items()}
                resolved = {"experiment": "train-regularizer", "command": options, "settings": vars(settings)}
                write_json(folder / CONFIG, resolved)
            report_text = _run(self, settings, folder)
        print(report_text)
        print(f"\nWritten to {out}: {WEIGHTS}, report.md, metrics.json, config.json, figures/, training.jsonl.")


def _run(command: TrainRegularizerCommand, settings: Settings, folder: Path) -> str:
    started = time.monotonic()
    data = make_data(settings, command.data, command.validation, command.seed)
    if command.init is not None:
        start = dataclasses.replace(uj.regularizers.load_ridge(command.init), rho=settings.rho)
    else:
        start = uj.regularizers.ridge_params(
            jax.random.key(command.seed),
            channels=tuple(settings.channels),
            size=settings.kernel_size,
            rho=settings.rho,
            mu=settings.mu,
            num_knots=settings.num_knots,
        )
    params, best_step, history = training.train(start, data.patches, data.validation, settings, command.seed, folder)
    uj.regularizers.save_ridge(folder / WEIGHTS, params)
    (folder / "figures").mkdir(exist_ok=True)
    results = report.Results(
        command=dataclasses.asdict(command),
        settings=settings,
        environment=environment(),
        num_images=data.num_images,
        num_validation=len(data.validation),
        validation_size=data.validation.shape[1],
        num_params=sum(leaf.size for leaf in jax.tree.leaves(params)),
        best_step=best_step,
        history=history,
        bounds=measuring.audit(params, settings.validation_sigmas, command.seed),
        total_seconds=time.monotonic() - started,
    )
    figure_paths = figures.draw_all(folder / "figures", params, history, settings)
    (folder / "report.md").write_text(report.markdown(results, figure_paths, folder), encoding="utf-8")
    write_json(folder / METRICS, report.metrics(results, figure_paths, folder))
    return report.summary(results)
