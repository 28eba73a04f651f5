"""Support selection: the largest entries of a code pass a threshold unshrunk, more of them layer by layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_non_negative
from unroll_jax._types import Array
from unroll_jax.prox import soft_threshold


class SupportSelection(NamedTuple):
    """How many of a code's entries pass the threshold unshrunk: min(growth * layer, limit) of them.

    The schedule of LISTA-CPSS (Chen et al. 2018): later layers trust more entries to be in the support, and an entry
    that is trusted is not biased toward zero. Both are fixed settings, no parameters to train.

    Attributes:
        growth: the share of the entries that every layer adds; layer 1 has `growth`.
        limit: the largest share; best a little above the share of entries that are not zero.

    >>> SupportSelection(growth=0.012, limit=0.13).num_trusted(jnp.arange(1, 13), num_atoms=500)
    Array([ 6, 12, 18, 24, 30, 36, 42, 48, 54, 60, 65, 65], dtype=int32)
    """

    growth: float = 0.012
    limit: float = 0.13

    def num_trusted(self, layer: Array, num_atoms: int) -> Array:
        """The number of entries that pass in a layer, the first of which is 1: the shape of `layer`."""
        grown = jnp.round(jnp.asarray(layer, float) * (self.growth * num_atoms))
        return jnp.minimum(grown, round(self.limit * num_atoms)).astype(jnp.int32)


def check_support(support: SupportSelection | None) -> None:
    """Raise unless `support` is None or a `SupportSelection` with shares between 0 and 1."""
    if support is None:
        return
    if not isinstance(support, SupportSelection):
        raise ValueError(
            f"`support` must be SupportSelection(growth, limit) or None, got {type(support).__name__}: "
            "SupportSelection(0.012, 0.13), say, for codes of which a tenth is not zero."
        )
    for name, share in support._asdict().items():
        check_non_negative(name, share)
        if share > 1:
            raise ValueError(f"`{name}` must be a share of the entries, at most 1, got {share}. Give 1.2 % as 0.012.")


def selective_threshold(x: Array, threshold: Array | float, num_trusted: Array, most_trusted: int) -> Array:
    """`x` soft-thresholded, but for its `num_trusted` largest entries, which stay if they exceed the threshold.

    x_i where |x_i| > threshold and i is among the largest, else soft_threshold(x_i, threshold)  (Chen et al. 2018).
    Equal entries at the edge of the selection all pass.

    Args:
        x: `(n,)`, real or complex; of complex entries the modulus counts.
        threshold: `()` or `(n,)`, non-negative.
        num_trusted: `()`, a whole number, which may be known only at run time.
        most_trusted: the largest that it will be, from 0 to n.

    >>> selective_threshold(jnp.array([-3.0, 2.0, 0.5]), 1.0, num_trusted=jnp.asarray(1), most_trusted=2)
    Array([-3.,  1.,  0.], dtype=float32)
    """
    shrunk = soft_threshold(x, threshold)
    if most_trusted == 0:
        return shrunk
    # which entries pass is no matter of degree, so there is nothing to differentiate
    modulus = jax.lax.stop_gradient(jnp.abs(x))
    largest, _ = jax.lax.top_k(modulus, most_trusted)
    edge = jnp.where(num_trusted > 0, largest[jnp.maximum(num_trusted - 1, 0)], jnp.inf)
    return jnp.where((modulus >= edge) & (modulus > threshold), x, shrunk)


def thresholded(x: Array, threshold: Array, support: SupportSelection | None, layer: Array) -> Array:
    """`x` soft-thresholded as layer number `layer` does it, the first of which is 1."""
    if support is None:
        return soft_threshold(x, threshold)
    num_atoms = jnp.shape(x)[0]
    return selective_threshold(
        x, threshold, support.num_trusted(layer, num_atoms), most_trusted=round(support.limit * num_atoms)
    )
