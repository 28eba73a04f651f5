"""The command line, `python -m experiments`."""

import sys
from collections.abc import Sequence

import tyro

from experiments.comparison import ReportCommand
from experiments.config import expand
from experiments.denoising import DenoiseCommand, EvaluateDenoiserCommand
from experiments.inpainting import InpaintingCommand
from experiments.lipschitz_denoiser import LipschitzDenoiserCommand
from experiments.reconstruction import ReconstructCommand
from experiments.sparse_coding import SparseCodingCommand
from experiments.sparse_recovery import SparseRecoveryCommand
from experiments.spline_fit import SplineFitCommand
from experiments.train_regularizer import TrainRegularizerCommand

_RUN_COMMANDS = (
    SparseCodingCommand,
    SparseRecoveryCommand,
    SplineFitCommand,
    LipschitzDenoiserCommand,
    InpaintingCommand,
    TrainRegularizerCommand,
    EvaluateDenoiserCommand,
    ReconstructCommand,
)
COMMANDS = {command.NAME: command for command in _RUN_COMMANDS} | {"denoise": DenoiseCommand, "report": ReportCommand}

# what the user can mend: told in one line, without a traceback
_USER_ERRORS = (ValueError, ModuleNotFoundError, OSError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (by default the command line's) name.

    Returns:
        The exit status: 0, 1 for what the user can mend, 2 for options that do not exist, 130 after Ctrl-C.
    """
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="python -m experiments",
            description=(
                "Experiments of unroll_jax, each of which writes a run folder (report.md, metrics.json, figures), and "
                "`report`, which compares runs."
            ),
            args=expand(sys.argv[1:] if arguments is None else arguments, COMMANDS),
        )
        command.run()
    except _USER_ERRORS as error:
        print(f"error: {error}", *_notes(error), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("interrupted", *_notes(error), sep="\n", file=sys.stderr)
        return 130
    except SystemExit as stop:  # SIGTERM too
        if _notes(stop):
            print("stopped", *_notes(stop), sep="\n", file=sys.stderr)
        raise
    return 0


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])
