"""`python -m experiments sparse-coding`: from images to trained, certified solvers and a report on them."""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

import unroll_jax as uj
from experiments import data
from experiments.files import WORK
from experiments.report import environment
from experiments.run_command import RunCommand, write_results
from experiments.sparse_coding import evaluation, figures, networks, report
from experiments.sparse_coding.problem import SparseCoding, load_problem, make_problem, save_problem
from experiments.sparse_coding.settings import PRESETS, Precision, Preset, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseCodingCommand(RunCommand):
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

    NAME = "sparse-coding"
    FILES = "report.md, metrics.json, config.json, figures/, solvers/, training/"

    preset: Preset = "quick"
    """quick: 16 x 16 patches, for 2 cores. paper: 32 x 32, the sizes of arXiv 2312.15788, for CIFAR-10 and a GPU."""

    data: Path | None = None
    """A folder or a zip of images. Default: the photographs that come with scikit-image."""

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

    def settings(self) -> Settings:
        """The preset with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        if self.preset not in PRESETS:
            raise ValueError(f"`--preset` must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        overrides = self.given_options(("num_steps", "num_train", "num_held_out", "learning_rate"))
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

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        started = time.monotonic()
        images = data.load_images(self.data)
        problem_path = folder / WORK / "problem.npz"
        if problem_path.exists():
            problem = load_problem(problem_path)
        else:
            problem = make_problem(settings, images, self.seed)
            save_problem(problem_path, problem)
        shifts = evaluation.make_shifts(problem, settings, self.seed + 2)

        for name in ("solvers", "figures"):
            (folder / name).mkdir(exist_ok=True)
        uj.export.save_params(folder / "solvers" / "dictionary.npz", {"matrix": problem.task.dictionary.matrix})
        evaluations, histories = {}, {}
        for variant in networks.VARIANTS:
            network, history = networks.train(problem, settings, variant, self.seed, folder)
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
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            problem=problem,
            num_images=len(images),
            evaluations=evaluations,
            histories=histories,
            shift_levels=[shift.level for shift in shifts],
            total_seconds=time.monotonic() - started,
        )
        return write_results(folder, report, results, figure_paths)


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
