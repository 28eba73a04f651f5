"""Initial shapes of learned splines."""

from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp

from unroll_jax._checks import check_count, check_non_negative
from unroll_jax._types import Array
from unroll_jax.splines.grids import Grid

Shape: TypeAlias = Literal[
    "identity", "zero", "relu", "leaky_relu", "absolute", "soft_threshold", "max_min", "even_odd"
]
"""The names of the initial shapes."""


def initial_coefficients(
    shape: Shape,
    grid: Grid,
    num_splines: int | None = None,
    *,
    slope: float = 0.01,
    threshold: Array | float = 0.0,
) -> Array:
    """The coefficients of a spline that starts out as a known function f.

    - `"identity"`: x. `"zero"`: 0. `"relu"`: max(x, 0). `"absolute"`: |x|.
    - `"leaky_relu"`: x where x > 0, else slope x.
    - `"soft_threshold"`: sign(x) max(|x| - threshold, 0).
    - `"max_min"`: |x| in the first half of the channels, rounded up, x in the others. After an orthonormal layer this
      does what sorting pairs does, since max(a, b) = (a + b + |a - b|) / 2.
    - `"even_odd"`: |x| in the first half of the channels, the soft threshold in the others.

    Exact where f bends at knots only; between other knots it is the interpolant. As in arXiv 2408.13114.

    Args:
        shape: one of the names above.
        grid: where the knots are, in the unit of x.
        num_splines: how many; by default one that all entries share.
        slope: of the leaky ReLU, where x is negative.
        threshold: of the soft threshold: `()`, or `(num_splines,)`; non-negative, in the unit of x.

    Returns:
        `(num_knots,)`, or `(num_splines, num_knots)`, of the type of the knots.

    Raises:
        ValueError: for another `shape`, `num_splines` below 1, or below 2 where there are two halves, or a `threshold`
            that is negative or does not fit.

    >>> from unroll_jax.splines import UniformGrid
    >>> initial_coefficients("leaky_relu", UniformGrid(-1.0, 1.0, 3), slope=0.5)
    Array([-0.5,  0. ,  1. ], dtype=float32)
    """
    if shape not in get_args(Shape):
        raise ValueError(f"`shape` must be one of {get_args(Shape)}, got {shape!r}.")
    if num_splines is not None:
        check_count("num_splines", num_splines)
    check_non_negative("threshold", threshold)
    full = () if num_splines is None else (num_splines,)
    if jnp.shape(threshold) not in ((), full):
        raise ValueError(f"`threshold` must have shape (), or {full}, got {jnp.shape(threshold)}.")
    knots = jnp.broadcast_to(grid.knots, (*full, grid.num_knots))
    kink = jnp.broadcast_to(jnp.asarray(threshold, knots.dtype)[..., None], knots.shape)
    shrunk = jnp.sign(knots) * jnp.maximum(jnp.abs(knots) - kink, 0)
    simple = {
        "identity": knots,
        "zero": jnp.zeros_like(knots),
        "relu": jnp.maximum(knots, 0),
        "leaky_relu": jnp.where(knots > 0, knots, slope * knots),
        "absolute": jnp.abs(knots),
        "soft_threshold": shrunk,
    }
    if shape in simple:
        return simple[shape]
    if num_splines is None or num_splines < 2:
        raise ValueError(
            f"`num_splines` must be at least 2 for the shape {shape!r}, which is a different function in each half of "
            f"the channels, got {num_splines}."
        )
    half = (num_splines + 1) // 2
    return jnp.concatenate([jnp.abs(knots[:half]), (knots if shape == "max_min" else shrunk)[half:]])
