"""Differences of neighboring pixels, as total variation has them."""

import dataclasses
import math
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_inexact
from unroll_jax._types import Array
from unroll_jax.operators._images import by_parts, real_type
from unroll_jax.operators._spectral import wide

Edge: TypeAlias = Literal["neumann", "circular"]
"""What lies beyond the last pixel of a row or a column: that pixel again, or the first one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FiniteDifferences:
    """The operator that gives each pixel's differences to the next one below and to the next one on the right.

    A* A is minus the Laplace operator, which the cosine transform (`"neumann"`) or the Fourier transform
    (`"circular"`) makes diagonal: so its norm is known, and `gram_resolvent` has a closed form.

    Attributes:
        boundary: what lies beyond the last pixel: that pixel again, so that its difference is zero (`"neumann"`), or
            the first one (`"circular"`).

    Images have shape `(height, width, ...)`, real or complex: two axes, and any others. An image without two axes or
    another boundary raises a `ValueError` where the operator is first called.

    >>> FiniteDifferences()(jnp.array([[1.0, 2.0], [5.0, 9.0]]))[..., 0]
    Array([[4., 7.],
           [0., 0.]], dtype=float32)
    """

    boundary: Edge = dataclasses.field(default="neumann", metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The differences of `x`, down and to the right on the last axis: `(height, width, ..., 2)`."""
        self._check("x", x, num_axes=2)
        return jnp.stack([self._difference(x, axis) for axis in (0, 1)], axis=-1)

    def adjoint(self, y: Array) -> Array:
        """Minus the divergence of `y`: `(height, width, ...)`."""
        self._check("y", y, num_axes=3)
        if y.shape[-1] != 2:
            raise ValueError(f"`y` must have 2 entries on its last axis, down and to the right, got shape {y.shape}.")
        return self._difference_adjoint(y[..., 0], 0) + self._difference_adjoint(y[..., 1], 1)

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x by the transform that makes A* A diagonal: the shape of `x`."""
        self._check("x", x, num_axes=2)
        dtype = wide(real_type(x))
        rows, columns = (self._eigenvalues(side, dtype) for side in x.shape[:2])
        if self.boundary == "circular":
            columns = columns[: x.shape[1] // 2 + 1]
        divisor = 1 + strength * (rows[:, None] + columns[None, :])
        divisor = divisor.reshape(divisor.shape + (1,) * (x.ndim - 2))

        def solve(part: Array) -> Array:
            axes = (0, 1)
            if self.boundary == "circular":
                spectrum = jnp.fft.rfft2(part.astype(dtype), axes=axes) / divisor
                return jnp.fft.irfft2(spectrum, s=part.shape[:2], axes=axes).astype(part.dtype)
            spectrum = jax.scipy.fft.dctn(part.astype(dtype), axes=axes, norm="ortho") / divisor
            return jax.scipy.fft.idctn(spectrum, axes=axes, norm="ortho").astype(part.dtype)

        return by_parts(solve, x)

    def norm_bound(self, like: Any = None) -> Array:
        """The norm, sqrt(a + b) with the largest eigenvalues a and b along the axes, with room for rounding: `()`.

        They are 4 cos^2(pi / (2 side)) (`"neumann"`, and `"circular"` for odd sides), or 4 (`"circular"` for even
        ones). Without `like` it is sqrt(8), for all sizes.

        Args:
            like: an image, or its `jax.ShapeDtypeStruct`.
        """
        self._check_boundary()
        dtype = jnp.float32 if like is None else wide(real_type(like))
        largest = [4.0, 4.0] if like is None else [self._largest_eigenvalue(side) for side in like.shape[:2]]
        return jnp.asarray(math.sqrt(sum(largest)) * (1 + 2 * float(jnp.finfo(dtype).eps)), dtype)

    def _difference(self, x: Array, axis: int) -> Array:
        if self.boundary == "circular":
            return jnp.roll(x, -1, axis) - x
        return _padded(jnp.diff(x, axis=axis), axis, (0, 1))

    def _difference_adjoint(self, y: Array, axis: int) -> Array:
        if self.boundary == "circular":
            return jnp.roll(y, 1, axis) - y
        # the last difference is no difference of the image
        inner = jax.lax.slice_in_dim(y, 0, y.shape[axis] - 1, axis=axis)
        return _padded(inner, axis, (1, 0)) - _padded(inner, axis, (0, 1))

    def _eigenvalues(self, side: int, dtype: Any) -> Array:
        period = side if self.boundary == "circular" else 2 * side
        return 4 * jnp.sin(jnp.arange(side).astype(dtype) * (math.pi / period)) ** 2

    def _largest_eigenvalue(self, side: int) -> float:
        if self.boundary == "circular" and side % 2 == 0:
            return 4.0
        return 4 * math.cos(math.pi / (2 * side)) ** 2

    def _check_boundary(self) -> None:
        if self.boundary not in get_args(Edge):
            raise ValueError(f"`boundary` must be one of {get_args(Edge)}, got {self.boundary!r}.")

    def _check(self, name: str, x: Array, num_axes: int) -> None:
        self._check_boundary()
        check_inexact(name, x)
        if jnp.ndim(x) < num_axes:
            form = "(height, width, ...)" if num_axes == 2 else "(height, width, ..., 2)"
            raise ValueError(f"`{name}` must have shape {form}, got {jnp.shape(x)}.")


def _padded(x: Array, axis: int, width: tuple[int, int]) -> Array:
    return jnp.pad(x, [width if i == axis else (0, 0) for i in range(x.ndim)])
