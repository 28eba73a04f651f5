"""Images of lower resolution, as super-resolution has them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.operators._images import check_divides, check_image, check_kernel
from unroll_jax.operators._spectral import conv_spectral_bound
from unroll_jax.operators.blur import CircularBlur, filtered, squared, transfer_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Downsampling:
    """The operator that blurs an image, the image repeated around, and keeps every `factor`-th row and column.

    A A* is again a circular convolution, of the smaller images; its transfer function is the mean of |transfer|^2 over
    the factor^2 frequencies that become one. That makes its norm known, and with the identity of Woodbury gives
    `gram_resolvent` in closed form (Zhao et al. 2016, arXiv 1510.00143).

    Attributes:
        factor: how many times smaller the images become along each axis.
        kernel: `(height, width)`, of the blur; see `CircularBlur`. `jnp.ones((1, 1))` for none.

    Images have shape `(height, width)` or `(height, width, channels)`, with sides that `factor` divides. A wrong
    kernel, factor or image raises a `ValueError` where the operator is first called.

    >>> Downsampling(2, jnp.ones((1, 1)))(jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])).round()
    Array([[1., 3.]], dtype=float32)
    """

    factor: int = dataclasses.field(metadata={"static": True})
    kernel: Array

    def __call__(self, x: Array) -> Array:
        """The image of lower resolution: `(height / factor, width / factor)`, and the channels where there are some."""
        self._check("x", x)
        return CircularBlur(self.kernel)(x)[:: self.factor, :: self.factor]

    def adjoint(self, y: Array) -> Array:
        """Zeros between the pixels of `y`, then the blur's adjoint: `factor` times as high and wide."""
        check_count("factor", self.factor)
        check_image("y", y)
        gap = (0, self.factor - 1, self.factor - 1)
        spread = lax.pad(y, jnp.zeros((), y.dtype), [gap, gap, *[(0, 0, 0)] * (y.ndim - 2)])
        return CircularBlur(self.kernel).adjoint(spread)

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x = x - strength A* (I + strength A A*)^-1 A x: the shape of `x`."""
        self._check("x", x)
        y = self(x)
        power = squared(transfer_of(self.kernel, x, whole=True))
        rows, columns = y.shape[:2]
        power = jnp.mean(power.reshape(self.factor, rows, self.factor, columns), axis=(0, 2))
        if not jnp.iscomplexobj(x):
            power = power[:, : columns // 2 + 1]
        return x - jnp.asarray(strength, x.dtype) * self.adjoint(filtered(y, 1 / (1 + strength * power)))

    def norm_bound(self, like: Any = None) -> Array:
        """The root of the largest mean of |transfer|^2, with room for rounding: `()`.

        Without `like` it is a bound for all sizes, up to 6 % larger.

        Args:
            like: an image, or its `jax.ShapeDtypeStruct`.
        """
        check_kernel(self.kernel, 2, "(height, width)")
        check_count("factor", self.factor)
        size = None if like is None else tuple(like.shape[:2])
        return conv_spectral_bound(self.kernel[..., None, None], size=size, stride=self.factor)

    def _check(self, name: str, x: Array) -> None:
        check_count("factor", self.factor)
        check_image(name, x)
        check_divides("factor", self.factor, name, x.shape)
