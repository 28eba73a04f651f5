"""Convolutions of images with several channels."""

import dataclasses
import math
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import lax

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.operators._images import by_parts, check_divides, check_image, check_kernel
from unroll_jax.operators._spectral import conv_spectral_bound

Boundary: TypeAlias = Literal["circular", "zero", "reflect"]
"""What lies outside of an image: the image again, zeros, or the image mirrored at its outermost pixels."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """The operator  y[i] = sum_p kernel[p]^T x[stride * i + p - middle],  as the layers of networks have it.

    The kernel is not flipped, which makes it what signal processing calls a correlation; `CircularBlur` flips its own.
    The adjoint is the exact one of every boundary: the transpose of the convolution and of the padding.

    Attributes:
        kernel: `(height, width, in_channels, out_channels)`, real, with odd sides; taken in the precision of the image.
        boundary: what lies outside of an image, `"circular"`, `"zero"` or `"reflect"`.
        stride: keeps every so many rows and columns, the first ones too; it must divide the sides of the images.

    Images have shape `(height, width, in_channels)`, real or complex, of any size. A wrong kernel, boundary or image
    raises a `ValueError` where the operator is first called.

    >>> neighbors = Convolution(jnp.ones((3, 3, 1, 1)), boundary="zero")
    >>> neighbors(jnp.ones((3, 3, 1)))[..., 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """

    kernel: Array
    boundary: Boundary = dataclasses.field(default="circular", metadata={"static": True})
    stride: int = dataclasses.field(default=1, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The convolution of `x`: `(height / stride, width / stride, out_channels)`."""
        self._check()
        check_image("x", x, self.kernel.shape[2])
        check_divides("stride", self.stride, "x", x.shape)
        self._check_size("x", x.shape)
        return by_parts(self._convolve, x)

    def adjoint(self, y: Array) -> Array:
        """The transpose applied to `y`: `(height, width, in_channels)`."""
        self._check()
        check_image("y", y, self.kernel.shape[3])
        shape = (self.stride * y.shape[0], self.stride * y.shape[1], self.kernel.shape[2])
        self._check_size("y", shape)
        return by_parts(self._convolve_transposed, y)

    def norm_bound(self, like: Any = None) -> Array:
        """An upper bound of the spectral norm, by the transfer matrices: `()`.

        With circular boundary and the image's size from `like` it is tight: no frequency is missed. Without a size it
        holds for every size, and for zeros outside, where the operator is a part of that on the plane without end; it
        then is up to 6 % larger, see `splines.conv_spectral_bound`. With mirrored images the padding shows a
        pixel up to c times along each axis, and the bound is sqrt(c_1 c_2) times that with zeros: c = 2, or 3 for
        images hardly larger than the kernel or of unknown size.

        Args:
            like: an image, or its `jax.ShapeDtypeStruct`; None for all sizes.
        """
        self._check()
        size = None if like is None else tuple(like.shape[:2])
        is_exact = self.boundary == "circular" and size is not None
        bound = conv_spectral_bound(self.kernel, size=size if is_exact else None, stride=self.stride, num_steps=8)
        if self.boundary != "reflect":
            return bound
        copies = [
            1 if radius == 0 else 3 if size is None or 2 * radius >= side - 1 else 2
            for radius, side in zip(self._radii, size or (1, 1), strict=True)
        ]
        # a little more than the root, for rounding
        return bound * (math.sqrt(copies[0] * copies[1]) * (1 + 2.0**-22))

    @property
    def _radii(self) -> tuple[int, int]:
        height, width = self.kernel.shape[:2]
        return height // 2, width // 2

    def _convolve(self, x: Array) -> Array:
        padding = [(radius, radius) for radius in self._radii]
        if self.boundary != "zero":
            x, padding = self._padded(x), [(0, 0), (0, 0)]
        kernel = self.kernel.astype(x.dtype)
        return _conv(x, kernel, padding, stride=self.stride)

    def _convolve_transposed(self, y: Array) -> Array:
        # The turned kernel is written out, because XLA on CPU has a fast convolution for kernels in this order alone:
        # JAX's own transpose, which leaves the order to the convolution, takes 5 to 13 times as long inside of loops.
        kernel = jnp.flip(self.kernel, (0, 1)).swapaxes(2, 3).astype(y.dtype)
        # where images are padded first, the transpose goes back to the padded ones
        reach = 1 if self.boundary == "zero" else 2
        padding = [(reach * radius, reach * radius + self.stride - 1) for radius in self._radii]
        x = _conv(y, kernel, padding, spread=self.stride)
        if self.boundary == "zero":
            return x
        height, width = (self.stride * side for side in y.shape[:2])
        like = jax.ShapeDtypeStruct((height, width, x.shape[2]), x.dtype)
        return jax.linear_transpose(self._padded, like)(x)[0]

    def _padded(self, x: Array) -> Array:
        padding = [*((radius, radius) for radius in self._radii), (0, 0)]
        return jnp.pad(x, padding, mode="wrap" if self.boundary == "circular" else "reflect")

    def _check(self) -> None:
        check_kernel(self.kernel, 4, "(height, width, in_channels, out_channels)")
        check_count("stride", self.stride)
        if self.boundary not in get_args(Boundary):
            raise ValueError(f"`boundary` must be one of {get_args(Boundary)}, got {self.boundary!r}.")

    def _check_size(self, name: str, shape: tuple[int, ...]) -> None:
        if self.boundary == "reflect" and not all(r < side for r, side in zip(self._radii, shape[:2], strict=True)):
            raise ValueError(
                f"`{name}` must belong to images with sides above {self._radii}, half of the kernel, to be mirrored "
                f"that far, got {shape[:2]}. Take a smaller kernel, or another boundary."
            )


def _conv(x: Array, kernel: Array, padding: list[tuple[int, int]], stride: int = 1, spread: int = 1) -> Array:
    """The convolution of `x`, spread out with zeros between its pixels, at every so many pixels."""
    return lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        padding,
        lhs_dilation=(spread, spread),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
