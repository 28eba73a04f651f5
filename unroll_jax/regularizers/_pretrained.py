"""Ridge regularizers as files, and those that come with the library: in `weights/`, each with its model card."""

import importlib.resources
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from unroll_jax.regularizers.ridge import RidgeParams, check_params
from unroll_jax.splines import NonuniformGrid, UniformGrid

_FIELDS = ("convex", "concave", "log_mu", "scaling")
_OPTIONAL = ("norm", "mixture")
_WEIGHTS = importlib.resources.files("unroll_jax.regularizers") / "weights"


def pretrained(name: str) -> RidgeParams:
    """A regularizer that comes trained: `"crr"`, a convex one, or `"wcrr"`, a 1-weakly convex one.

    Both for gray images in [0, 1] and noise between 0 and 30/255. How they were trained and what they reach stands in
    their model cards, `model_card(name)`. The arrays are float32.

    Args:
        name: of `pretrained_names()`.

    Raises:
        ValueError: for another name.

    >>> pretrained("wcrr").rho
    1.0
    """
    _check_name(name)
    with importlib.resources.as_file(_WEIGHTS / f"{name}.npz") as path:
        return load_ridge(path)


def pretrained_names() -> tuple[str, ...]:
    """The names that `pretrained` knows.

    >>> pretrained_names()
    ('crr', 'wcrr')
    """
    return tuple(sorted(file.name.removesuffix(".npz") for file in _WEIGHTS.iterdir() if file.name.endswith(".npz")))


def model_card(name: str) -> str:
    """What is known of a pretrained regularizer, as Markdown: data, command, seed, time, figures and bounds.

    Args:
        name: of `pretrained_names()`.

    Raises:
        ValueError: for another name.

    >>> model_card("wcrr").splitlines()[0]
    '# wcrr: a weakly convex ridge regularizer'
    """
    _check_name(name)
    return (_WEIGHTS / f"{name}.md").read_text(encoding="utf-8")


def save_ridge(path: str | os.PathLike[str], params: RidgeParams) -> None:
    """Write `params` as an `.npz` of plain arrays, which NumPy reads: `kernels.0`, ..., `convex`, `rho`, `grid` ...

    Args:
        path: the file, which is replaced.
        params: any.
    """
    grid, noise_grid = params.grid, params.noise_grid
    arrays: dict[str, Any] = {f"kernels.{index}": kernel for index, kernel in enumerate(params.kernels)}
    arrays |= {name: getattr(params, name) for name in _FIELDS}
    arrays |= {name: getattr(params, name) for name in _OPTIONAL if getattr(params, name) is not None}
    arrays["rho"] = np.float64(params.rho)
    # low, high and the number of knots; or the knots themselves
    uniform = isinstance(grid, UniformGrid)
    arrays["uniform_grid" if uniform else "knots"] = _numbers(grid) if uniform else grid.knots
    arrays["noise_grid"] = _numbers(noise_grid)
    with open(path, "wb") as file:
        np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]


def load_ridge(path: str | os.PathLike[str]) -> RidgeParams:
    """What `save_ridge` wrote.

    Raises:
        ValueError: if the file lacks an array, or its arrays do not fit each other.
        OSError: if it cannot be read.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    try:
        return _from_arrays(arrays)
    except KeyError as error:
        raise ValueError(
            f"`path` {path} is no ridge regularizer: it has no array {error}. `save_ridge` writes one."
        ) from error


def _from_arrays(arrays: Mapping[str, Any]) -> RidgeParams:
    num_kernels = sum(name.startswith("kernels.") for name in arrays)
    knots = arrays.get("knots")
    grid = _grid(arrays["uniform_grid"]) if knots is None else NonuniformGrid(jnp.asarray(knots))
    params = RidgeParams(
        kernels=tuple(jnp.asarray(arrays[f"kernels.{index}"]) for index in range(num_kernels)),
        **{name: jnp.asarray(arrays[name]) for name in _FIELDS},
        **{name: jnp.asarray(arrays[name]) for name in _OPTIONAL if name in arrays},
        grid=grid,
        noise_grid=_grid(arrays["noise_grid"]),
        rho=float(arrays["rho"]),
    )
    check_params(params)
    return params


def _numbers(grid: UniformGrid) -> np.ndarray:
    return np.array([grid.low, grid.high, grid.num_knots], np.float64)


def _grid(numbers: Any) -> UniformGrid:
    low, high, num_knots = numbers
    return UniformGrid(float(low), float(high), int(num_knots))


def _check_name(name: Any) -> None:
    if name not in pretrained_names():
        raise ValueError(f"`name` must be one of {', '.join(pretrained_names())}, got {name!r}.")
