"""Learned splines as nnx modules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unroll_jax._checks import is_known_false
from unroll_jax._types import Array
from unroll_jax.splines.boxes import SlopeBox
from unroll_jax.splines.calculus import potential_prox, spline_inverse, spline_potential
from unroll_jax.splines.cells import cell_slopes
from unroll_jax.splines.feasible import Keep, clip_slopes
from unroll_jax.splines.grids import Grid, NonuniformGrid, UniformGrid
from unroll_jax.splines.kernels import Extrapolation, checked, linear_spline, spline_slope
from unroll_jax.splines.shapes import Shape, initial_coefficients
from unroll_jax.splines.sparsity import prune, remove_knots, second_order_variation

# Up to so many knots at any places are not slower than any number of even ones; measured on CPU.
_FEW_KNOTS = 16


class SplineCoefficients(nnx.Param):
    """The values of splines at their knots, as a parameter; `spline_labels` knows it by its type."""


class SplineScale(nnx.Param):
    """The logarithms of the scales of splines, as a parameter; `spline_labels` knows it by its type."""


class _Spline(nnx.Module):
    """What learned and fixed splines have in common: how they are evaluated."""

    extrapolation: Extrapolation
    num_splines: int | None

    @property
    def grid(self) -> Grid:
        """Where the knots are, in the unit of scale x."""
        raise NotImplementedError

    @property
    def scale(self) -> Array | None:
        """The scale a: `()`, or `(num_splines,)`; None for 1."""
        raise NotImplementedError

    @property
    def feasible_coefficients(self) -> Array:
        """The values at the knots that count, `(num_knots,)` or `(num_splines, num_knots)`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """The spline at every entry of `x`, `(...)` or `(..., num_splines)`: f(a x) / a.

        Raises:
            ValueError: if `x` has other channels than the splines, or is not of a floating-point type.
        """
        value, _ = self._evaluate(linear_spline, x)
        return value

    def slope(self, x: Array) -> Array:
        """The slope at every entry of `x`, from the right on a knot: f'(a x), which is in the box.

        Raises:
            ValueError: as for a call.
        """
        coefficients, (x, scale) = self.feasible_coefficients, self._scaled(x)
        del scale
        return spline_slope(x, coefficients, self.grid, extrapolation=self.extrapolation)

    def potential(self, x: Array) -> Array:
        """The integral of the spline from 0 to every entry of `x`: psi(a x) / a^2 with psi' = f.

        Convex if no slope in the box is negative.

        Raises:
            ValueError: as for a call.
        """
        value, scale = self._evaluate(spline_potential, x)
        return value if scale is None else value / scale

    def prox(self, x: Array, strength: Array | float) -> Array:
        """The proximal operator of strength times the potential, at every entry of `x`.

        Args:
            x: as for a call.
            strength: `()` or `(num_splines,)`; non-negative, and below 1 / rho where slopes go down to -rho.

        Raises:
            ValueError: as `potential_prox`.
        """
        coefficients, (x, scale) = self.feasible_coefficients, self._scaled(x)
        value = potential_prox(x, strength, coefficients, self.grid, extrapolation=self.extrapolation)
        return value if scale is None else value / scale

    def inverse(self, y: Array) -> Array:
        """The x at which the spline has the value `y`, at every entry of `y`.

        Raises:
            ValueError: if the box allows slopes of 0 or less or extrapolation is constant, so that there need not be
                any inverse, or `y` is not as for a call.
        """
        self._check_invertible()
        coefficients, (y, scale) = self.feasible_coefficients, self._scaled(y)
        value = spline_inverse(y, coefficients, self.grid)
        return value if scale is None else value / scale

    def slopes(self) -> Array:
        """The slope of every cell, `(num_knots - 1,)` or `(num_splines, num_knots - 1)`; in the box."""
        return cell_slopes(self.feasible_coefficients, self.grid)

    def second_order_variation(self) -> Array:
        """TV2, the sum of the sizes of all kinks: `()` or `(num_splines,)`. It does not depend on the scale."""
        return second_order_variation(self.feasible_coefficients, self.grid, extrapolation=self.extrapolation)

    def _check_invertible(self) -> None:
        if self.extrapolation == "constant":
            raise ValueError("`extrapolation` must be 'linear' for a spline to have an inverse, got 'constant'.")

    def _evaluate(self, function: Callable[..., Array], x: Array) -> tuple[Array, Array | None]:
        coefficients, (x, scale) = self.feasible_coefficients, self._scaled(x)
        value = function(x, coefficients, self.grid, extrapolation=self.extrapolation)
        return (value if scale is None else value / scale), scale

    def _scaled(self, x: Array) -> tuple[Array, Array | None]:
        """`x` times the scale, and the scale with the shape of `x`."""
        x = jnp.asarray(x)
        if self.num_splines is not None and x.shape[-1:] != (self.num_splines,):
            raise ValueError(
                f"`x` must have the {self.num_splines} channels of the splines as its last axis, got shape {x.shape}."
            )
        if self.scale is None:
            return x, None
        scale = jnp.broadcast_to(self.scale.astype(jnp.result_type(x, self.scale)), x.shape)
        return x * scale, scale


class LinearSpline(_Spline):
    """A learnable linear spline, one for all entries or one per channel, whose slopes lie in a box whatever is learned.

    f_a(x) = f(a x) / a  with the scale a = exp(log_scale) > 0, and f the spline whose values at the knots are
    `clip_slopes(coefficients)`. The scale changes neither slopes nor TV2; it moves the range of the knots to
    [low / a, high / a], to where the data are (arXiv 2408.13114).

    A pytree with two parameters; all else is static, so any transformation of JAX and any optimizer may take it whole.
    For layers of a scan, make them under `jax.vmap`. Slopes that are clipped get no gradient: let optimizers end with
    `keep_splines_feasible`, or call `with_feasible_splines` after every step.

    Attributes:
        coefficients: `(num_knots,)` or `(num_splines, num_knots)`, the values at the knots before clipping.
        log_scale: `()` or `(num_splines,)`; None if it is not learned.
        box: the slopes allowed.

    Args:
        grid: where the knots are: a range of about 3 standard deviations of what comes in. Known values.
        num_splines: one per channel, the last axis of what comes in; by default one that all entries share.
        init: a name as in `initial_coefficients`, or coefficients, which are clipped.
        box: the slopes allowed, known values.
        keep: what clipping keeps, as in `clip_slopes`: the mean, f(0) = 0, or oddness.
        extrapolation: as in `linear_spline`.
        learn_scale: whether there is a scale.

    Raises:
        ValueError: if arguments do not fit each other, the box is empty, `grid` or `box` are traced, or the shape
            `init` is not in the box or not what `keep` keeps.

    >>> spline = LinearSpline(UniformGrid(-1.0, 1.0, 5), init="relu")
    >>> spline(jnp.array([-3.0, 0.25, 3.0]))
    Array([0. , 0.25, 3. ], dtype=float32)
    """

    def __init__(
        self,
        grid: Grid,
        num_splines: int | None = None,
        *,
        init: Shape | Array = "identity",
        box: SlopeBox | None = None,
        keep: Keep = "mean",
        extrapolation: Extrapolation = "linear",
        learn_scale: bool = True,
    ):
        if not isinstance(grid, UniformGrid | NonuniformGrid):
            raise ValueError(f"`grid` must be a UniformGrid or a NonuniformGrid, got {type(grid).__name__}.")
        box = SlopeBox.lipschitz() if box is None else box
        start = initial_coefficients(init, grid, num_splines) if isinstance(init, str) else jnp.asarray(init)
        if not isinstance(init, str):
            num_splines = start.shape[0] if num_splines is None and start.ndim == 2 else num_splines
            shape = (grid.num_knots,) if num_splines is None else (num_splines, grid.num_knots)
            if start.shape != shape:
                raise ValueError(f"`init` must be the name of a shape, or coefficients {shape}, got {start.shape}.")
        feasible = clip_slopes(start, grid, box, keep=keep)
        if isinstance(init, str):
            _check_start(init, start, feasible, keep)
        checked(jnp.zeros(start.shape[:-1], start.dtype), start, grid, extrapolation)
        self._grid = grid if isinstance(grid, UniformGrid) else _static("grid", grid.knots)
        self._box = tuple(_static("box", bound) for bound in box)
        self.keep: Keep = keep
        self.extrapolation: Extrapolation = extrapolation
        self.num_splines = num_splines
        self.coefficients = SplineCoefficients(feasible)
        self.log_scale = SplineScale(jnp.zeros(start.shape[:-1], start.dtype)) if learn_scale else None

    @property
    def grid(self) -> Grid:
        """Where the knots of f are; those of the spline are at these divided by the scale."""
        return self._grid if isinstance(self._grid, UniformGrid) else NonuniformGrid(jnp.asarray(self._grid))

    @property
    def box(self) -> SlopeBox:
        """The slopes allowed."""
        return SlopeBox(*(jnp.asarray(bound) if isinstance(bound, tuple) else bound for bound in self._box))

    @property
    def scale(self) -> Array | None:
        """The scale a, `()` or `(num_splines,)`; None if it is not learned, and 1."""
        return None if self.log_scale is None else jnp.exp(self.log_scale[...])

    @property
    def lipschitz(self) -> float:
        """The Lipschitz constant that the box guarantees, the largest size of a slope in it."""
        return float(max(np.max(np.abs(bound)) for bound in self._box))

    @property
    def feasible_coefficients(self) -> Array:
        """The values at the knots that count, with slopes in the box, `(num_knots,)` or `(num_splines, num_knots)`."""
        return clip_slopes(self.coefficients[...], self.grid, self.box, keep=self.keep)

    def frozen(self, *, threshold: Array | float = 0.0) -> "FixedSpline":
        """The spline as it is now, fixed, with the fewest knots: kinks up to `threshold` are pruned.

        Without a threshold it equals its parent up to rounding, and it is never slower: where more than 16 knots are
        left of an even grid, they stay on it, since a cell between even knots is found without a search. Then
        `remove_knots` gives the least knots. Outside of `jax.jit`, as its shape depends on values.

        Args:
            threshold: as in `prune`.

        Raises:
            ValueError: if `threshold` is negative, or values are traced.
        """
        coefficients = prune(self.feasible_coefficients, self.grid, threshold, box=self.box)
        fewest, grid = remove_knots(coefficients, self.grid)
        if grid.num_knots > _FEW_KNOTS and isinstance(self.grid, UniformGrid):
            fewest, grid = coefficients, self.grid
        return FixedSpline(fewest, grid, self.scale, extrapolation=self.extrapolation)

    def _check_invertible(self) -> None:
        super()._check_invertible()
        if not np.min(self._box[0]) > 0:
            raise ValueError(
                f"`box` must have a positive lower slope for a spline to have an inverse, got {self.box}. "
                "Take SlopeBox.invertible."
            )


class FixedSpline(_Spline):
    """A spline that is not learned, on any knots: what `LinearSpline.frozen` gives.

    Its arrays are `nnx.Variable`, no `nnx.Param`, so nothing trains them.

    Args:
        coefficients: `(num_knots,)` or `(num_splines, num_knots)`.
        grid: where the knots are.
        scale: `()` or `(num_splines,)`; by default 1.
        extrapolation: as in `linear_spline`.

    Raises:
        ValueError: if the arguments do not fit each other.

    >>> FixedSpline(jnp.array([0.0, 0.0, 1.0]), UniformGrid(-1.0, 1.0, 3))(jnp.array([-2.0, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """

    def __init__(
        self,
        coefficients: Array,
        grid: Grid,
        scale: Array | None = None,
        *,
        extrapolation: Extrapolation = "linear",
    ):
        coefficients = jnp.asarray(coefficients)
        checked(jnp.zeros(coefficients.shape[:-1], coefficients.dtype), coefficients, grid, extrapolation)
        if scale is not None and jnp.shape(scale) != coefficients.shape[:-1]:
            raise ValueError(f"`scale` must have shape {coefficients.shape[:-1]}, got {jnp.shape(scale)}.")
        if isinstance(grid, NonuniformGrid) and scale is not None and jnp.ndim(scale) == 0:
            # one scale goes into the knots and values
            coefficients, grid, scale = coefficients / scale, NonuniformGrid(grid.knots / scale), None
        self.extrapolation: Extrapolation = extrapolation
        self.num_splines = None if coefficients.ndim == 1 else coefficients.shape[0]
        self.coefficients = nnx.Variable(coefficients)
        self._grid = grid if isinstance(grid, UniformGrid) else nnx.Variable(grid.knots)
        self._scale = None if scale is None else nnx.Variable(jnp.asarray(scale))

    @property
    def grid(self) -> Grid:
        """Where the knots are."""
        return self._grid if isinstance(self._grid, UniformGrid) else NonuniformGrid(self._grid[...])

    @property
    def scale(self) -> Array | None:
        """The scale, `()` or `(num_splines,)`, or None for 1."""
        return None if self._scale is None else self._scale[...]

    @property
    def feasible_coefficients(self) -> Array:
        """The values at the knots, `(num_knots,)` or `(num_splines, num_knots)`."""
        return self.coefficients[...]


def _static(name: str, value: Any) -> Any:
    """`value` as numbers that can be hashed: an array in a module would be a leaf, and be trained."""

    def nested(entry: Any) -> Any:
        return tuple(nested(part) for part in entry) if isinstance(entry, list) else float(entry)

    try:
        return nested(np.asarray(value).tolist())
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            f"`{name}` must be of known values, not traced ones: modules keep it as a constant."
        ) from error


def _check_start(name: str, start: Array, feasible: Array, keep: Keep) -> None:
    rounding = 64 * jnp.finfo(start.dtype).eps
    if is_known_false(lambda: jnp.abs(feasible - start) <= rounding * jnp.max(jnp.abs(start))):
        raise ValueError(
            f"`init` must have slopes in the box, and be what `keep={keep!r}` keeps, for the spline to start as it; "
            f"{name!r} is not. Give another box, or coefficients, which are clipped."
        )
