"""The command line, `python -m experiments`."""

import sys
from collections.abc import Sequence

import tyro

from experiments.sparse_coding import SparseCodingCommand

# what the user can mend: told in one line, without a traceback
_USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    ModuleNotFoundError,
    OSError,
    FloatingPointError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment that `arguments` (by default the command line's) name; the exit status."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"sparse-coding": SparseCodingCommand},
        prog="python -m experiments",
        description="Experiments of unroll_jax. Each writes a run folder with report.md, metrics.json and figures.",
        args=arguments,
    )
    try:
        command.run()
    except _USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0
