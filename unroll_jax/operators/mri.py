"""Magnetic resonance with several coils, and what simulates it: sampling patterns and coils."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_inexact, check_key, check_real_array
from unroll_jax._types import Array
from unroll_jax.operators.fourier import in_precision_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MultiCoilMRI:
    """The operator x -> mask * F (sensitivities[coil] * x) for every coil, with the orthonormal Fourier transform F.

    Attributes:
        mask: `(height, width)`, the weight of each frequency, zero first, as `cartesian_mask` makes it.
        sensitivities: `(num_coils, height, width)`, complex; what each coil sees of each pixel.
        is_real: whether images are real. Then the adjoint returns the real part.

    >>> operator = MultiCoilMRI(jnp.ones((4, 4)), coil_sensitivities((4, 4), 3))
    >>> image = jnp.ones((4, 4), jnp.complex64)
    >>> operator(image).shape, bool(jnp.allclose(operator.adjoint(operator(image)), image, atol=1e-6))
    ((3, 4, 4), True)
    """

    mask: Array
    sensitivities: Array
    is_real: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The weighted frequencies that each coil measures of `x` `(height, width)`: `(num_coils, height, width)`."""
        self._check("x", x, self.mask)
        if self.is_real:
            check_real_array("x", x)
        spectra = jnp.fft.fft2(in_precision_of(x, self.sensitivities) * x[None], norm="ortho")
        return in_precision_of(x, self.mask)[None] * spectra

    def adjoint(self, y: Array) -> Array:
        """The sum over coils of conj(sensitivities) F* conj(mask) y: `(height, width)`."""
        self._check("y", y, self.sensitivities)
        images = jnp.fft.ifft2(in_precision_of(y, self.mask).conj()[None] * y, norm="ortho")
        image = jnp.sum(in_precision_of(y, self.sensitivities).conj() * images, axis=0)
        return image.real if self.is_real else image

    def norm_bound(self) -> Array:
        """An upper bound of the spectral norm, the largest weight times the largest sum of squares of the coils: `()`.

        max |mask| sqrt(max over pixels of sum |sensitivities|^2), exact where the mask is all ones.
        """
        seen = jnp.sum(jnp.square(jnp.abs(self.sensitivities)), axis=0)
        bound = jnp.max(jnp.abs(in_precision_of(seen, self.mask))) * jnp.sqrt(jnp.max(seen))
        # room for the rounding of the sum
        return bound * (1 + (len(self.sensitivities) + 4) * float(jnp.finfo(bound.dtype).eps))

    def _check(self, name: str, x: Array, like: Array) -> None:
        coils = jnp.shape(self.sensitivities)
        if len(coils) != 3 or coils[1:] != jnp.shape(self.mask):
            raise ValueError(
                f"`sensitivities` must have shape (num_coils, height, width) and `mask` shape (height, width), got "
                f"{coils} and {jnp.shape(self.mask)}. Map over a batch of operators by jax.vmap."
            )
        check_inexact(name, x)
        if jnp.shape(x) != jnp.shape(like):
            raise ValueError(
                f"`{name}` must have shape {jnp.shape(like)} for an operator with coils of shape {coils}, "
                f"got {jnp.shape(x)}. Pass one example per call and take batches by jax.vmap."
            )


def cartesian_mask(
    key: Array, shape: tuple[int, int], *, acceleration: float = 4.0, center_fraction: float = 0.08
) -> Array:
    """A random pattern of whole columns of frequencies, as a scanner takes them: `(height, width)` of zeros and ones.

    round(width center_fraction) columns around frequency zero are in; each other one with the probability that makes
    the mean number of columns width / acceleration, as in fastMRI (Zbontar et al. 2018, arXiv 1811.08839). Frequency
    zero stands first.

    Args:
        key: what is drawn from.
        shape: `(height, width)` of the image.
        acceleration: one over the mean share of frequencies that are measured, at least 1.
        center_fraction: the share of columns that is always measured, in [0, 1 / acceleration].

    Raises:
        ValueError: if `key` is no random key, or a number lies outside what is said above.

    >>> mask = cartesian_mask(jax.random.key(0), (4, 100), acceleration=4.0, center_fraction=0.08)
    >>> mask.shape, [float(mask[0, column]) for column in (0, 3, 4, -4)]
    ((4, 100), [1.0, 1.0, 0.0, 1.0])
    """
    height, width = _checked_shape(shape)
    center = _is_low(width, round(width * center_fraction))
    chosen = _drawn(key, center, acceleration, center_fraction)
    return jnp.broadcast_to(chosen[None], (height, width))


def scattered_mask(
    key: Array, shape: tuple[int, int], *, acceleration: float = 4.0, center_fraction: float = 0.04
) -> Array:
    """A random pattern of single frequencies around a full center: `(height, width)` of zeros and ones.

    The center is the rectangle around frequency zero that holds the share `center_fraction` of all frequencies; each
    other one is in with the probability that makes the mean number of frequencies height width / acceleration.
    Frequency zero stands first.

    Args:
        key: what is drawn from.
        shape: `(height, width)` of the image.
        acceleration: one over the mean share of frequencies that are measured, at least 1.
        center_fraction: the share of frequencies that is always measured, in [0, 1 / acceleration].

    Raises:
        ValueError: if `key` is no random key, or a number lies outside what is said above.

    >>> mask = scattered_mask(jax.random.key(0), (64, 64))
    >>> mask.shape, bool(jnp.abs(jnp.mean(mask) - 0.25) < 0.03)
    ((64, 64), True)
    """
    height, width = _checked_shape(shape)
    _check_shares(acceleration, center_fraction)
    side = math.sqrt(center_fraction)
    rows, columns = (_is_low(size, round(size * side)) for size in (height, width))
    return _drawn(key, rows[:, None] & columns[None], acceleration, center_fraction)


def coil_sensitivities(shape: tuple[int, int], num_coils: int, *, radius: float = 2.0) -> Array:
    """Smooth synthetic coils on a circle around the image: `(num_coils, height, width)`, complex.

    A coil's modulus falls as one over the distance to it and its phase is the angle under which it sees a pixel, as in
    a birdcage; then all are scaled so that the sum of squares is 1 at every pixel, and `MultiCoilMRI` has norm at most
    that of its mask.

    Args:
        shape: `(height, width)` of the image.
        num_coils: at least 1.
        radius: of the circle, in units of half the image; above sqrt(2), so that no coil lies on a pixel.

    Raises:
        ValueError: if `shape`, `num_coils` or `radius` is not as said above.

    >>> coils = coil_sensitivities((8, 8), 4)
    >>> bool(jnp.allclose(jnp.sum(jnp.abs(coils) ** 2, axis=0), 1.0))
    True
    """
    height, width = _checked_shape(shape)
    check_count("num_coils", num_coils)
    if not radius > math.sqrt(2):
        raise ValueError(f"`radius` must be above sqrt(2), outside of the image, got {radius}.")
    down, right = (2 * (jnp.arange(size) + 0.5) / size - 1 for size in (height, width))
    center = jnp.exp(2j * math.pi * jnp.arange(num_coils) / num_coils)[:, None, None]
    # complex 1 / distance, turned so that every coil sees the middle of the image with phase zero
    fields = center / (radius * center - (right[None, :] + 1j * down[:, None])[None])
    return fields / jnp.sqrt(jnp.sum(jnp.square(jnp.abs(fields)), axis=0, keepdims=True))


def _drawn(key: Array, center: Array, acceleration: float, center_fraction: float) -> Array:
    """One where `center` is true, and at random elsewhere."""
    check_key("key", key)
    _check_shares(acceleration, center_fraction)
    num_center = jnp.sum(center)
    probability = (center.size / acceleration - num_center) / jnp.maximum(center.size - num_center, 1)
    return (center | (jax.random.uniform(key, center.shape) < probability)).astype(float)


def _is_low(size: int, count: int) -> Array:
    """Whether each of `size` frequencies is among the `count` lowest, of those on both sides of zero."""
    # one more below zero than above where the number is even, as fastMRI has it
    index = jnp.arange(size)
    return (index < (count + 1) // 2) | (index >= size - count // 2)


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ValueError(f"`shape` must be (height, width), got {shape}.")
    check_count("shape[0]", shape[0])
    check_count("shape[1]", shape[1])
    return shape


def _check_shares(acceleration: float, center_fraction: float) -> None:
    if not acceleration >= 1:
        raise ValueError(f"`acceleration` must be at least 1, got {acceleration}: one of so many is measured.")
    if not 0 <= center_fraction <= 1 / acceleration:
        raise ValueError(
            f"`center_fraction` must lie in [0, 1 / acceleration] = [0, {1 / acceleration:.3g}], got "
            f"{center_fraction}: the center alone would be more than what is measured."
        )
