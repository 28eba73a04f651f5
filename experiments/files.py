"""Files that appear complete or not at all: run folders, and arrays."""

import contextlib
import datetime
import itertools
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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


def save_arrays(path: Path, tree: Any) -> None:
    """The leaves of a pytree written to `path` as .npz, named by their key paths (`jax.tree_util.keystr`).

    The file appears complete or not at all.

    Raises:
        ValueError: for a leaf whose dtype is not NumPy's own, such as bfloat16 and random keys.
    """
    arrays: dict[str, Any] = {name: _storable(name, leaf) for name, leaf in _named_leaves(tree)}
    with replacing(path) as partial, partial.open("wb") as file:
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
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
