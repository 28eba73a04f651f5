"""Slope boxes, named by what they buy."""

import math
from typing import NamedTuple, Self

import jax.numpy as jnp

from unroll_jax._checks import check_non_negative, check_ordered, check_positive, is_known_false
from unroll_jax._tree import strong_type
from unroll_jax._types import Array
from unroll_jax.splines.grids import Grid


class SlopeBox(NamedTuple):
    """The slopes that a spline may have: lower <= f'(x) <= upper almost everywhere.

    Its class methods make boxes named by what they buy. A learnable scale a > 0 is free: f(a x) / a has the slopes of f
    (arXiv 2408.13114).

    Attributes:
        lower: `()`, `(num_knots - 1,)` with one bound per cell, or `(channels, 1)` with one per channel; values of the
            spline per unit of its argument; -inf where there is no bound.
        upper: the same; nowhere below `lower`.

    >>> SlopeBox(-1.0, 0.5)
    SlopeBox(lower=-1.0, upper=0.5)
    """

    lower: Array | float
    upper: Array | float

    @classmethod
    def lipschitz(cls, bound: Array | float = 1.0) -> Self:
        """The slopes of functions with |f(x) - f(y)| <= bound |x - y|: [-bound, bound].

        Raises:
            ValueError: if `bound` is negative or NaN.

        >>> SlopeBox.lipschitz()
        SlopeBox(lower=-1.0, upper=1.0)
        """
        check_non_negative("bound", bound)
        return cls(-bound, bound)

    @classmethod
    def firmly_nonexpansive(cls) -> Self:
        """The slopes of proximal operators of convex functions: [0, 1].

        Then (f(x) - f(y)) (x - y) >= (f(x) - f(y))^2.

        >>> SlopeBox.firmly_nonexpansive()
        SlopeBox(lower=0.0, upper=1.0)
        """
        return cls(0.0, 1.0)

    @classmethod
    def monotone(cls) -> Self:
        """The slopes of non-decreasing functions, which are gradients of convex potentials: [0, inf).

        >>> SlopeBox.monotone()
        SlopeBox(lower=0.0, upper=inf)
        """
        return cls(0.0, math.inf)

    @classmethod
    def invertible(cls, smallest: Array | float) -> Self:
        """The slopes of increasing functions that are 1 / smallest Lipschitz, and so are their inverses.

        The box is [smallest, 1 / smallest]; the inverse has its slopes in the same box.

        Args:
            smallest: in (0, 1].

        Raises:
            ValueError: if `smallest` is not.

        >>> SlopeBox.invertible(0.5)
        SlopeBox(lower=0.5, upper=2.0)
        """
        if is_known_false(lambda: (smallest > 0) & (smallest <= 1)):
            raise ValueError(f"`smallest` must lie in (0, 1], got {smallest}: the largest slope is 1 / smallest.")
        return cls(smallest, 1 / smallest)

    @classmethod
    def averaged(cls, weight: Array | float) -> Self:
        """The slopes of averaged functions, f = (1 - weight) identity + weight r with r 1-Lipschitz: [1 - 2 weight, 1].

        Args:
            weight: in (0, 1); 1/2 is firmly non-expansive.

        Raises:
            ValueError: if `weight` is not.

        >>> SlopeBox.averaged(0.25)
        SlopeBox(lower=0.5, upper=1.0)
        """
        if is_known_false(lambda: (weight > 0) & (weight < 1)):
            raise ValueError(f"`weight` must lie in (0, 1), got {weight}.")
        return cls(1 - 2 * weight, 1.0)

    @classmethod
    def weakly_convex(cls, modulus: Array | float, smoothness: Array | float = math.inf) -> Self:
        """The slopes of gradients of modulus-weakly convex, smoothness-smooth potentials: [-modulus, smoothness].

        With psi' = f, the function psi(x) + modulus x^2 / 2 is convex.

        Args:
            modulus: non-negative; 0 for convex potentials.
            smoothness: at least -modulus.

        Raises:
            ValueError: if `modulus` is negative, or `smoothness` below its negative.

        >>> SlopeBox.weakly_convex(1.0, smoothness=4.0)
        SlopeBox(lower=-1.0, upper=4.0)
        """
        check_non_negative("modulus", modulus)
        check_ordered("-modulus", -modulus, "smoothness", smoothness)
        return cls(-modulus, smoothness)

    @classmethod
    def strongly_monotone(cls, modulus: Array | float, lipschitz: Array | float = math.inf) -> Self:
        """The slopes of gradients of modulus-strongly convex potentials: [modulus, lipschitz].

        Then (f(x) - f(y)) (x - y) >= modulus (x - y)^2.

        Args:
            modulus: positive.
            lipschitz: at least `modulus`.

        Raises:
            ValueError: if `modulus` is not positive, or above `lipschitz`.

        >>> SlopeBox.strongly_monotone(0.5)
        SlopeBox(lower=0.5, upper=inf)
        """
        check_positive("modulus", modulus)
        check_ordered("modulus", modulus, "lipschitz", lipschitz)
        return cls(modulus, lipschitz)


def flat_ends(box: SlopeBox, grid: Grid) -> SlopeBox:
    """`box` with its first and last cell closed to all slopes but 0: a spline in it is constant outside its knots.

    Linear extrapolation continues the end slopes, so constant extrapolation without kinks is this box.

    Args:
        box: with 0 in it.
        grid: of the splines.

    Raises:
        ValueError: if 0 is not in `box`.

    >>> from unroll_jax.splines import UniformGrid
    >>> flat_ends(SlopeBox.lipschitz(), UniformGrid(-1.0, 1.0, 5)).upper
    Array([0., 1., 1., 0.], dtype=float32)
    """
    check_box(box)
    if is_known_false(lambda: (box.lower <= 0) & (box.upper >= 0)):
        raise ValueError(f"`box` must contain the slope 0 of a flat end, got {box}.")
    num_cells = grid.num_knots - 1
    is_end = (jnp.arange(num_cells) == 0) | (jnp.arange(num_cells) == num_cells - 1)

    def closed(bound: Array | float) -> Array:
        shape = jnp.broadcast_shapes(jnp.shape(bound), (num_cells,))
        return strong_type(jnp.where(jnp.broadcast_to(is_end, shape), 0.0, jnp.broadcast_to(bound, shape)))

    return SlopeBox(closed(box.lower), closed(box.upper))


def check_box(box: SlopeBox) -> None:
    """Raise if no slope lies in `box`."""
    if is_known_false(lambda: (box.lower <= box.upper) & (box.lower < jnp.inf) & (box.upper > -jnp.inf)):
        raise ValueError(
            f"`box` is empty: its lower slope must be nowhere above its upper slope, got [{box.lower}, {box.upper}]."
        )
