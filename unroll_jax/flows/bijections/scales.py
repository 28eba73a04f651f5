"""What makes a flow multi-scale: squeezing, and splitting channels off that a conditional prior then standardizes."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unroll_jax._types import Array
from unroll_jax.flows.bijections.couplings import conditioned, halves


def squeeze(x: Array) -> Array:
    """Every 2 x 2 block of pixels as one pixel with four times the channels: `(height / 2, width / 2, 4 channels)`.

    It only moves numbers, so its log-determinant is 0; `unsqueeze` undoes it.

    Args:
        x: `(height, width, channels)`, even height and width.

    Raises:
        ValueError: for another shape.

    >>> squeeze(jnp.arange(8.0).reshape(2, 4, 1))
    Array([[[0., 1., 4., 5.],
            [2., 3., 6., 7.]]], dtype=float32)
    """
    if x.ndim != 3 or x.shape[0] % 2 or x.shape[1] % 2:
        raise ValueError(
            f"`x` must have shape (height, width, channels) with even height and width, got {x.shape}. Crop or pad it; "
            "a batch goes through jax.vmap."
        )
    height, width, channels = x.shape
    blocks = x.reshape(height // 2, 2, width // 2, 2, channels)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(height // 2, width // 2, 4 * channels)


def unsqueeze(y: Array) -> Array:
    """What `squeeze` makes `y` of: `(2 height, 2 width, channels / 4)`.

    Args:
        y: `(height, width, channels)`, a multiple of four channels.

    Raises:
        ValueError: for another shape.

    >>> unsqueeze(squeeze(jnp.arange(8.0).reshape(2, 4, 1))).ravel()
    Array([0., 1., 2., 3., 4., 5., 6., 7.], dtype=float32)
    """
    if y.ndim != 3 or y.shape[2] % 4:
        raise ValueError(f"`y` must have shape (height, width, channels), a multiple of 4 channels, got {y.shape}.")
    height, width, channels = y.shape
    blocks = y.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(2 * height, 2 * width, channels // 4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Standardized:
    """Numbers z in units of a conditional Gaussian prior: (z - mean) / std, with (mean, log(std)) given by something.

    A standard normal result means that z has the prior N(mean, std^2). So latents of all levels are alike, shrinking
    them moves each toward the mean that the others let expect, and the map is inverted whatever the prior has learned.

    Attributes:
        conditioner: `given -> (..., 2 * channels)`, first the mean, then log(std); as in `AffineCoupling`.

    >>> prior = Standardized(lambda given: jnp.concatenate([given, jnp.zeros_like(given)], axis=-1))
    >>> prior.forward(jnp.array([3.0]), jnp.array([1.0]))
    (Array([2.], dtype=float32), Array(-0., dtype=float32))
    """

    conditioner: Callable[[Array], Array]

    def forward(self, z: Array, given: Array) -> tuple[Array, Array]:
        """`z`, `(..., channels)`, standardized, and the log-determinant, -sum(log(std)).

        Raises:
            ValueError: if the conditioner returns another shape.
        """
        mean, log_std = conditioned(self.conditioner, given, z)
        return (z - mean) * jnp.exp(-log_std), -jnp.sum(log_std)

    def inverse(self, y: Array, given: Array) -> Array:
        """The `z` that is `y` when standardized.

        Raises:
            ValueError: as `forward`.
        """
        mean, log_std = conditioned(self.conditioner, given, y)
        return mean + y * jnp.exp(log_std)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The first half of the channels, and the second standardized by what the first lets expect.

    Attributes:
        conditioner: `(..., channels // 2) -> (..., 2 * (channels - channels // 2))`, as in `Standardized`.

    >>> split = Split(lambda kept: jnp.concatenate([kept, jnp.zeros_like(kept)], axis=-1))
    >>> (kept, latent), log_det = split.forward(jnp.array([1.0, 3.0]))
    >>> kept, latent, split.inverse((kept, latent))
    (Array([1.], dtype=float32), Array([2.], dtype=float32), Array([1., 3.], dtype=float32))
    """

    conditioner: Callable[[Array], Array]

    def forward(self, x: Array) -> tuple[tuple[Array, Array], Array]:
        """`(kept, latent)` of `x`, `(..., channels)`, and the log-determinant.

        Raises:
            ValueError: if `x` has one channel, or the conditioner returns another shape.
        """
        kept, other = halves(x)
        latent, log_det = Standardized(self.conditioner).forward(other, kept)
        return (kept, latent), log_det

    def inverse(self, y: tuple[Array, Array]) -> Array:
        """The `x` that was split into `y`, `(kept, latent)`.

        Raises:
            ValueError: as `forward`.
        """
        kept, latent = y
        return jnp.concatenate([kept, Standardized(self.conditioner).inverse(latent, kept)], axis=-1)
