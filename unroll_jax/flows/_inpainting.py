"""The inpainting problem: an image of which some pixels were measured and the others are hidden."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unroll_jax._checks import check_binary, check_count, check_inexact, is_known_false
from unroll_jax._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Inpainting:
    """The data term ||mask * (x - measurement)||^2 / 2 of an image with hidden pixels; `inpainting` makes one.

    Attributes:
        measurement: `(height, width, channels)`, zero where hidden.
        mask: `(height, width, 1)`, 1 where a pixel was measured, 0 where it is hidden.
    """

    measurement: Array
    mask: Array

    def value(self, x: Array) -> Array:
        """The data term at `x`: `()`."""
        return jnp.sum(self.gradient(x) ** 2) / 2

    def gradient(self, x: Array) -> Array:
        """Mask * (x - measurement), the gradient at `x`: the shape of `x`. Zero at hidden pixels."""
        return self._keep() * (x - self.measurement)

    def with_measured(self, x: Array) -> Array:
        """`x` with the known pixels as they were measured: the nearest image that fits the measurement exactly."""
        return x - self.gradient(x)

    def _keep(self) -> Array:
        return jnp.broadcast_to(self.mask, self.measurement.shape)


def inpainting(measurement: ArrayLike, mask: ArrayLike) -> Inpainting:
    """The problem of filling in the hidden pixels of an image.

    Args:
        measurement: `(height, width, channels)`, in [0, 1]; what stands at hidden pixels is not looked at.
        mask: `(height, width)` or `(height, width, 1)`, 1 or True where a pixel was measured, else 0.

    Raises:
        ValueError: for other shapes, a mask of other numbers, or one that hides everything.

    Warns:
        UserWarning: for known pixels outside of [0, 1], which layers clip to.

    >>> inpainting(jnp.full((2, 2, 3), 0.5), jnp.array([[1, 0], [1, 1]])).value(jnp.full((2, 2, 3), 1.0))
    Array(1.125, dtype=float32)
    """
    check_inexact("measurement", measurement)
    measurement = jnp.asarray(measurement)
    shape = jnp.shape(measurement)
    if len(shape) != 3:
        raise ValueError(
            f"`measurement` must be an image of shape (height, width, channels), got {shape}. Batches go "
            "through jax.vmap."
        )
    if jnp.shape(mask) not in (shape[:2], (*shape[:2], 1)):
        raise ValueError(
            f"`mask` must have shape {shape[:2]} or {(*shape[:2], 1)} for a measurement of shape {shape}, got "
            f"{jnp.shape(mask)}: all channels of a pixel are hidden, or none."
        )
    check_binary("mask", mask)
    if is_known_false(lambda: jnp.any(jnp.asarray(mask) != 0)):
        raise ValueError("`mask` must keep at least one pixel, got zeros only: 1 stands for known, 0 for hidden.")
    mask = jnp.asarray(mask, measurement.dtype).reshape(*shape[:2], 1)
    # whatever stands at hidden pixels, NaN included
    known = jnp.where(jnp.broadcast_to(mask, shape) != 0, measurement, 0)
    if is_known_false(lambda: (known >= 0) & (known <= 1)):
        warnings.warn(
            "`measurement` has known pixels outside of [0, 1], or not finite, and restored images lie in [0, 1]: "
            "divide 8-bit intensities by 255.",
            stacklevel=2,
        )
    return Inpainting(known, mask)


def smooth_fill(problem: Inpainting, num_steps: int = 60) -> Array:
    """The measurement with its hidden pixels filled in smoothly: the shape of the measurement.

    Hidden pixels are led toward the mean of their four neighbours, which harmonic functions have, from the mean colour
    of the known pixels, by Jacobi's iteration with momentum.

    Args:
        problem: `inpainting(...)`.
        num_steps: iterations; about 5 for each pixel of a hole's side.

    Raises:
        ValueError: for a number of steps below 1.

    >>> problem = inpainting(jnp.array([[[0.0], [9.0], [1.0]]]), jnp.array([[1, 0, 1]]))
    >>> smooth_fill(problem).ravel().round(3)
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    check_count("num_steps", num_steps)
    measurement = problem.measurement
    keep = jnp.broadcast_to(problem.mask, measurement.shape)
    mean = jnp.sum(measurement, axis=(0, 1), keepdims=True) / jnp.sum(problem.mask)
    start = jnp.where(keep != 0, measurement, jnp.broadcast_to(mean, measurement.shape))
    # the best momentum for a square hole whose side is a fifth of the steps (Golub and Varga 1961)
    slowest = math.cos(math.pi / (num_steps / 5 + 1))
    momentum = ((1 - math.sqrt(1 - slowest**2)) / slowest) ** 2 if slowest > 0 else 0.0

    def step(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, previous = carry
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        return x + (1 - keep) * ((1 + momentum) * (mean - x) + momentum * (x - previous)), x

    return jax.lax.fori_loop(0, num_steps, step, (start, start))[0]
