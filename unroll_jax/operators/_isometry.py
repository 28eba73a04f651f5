"""What all operators with A* A = I share."""

import jax.numpy as jnp

from unroll_jax._types import Array


class Isometry:
    """The closed forms of an operator that keeps norms, A* A = I."""

    def norm_bound(self) -> Array:
        """The spectral norm, 1: `()`."""
        # in single precision, which takes the type of what it is multiplied with
        return jnp.ones((), jnp.float32)

    def gram_resolvent(self, x: Array, strength: Array | float) -> Array:
        """(I + strength A* A)^-1 x = x / (1 + strength): the shape of `x`."""
        return x / (1 + strength)
