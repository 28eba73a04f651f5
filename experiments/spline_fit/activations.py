"""Activations for Lipschitz networks, beside those of `unroll_jax.splines`; each has the Lipschitz constant 1."""

import jax
import jax.numpy as jnp
from flax import nnx


class Pointwise(nnx.Module):
    """A fixed function of one number that is 1-Lipschitz, "relu" or "absolute", at every entry."""

    lipschitz = 1.0

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function at every entry of `x`."""
        return jnp.abs(x) if self.name == "absolute" else jnp.maximum(x, 0)


class GroupSort(nnx.Module):
    """Channels sorted in pairs, (a, b) -> (min, max) (Anil et al. 2019, arXiv 1811.05381): it keeps norms."""

    lipschitz = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """The sorted pairs of `x`, `(..., channels)` with an even number of channels."""
        first, second = _pairs(x)
        return _interleaved(jnp.minimum(first, second), jnp.maximum(first, second))


class Householder(nnx.Module):
    """Pairs of channels reflected into a half-plane that is learned (Singla et al. 2021, arXiv 2108.04062).

    A pair on the wrong side of the line through 0 at the angle t / 2 is mirrored at it: continuous, and a pair's norm
    stays. It starts as sorting, t = pi / 2.

    Attributes:
        angle: `(channels // 2,)`, t of every pair.
    """

    lipschitz = 1.0

    def __init__(self, channels: int):
        self.angle = nnx.Param(jnp.full(channels // 2, jnp.pi / 2, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The pairs of `x`, `(..., channels)`, on the right side of their lines."""
        first, second = _pairs(x)
        angle = jnp.broadcast_to(self.angle[...], first.shape)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        is_right = first * jnp.sin(angle / 2) - second * jnp.cos(angle / 2) > 0
        mirrored = cosine * first + sine * second, sine * first - cosine * second
        return _interleaved(jnp.where(is_right, first, mirrored[0]), jnp.where(is_right, second, mirrored[1]))


def _pairs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[..., 0::2], x[..., 1::2]


def _interleaved(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)
