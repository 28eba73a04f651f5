"""What an experiment writes: a run folder that appears only when complete, tables, JSON, arrays."""

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# a number, its uncertainty and a short unit: "-1.5e-3", "27.31 ± 0.05 dB", "12 %", "3x"
_NUMBER = re.compile(r"[-+<>~]?\d[\d.,]*(e[-+]?\d+)?( ?± ?\d[\d.,]*(e[-+]?\d+)?)?( ?(%|[a-z]{1,3}))?", re.I)
_MISSING = ("", "-", "nan", "inf", "-inf", "None")


@contextlib.contextmanager
def run_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends without an exception.

    Until then it is a hidden sibling, `.NAME.*.partial`; after an exception it is gone. So `path` never holds
    half a run, nor files of two.

    Args:
        path: must not exist, or be an empty folder; missing parents are made.

    Raises:
        FileExistsError: before the block runs, where `path` holds something.
        OSError: before the block runs, where the folder cannot be made; after it, where `path` was taken
            meanwhile: the results then stay in the hidden folder.
    """
    path = path.resolve()
    partial = _hidden_sibling(path)
    try:
        is_taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        is_mount = path.is_mount()
        if not (is_taken or is_mount):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
    except OSError as error:
        raise OSError(f"`--out` {path} cannot be written ({error}). Choose another folder.") from error
    if is_taken:
        raise FileExistsError(f"`--out` {path} exists and is not an empty folder. Choose another, or remove it.")
    if is_mount:
        raise OSError(f"`--out` {path} is a mount point, which cannot be replaced. Choose a folder inside it.")
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        if path.is_dir():
            path.rmdir()  # empty, or else this fails
        partial.rename(path)
    except OSError as error:
        raise OSError(f"`--out` {path} cannot be written ({error}). The results lie in {partial}.") from error


def default_run_path(name: str) -> Path:
    """A path for a new run: `runs/<name>-<YYYYMMDD-HHMMSS>`, numbered where that exists."""
    first = Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], numbered) if not path.exists())


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table that reads well as plain text too; columns of numbers are aligned to the right.

    Args:
        headers: one text per column.
        rows: each with one cell per column; numbers come formatted.

    >>> print(markdown_table(["method", "PSNR"], [["noisy", "20.17"], ["WCRR", "31.2"]]))
    | method |  PSNR |
    | :----- | ----: |
    | noisy  | 20.17 |
    | WCRR   |  31.2 |
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"`rows` must have {len(headers)} cells each, like `headers`, got {list(row)}.")
    lines = [[" ".join(str(cell).replace("|", r"\|").split()) for cell in row] for row in [headers, *rows]]
    columns = []
    for cells in zip(*lines, strict=True):
        present = [cell for cell in cells[1:] if cell not in _MISSING]
        is_numeric = bool(present) and all(_NUMBER.fullmatch(cell) for cell in present)
        width = max(2, *map(len, cells))
        rule = "-" * (width - 1) + ":" if is_numeric else ":" + "-" * (width - 1)
        cells = [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in cells]
        columns.append([cells[0], rule, *cells[1:]])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def write_json(path: Path, value: object) -> None:
    """`value` written to `path` as JSON, with sorted keys and each list of numbers on one line.

    Arrays become lists, with the fewest digits that give back their dtype's values; NaN and infinities, which
    JSON lacks, become null; NamedTuples become objects, paths text. The file appears complete or not at all.
    """
    text = _format(_plain(value), "") + "\n"
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def environment() -> dict[str, Any]:
    """Where and how this process runs: versions, device, commit (None outside git), command line and date."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "unroll_jax")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "cpu_count": os.cpu_count(),
        "x64": jax.config.read("jax_enable_x64"),
        "git_commit": _git_commit(),
        "command": list(sys.argv),
        "date_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def save_arrays(path: Path, tree: Any) -> None:
    """The leaves of a pytree written to `path` as .npz, named by their key paths (`jax.tree_util.keystr`).

    The file appears complete or not at all.

    Raises:
        ValueError: for a leaf whose dtype is not NumPy's own, such as bfloat16 and random keys.
    """
    arrays: dict[str, Any] = {name: _storable(name, leaf) for name, leaf in _named_leaves(tree)}
    with _replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path, like: Any) -> Any:
    """The pytree that `save_arrays` wrote to `path`, in the structure of `like`.

    Args:
        path: the file.
        like: a pytree of the structure, shapes and dtypes expected, such as `jax.eval_shape` returns. NumPy
            arrays and Python numbers in it come back as such, all other leaves as jax arrays.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a damaged file, and for names, shapes or dtypes other than those of `like`.
    """
    try:
        with zipfile.ZipFile(path):  # np.load takes any other file for a pickle
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"`path` {path} is no complete .npz file ({error}). Write it again.") from error
    leaves = _named_leaves(like)
    names = [name for name, _ in leaves]
    if arrays.keys() != set(names):
        missing, unknown = sorted(set(names) - arrays.keys()), sorted(arrays.keys() - set(names))
        raise ValueError(f"`path` {path} does not fit `like`: it lacks {missing} and has {unknown} that `like` lacks.")
    restored = [_restore(path, name, leaf, arrays[name]) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "biu":
            return array.tolist()
        if jnp.issubdtype(array.dtype, jnp.floating):
            # by way of text: 0.1, where float() of a float32 has 17 digits
            numbers = np.array([float(str(number)) for number in array.ravel()])
            return _plain(numbers.reshape(array.shape).tolist())
    raise TypeError(f"`value` must hold numbers, arrays, texts, lists and mappings, got {type(value).__name__}.")


def _format(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{_format(key, deeper)}: {_format(value[key], deeper)}" for key in sorted(value)]
        opening, closing = "{", "}"
    elif isinstance(value, list) and any(isinstance(item, list | dict | str) for item in value):
        items = [_format(item, deeper) for item in value]
        opening, closing = "[", "]"
    else:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}{closing}"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write, which takes its place when the block ends without an exception."""
    partial = _hidden_sibling(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _hidden_sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "tree", leaf) for path, leaf in leaves]


def _storable(name: str, leaf: Any) -> np.ndarray:
    dtype = getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
    # any other kind would need pickle, or come back as raw bytes
    if getattr(dtype, "kind", None) not in set("biufc"):
        raise ValueError(
            f"`tree` must have numbers of a NumPy dtype as leaves, got {dtype} at {name}. "
            "Cast bfloat16 to float32; take jax.random.key_data of keys."
        )
    return np.asarray(leaf)


def _restore(path: Path, name: str, leaf: Any, array: np.ndarray) -> Any:
    expected = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if (array.shape, array.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"`path` {path} does not fit `like`: {name} has shape {array.shape} and dtype {array.dtype}, "
            f"`like` has {expected.shape} and {expected.dtype}."
        )
    if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
        return array.item()
    return array if isinstance(leaf, np.ndarray | np.generic) else jnp.asarray(array)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    # "-dirty" marks changes that are not committed; the first option keeps git from locking the index
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.check_output(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return output.decode().strip() or None
