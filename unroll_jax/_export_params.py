"""Pytrees of arrays as files: .npz and .safetensors."""

import contextlib
import importlib
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._types import PyTree

# safetensors' names of types
_SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    **{
        f"{letter}{bits}": f"{kind}{bits}" for letter, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
}


def save_params(path: str | os.PathLike[str], tree: PyTree) -> None:
    """Write the arrays of a pytree to `path`, named by their key paths (`jax.tree_util.keystr`).

    The file appears complete or not at all. Both formats hold nothing but names and arrays, so that other programs
    read them too; typed random keys become their bits.

    Args:
        path: ends in `.npz`, or in `.safetensors`, which also holds bfloat16 and needs the package of that name.
        tree: a pytree of arrays, numbers and typed random keys; nnx modules are fine.

    Raises:
        ImportError: for `.safetensors`, without the package.
        OSError: where `path` cannot be written; what was there before is untouched.
        ValueError: for another suffix, or a leaf of a type that the format does not have.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "params.npz"
    >>> save_params(path, {"step_size": jnp.array(0.5), "steps": 10})
    >>> load_params(path, {"step_size": jnp.zeros(()), "steps": 0})
    {'step_size': Array(0.5, dtype=float32), 'steps': 10}
    """
    path = Path(path)
    suffix = _checked_suffix(path)
    arrays = dict(_storable(name, leaf, suffix) for name, leaf in named_leaves(tree))
    if suffix == ".npz":
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    else:
        import_extra("safetensors", "A .safetensors file")
        contents = importlib.import_module("safetensors.numpy").save(arrays)
        with replacing(path) as partial:
            partial.write_bytes(contents)


def load_params(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """The pytree that `save_params` wrote to `path`, in the structure of `like`.

    Args:
        path: the file; ends in `.npz` or `.safetensors`.
        like: a pytree of the structure, shapes and dtypes expected, such as `jax.eval_shape` returns. NumPy
            arrays and Python numbers in it come back as such, all other leaves as jax arrays.

    Raises:
        FileNotFoundError: where there is no file.
        ImportError: for `.safetensors`, without the package.
        ValueError: for another suffix, a damaged file, and for names, shapes or dtypes other than those of `like`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "params.npz"
    >>> save_params(path, (jnp.arange(3.0), jax.random.key(7)))
    >>> load_params(path, jax.eval_shape(lambda: (jnp.zeros(3), jax.random.key(0))))
    (Array([0., 1., 2.], dtype=float32), Array((), dtype=key<fry>) overlaying: [0 7])
    """
    path = Path(path)
    arrays = _read_npz(path) if _checked_suffix(path) == ".npz" else _read_safetensors(path)
    leaves = [(_stored_name(name, leaf), leaf) for name, leaf in named_leaves(like)]
    names = [name for name, _ in leaves]
    if arrays.keys() != set(names):
        missing, unknown = sorted(set(names) - arrays.keys()), sorted(arrays.keys() - set(names))
        raise ValueError(f"`path` {path} does not fit `like`: it lacks {missing} and has {unknown} that `like` lacks.")
    restored = [_restore(path, name, leaf, arrays[name]) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _checked_suffix(path: Path) -> str:
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"`path` must end in .npz or .safetensors, got {path}.")
    return path.suffix


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path):  # np.load takes any other file for a pickle
            pass
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise ValueError(f"`path` {path} is no complete .npz file ({error}). Write it again.") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = import_extra("safetensors", "A .safetensors file")
    contents = path.read_bytes()
    try:
        entries = safetensors.deserialize(contents)
    except safetensors.SafetensorError as error:
        raise ValueError(f"`path` {path} is no complete .safetensors file ({error}). Write it again.") from error
    # not by safetensors.numpy, which cannot read bfloat16
    return {
        name: np.frombuffer(entry["data"], _from_safetensors(path, entry["dtype"])).reshape(entry["shape"]).copy()
        for name, entry in entries
    }


def _from_safetensors(path: Path, name: str) -> np.dtype:
    if name not in _SAFETENSORS_DTYPES:
        raise ValueError(f"`path` {path} has the type {name}, which is none of {', '.join(_SAFETENSORS_DTYPES)}.")
    return jnp.dtype(_SAFETENSORS_DTYPES[name])


def _stored_name(name: str, leaf: Any) -> str:
    # bits mean a key only together with the implementation
    return f"{name}:{key_implementation(leaf)}" if is_key(leaf) else name


def _storable(name: str, leaf: Any, suffix: str) -> tuple[str, np.ndarray]:
    if is_key(leaf):
        return _stored_name(name, leaf), np.asarray(jax.random.key_data(leaf))
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    # any other kind would need pickle, or come back as raw bytes
    is_numpy = getattr(dtype, "kind", None) in set("biufc")
    if suffix == ".npz" and not is_numpy:
        hint = " Save them as .safetensors." if str(dtype) in _SAFETENSORS_DTYPES.values() else ""
        raise ValueError(f"`tree` must have numbers of a NumPy dtype as leaves for .npz, got {dtype} at {name}.{hint}")
    if suffix == ".safetensors" and str(dtype) not in _SAFETENSORS_DTYPES.values():
        hint = " Save them as .npz." if is_numpy else ""
        raise ValueError(f"`tree` must have leaves of a dtype that .safetensors has, got {dtype} at {name}.{hint}")
    return name, np.asarray(leaf)


def _restore(path: Path, name: str, leaf: Any, array: np.ndarray) -> Any:
    expected = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if is_key(leaf):
        expected = jax.eval_shape(jax.random.key_data, leaf)
    if (array.shape, array.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"`path` {path} does not fit `like`: {name} has shape {array.shape} and dtype {array.dtype}, "
            f"`like` has {expected.shape} and {expected.dtype}."
        )
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=key_implementation(leaf))
    if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
        return array.item()
    if isinstance(leaf, np.ndarray | np.generic):
        return array
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"`path` {path} has {array.dtype} at {name}, which jax has disabled here: "
            'run `jax.config.update("jax_enable_x64", True)` first.'
        )
    return jnp.asarray(array)


# --- what `export` shares ---


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden sibling of `path` to write, which takes its place when the block ends without an exception."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OSError(f"`path` {path} cannot be written ({error}). What was there before is untouched.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def import_extra(package: str, what: str) -> Any:
    """The package, which `what` needs and the extra `export` installs."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'{what} needs the package {package}: run `pip install "unroll_jax[export]"`.') from error


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a pytree with their key paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "tree", leaf) for path, leaf in leaves]


def is_key(leaf: Any) -> bool:
    """Whether a leaf, or its `jax.ShapeDtypeStruct`, holds typed random keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def key_implementation(leaf: Any) -> Any:
    """The implementation of random keys, or of their `jax.ShapeDtypeStruct`."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
