"""Reads and runs the files that `unroll_jax.export.save` writes.

This file is itself copied into each of them, so it needs nothing but jax, NumPy and the standard library. It is part
of unroll_jax, under the Apache License 2.0.
"""

import collections
import functools
import hashlib
import importlib
import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

FORMAT = "unroll_jax solver"
FORMAT_VERSION = 1
METADATA, PROGRAM, WEIGHTS, VENDOR = "metadata.json", "program.bin", "weights.npz", "vendor"


class Solver:
    """A solver from a file: `solver(problems)` solves a batch of problems. `load` makes one.

    It only runs forward, and takes batches by itself: `jax.jit` may hold a call, but `jax.grad` and `jax.vmap`
    may not. It is compiled once for every batch size. What its calls donate are never the weights.

    Attributes:
        metadata: what `read_metadata` returns.
    """

    metadata: dict[str, Any]

    def __init__(self, metadata: dict[str, Any], run: Callable[..., Any], weights: list[jax.Array]):
        self.metadata = metadata
        self._weights = weights
        self._run = jax.jit(run)
        self._outputs = metadata["output"]["leaves"]
        # which output goes where: the order of a dictionary's keys is jax's own affair
        indices = iter(range(len(self._outputs)))
        self._order, self._structure = jax.tree.flatten(_build(metadata["output"]["structure"], indices))

    def __call__(self, problems: Any) -> Any:
        """The output for every problem of a batch.

        Args:
            problems: a pytree of arrays `(batch, ...)`, whose leaves have the names, shapes (after the batch axis)
                and dtypes in `metadata["problem"]["leaves"]`. A name is the path to the leaf, its fields, keys and
                positions joined by dots: `"noisy"` is what a NamedTuple has as `.noisy`, and a dictionary under
                `"noisy"`. So besides the type of problem that was exported, a dictionary from names to arrays
                always fits. A problem that is a single array, whose name is empty, is given as such.

        Returns:
            The outputs, `(batch, ...)` on every leaf. Dictionaries, lists and tuples are what they were when
            exported. A NamedTuple, or any other class with named fields, comes back as a namedtuple of the same
            name and fields.

        Raises:
            ValueError: for problems of another structure, shape or dtype, or without a batch axis; where jax would
                run on a platform that the file was not exported for; and for a program of a newer jax, some of
                which only shows when it is compiled.
        """
        leaves = self._check(problems)
        try:
            outputs = self._run(self._weights, leaves)
        except ValueError as error:
            if "exported for platforms" not in str(error):
                raise
            raise ValueError(
                f"the solver was exported for the platforms {self.metadata['platforms']}, and cannot run on another "
                f"({error}) Export it again with `platforms` that include this one, or choose the device by "
                "`jax.default_device`."
            ) from error
        except jax.errors.JaxRuntimeError as error:
            if "deserialize StableHLO" not in str(error):
                raise
            raise ValueError(f"the solver {_wrong_version(self.metadata, error)}") from error
        outputs = [
            jax.random.wrap_key_data(leaf, impl=spec["key"]) if "key" in spec else leaf
            for leaf, spec in zip(outputs, self._outputs, strict=True)
        ]
        return self._structure.unflatten([outputs[index] for index in self._order])

    def __repr__(self) -> str:
        problem, output = (
            ", ".join(_text(leaf) for leaf in self.metadata[role]["leaves"]) for role in ("problem", "output")
        )
        return f"Solver({problem} -> {output}; {', '.join(self.metadata['platforms'])})"

    def _check(self, problems: Any) -> list[jax.Array]:
        """The leaves of `problems` in the order of the program's arguments."""
        specs = self.metadata["problem"]["leaves"]
        given = [(leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(problems)]
        by_name = dict(given)
        if sorted(name for name, _ in given) != sorted(spec["name"] for spec in specs):
            raise ValueError(
                f"`problems` must have the leaves {[_text(spec) for spec in specs]}, each with a leading batch axis, "
                f"got leaves named {[name for name, _ in given]}. Pass the pytree that was exported, or a dictionary "
                "from these names to arrays (an array alone where the name is empty)."
            )
        leaves = [_check_leaf(spec, by_name[spec["name"]]) for spec in specs]
        sizes = {leaf.shape[0] for leaf in leaves}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                f"`problems` must share a leading batch axis of at least 1, got the sizes {sorted(sizes)}."
            )
        return leaves


def load(path: str | os.PathLike[str]) -> Solver:
    """The solver in a file written by `save`.

    No Python code of the file is run, but its program is: a solver from a source that is not trusted may call
    whatever custom calls the installed jaxlib has.

    A file that was written by another version of jax can be read within the limits that `jax.export` sets: a newer
    jax reads it for six months, an older one in general does not.

    Args:
        path: the file.

    Returns:
        A `Solver`: `solver(problems)` for a batch of problems, and `solver.metadata`.

    Raises:
        FileNotFoundError: where there is no file.
        ImportError: without the package flatbuffers.
        ValueError: for a file that is no such solver, is damaged, was written in a newer format or for another
            version of jax, or needs 64-bit types where jax has them disabled.

    >>> import tempfile
    >>> from unroll_jax import export
    >>> path = os.path.join(tempfile.mkdtemp(), "scale.zip")
    >>> export.save(jnp.array(2.0), jnp.zeros(3), path, apply=lambda scale, y: {"x": scale * y}, platforms=["cpu"])
    >>> solver = export.load(path)
    >>> solver
    Solver(float32[batch, 3] -> x: float32[batch, 3]; cpu)
    >>> solver(jnp.array([[1.0, 2.0, 3.0]]))
    {'x': Array([[2., 4., 6.]], dtype=float32)}
    """
    metadata, files = _read(path, with_files=True)
    _find_flatbuffers()
    stored = np.load(io.BytesIO(files[WEIGHTS]), allow_pickle=False)
    # types that .npy does not know were stored as integers of their width
    weights = [stored[spec["name"]].view(jnp.dtype(spec["dtype"])) for spec in metadata["weights"]]
    for dtype in [spec["dtype"] for role in ("problem", "output") for spec in metadata[role]["leaves"]] + [
        weight.dtype for weight in weights
    ]:
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(
                f"`path` {path} holds a solver with {dtype} arrays, which jax has disabled here: "
                'run `jax.config.update("jax_enable_x64", True)` first, or export it in 32 bits.'
            )
    try:
        exported = jax.export.deserialize(bytearray(files[PROGRAM]))
    except Exception as error:  # a parser that reads another layout may fail in any way
        raise ValueError(f"`path` {path} {_wrong_version(metadata, error)}") from error
    return Solver(metadata, exported.call, [jnp.asarray(weight) for weight in weights])


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is known of the solver in a file, without running anything.

    Args:
        path: a file written by `save`.

    Returns:
        A dictionary of plain values (as JSON has them):

        - `user`: the `metadata` given to `save`.
        - `problem`, `output`: `leaves`, for each its `name`, the `shape` of one problem (a batch has one more axis
          in front) and `dtype`; typed random keys also have their implementation as `key`. And the `structure`
          that they stand in.
        - `weights`: name, shape and dtype of the model's arrays; `num_parameters`: how many floating-point and
          complex numbers they hold.
        - `platforms`, `versions` (of unroll_jax, jax and Python when written), `date` (UTC).
        - `format`, `format_version`, and `files`: the SHA-256 sums of all other files in the archive.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file that is no such solver, is damaged, or was written in a newer format.

    >>> import tempfile
    >>> from unroll_jax import export
    >>> path = os.path.join(tempfile.mkdtemp(), "identity.zip")
    >>> export.save((), jnp.zeros(3), path, apply=lambda model, y: y, platforms=["cpu"], metadata={"unit": "mm"})
    >>> metadata = export.read_metadata(path)
    >>> metadata["user"], metadata["problem"]["leaves"]
    ({'unit': 'mm'}, [{'name': '', 'shape': [3], 'dtype': 'float32'}])
    """
    return _read(path, with_files=False)[0]


def leaf_name(path: Any) -> str:
    """The name of a leaf: the keys on its path, joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


# --- the archive ---

# what zipfile and zlib are known to raise where bytes have changed; wrong offsets are an OSError
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, EOFError, RuntimeError, OverflowError)


def _read(path: str | os.PathLike[str], *, with_files: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    with open(path, "rb") as file:
        # the name of the first file follows 30 bytes of its header
        is_solver = file.read(30 + len(METADATA))[30:] == METADATA.encode()
        try:
            with zipfile.ZipFile(file) as archive:
                if is_solver and METADATA not in archive.namelist():
                    raise ValueError("its end is missing")  # weights.npz became the last archive in the file
                metadata = _read_metadata(archive)
                is_known = metadata is not None and metadata["format_version"] <= FORMAT_VERSION
                files = _read_files(archive, metadata) if metadata and is_known and with_files else {}
        except _DAMAGE as error:
            if is_solver:
                raise ValueError(f"`path` {path} is damaged ({error}). Copy or write it again.") from error
            metadata, is_known, files = None, False, {}
    if metadata is None:
        raise ValueError(
            f"`path` {path} is no solver written by unroll_jax.export.save. "
            "Arrays alone are read by unroll_jax.export.load_params."
        )
    if not is_known:
        raise ValueError(
            f"`path` {path} has format version {metadata['format_version']}, newer than {FORMAT_VERSION}, the newest "
            "known here: update unroll_jax, or use the loader inside the file."
        )
    return metadata, files


def _read_metadata(archive: zipfile.ZipFile) -> dict[str, Any] | None:
    """The metadata, or None in a zip file of another kind."""
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is compressed in an unknown way")
    if METADATA not in archive.namelist():
        return None
    metadata = json.loads(archive.read(METADATA))
    return metadata if isinstance(metadata, dict) and metadata.get("format") == FORMAT else None


def _read_files(archive: zipfile.ZipFile, metadata: dict[str, Any]) -> dict[str, bytes]:
    """All files but the metadata, compared with their checksums."""
    if sorted(archive.namelist()) != sorted([METADATA, *metadata["files"]]):
        raise ValueError("files were added to it or removed")
    files = {name: archive.read(name) for name in metadata["files"]}
    for name, contents in files.items():
        if hashlib.sha256(contents).hexdigest() != metadata["files"][name]:
            raise ValueError(f"the checksum of {name} is wrong")
    return files


def _wrong_version(metadata: dict[str, Any], error: Exception) -> str:
    return (
        f"was written by jax {metadata['versions']['jax']}, and jax {jax.__version__} cannot read its program "
        f"({error}). A newer jax reads such a program for six months, an older one may not: install that version, or "
        "export the solver again."
    )


def _find_flatbuffers() -> None:
    """Make sure that `jax.export` finds flatbuffers, with which it reads its programs."""
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        archive = getattr(__spec__.loader if __spec__ else None, "archive", None)
        if archive is None:
            raise ImportError(
                'a program of jax.export needs the package flatbuffers: run `pip install "unroll_jax[export]"`.'
            ) from error
        # this file was imported from an archive, which brings a copy
        vendor = os.path.join(archive, VENDOR)
        sys.path.insert(0, vendor)
        try:
            importlib.import_module("flatbuffers")
        finally:
            sys.path.remove(vendor)


# --- pytrees ---


def _check_leaf(spec: dict[str, Any], leaf: Any) -> jax.Array:
    name = f"`problems` at {spec['name']}" if spec["name"] else "`problems`"
    array = jnp.asarray(leaf)
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    found = jax.random.key_impl(array) if is_key else array.dtype
    if "key" in spec and found != spec["key"]:
        raise ValueError(
            f"{name} must be typed random keys ({spec['key']}), got {found}. Make them by `jax.random.key`."
        )
    if "key" not in spec and array.dtype != spec["dtype"]:
        raise ValueError(
            f"{name} must have dtype {spec['dtype']}, got {array.dtype}. Cast it, or export the solver for that."
        )
    shape = tuple(spec["shape"])
    if array.ndim == 0 or array.shape[1:] != shape:
        hint = " This is one problem: give it a batch axis of length 1 (`leaf[None]`)." if array.shape == shape else ""
        raise ValueError(
            f"{name} must have shape (batch{''.join(f', {size}' for size in shape)}), got {array.shape}.{hint}"
        )
    return jax.random.key_data(array) if is_key else array


def _build(structure: dict[str, Any], leaves: Any) -> Any:
    """The pytree that `structure` describes, with its leaves taken from an iterator."""
    kind = structure["kind"]
    if kind == "leaf":
        return next(leaves)
    if kind == "none":
        return None
    children = [_build(child, leaves) for child in structure["children"]]
    if kind == "namedtuple":
        return _namedtuple(structure["name"], tuple(structure["keys"]))(*children)
    if kind == "dict":
        return dict(zip(structure["keys"], children, strict=True))
    return children if kind == "list" else tuple(children)


@functools.cache  # one class, so that the outputs of two solvers have one structure
def _namedtuple(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


def _text(spec: dict[str, Any]) -> str:
    shape = ", ".join(["batch", *map(str, spec["shape"])])
    dtype = f"key<{spec['key']}>" if "key" in spec else spec["dtype"]
    return f"{spec['name']}: {dtype}[{shape}]" if spec["name"] else f"{dtype}[{shape}]"
