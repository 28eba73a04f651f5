"""`python -m experiments spline-fit`: single splines against the exact optimum, and networks of splines."""

import dataclasses
import time
from pathlib import Path

from experiments.config import kept_options
from experiments.files import CONFIG, METRICS, default_run_path, run_folder
from experiments.report import environment, write_json
from experiments.spline_fit.settings import Settings


@dataclasses.dataclass(frozen=True)
class SplineFitCommand:
    """Fit functions of one number by splines under slope constraints, alone and in networks.

    Trains single splines in three ways and compares them with the exact optimum, a quadratic program; counts their
    knots after pruning against the weight of TV2; trains 1-Lipschitz networks with learned splines, Householder
    reflections, GroupSort, absolute values and ReLU, and shows what the splines have become.

    Examples: `python -m experiments spline-fit`, about 3 minutes on 2 cores;
    `python -m experiments spline-fit --num-steps 200 --num-networks 1`, for a first look;
    `python -m experiments spline-fit --resume runs/spline-fit-20260101-120000`, after Ctrl-C or worse.
    """

    out: Path | None = None
    """The run folder to make; it must not exist. Default: runs/spline-fit-DATE-TIME."""

    seed: int = 0
    """Decides the sites, the noise and the networks' start."""

    num_sites: int | None = None
    """Samples that a single spline is fitted to, in place of 60."""

    num_steps: int | None = None
    """Steps of Adam of every training, in place of 5000 for single splines and 2000 for networks."""

    num_networks: int | None = None
    """Networks per function and activation, in place of 3."""

    config: Path | None = None
    """A TOML or JSON file of these options by name, or a run's config.json; options given beside it come first."""

    resume: Path | None = None
    """The folder of a run that was stopped, to go on with; all other options are taken from it."""

    def settings(self) -> Settings:
        """The defaults with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        if self.seed < 0:
            raise ValueError(f"`--seed` must be non-negative, got {self.seed}.")
        for option, smallest in (("num_sites", 3), ("num_steps", 1), ("num_networks", 1)):
            value = getattr(self, option)
            if value is not None and value < smallest:
                raise ValueError(f"`--{option.replace('_', '-')}` must be at least {smallest}, got {value}.")
        overrides = {
            "num_sites": self.num_sites,
            "num_steps": self.num_steps,
            "num_network_steps": self.num_steps,
            "num_seeds": self.num_networks,
        }
        return dataclasses.replace(
            Settings(), **{name: value for name, value in overrides.items() if value is not None}
        )

    def run(self) -> None:
        """Run the experiment and write its folder."""
        settings = self.settings()
        out = self.resume or self.out or default_run_path("spline-fit")
        with run_folder(out, is_resumed=self.resume is not None) as folder:
            if self.resume is None:
                resolved = {"experiment": "spline-fit", "command": kept_options(self), "settings": vars(settings)}
                write_json(folder / CONFIG, resolved)
            report_text = _run(self, settings, folder)
        print(report_text)
        print(f"\nWritten to {out}: report.md, metrics.json, config.json, figures/.")


def _run(command: SplineFitCommand, settings: Settings, folder: Path) -> str:
    # here, as the other commands need neither clarabel nor matplotlib
    from experiments.spline_fit import convex, figures, fitting, network_pruning, networks, problem, report

    started = time.monotonic()
    task = problem.make_task(settings, command.seed)
    optimum = convex.optimum_of(task)
    fits = fitting.fit_all(task, optimum, settings, folder)
    train_set, held_out = networks.make_examples(settings, command.seed)
    trained = {
        variant.name: networks.train(variant, train_set, held_out, settings, command.seed, folder)
        for variant in networks.VARIANTS
    }
    pruned = network_pruning.prune(trained[networks.SPLINES.name], train_set, held_out, settings)

    (folder / "figures").mkdir(exist_ok=True)
    paths = figures.draw_all(folder / "figures", settings, task, optimum, fits, held_out, trained, pruned)
    results = report.Results(
        command=dataclasses.asdict(command),
        settings=settings,
        environment=environment(),
        task=task,
        optimum=optimum,
        fits=fits,
        trained=trained,
        pruned=pruned,
        total_seconds=time.monotonic() - started,
    )
    (folder / "report.md").write_text(report.markdown(results, paths, folder), encoding="utf-8")
    write_json(folder / METRICS, report.metrics(results, paths, folder))
    return report.summary(results)
