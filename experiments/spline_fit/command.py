"""`python -m experiments spline-fit`: single splines against the exact optimum, and networks of splines."""

import dataclasses
import time
from pathlib import Path

from experiments.report import environment
from experiments.run_command import RunCommand, write_results
from experiments.spline_fit.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplineFitCommand(RunCommand):
    """Fit functions of one number by splines under slope constraints, alone and in networks.

    Trains single splines in three ways and compares them with the exact optimum, a quadratic program; counts their
    knots after pruning against the weight of TV2; trains 1-Lipschitz networks with learned splines, Householder
    reflections, GroupSort, absolute values and ReLU, and shows what the splines have become.

    Examples: `python -m experiments spline-fit`, about 3 minutes on 2 cores;
    `python -m experiments spline-fit --num-steps 200 --num-networks 1`, for a first look;
    `python -m experiments spline-fit --resume runs/spline-fit-20260101-120000`, after Ctrl-C or worse.
    """

    NAME = "spline-fit"
    FILES = "report.md, metrics.json, config.json, figures/"

    seed: int = 0
    """Decides the sites, the noise and the networks' start."""

    num_sites: int | None = None
    """Samples that a single spline is fitted to, in place of 60."""

    num_steps: int | None = None
    """Steps of Adam of every training, in place of 5000 for single splines and 2000 for networks."""

    num_networks: int | None = None
    """Networks per function and activation, in place of 3."""

    def settings(self) -> Settings:
        """The defaults with what was set by hand.

        Raises:
            ValueError: for numbers that make no run.
        """
        given = self.given_options(("num_sites",), at_least=3)
        given |= self.given_options(("num_steps", "num_networks"), at_least=1)
        if "num_steps" in given:
            given["num_network_steps"] = given["num_steps"]
        if "num_networks" in given:
            given["num_seeds"] = given.pop("num_networks")
        return dataclasses.replace(Settings(), **given)

    def run_in(self, folder: Path, settings: Settings) -> str:
        """Run the experiment and write its folder."""
        # here, as the other commands need neither clarabel nor matplotlib
        from experiments.spline_fit import convex, figures, fitting, network_pruning, networks, problem, report

        started = time.monotonic()
        task = problem.make_task(settings, self.seed)
        optimum = convex.optimum_of(task)
        fits = fitting.fit_all(task, optimum, settings, folder)
        train_set, held_out = networks.make_examples(settings, self.seed)
        trained = {
            variant.name: networks.train(variant, train_set, held_out, settings, self.seed, folder)
            for variant in networks.VARIANTS
        }
        pruned = network_pruning.prune(trained[networks.SPLINES.name], train_set, held_out, settings)

        (folder / "figures").mkdir(exist_ok=True)
        paths = figures.draw_all(folder / "figures", settings, task, optimum, fits, held_out, trained, pruned)
        results = report.Results(
            command=dataclasses.asdict(self),
            settings=settings,
            environment=environment(),
            task=task,
            optimum=optimum,
            fits=fits,
            trained=trained,
            pruned=pruned,
            total_seconds=time.monotonic() - started,
        )
        return write_results(folder, report, results, paths)
