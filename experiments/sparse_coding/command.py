"""`python -m experiments sparse-coding`: from images to trained, certified solvers and a report on them."""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

import unroll_jax as uj
from experiments import data
from experiments.config import kept_options
from experiments.files import CONFIG, METRICS, WORK, default_run_path, run_folder
from experiments.report import environment, write_json
from experiments.sparse_coding import evaluation, figures, networks, report
from experiments.sparse_coding.problem import SparseCoding, load_problem, make_problem, save_problem
from experiments.sparse_coding.settings import PRESETS, Precision, Preset, Settings


@dataclasses.dataclass(frozen=True)
class SparseCodingCommand:
    """Train LISTA to descend at every layer, on natural image patches.

    Learns a dictionary, computes sparse codes by FISTA up to a known duality gap, trains LISTA plainly, with layer
    noise and under descent constraints, from a random and from the classical start, and reports on held-out patches:
    descent layer by layer with certificates, robustness to noise between the layers and to shifted data.

    Examples: `python -m experiments sparse-coding`, about 4 minutes on 2 cores;
    `python -m experiments sparse-coding --data photos/ --seed 1`;
    `python -m experiments sparse-coding --preset paper --data cifar10/train.zip`, best on a GPU;
    `python -m experiments sparse-coding --config mine.toml --seed 2`;
    `python -m experiments sparse-coding --resume runs/sparse-coding-20260101-120000`, after Ctrl-C or worse.
    """

    preset: Preset = "quick"
    """quick: 16 x 16 patches, for 2 cores. paper: 32 x 32, the sizes of arXiv 2312.15788, for CIFAR-10 and a GPU."""

    data: Path | None = None
    """A folder or a zip of images. Default: the photographs that come with scikit-image."""

    out: Path | None = None
    """The run folder to make; it must not exist. Default: runs/sparse-coding-DATE-TIME."""

    seed: int = 0
    """Decides the split of the images, the patches, the networks' start, the batches and the noise."""

    num_steps: int | None = None
    """Training steps of each network, in place of the preset's."""

    num_train: int | None = None
    """Training patches, in place of the preset's."""

    num_held_out: int | None = None
    """Held-out patches, in place of the preset's."""

    learning_rate: float | None = None
    """Peak learning rate of Adam, in place of the preset's."""

    precision: Precision | None = None
    """What the layers compute in, in place of the preset's float32; constraints and losses are float32 always."""

    config: Path | None = None
    """A TOML or JSON file of these options by name, or a run's config.json; options given beside it come first."""

    resume: Path | None = None
    """The folder of a run that was stopped, to go on with; all other options are taken from it."""

    def settings(self) -> Settings:
        """The preset with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        if self.seed < 0:
            raise ValueError(f"`--seed` must be non-negative, got {self.seed}.")
        if self.preset not in PRESETS:
            raise ValueError(f"`--preset` must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        overrides = {}
        for name in ("num_steps", "num_train", "num_held_out", "learning_rate"):
            value = getattr(self, name)
            if value is not None:
                if not value > 0:
                    raise ValueError(f"`--{name.replace('_', '-')}` must be positive, got {value}.")
                overrides[name] = value
        if self.precision is not None:
            overrides["precision"] = self.precision
        settings = dataclasses.replace(PRESETS[self.preset], **overrides)
        if settings.num_train < settings.batch_size:
            raise ValueError(
                f"`--num-train` must be at least the batch size {settings.batch_size}, got {settings.num_train}."
            )
        if settings.num_held_out < 2:
            raise ValueError(f"`--num-held-out` must be at least 2 for a certificate, got {settings.num_held_out}.")
        return settings

    def run(self) -> None:
        """Run the experiment and write its folder."""
        settings = self.settings()
        out = self.resume or self.out or default_run_path("sparse-coding")
        with run_folder(out, is_resumed=self.resume is not None) as folder:
            if self.resume is None:
                resolved = {"experiment": "sparse-coding", "command": kept_options(self), "settings": vars(settings)}
                write_json(folder / CONFIG, resolved)
            report_text = _run(self, settings, folder)
        print(report_text)
        print(f"\nWritten to {out}: report.md, metrics.json, config.json, figures/, solvers/, training/.")


def _run(command: SparseCodingCommand, settings: Settings, folder: Path) -> str:
    started = time.monotonic()
    images = data.load_images(command.data)
    problem_path = folder / WORK / "problem.npz"
    if problem_path.exists():
        problem = load_problem(problem_path)
    else:
        problem = make_problem(settings, images, command.seed)
        save_problem(problem_path, problem)
    shifts = evaluation.make_shifts(problem, settings, command.seed + 2)

    for name in ("solvers", "figures"):
        (folder / name).mkdir(exist_ok=True)
    uj.export.save_params(folder / "solvers" / "dictionary.npz", {"matrix": problem.task.dictionary.matrix})
    evaluations, histories = {}, {}
    for variant in networks.VARIANTS:
        network, history = networks.train(problem, settings, variant, command.seed, folder)
        found = evaluation.evaluate(network, problem, settings, shifts)
        uj.export.save_params(folder / "solvers" / f"{variant.file_name}.npz", network.params)
        evaluations[variant.name], histories[variant.name] = found, history
        if variant.name == "descent-tail":
            _export(network, problem, found, folder / "solvers" / f"{variant.file_name}.zip")

    label_l1_norms = np.sum(np.abs(np.asarray(problem.held_out.y)), axis=1)
    figure_paths = figures.draw_all(
        folder / "figures", settings, networks.VARIANTS, evaluations, histories, shifts, label_l1_norms
    )
    results = report.Results(
        command=dataclasses.asdict(command),
        settings=settings,
        environment=environment(),
        problem=problem,
        num_images=len(images),
        evaluations=evaluations,
        histories=histories,
        shift_levels=[shift.level for shift in shifts],
        total_seconds=time.monotonic() - started,
    )
    (folder / "report.md").write_text(report.markdown(results, figure_paths, folder), encoding="utf-8")
    write_json(folder / METRICS, report.metrics(results, figure_paths, folder))
    return report.summary(results)


def _export(network: uj.Unrolled, problem: SparseCoding, found: evaluation.Evaluation, path: Path) -> None:
    """Write the network as one file that runs where only jax is installed."""

    def solve(network: uj.Unrolled, x: jax.Array) -> jax.Array:
        return network(problem.task.least_squares(x)).x

    uj.export.save(
        network,
        jax.ShapeDtypeStruct(problem.train.x.shape[1:], problem.train.x.dtype),
        path,
        apply=solve,
        metadata={
            "solves": "minimize ||dictionary(y) - x||^2 / 2 + l1_weight * ||y||_1 over y, for patches x",
            "l1_weight": problem.task.l1_weight,
            "unit": "one is this intensity of pixels in [0, 1], after removing each patch's mean where it is 1",
            "unit_in_intensities": problem.unit,
            "certificate": found.certificate,
        },
    )
