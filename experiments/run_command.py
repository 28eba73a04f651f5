"""What the commands that write a run folder have in common."""

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from experiments.config import kept_options
from experiments.files import CONFIG, METRICS, default_run_path, run_folder
from experiments.report import write_json


class Report(Protocol):
    """A module that tells of an experiment's results."""

    def markdown(self, results: Any, figure_paths: Sequence[Path], folder: Path, /) -> str:
        """The whole report."""
        ...

    def metrics(self, results: Any, figure_paths: Sequence[Path], folder: Path, /) -> dict[str, Any]:
        """All numbers."""
        ...

    def summary(self, results: Any, /) -> str:
        """The main tables."""
        ...


class _Seeded:
    seed: int  # no option yet: each command has its own, which says what it decides


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCommand(_Seeded, abc.ABC):
    """A command that writes a run folder, and goes on with one that was stopped.

    Attributes:
        NAME: of the command, and of the experiment in its folders.
        FILES: what lies in a finished folder, as told to the user.
    """

    NAME: ClassVar[str]
    FILES: ClassVar[str]

    out: Path | None = None
    """The run folder to make; it must not exist. Default: runs/NAME-DATE-TIME."""

    config: Path | None = None
    """A TOML or JSON file of these options by name, or a run's config.json; options given beside it come first."""

    resume: Path | None = None
    """The folder of a run that was stopped, to go on with; all other options are taken from it."""

    @abc.abstractmethod
    def settings(self) -> Any:
        """The dataclass of all settings that follow from the options; None where there are none beside these.

        Raises:
            ValueError: for options that make no run.
        """

    @abc.abstractmethod
    def run_in(self, folder: Path, settings: Any) -> str:
        """Write all results to the folder, `metrics.json` last, and return the main ones as Markdown."""

    def run(self) -> None:
        """Run and write the folder.

        Raises:
            ValueError: for options that make no run.
        """
        if self.seed < 0:
            raise ValueError(f"`--seed` must be non-negative, got {self.seed}.")
        settings = self.settings()
        out = self.resume or self.out or default_run_path(self.NAME)
        with run_folder(out, is_resumed=self.resume is not None) as folder:
            if self.resume is None:
                resolved = {"experiment": self.NAME, "command": kept_options(self)}
                write_json(folder / CONFIG, resolved if settings is None else resolved | {"settings": vars(settings)})
            summary = self.run_in(folder, settings)
        print(summary)
        print(f"\nWritten to {out}: {self.FILES}.")

    def given_options(self, names: Iterable[str], at_least: float | None = None) -> dict[str, Any]:
        """Those of the options `names` that were given, by name.

        Raises:
            ValueError: for one below `at_least`, or by default for one that is not positive.
        """
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        for name, value in given.items():
            values = value if isinstance(value, tuple) else (value,)
            if not all(each > 0 if at_least is None else each >= at_least for each in values):
                wanted = "positive" if at_least is None else f"at least {at_least}"
                raise ValueError(f"`--{name.replace('_', '-')}` must be {wanted}, got {' '.join(map(str, values))}.")
        return given


def write_results(folder: Path, report: Report, results: Any, figure_paths: Sequence[Path]) -> str:
    """Write report.md and, which ends the run, metrics.json; returns the main tables."""
    (folder / "report.md").write_text(report.markdown(results, figure_paths, folder), encoding="utf-8")
    write_json(folder / METRICS, report.metrics(results, figure_paths, folder))
    return report.summary(results)
