"""Checkpoints of a training run, on orbax: atomic, verified when they are read, and bitwise."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._checks import check_count
from unroll_jax._types import PyTree

FORMAT_VERSION = 1
_RECORD = "unroll_jax.json"
_MARGIN = 100_000  # bytes, for what orbax writes beside the arrays
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "unroll_jax")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, of another model, of another run, or of a newer library.

    Attributes:
        good_step: the step of the newest other checkpoint that can be used, None if there is none.
    """

    def __init__(self, message: str, good_step: int | None = None):
        super().__init__(message)
        self.good_step = good_step


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: the steps made before it.
        tree: the arrays, in the structure of what was asked for.
        extra: what was saved beside them, as JSON has it.
        config: the run's configuration, as it was given to `Checkpoints`.
        versions: of Python and of the libraries that wrote it.
    """

    step: int
    tree: PyTree
    extra: dict[str, Any]
    config: dict[str, Any] | None
    versions: dict[str, str]


class Checkpoints:
    """The checkpoints of one run in one folder, a sub-folder for each step, written by orbax.

    A checkpoint appears complete or not at all, and the SHA-256 digests of its files are compared when it is read.
    `fit` keeps in it the model, the multipliers, both optimizers' states, the random key and the step, which is the
    data's cursor too; the best model so far; the configuration, and the versions of the libraries. What the trainer was
    built with (the penalty, learning rates) is no array of its state: it belongs into `config`.

    Needs orbax: `pip install "unroll_jax[checkpoint]"`.

    Args:
        folder: made where it is missing. With several processes, one that all of them see.
        every: steps between two checkpoints of `fit`.
        keep: how many of the latest are kept; older ones are removed once a newer one is complete. The best model so
            far is part of each, so it is never lost.
        config: what tells this run from others, as JSON has it (numbers, texts, lists, mappings). A run resumes only
            under the configuration it was started with.

    Raises:
        ModuleNotFoundError: if orbax is missing.
        ValueError: if a count is none, or `config` is not JSON.

    >>> import tempfile
    >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep=2)
    >>> for step in (10, 20, 30):
    ...     checkpoints.save(step, {"x": jnp.full(2, step)})
    >>> checkpoints.steps(), checkpoints.restore({"x": jnp.zeros(2, int)}).tree
    ((20, 30), {'x': Array([30, 30], dtype=int32)})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 1_000,
        keep: int = 3,
        config: Mapping[str, Any] | None = None,
    ):
        check_count("every", every)
        check_count("keep", keep)
        _orbax()
        self.folder = Path(folder).resolve()
        self.every = every
        self.keep = keep
        try:
            self.config = None if config is None else json.loads(json.dumps(dict(config)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`config` must hold what JSON can: numbers, texts, lists and mappings ({error}). "
                "Turn paths into texts and dataclasses into mappings."
            ) from error

    def steps(self) -> tuple[int, ...]:
        """The steps of the complete checkpoints, the oldest first."""
        try:
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def save(self, step: int, tree: PyTree, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint; those of this step and of later ones, which another course left, are removed first.

        Args:
            step: the steps made.
            tree: arrays, typed random keys included.
            extra: small values to keep beside them, as JSON has them.

        Raises:
            OSError: where it cannot be written; the earlier checkpoints stay as they are, nothing half written is
                left.
        """
        leaves = _named_leaves(tree)
        data = {name: _data(leaf) for name, leaf in leaves.items()}
        record = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "leaves": {name: _description(leaf) for name, leaf in leaves.items()},
            "extra": dict(extra or {}),
            "config": self.config,
            "versions": _versions(),
        }
        partial = self.folder / f".{step}.partial"
        try:
            if jax.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove([*(str(later) for later in self.steps() if later >= step), *self._partial()])
                _check_room(self.folder, sum(array.nbytes for array in data.values()))
            _wait_for_all("a checkpoint's folder")
            with _orbax_at_work() as ocp:
                ocp.save_pytree(partial, {name: a for name, a in data.items() if a.size})  # it takes no empty arrays
            if jax.process_index() == 0:
                _write_record(partial, record)
                partial.rename(self.folder / str(step))
            _wait_for_all("a checkpoint's end")
        except Exception as error:  # what orbax and tensorstore raise for a full disk is of many types
            for half_written in self._partial():
                shutil.rmtree(self.folder / half_written, ignore_errors=True)
            left = [earlier for earlier in self.steps() if earlier < step]
            raise OSError(
                f"The checkpoint of step {step} cannot be written to {self.folder} ({_first_line(error)}). "
                f"The earlier ones are intact: steps {left}. Make room or give a folder that can be written, and "
                "resume."
            ) from error
        if jax.process_index() == 0:
            self._remove(str(old) for old in self.steps()[: -self.keep])

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """What the checkpoint of `step` (by default the latest) holds, bit for bit.

        Args:
            like: arrays of the structure, shapes and dtypes expected; jax arrays come back with the shardings they
                have here.
            step: one of `steps()`.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            CheckpointError: for a damaged one, one of another model or configuration, or of a newer format; it names
                the newest other one that is good.
        """
        known = self.steps()
        if not known or (step is not None and step not in known):
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise FileNotFoundError(f"There is no {wanted} in {self.folder}. The steps there: {list(known)}.")
        step = known[-1] if step is None else step
        try:
            return self._read(step, like)
        except CheckpointError as error:
            others = (other for other in reversed(known) if other != step)
            good = next((other for other in others if self._is_good(other, like)), None)
            hint = "No other there is good." if good is None else f"That of step {good} is good: resume={good} uses it."
            raise CheckpointError(f"{error} {hint}", good) from error

    def _is_good(self, step: int, like: PyTree) -> bool:
        try:
            self._read(step, like)
        except CheckpointError:
            return False
        return True

    def _read(self, step: int, like: PyTree) -> Restored:
        where = f"The checkpoint of step {step} in {self.folder}"
        record = _read_record(where, self.folder / str(step))
        config = record["config"]
        if self.config is not None and config is not None and config != self.config:
            raise CheckpointError(
                f"{where} is of another run: `config` {_difference(config, self.config)}. "
                "Give the configuration that the run was started with, or another folder."
            )
        leaves = _named_leaves(like)
        expected = {name: _description(leaf) for name, leaf in leaves.items()}
        if record["leaves"] != expected:
            raise CheckpointError(
                f"{where} is of another model: it {_difference(record['leaves'], expected)}. "
                "Build the model and the optimizers that the run was started with."
            )
        abstract = {name: _abstract(leaf) for name, leaf in leaves.items() if np.size(leaf)}
        with _orbax_at_work() as ocp:
            arrays = ocp.load_pytree(self.folder / str(step), abstract)
        restored = [
            jax.random.wrap_key_data(arrays[name], impl=jax.random.key_impl(leaf))
            if _is_key(leaf)
            else arrays.get(name, leaf)
            for name, leaf in leaves.items()
        ]
        tree = jax.tree.unflatten(jax.tree.structure(like), restored)
        return Restored(step, tree, record["extra"], config, record["versions"])

    def _partial(self) -> list[str]:
        """What a process that was killed left half written."""
        return [path.name for path in self.folder.glob(".*.partial*")]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            shutil.rmtree(self.folder / name)


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    """`record`, with the digests of all files in `folder` and its own, as the last file in it."""
    record = record | {"files": _file_digests(folder)}
    record["sha256"] = _text_digest(record)
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _read_record(where: str, folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        digest = record.pop("sha256")
    except FileNotFoundError as error:
        raise CheckpointError(f"{where} was not written by unroll_jax, or lost its {_RECORD}.") from error
    except (ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{where} is damaged: {_RECORD} cannot be read ({_first_line(error)}).") from error
    if record.get("format_version", 0) > FORMAT_VERSION:
        raise CheckpointError(
            f"{where} has format {record['format_version']}, this version of unroll_jax reads up to "
            f"{FORMAT_VERSION}. Upgrade unroll_jax."
        )
    if digest != _text_digest(record):
        raise CheckpointError(f"{where} is damaged: {_RECORD} is not what was written.")
    found = _file_digests(folder)
    for name, written in record["files"].items():
        if found.get(name) != written:
            raise CheckpointError(
                f"{where} is damaged: its file {name} is {'not what was written' if name in found else 'missing'}."
            )
    return record


def _file_digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _RECORD)
    found = {}
    for path in files:
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _text_digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _check_room(folder: Path, num_bytes: int) -> None:
    """Raise unless `num_bytes` and some more can be written: orbax leaves threads behind where it cannot."""
    probe = folder / ".probe.partial"
    try:
        probe.write_bytes(bytes(_MARGIN))
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _MARGIN:
        raise OSError(errno.ENOSPC, f"it needs {num_bytes + _MARGIN:,} bytes, {free:,} are free")


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _orbax() -> Any:
    """Orbax's v1 interface, imported without the log handler that it installs on the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from orbax.checkpoint import v1
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('`Checkpoints` needs orbax: pip install "unroll_jax[checkpoint]".') from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return v1


@contextlib.contextmanager
def _orbax_at_work() -> Iterator[Any]:
    ocp = _orbax()
    # made here and now, folders that cannot be made are an error here and not in a thread
    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    # warnings of orbax about its own choices are not the user's to mend
    with warnings.catch_warnings(), context:
        warnings.simplefilter("ignore")
        yield ocp


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path) or "tree": leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _abstract(leaf: Any) -> Any:
    data = _data(leaf)
    if isinstance(data, jax.Array):
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=data.sharding)
    return data


def _description(leaf: Any) -> dict[str, Any]:
    data = _data(leaf)
    kind = f"key<{jax.random.key_impl(leaf)}>" if _is_key(leaf) else str(data.dtype)
    return {"shape": list(data.shape), "dtype": kind}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """The first entry in which two mappings differ, in words."""
    for name in [*expected, *found]:
        if name not in found:
            return f"lacks {name}, which is {expected[name]} here"
        if name not in expected:
            return f"has {name} = {found[name]}, which is not here"
        if found[name] != expected[name]:
            return f"has {name} = {found[name]}, here it is {expected[name]}"
    return "differs"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
