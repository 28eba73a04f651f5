"""Trained solvers and their parameters as files.

`save` writes a solver as **one self-contained file**, a zip archive of

- `program.bin`: the computation as StableHLO, for any batch size, by `jax.export`;
- `weights.npz`: the model's arrays, which the program takes as arguments;
- `metadata.json`: what it takes and returns, what it was trained for, and the checksums of everything else;
- `solver.py`, `unroll_jax_loader.py`, `vendor/`: all the Python that running it takes, beside jax; `LICENSE.txt` is
  theirs (Apache-2.0), and says nothing of the program and its weights.

There are two ways to run it:

- `solver = export.load("lista.zip")`, where unroll_jax is installed. No Python code of the file is run.
- Where **only jax** is installed, the file is itself a Python package archive:

      import sys
      sys.path.insert(0, "lista.zip")
      import solver                    # runs code of the file: do it only where you trust its source

      x = solver.solve(y)              # (batch, m) -> (batch, n)
      solver.metadata["problem"]       # names, shapes and dtypes of what `solve` takes

  `unroll_jax_loader.load(path)` then loads further files. `python lista.zip` prints the metadata, and needs no jax.

The programs use flatbuffers, which is not among jax's own dependencies. `save` and `load` need it installed (the extra
`export`); inside the file there is a copy for where it is not. Checksums find damage, not forgery: whoever can change a
file can change its checksums. And a program is for a while, not for ever: `jax.export` promises that a newer jax reads
it for six months. Keep parameters that must last with `save_params`.
"""

import datetime
import hashlib
import importlib
import importlib.metadata
import importlib.resources
import io
import json
import keyword
import math
import os
import platform
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from unroll_jax import _export_loader
from unroll_jax._export_loader import Solver as Solver
from unroll_jax._export_loader import leaf_name
from unroll_jax._export_loader import load as load
from unroll_jax._export_loader import read_metadata as read_metadata
from unroll_jax._export_params import import_extra, is_key, key_implementation, named_leaves, replacing
from unroll_jax._export_params import load_params as load_params
from unroll_jax._export_params import save_params as save_params
from unroll_jax._types import Problem, PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_SOLVER = '''\
"""A solver, saved by unroll_jax. It needs jax, and nothing else.

`solve(problems)` solves a batch of problems; `metadata` says what it takes and returns.
"""

from unroll_jax_loader import load

solve = load(__spec__.loader.archive)
metadata = solve.metadata
'''

_MAIN = """\
import os

print(__spec__.loader.get_data(os.path.join(__spec__.loader.archive, "metadata.json")).decode())
"""


# --- solvers ---


def save(
    model: PyTree,
    example_problem: Problem,
    path: str | os.PathLike[str],
    *,
    apply: Callable[[Any, Problem], PyTree] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a trained solver to `path` as one self-contained file, for problems in batches of any size.

    The file appears complete or not at all. What is in it, and how to run it, stands at the top of this module.

    Args:
        model: a pytree of arrays: an `Unrolled` network, any other nnx module, or plain parameters. They are stored
            beside the program; what else `apply` refers to, such as an operator that all problems share, becomes
            part of the program.
        example_problem: **one** problem, without a batch axis. Only structure, shapes and dtypes matter, so its
            leaves may be `jax.ShapeDtypeStruct`. All its leaves are batched in the exported solver.
        path: the file to write, replaced if it exists. The name is free; `.zip` says what it is.
        apply: `(model, problem) -> output` for one problem, where the default is `model(problem)`; the output is any
            pytree of arrays. It must be traceable by `jax.jit`, and not depend on the problem's values in Python.
        platforms: what the program is lowered for, out of "cpu", "cuda", "rocm" and "tpu".
        metadata: a dictionary of the user's own (what it solves, units, its certificate), stored as JSON: text,
            numbers, arrays and None, in dictionaries, sequences and NamedTuples. Numbers that JSON does not know
            become the text "nan", "inf" or "-inf", which `float` reads.

    Raises:
        ImportError: without the package flatbuffers.
        OSError: where `path` cannot be written; what was there before is untouched.
        ValueError: for metadata that JSON cannot hold, an unknown platform, or a problem without leaves. What
            `apply` raises while it is traced comes through.

    >>> import tempfile
    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(3))
    >>> model = uj.unroll(uj.algorithms.lista(), 10, uj.algorithms.lista_params(operator, l1_weight=0.5))
    >>> path = Path(tempfile.mkdtemp()) / "lista.zip"
    >>> lasso = lambda model, y: model(uj.objectives.LeastSquares(operator, y)).x
    >>> save(model, jnp.zeros(3), path, apply=lasso, platforms=["cpu"], metadata={"solves": "Lasso, l1_weight 0.5"})
    >>> load(path)(jnp.array([[2.0, -1.0, 0.1], [0.0, 3.0, 0.0]]))
    Array([[ 1.5, -0.5,  0. ], [ 0. ,  2.5,  0. ]], dtype=float32)
    """
    flatbuffers = import_extra("flatbuffers", "A program of jax.export")
    platforms = _checked_platforms(platforms)
    user_metadata = _to_json("metadata", {} if metadata is None else metadata)
    if not isinstance(user_metadata, dict):
        raise ValueError(f"`metadata` must be a dictionary, got {type(metadata).__name__}.")
    if apply is None:
        apply = lambda model, problem: model(problem)

    weights = [(name, _plain(_as_array(name, leaf))) for name, leaf in named_leaves(model)]
    model_spec = jax.eval_shape(lambda tree: tree, model)
    # batched leaves are never weakly typed, even where the example's are
    problem_spec = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), jax.eval_shape(lambda tree: tree, example_problem)
    )
    if not jax.tree.leaves(problem_spec):
        raise ValueError("`example_problem` must have at least one array as a leaf, got none: its axis is the batch.")
    problem_leaves = _describe_leaves(problem_spec)
    names = [leaf["name"] for leaf in problem_leaves]
    if len(set(names)) < len(names):
        raise ValueError(f"`example_problem` must have leaves of different names, got {names}. Rename its keys.")
    try:
        output_spec = jax.eval_shape(apply, model_spec, problem_spec)
    except (TypeError, ValueError) as error:
        error.add_note(
            "This came up in `apply`, for an `example_problem` with leaves of shapes "
            f"{[leaf.shape for leaf in jax.tree.leaves(problem_spec)]}: it must be one problem, without a batch axis."
        )
        raise

    def program(weights: list[jax.Array], problems: list[jax.Array]) -> list[jax.Array]:
        own_model = _from_plain(model_spec, weights)

        def apply_one(leaves: list[jax.Array]) -> list[jax.Array]:
            output = apply(own_model, _from_plain(problem_spec, leaves))
            return [_plain(jnp.asarray(leaf)) for leaf in jax.tree.leaves(output)]

        return jax.vmap(apply_one)(problems)

    (batch,) = jax.export.symbolic_shape("batch")
    # weakly typed scalars must stay so, or they would promote what they are combined with
    weight_specs = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=jax.typeof(leaf).weak_type) for _, leaf in weights
    ]
    batched = [
        jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype)
        for leaf in jax.eval_shape(lambda leaves: [_plain(leaf) for leaf in leaves], jax.tree.leaves(problem_spec))
    ]
    try:
        exported = jax.export.export(jax.jit(program), platforms=platforms)(weight_specs, batched)
        serialized = bytes(exported.serialize())
    except Exception as error:
        error.add_note(f"This came up while exporting `apply` for batches of any size and the platforms {platforms}.")
        raise

    files = {
        _export_loader.PROGRAM: serialized,
        _export_loader.WEIGHTS: _npz_bytes(weights),
        **_python_files(flatbuffers),
    }
    known = {
        "format": _export_loader.FORMAT,
        "format_version": _export_loader.FORMAT_VERSION,
        "user": user_metadata,
        "problem": {"leaves": problem_leaves, "structure": _describe_structure(problem_spec)},
        "output": {"leaves": _describe_leaves(output_spec), "structure": _describe_structure(output_spec)},
        "weights": [{"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in weights],
        "num_parameters": sum(leaf.size for _, leaf in weights if jnp.issubdtype(leaf.dtype, jnp.inexact)),
        "platforms": list(platforms),
        "versions": {"unroll_jax": _own_version(), "jax": jax.__version__, "python": platform.python_version()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()},
    }
    text = json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(Path(path)) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in {_export_loader.METADATA: text.encode(), **files}.items():
            # weights hardly get smaller
            archive.writestr(name, contents, zipfile.ZIP_STORED if name == _export_loader.WEIGHTS else None)


def _checked_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(f"`platforms` must be a sequence of some of {', '.join(PLATFORMS)}, got {platforms!r}.")
    return tuple(dict.fromkeys(platforms))


def _as_array(name: str, leaf: Any) -> jax.Array:
    try:
        return jnp.asarray(leaf)
    except TypeError as error:
        raise ValueError(f"`model` must have arrays as leaves, got {type(leaf).__name__} at {name}.") from error


def _python_files(flatbuffers: Any) -> dict[str, bytes]:
    """What makes the archive importable: the loader, and flatbuffers (without a part that jax does not use)."""
    own = importlib.resources.files("unroll_jax")
    files = {
        "__main__.py": _MAIN.encode(),
        "solver.py": _SOLVER.encode(),
        "unroll_jax_loader.py": own.joinpath("_export_loader.py").read_bytes(),
        "LICENSE.txt": own.joinpath("_export_license.txt").read_bytes(),
    }
    for file in sorted(importlib.resources.files(flatbuffers).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py") and file.name != "flexbuffers.py":
            files[f"{_export_loader.VENDOR}/flatbuffers/{file.name}"] = file.read_bytes()
    return files


def _npz_bytes(arrays: Sequence[tuple[str, jax.Array]]) -> bytes:
    buffer = io.BytesIO()
    plain = {}
    for name, leaf in arrays:
        array = np.asarray(leaf)
        # .npy does not know bfloat16 and its like, but integers of their width
        plain[name] = array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")
    np.savez(buffer, **plain)
    return buffer.getvalue()


def _own_version() -> str:
    try:
        return importlib.metadata.version("unroll_jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# --- what goes through the program: plain arrays, and random keys as their bits ---


def _plain(leaf: Any) -> jax.Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _from_plain(spec: PyTree, leaves: Sequence[jax.Array]) -> PyTree:
    """The pytree with the structure and types of `spec`."""
    specs, structure = jax.tree.flatten(spec)
    return structure.unflatten(
        [
            jax.random.wrap_key_data(leaf, impl=key_implementation(like)) if is_key(like) else leaf
            for leaf, like in zip(leaves, specs, strict=True)
        ]
    )


# --- metadata ---


def _describe_leaves(spec: PyTree) -> list[dict[str, Any]]:
    described = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(spec):
        plain = {"dtype": str(leaf.dtype)}
        if is_key(leaf):
            plain = {"dtype": "uint32", "key": str(key_implementation(leaf))}
        described.append({"name": leaf_name(path), "shape": list(leaf.shape), **plain})
    return described


def _describe_structure(tree: PyTree) -> dict[str, Any]:
    """The containers of a pytree in words that JSON has."""
    if tree is None:
        return {"kind": "none"}
    entries = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(entries) == 1 and not entries[0][0]:
        return {"kind": "leaf"}
    keys = [path[0] for path, _ in entries]
    children = [_describe_structure(child) for _, child in entries]
    if keys and all(isinstance(key, jax.tree_util.GetAttrKey) for key in keys):
        name, fields = type(tree).__name__, [key.name for key in keys]
        if all(_is_field(field) for field in fields):
            return {
                "kind": "namedtuple",
                "name": name if _is_field(name) else "Output",
                "keys": fields,
                "children": children,
            }
        return {"kind": "dict", "keys": fields, "children": children}
    if isinstance(tree, dict) or (keys and all(isinstance(key, jax.tree_util.DictKey) for key in keys)):
        plain = [key.key if isinstance(key.key, str | int | float) else str(key.key) for key in keys]
        return {"kind": "dict", "keys": plain, "children": children}
    return {"kind": "list" if isinstance(tree, list) else "tuple", "children": children}


def _is_field(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")


def _to_json(name: str, value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"`{name}` must have text as keys, got {list(value)}.")
        return {key: _to_json(f"{name}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(f"{name}[{index}]", entry) for index, entry in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return _to_json(name, np.asarray(value, np.float64).tolist())
        if jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool:
            return np.asarray(value).tolist()
        raise ValueError(f"`{name}` must be real numbers, got dtype {value.dtype}. Make them text.")
    raise ValueError(
        f"`{name}` must be text, a number, an array, None, or a dictionary or sequence of these, "
        f"got {type(value).__name__}. Make it text."
    )
