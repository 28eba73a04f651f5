"""The Fourier transform of images, of all frequencies or of some.

Frequencies stand in the order of `jnp.fft`, with zero first; `jnp.fft.fftshift` brings it to the middle, where data
sets and plots have it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_real_array
from unroll_jax._types import Array
from unroll_jax.operators._images import check_image, real_type
from unroll_jax.operators._isometry import Isometry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(Isometry):
    """The orthonormal Fourier transform over the two leading axes of an image, of each channel by itself.

    Attributes:
        is_real: whether images are real. Then the adjoint returns the real part, as the inner product of real images
            asks for: Re <A x, y> = <x, A* y>.

    >>> operator = Fourier()
    >>> operator(jnp.ones((2, 2))).real
    Array([[2., 0.],
           [0., 0.]], dtype=float32)
    """

    is_real: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The transform of `x`, `(height, width)` or `(height, width, channels)`: the same shape, complex."""
        return _spectrum("x", x, is_real=self.is_real)

    def adjoint(self, y: Array) -> Array:
        """The inverse transform of `y`: the same shape."""
        return _image("y", y, is_real=self.is_real)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SubsampledFourier:
    """The operator x -> mask * F x, with the orthonormal Fourier transform F: magnetic resonance with one coil.

    Attributes:
        mask: `(height, width)`, the weight of each frequency, zero first; zeros and ones for a sampling pattern, as
            `cartesian_mask` and `scattered_mask` make it. Every channel has the same.
        is_real: whether images are real. Then the adjoint returns the real part.

    >>> operator = SubsampledFourier(jnp.array([[1.0, 0.0], [0.0, 0.0]]))
    >>> operator.adjoint(operator(jnp.array([[1.0, 2.0], [3.0, 6.0]]))).real
    Array([[3., 3.],
           [3., 3.]], dtype=float32)
    """

    mask: Array
    is_real: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The weighted frequencies of `x`, `(height, width)` or `(height, width, channels)`: the same shape."""
        check_mask("x", x, self.mask)
        spectrum = _spectrum("x", x, is_real=self.is_real)
        return _per_channel(self.mask, spectrum) * spectrum

    def adjoint(self, y: Array) -> Array:
        """The image with the frequencies conj(mask) y: the same shape."""
        check_mask("y", y, self.mask)
        return _image("y", _per_channel(self.mask, y).conj() * y, is_real=self.is_real)

    def norm_bound(self) -> Array:
        """The spectral norm, exact up to rounding: `()`."""
        return jnp.sqrt(jnp.max(self._power()))

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x in closed form, as the Fourier transform makes A* A diagonal: the shape of `x`."""
        check_mask("x", x, self.mask)
        spectrum = _spectrum("x", x, is_real=self.is_real)
        return _image("x", spectrum / (1 + strength * _per_channel(self._power(), spectrum)), is_real=self.is_real)

    def _power(self) -> Array:
        """The eigenvalues of A* A."""
        # a mask may be of truth values
        power = jnp.square(jnp.abs(self.mask.astype(jnp.promote_types(self.mask.dtype, jnp.float32))))
        if not self.is_real:
            return power
        # the real part of a convolution with a kernel is that with its real part, whose transform is the even part
        return (power + jnp.roll(jnp.flip(power, (0, 1)), (1, 1), (0, 1))) / 2


def check_mask(name: str, x: Array, mask: Array) -> None:
    """Raise unless `x` has the height and the width of `mask`."""
    shape = jnp.shape(mask)
    if len(shape) != 2:
        raise ValueError(
            f"`mask` must have shape (height, width), got {shape}. Map over a batch of operators by jax.vmap."
        )
    if jnp.ndim(x) not in (2, 3) or jnp.shape(x)[:2] != shape:
        raise ValueError(
            f"`{name}` must have the shape {shape} of the operator's mask, or channels after it, got {jnp.shape(x)}. "
            "Pass one image per call and take batches by jax.vmap."
        )


def in_precision_of(x: Array, values: Array) -> Array:
    """`values` in the precision of `x`, real or complex as they are: they must not decide on that of the result."""
    real = real_type(x)
    return values.astype(jnp.promote_types(real, jnp.complex64) if jnp.iscomplexobj(values) else real)


def _per_channel(values: Array, x: Array) -> Array:
    values = in_precision_of(x, values)
    return values[..., None] if jnp.ndim(x) == 3 else values


def _spectrum(name: str, x: Any, *, is_real: bool) -> Array:
    check_image(name, x)
    if is_real:
        check_real_array(name, x)
    return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def _image(name: str, spectrum: Any, *, is_real: bool) -> Array:
    check_image(name, spectrum)
    image = jnp.fft.ifft2(spectrum, axes=(0, 1), norm="ortho")
    return image.real if is_real else image
