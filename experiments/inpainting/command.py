"""`python -m experiments inpainting`: from images to a flow, networks with it in every layer, and a report on them."""

import dataclasses
import json
import time
from pathlib import Path

import jax
from flax import nnx

import unroll_jax as uj
from experiments.events import read_events, total_seconds
from experiments.files import WORK
from experiments.inpainting import figures, measuring, networks, prior, report
from experiments.inpainting.networks import VARIANTS
from experiments.inpainting.problem import make_problem
from experiments.inpainting.settings import PRESETS, Preset, Settings
from experiments.report import environment, write_json
from experiments.run_command import RunCommand, write_results


@dataclasses.dataclass(frozen=True, kw_only=True)
class InpaintingCommand(RunCommand):
    """Fill in holes of images by an unrolled network with a normalizing flow in every layer, trained to descend.

    Trains a Glow for likelihood and then for its most probable images given measurements, and GLOW-Prox networks that
    start from it, plainly and under descent constraints; reports on held-out crops: quality layer by layer beside total
    variation and biharmonic inpainting, certificates of descent, and robustness against perturbed measurements.

    Examples: `python -m experiments inpainting --data bsds500/train`, under 30 minutes on 2 cores;
    `python -m experiments inpainting --data celeba/ --preset paper`, for a GPU;
    `python -m experiments inpainting --resume runs/inpainting-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "inpainting"
    FILES = "report.md, metrics.json, config.json, figures/, solvers/, training/"

    preset: Preset = "small"
    """small: crops of 32 x 32, for 2 cores. paper: 64 x 64, the sizes of arXiv 2312.15788, for a GPU."""

    data: Path | None = None
    """A folder of colour images. Default: the colour photographs that come with scikit-image."""

    seed: int = 0
    """Decides the split of the images, the crops, the flow's start, the batches and the noise."""

    flow_steps: int | None = None
    """Steps of the flow's training for likelihood, in place of the preset's."""

    train_steps: int | None = None
    """Training steps of each network, in place of the preset's."""

    num_held_out: int | None = None
    """Held-out crops, in place of the preset's."""

    def settings(self) -> Settings:
        """The preset with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        if self.preset not in PRESETS:
            raise ValueError(f"`--preset` must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        overrides = self.given_options(("flow_steps", "train_steps", "num_held_out"))
        settings = dataclasses.replace(PRESETS[self.preset], **overrides)
        if settings.num_held_out < 2:
            raise ValueError(f"`--num-held-out` must be at least 2 for a certificate, got {settings.num_held_out}.")
        return settings

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        seconds = _Seconds(folder / WORK / "seconds.json")
        problem = make_problem(settings, self.data, self.seed)
        for name in ("solvers", "figures"):
            (folder / name).mkdir(exist_ok=True)
        untuned = prior.train_flow(problem.train, settings, self.seed, folder)
        seconds.save()
        flow = prior.tune_flow(untuned, problem.train, settings, self.seed, folder)
        seconds.save()
        for name, trained in {"flow": untuned, "tuned flow": flow}.items():
            uj.export.save_params(folder / "solvers" / f"{name}.npz", trained)

        tasks = measuring.make_tasks(problem.held_out, settings)
        seen = measuring.make_tasks(problem.train[: settings.num_held_out], settings)["hole"]
        others = measuring.classical_methods(settings) | {"one flow": measuring.restore_by_flow(flow)}
        found, restores = {}, {"total variation": others["total variation"]}
        for variant in VARIANTS:
            network, history = networks.train(flow, problem.train, settings, variant, self.seed, folder)
            seconds.save()
            uj.export.save_params(folder / "solvers" / f"{variant.name}.npz", network.params)
            on_tasks = {name: measuring.measure_network(network, task, settings) for name, task in tasks.items()}
            bounds = measuring.largest_measures(network, seen, settings)
            found[variant.name] = report.NetworkFindings(
                tasks=on_tasks,
                certificates=measuring.certificates(on_tasks["hole"].measures, bounds, settings),
                history=history,
            )
            restores[variant.name] = measuring.restore_by(network)
            seconds.save()

        perturbed = {
            name: measuring.measure_perturbed(restore, tasks["hole"], settings) for name, restore in restores.items()
        }
        figure_paths = figures.draw_all(
            folder / "figures",
            settings,
            tasks["hole"],
            found,
            perturbed,
            prior.samples(untuned, settings, self.seed, temperature=0.7),
        )
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            num_images=problem.num_images,
            num_params=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(flow, nnx.Param))),
            flow_bits=prior.held_out_bits(untuned, problem.held_out, settings, self.seed),
            gaussian_bits=prior.gaussian_bits(problem.train, problem.held_out, self.seed),
            flow_seconds={
                name: total_seconds(read_events(folder / "training" / f"{name}.jsonl", "train"))
                for name in ("flow", "tuned flow")
            },
            networks=found,
            others={
                name: {method: measuring.quality(restore(*task), task) for method, restore in others.items()}
                for name, task in tasks.items()
            },
            perturbed=perturbed,
            total_seconds=seconds.save(),
        )
        return write_results(folder, report, results, figure_paths)


class _Seconds:
    """How long a run took, over all its parts: what was spent between two saves and lost is not counted."""

    def __init__(self, path: Path):
        self.path = path
        self.before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0
        self.started = time.monotonic()

    def save(self) -> float:
        total = self.before + time.monotonic() - self.started
        write_json(self.path, total)
        return total
