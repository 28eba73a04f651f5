"""Couplings: one half of the channels moves by what the other half says, which itself stays."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.splines.boxes import SlopeBox
from unroll_jax.splines.calculus import spline_inverse
from unroll_jax.splines.feasible import clip_slopes
from unroll_jax.splines.grids import UniformGrid
from unroll_jax.splines.kernels import linear_spline, spline_slope

_OFFSET = 2.0  # scales start near 1 where the conditioner starts at 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AffineCoupling:
    """A scale and a shift of the second half of the channels, given the first: (a, b) becomes (a, s (b + t)).

    With (r, t) = conditioner(a) and  s = smallest_scale + (1 - smallest_scale) sigmoid(r + 2)  (Dinh et al. 2017, as
    Kingma and Dhariwal 2018 have it). So s < 1, and the inverse enlarges b by at most 1 / smallest_scale.

    Attributes:
        conditioner: `(..., channels // 2) -> (..., 2 * (channels - channels // 2))`, first r, then t; a pytree that can
            be called, such as an nnx module, or outside of transformations any function.
        smallest_scale: in [0, 1).

    >>> coupling = AffineCoupling(lambda a: jnp.concatenate([0 * a, a], axis=-1), smallest_scale=0.5)
    >>> y, log_det = coupling.forward(jnp.array([1.0, 2.0]))
    >>> y, coupling.inverse(y)
    (Array([1.       , 2.8211956], dtype=float32), Array([1., 2.], dtype=float32))
    """

    conditioner: Callable[[Array], Array]
    smallest_scale: float = dataclasses.field(default=0.0, metadata={"static": True})

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The image of `x`, `(..., channels)`, and the log-determinant, the sum of log(s).

        Raises:
            ValueError: if `x` has one channel, or the conditioner returns another shape.
        """
        kept, moved = halves(x)
        scale, shift = self._scale_and_shift(kept, moved)
        return jnp.concatenate([kept, scale * (moved + shift)], axis=-1), jnp.sum(jnp.log(scale))

    def inverse(self, y: Array) -> Array:
        """The `x` with the image `y`.

        Raises:
            ValueError: as `forward`.
        """
        kept, moved = halves(y)
        scale, shift = self._scale_and_shift(kept, moved)
        return jnp.concatenate([kept, moved / scale - shift], axis=-1)

    def _scale_and_shift(self, kept: Array, moved: Array) -> tuple[Array, Array]:
        raw, shift = conditioned(self.conditioner, kept, moved)
        return self.smallest_scale + (1 - self.smallest_scale) * jax.nn.sigmoid(raw + _OFFSET), shift


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SplineCoupling:
    """An affine coupling whose outcome goes through an increasing linear spline: (a, b) becomes (a, f(s (b + t))).

    Every moved channel has a spline f of its own, with slopes in [smallest_slope, 1 / smallest_slope] whatever the
    coefficients are (`splines.clip_slopes`), so the inverse is exact and as tame. The scale s and the shift t are those
    of `AffineCoupling`; they choose the place on the spline.

    Attributes:
        conditioner: as in `AffineCoupling`.
        coefficients: `(channels - channels // 2, num_knots)`, the values at the knots before clipping.
        grid: where the knots are.
        smallest_slope: in (0, 1].
        smallest_scale: in [0, 1).

    >>> from unroll_jax.splines import UniformGrid
    >>> grid = UniformGrid(-1.0, 1.0, 3)
    >>> coupling = SplineCoupling(lambda a: jnp.zeros((*a.shape[:-1], 2)), jnp.array([[-2.0, 0.0, 0.5]]), grid)
    >>> y, log_det = coupling.forward(jnp.array([1.0, 2.0]))
    >>> coupling.inverse(y)
    Array([1., 2.], dtype=float32)
    """

    conditioner: Callable[[Array], Array]
    coefficients: Array
    grid: UniformGrid = dataclasses.field(metadata={"static": True})
    smallest_slope: float = dataclasses.field(default=0.25, metadata={"static": True})
    smallest_scale: float = dataclasses.field(default=0.0, metadata={"static": True})

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The image of `x`, `(..., channels)`, and the log-determinant, the sum of log(s) + log(f').

        Raises:
            ValueError: as `AffineCoupling.forward`, or if the coefficients do not fit.
        """
        affine, log_det = AffineCoupling(self.conditioner, self.smallest_scale).forward(x)
        kept, moved = halves(affine)
        coefficients = self._feasible()
        slopes = spline_slope(moved, coefficients, self.grid)
        bent = linear_spline(moved, coefficients, self.grid)
        return jnp.concatenate([kept, bent], axis=-1), log_det + jnp.sum(jnp.log(slopes))

    def inverse(self, y: Array) -> Array:
        """The `x` with the image `y`.

        Raises:
            ValueError: as `forward`.
        """
        kept, bent = halves(y)
        moved = spline_inverse(bent, self._feasible(), self.grid)
        return AffineCoupling(self.conditioner, self.smallest_scale).inverse(jnp.concatenate([kept, moved], axis=-1))

    def _feasible(self) -> Array:
        return clip_slopes(self.coefficients, self.grid, SlopeBox.invertible(self.smallest_slope), keep="anchor")


def halves(x: Array) -> tuple[Array, Array]:
    """The first and the second half of the channels; of an odd number the second has one more.

    Raises:
        ValueError: if there are fewer than two.
    """
    if jnp.ndim(x) == 0 or x.shape[-1] < 2:
        raise ValueError(f"`x` must have at least 2 channels as its last axis to be split, got shape {jnp.shape(x)}.")
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]


def conditioned(conditioner: Callable[[Array], Array], given: Array, like: Array) -> tuple[Array, Array]:
    """What the conditioner says for `given`, two arrays of the shape of `like`."""
    found = conditioner(given)
    wanted = (*like.shape[:-1], 2 * like.shape[-1])
    if jnp.shape(found) != wanted:
        raise ValueError(f"`conditioner` must return the shape {wanted}, two numbers a value, got {jnp.shape(found)}.")
    return found[..., : like.shape[-1]], found[..., like.shape[-1] :]
