"""Where the knots of a spline are, and in which cell between them a number lies."""

import dataclasses
import math
import numbers
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp

from unroll_jax._checks import is_known_false
from unroll_jax._types import Array
from unroll_jax.splines._interpolation import Even, Nodes, locate


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class UniformGrid:
    """`num_knots` knots from `low` to `high` at equal distances; a constant, which may be a static argument.

    An odd number of knots on a range around zero puts a knot on zero.

    Attributes:
        low: the first knot, in the unit of the spline's argument.
        high: the last knot.
        num_knots: at least 2.

    Raises:
        ValueError: if there are fewer than 2 knots, or not low < high, both finite.

    >>> UniformGrid(-1.0, 1.0, 5).knots
    Array([-1. , -0.5,  0. ,  0.5,  1. ], dtype=float32)
    """

    low: float
    high: float
    num_knots: int

    def __post_init__(self):
        num_knots = self.num_knots
        if isinstance(num_knots, bool) or not isinstance(num_knots, numbers.Integral) or num_knots < 2:
            raise ValueError(f"`num_knots` must be a whole number of at least 2, got {num_knots!r}.")
        try:
            low, high = float(self.low), float(self.high)
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                "`low` and `high` must be known numbers, not traced ones. Traced knots go into a NonuniformGrid."
            ) from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"`low` and `high` must be finite and `low` below `high`, got {low} and {high}.")
        # Python's own numbers can be hashed, and have no type that would meet the type of an array
        for name, value in (("low", low), ("high", high), ("num_knots", int(num_knots))):
            object.__setattr__(self, name, value)

    @property
    def knots(self) -> Array:
        """`(num_knots,)`, in the default precision; symmetric to the last digit where low = -high."""
        offsets = jnp.arange(self.num_knots, dtype=float) - (self.num_knots - 1) / 2
        return (self.low + self.high) / 2 + self.step * offsets

    @property
    def step(self) -> float:
        """The distance between neighbouring knots."""
        return (self.high - self.low) / (self.num_knots - 1)

    @property
    def steps(self) -> Array:
        """`(num_knots - 1,)`, the distances between neighbouring knots."""
        return jnp.full(self.num_knots - 1, self.step, dtype=float)

    def locate(self, x: Array) -> tuple[Array, Array]:
        """The cell that holds each entry of `x`, and how far into the cell it is.

        Cell n reaches from knot n to knot n + 1 and holds the former. What is left of all knots belongs to the first
        cell, what is right of them to the last.

        Args:
            x: any shape, real.

        Returns:
            The index n, of type int32 and between 0 and num_knots - 2, and the fraction (x - t_n) / (t_n+1 - t_n),
            in [0, 1) inside the range of the knots, below 0 and from 1 on outside; both with the shape of `x`.

        >>> UniformGrid(-1.0, 1.0, 5).locate(jnp.array([-2.0, 0.25, 1.0]))
        (Array([0, 2, 3], dtype=int32), Array([-2. ,  0.5,  1. ], dtype=float32))
        """
        return locate(x, nodes_of(self))


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)
class NonuniformGrid:
    """Knots at any places, in increasing order: a pytree whose leaf may be learned.

    Splines are differentiable in the knots too, as long as these stay in order.

    Attributes:
        knots: `(num_knots,)`, real; in the unit of the spline's argument.

    Raises:
        ValueError: if there are fewer than 2 knots, or values that are known are not finite or not increasing.

    >>> NonuniformGrid(jnp.array([-1.0, 0.0, 3.0])).steps
    Array([1., 3.], dtype=float32)
    """

    knots: Array

    def __post_init__(self):
        object.__setattr__(self, "knots", jnp.asarray(self.knots))
        _check_knots(self.knots)

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """The knots, for JAX."""
        return ((jax.tree_util.GetAttrKey("knots"), self.knots),), None

    @classmethod
    def tree_unflatten(cls, structure: None, leaves: Any) -> Self:
        """The grid with other leaves, for JAX; unchecked, since gradients and placeholders pass through here."""
        del structure
        grid = object.__new__(cls)
        object.__setattr__(grid, "knots", leaves[0])
        return grid

    @property
    def num_knots(self) -> int:
        """How many knots there are."""
        return self.knots.shape[-1]

    @property
    def steps(self) -> Array:
        """`(num_knots - 1,)`, the distances between neighbouring knots."""
        return jnp.diff(self.knots)

    def locate(self, x: Array) -> tuple[Array, Array]:
        """The cell that holds each entry of `x`, and how far into the cell it is, as for a uniform grid.

        Args:
            x: any shape, real.

        Returns:
            The index n, of type int32 and between 0 and num_knots - 2, and the fraction (x - t_n) / (t_n+1 - t_n),
            in [0, 1) inside the range of the knots, below 0 and from 1 on outside; both with the shape of `x`.

        >>> NonuniformGrid(jnp.array([-1.0, 0.0, 2.0])).locate(jnp.array([-2.0, 0.0, 1.0]))
        (Array([0, 1, 1], dtype=int32), Array([-1. ,  0. ,  0.5], dtype=float32))
        """
        return locate(x, nodes_of(self))


Grid: TypeAlias = UniformGrid | NonuniformGrid
"""Where the knots are: equally spaced, or anywhere."""


def nodes_of(grid: Grid) -> Nodes:
    """The knots as the kernels take them."""
    if isinstance(grid, UniformGrid):
        return Even((grid.low + grid.high) / 2, grid.step, grid.num_knots)
    return grid.knots


def _check_knots(knots: Array) -> None:
    if not jnp.issubdtype(knots.dtype, jnp.floating):
        raise ValueError(f"`knots` must be real and of a floating-point type, got {knots.dtype}.")
    if knots.ndim != 1 or knots.shape[0] < 2:
        raise ValueError(
            f"`knots` must have shape (num_knots,) with at least 2 knots, got {knots.shape}. "
            "Map over a batch of grids by jax.vmap."
        )
    if is_known_false(lambda: jnp.isfinite(knots)):
        raise ValueError(f"`knots` must be finite, got {knots}.")
    if is_known_false(lambda: knots[1:] > knots[:-1]):
        raise ValueError(f"`knots` must be sorted and without repeats, got {knots}. Sort them by jnp.unique.")
