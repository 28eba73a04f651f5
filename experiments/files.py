"""Files that appear complete or not at all, and run folders that can be taken up again."""

import contextlib
import datetime
import itertools
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

CONFIG, METRICS, WORK = "config.json", "metrics.json", "work"


@contextlib.contextmanager
def run_folder(path: Path, *, is_resumed: bool = False) -> Iterator[Path]:
    """The folder of a run, to write results into; `work/` in it holds what is needed only until the run is finished.

    A run is finished once it has `metrics.json`, which is to be written last; then `work/` is removed. After an
    exception the folder stays if there is something in `work/` to go on with, which a note on the exception says; else
    it is gone.

    Args:
        path: of a new run: it must not exist, or be an empty folder; missing parents are made.
        is_resumed: whether `path` is a run to go on with.

    Raises:
        FileExistsError: before the block runs, where `path` holds something, or the run is finished.
        FileNotFoundError: before the block runs, where there is no run to resume.
        OSError: before the block runs, where the folder cannot be made.
    """
    path = path.resolve()
    existed, missing = path.exists(), [parent for parent in path.parents if not parent.exists()]
    if is_resumed:
        _check_unfinished(path)
    else:
        _make_new(path)
    try:
        yield path
    except BaseException as error:
        if any(path.joinpath(WORK).iterdir()):
            error.add_note(f"The run so far lies in {path}; `--resume {path}` goes on with it.")
        else:
            shutil.rmtree(path, ignore_errors=True)
            if existed and not is_resumed:
                path.mkdir()
            with contextlib.suppress(OSError):  # another run may be in them by now
                for parent in missing:
                    parent.rmdir()
        raise
    shutil.rmtree(path / WORK)


def _check_unfinished(path: Path) -> None:
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"`--resume` {path} is no run: it has no {CONFIG}. Give the folder of a run.")
    if (path / METRICS).exists():
        raise FileExistsError(f"`--resume` {path} is a finished run. Its results are in {path / 'report.md'}.")
    (path / WORK).mkdir(exist_ok=True)


def _make_new(path: Path) -> None:
    try:
        is_taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if not is_taken:
            path.joinpath(WORK).mkdir(parents=True)
    except OSError as error:
        raise OSError(f"`--out` {path} cannot be written ({error}). Choose another folder.") from error
    if is_taken:
        hint = " or go on with it by --resume" if (path / CONFIG).is_file() and not (path / METRICS).exists() else ""
        raise FileExistsError(f"`--out` {path} exists and is not an empty folder. Choose another{hint}, or remove it.")


def default_run_path(name: str) -> Path:
    """A path for a new run: `runs/<name>-<YYYYMMDD-HHMMSS>`, numbered where that exists."""
    first = Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], numbered) if not path.exists())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write, which takes its place when the block ends without an exception."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
