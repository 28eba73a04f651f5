"""Blur of images with one kernel for all channels, by the fast Fourier transform."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_positive, check_scalar
from unroll_jax._types import Array
from unroll_jax.operators._images import check_image, check_kernel, real_type
from unroll_jax.operators._spectral import conv_spectral_bound, frequencies, wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CircularBlur:
    """The operator  y[i] = sum_p kernel[p] x[i - (p - middle)],  every channel by itself, the image repeated around.

    A single bright pixel becomes the kernel around it. The Fourier transform makes it diagonal: so its norm is known,
    and `gram_resolvent`, the deconvolution, has a closed form.

    Attributes:
        kernel: `(height, width)`, real, with odd sides; it may be larger than the images. Taken in their precision.

    Images have shape `(height, width)` or `(height, width, channels)`, real or complex, of any size. A wrong kernel or
    image raises a `ValueError` where the operator is first called.

    >>> blur = CircularBlur(jnp.array([[1.0, 2.0, 3.0]]))
    >>> blur(jnp.array([[1.0, 1.0, 2.0, 1.0]])).round()
    Array([[6., 7., 8., 9.]], dtype=float32)
    """

    kernel: Array

    def __call__(self, x: Array) -> Array:
        """The blurred image, the shape of `x`."""
        return self._filtered("x", x, lambda transfer: transfer)

    def adjoint(self, y: Array) -> Array:
        """The image blurred with the kernel turned by 180 degrees, the shape of `y`."""
        return self._filtered("y", y, jnp.conj)

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x, a division by 1 + strength |transfer|^2 in the Fourier domain: the shape of `x`."""
        return self._filtered("x", x, lambda transfer: 1 / (1 + strength * squared(transfer)))

    def norm_bound(self, like: Any = None) -> Array:
        """The largest modulus of the transfer function, with room for rounding: `()`.

        Without `like` it is a bound for all sizes: the sum of the moduli of the kernel, attained where none of it is
        negative, or a bound by sampled frequencies, see `splines.conv_spectral_bound`, whichever is less.

        Args:
            like: an image, or its `jax.ShapeDtypeStruct`.
        """
        check_kernel(self.kernel, 2, "(height, width)")
        size = None if like is None else tuple(like.shape[:2])
        bound = conv_spectral_bound(self.kernel[..., None, None], size=size)
        total = jnp.sum(jnp.abs(self.kernel.astype(bound.dtype)))
        return jnp.minimum(bound, total * (1 + (self.kernel.size + 8) * float(jnp.finfo(bound.dtype).eps)))

    def _filtered(self, name: str, x: Array, multiplier: Callable[[Array], Array]) -> Array:
        check_kernel(self.kernel, 2, "(height, width)")
        check_image(name, x)
        return filtered(x, multiplier(transfer_of(self.kernel, x)))


def gaussian_kernel(size: int, std: Array | float) -> Array:
    """A Gaussian bell around the middle of `size` by `size` pixels, with sum one: `(size, size)`.

    Args:
        size: of the kernel, odd; above 6 `std` little is cut off.
        std: `()`, the standard deviation in pixels, positive; it can be learned.

    Raises:
        ValueError: for an even size, or a `std` that is not positive or no single number.

    >>> (100 * gaussian_kernel(3, 0.5)).round()
    Array([[ 1.,  8.,  1.],
           [ 8., 62.,  8.],
           [ 1.,  8.,  1.]], dtype=float32)
    """
    check_count("size", size)
    if size % 2 == 0:
        raise ValueError(f"`size` must be odd, so that the kernel has a middle, got {size}.")
    check_scalar("std", std)
    check_positive("std", std)
    std = jnp.asarray(std, jnp.result_type(std, float))
    positions = (jnp.arange(size) - size // 2).astype(std.dtype)
    bell = jax.nn.softmax(-(positions**2) / (2 * std**2))
    return jnp.outer(bell, bell)


def transfer_of(kernel: Array, x: Array, *, whole: bool = False) -> Array:
    """The transfer function of `kernel` for images like `x`: the shape of its Fourier transform, one channel."""
    kernel = kernel.astype(wide(real_type(x)))[..., None, None]
    origin = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    whole = whole or jnp.iscomplexobj(x)
    return frequencies(kernel, (x.shape[0], x.shape[1]), whole=whole, origin=origin)[..., 0, 0]


def filtered(x: Array, multiplier: Array) -> Array:
    """The image `x` with its Fourier transform, of a real one without conjugate columns, times `multiplier`."""
    dtype, axes = x.dtype, (0, 1)
    multiplier = multiplier.reshape(multiplier.shape + (1,) * (x.ndim - 2))
    if jnp.iscomplexobj(x):
        return jnp.fft.ifft2(jnp.fft.fft2(x, axes=axes) * multiplier, axes=axes).astype(dtype)
    spectrum = jnp.fft.rfft2(x.astype(wide(dtype)), axes=axes) * multiplier
    return jnp.fft.irfft2(spectrum, s=x.shape[:2], axes=axes).astype(dtype)


def squared(transfer: Array) -> Array:
    """The squared modulus of a transfer function."""
    return transfer.real**2 + transfer.imag**2
