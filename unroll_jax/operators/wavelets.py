"""Orthogonal wavelet transforms of images."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count
from unroll_jax._types import Array
from unroll_jax.operators._daubechies import NAMES, scaling_filter
from unroll_jax.operators._images import check_image
from unroll_jax.operators._isometry import Isometry

Band = tuple[slice, slice]


class Details(NamedTuple):
    """Where the three bands of details of one level stand.

    Attributes:
        horizontal: details down the image, which horizontal edges make.
        vertical: details along a row, which vertical edges make.
        diagonal: details in both directions.
    """

    horizontal: Band
    vertical: Band
    diagonal: Band


class Bands(NamedTuple):
    """Where the bands of a wavelet transform stand in its array of coefficients.

    Attributes:
        approximation: the coarse image.
        details: per level, the finest first.
    """

    approximation: Band
    details: tuple[Details, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Wavelets(Isometry):
    """The orthogonal wavelet transform of an image, periodic at its borders; its adjoint is its inverse.

    Filters of Daubechies with p vanishing moments and 2 p taps, p = 1 for `"haar"` (Mallat 2009, section 7.5). The
    coefficients of all bands stand in one array with the shape of the image, the coarse image in its first corner:
    `coefficients[operator.bands(image_shape).approximation]`. So what works on arrays works on them. They are those of
    PyWavelets in its mode "periodization".

    Attributes:
        name: `"haar"` or `"db2"` ... `"db8"`.
        num_levels: how often the coarse image is transformed again; both sides must be multiples of 2^num_levels.

    >>> operator = Wavelets("haar", num_levels=1)
    >>> operator(jnp.array([[1.0, 3.0], [1.0, 3.0]])[..., None])[..., 0].round(6)
    Array([[ 4., -2.],
           [ 0.,  0.]], dtype=float32)
    """

    name: str = dataclasses.field(default="haar", metadata={"static": True})
    num_levels: int = dataclasses.field(default=3, metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The coefficients of `x`, `(height, width)` or `(height, width, channels)`: the same shape."""
        check_image("x", x)
        height, width = self._checked_sides("x", jnp.shape(x))
        for level in range(self.num_levels):
            rows, columns = height >> level, width >> level
            coarse = _analysis(_analysis(x[:rows, :columns], self.name, 0), self.name, 1)
            x = coarse if level == 0 else x.at[:rows, :columns].set(coarse)
        return x

    def adjoint(self, y: Array) -> Array:
        """The image with the coefficients `y`: the same shape."""
        check_image("y", y)
        height, width = self._checked_sides("y", jnp.shape(y))
        for level in reversed(range(self.num_levels)):
            rows, columns = height >> level, width >> level
            fine = _synthesis(_synthesis(y[:rows, :columns], self.name, 1), self.name, 0)
            y = fine if level == 0 else y.at[:rows, :columns].set(fine)
        return y

    def bands(self, image_shape: tuple[int, ...]) -> Bands:
        """Where each band stands among the coefficients of an image with this shape: slices of its two leading axes.

        A threshold for the details alone, for instance, is an array of the image's shape with zeros at
        `bands(image_shape).approximation`.

        Raises:
            ValueError: if the sides are no multiples of 2^num_levels.

        >>> Wavelets("haar", num_levels=1).bands((4, 6, 1)).details[0].vertical
        (slice(0, 2, None), slice(3, 6, None))
        """
        height, width = self._checked_sides("image_shape", image_shape)
        details = []
        for level in range(1, self.num_levels + 1):
            rows, columns = height >> level, width >> level
            top, bottom = slice(0, rows), slice(rows, 2 * rows)
            left, right = slice(0, columns), slice(columns, 2 * columns)
            details.append(Details((bottom, left), (top, right), (bottom, right)))
        coarse = (slice(0, height >> self.num_levels), slice(0, width >> self.num_levels))
        return Bands(coarse, tuple(details))

    def _checked_sides(self, name: str, shape: tuple[int, ...]) -> tuple[int, int]:
        if self.name not in NAMES:
            raise ValueError(f"`name` of the wavelets must be one of {NAMES}, got {self.name!r}.")
        check_count("num_levels", self.num_levels)
        if len(shape) not in (2, 3):
            raise ValueError(f"`{name}` must be of an image (height, width) or (height, width, channels), got {shape}.")
        factor = 2**self.num_levels
        if shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"`{name}` must have sides that are multiples of {factor} for num_levels={self.num_levels}, got shape "
                f"{shape}. Crop or pad the image, or take fewer levels."
            )
        return shape[0], shape[1]


def _filters(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low = scaling_filter(name)
    return low, tuple((-1) ** n * tap for n, tap in enumerate(reversed(low)))


def _analysis(x: Array, name: str, axis: int) -> Array:
    """[low, high] along `axis`, where band[k] = sum over n of filter[n] x[2 k + n - p + 1], periodic."""
    overlap = len(scaling_filter(name)) // 2 - 1
    x = _wrapped(x, overlap, overlap, axis)
    phases = [jax.lax.slice_in_dim(x, phase, None, 2, axis) for phase in (0, 1)]
    size = phases[0].shape[axis] - overlap
    bands = [
        sum(tap * jax.lax.slice_in_dim(phases[n % 2], n // 2, n // 2 + size, axis=axis) for n, tap in enumerate(taps))
        for taps in _filters(name)
    ]
    return jnp.concatenate(bands, axis)


def _synthesis(y: Array, name: str, axis: int) -> Array:
    """The transpose of `_analysis`, which is its inverse."""
    overlap = len(scaling_filter(name)) // 2 - 1
    bands = [_wrapped(band, overlap, 0, axis) for band in jnp.split(y, 2, axis)]
    size = y.shape[axis] // 2
    phases = [
        sum(
            taps[2 * m + phase] * jax.lax.slice_in_dim(band, overlap - m, overlap - m + size, axis=axis)
            for taps, band in zip(_filters(name), bands, strict=True)
            for m in range(overlap + 1)
        )
        for phase in (0, 1)
    ]
    return jnp.roll(jnp.stack(phases, axis + 1).reshape(y.shape), -overlap, axis)


def _wrapped(x: Array, before: int, after: int, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode="wrap")
