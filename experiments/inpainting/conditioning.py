"""A flow of images given what was measured of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax.flows import Glow, Inpainting, smooth_fill

CONTEXT_CHANNELS = 4  # what is known of the image in three colours, and the mask

_GRAY = 0.45  # the mean of natural images, about
_CONTRAST = 0.2  # their standard deviation, about
_LEAST_CONTRAST = 0.03  # a flat image is taken for one of at least this contrast, or its noise would be large


class Given(NamedTuple):
    """A flow of images around another image, shown a context: its most probable image is near that one.

    Attributes:
        flow: of images around gray with the contrast of natural images.
        center: `(size, size, 3)`.
        contrast: `()`, the standard deviation of the image.
        context: `(size, size, CONTEXT_CHANNELS)`.
    """

    flow: Glow
    center: jax.Array
    contrast: jax.Array
    context: jax.Array

    def forward(self, x: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        """The latents and the log-determinant."""
        latents, log_det = self.flow.forward(self._normal(x), self.context)
        return latents, log_det + self._log_det(x)

    def inverse(self, latents: tuple[jax.Array, ...]) -> jax.Array:
        """The image with these latents."""
        return (self.flow.inverse(latents, self.context) - _GRAY) * (self.contrast / _CONTRAST) + self.center

    def log_prob(self, x: jax.Array) -> jax.Array:
        """The logarithm of the density at an image: `()`."""
        return self.flow.log_prob(self._normal(x), self.context) + self._log_det(x)

    def mode(self) -> jax.Array:
        """The image with latents of zero."""
        latents, _ = jax.eval_shape(self.forward, self.center)
        return self.inverse(jax.tree.map(lambda latent: jnp.zeros(latent.shape, latent.dtype), latents))

    def _normal(self, x: jax.Array) -> jax.Array:
        return (x - self.center) * (_CONTRAST / self.contrast) + _GRAY

    def _log_det(self, x: jax.Array) -> jax.Array:
        return x.size * jnp.log(_CONTRAST / self.contrast)


def given_nothing(flow: Glow, size: int) -> Given:
    """The flow of images of which nothing is known."""
    shape = (size, size, 3)
    # zero is gray and hidden
    context = jnp.zeros((size, size, CONTEXT_CHANNELS))
    return Given(flow, jnp.full(shape, _GRAY), jnp.asarray(_CONTRAST), context)


def given_measured(flow: Glow, problem: Inpainting) -> Given:
    """The flow around the smooth fill of the measurement, in the contrast of the known pixels, shown both and the mask.

    So the prior is one of images given what was measured; a brighter measurement of more contrast has the same images,
    brighter and of more contrast.
    """
    fill = smooth_fill(problem)
    known = jnp.broadcast_to(problem.mask, fill.shape)
    num_known = jnp.maximum(jnp.sum(known), 1)
    mean = jnp.sum(known * problem.measurement) / num_known
    variance = jnp.sum(known * (problem.measurement - mean) ** 2) / num_known
    contrast = jnp.sqrt(variance + _LEAST_CONTRAST**2)
    context = jnp.concatenate([(fill - mean) / contrast, problem.mask], axis=-1)
    return Given(flow, fill, contrast, context)


def mean_squared_error(x: jax.Array, image: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean of (x - image)^2 over the pixels of `weight` 1, `(size, size, 1)`, and all colours: `()`."""
    wide = jnp.broadcast_to(weight, image.shape)
    return jnp.sum(wide * (x - image) ** 2) / jnp.maximum(jnp.sum(wide), 1)


def error_decibels(x: jax.Array, image: jax.Array, weight: jax.Array, floor: float) -> jax.Array:
    """The mean squared error plus `floor`, in dB, which is the negative PSNR: `()`."""
    return 10 * jnp.log10(mean_squared_error(x, image, weight) + floor)
