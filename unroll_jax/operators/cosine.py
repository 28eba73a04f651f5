"""The discrete cosine transform."""

import dataclasses

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_inexact
from unroll_jax._types import Array
from unroll_jax.operators._images import by_parts
from unroll_jax.operators._isometry import Isometry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CosineTransform(Isometry):
    """The orthonormal discrete cosine transform (type II) along some axes; its adjoint is its inverse.

    Attributes:
        axes: which axes are transformed; the height and the width of an image by default.

    >>> CosineTransform()(jnp.ones((2, 2, 1)))[..., 0].round(6)
    Array([[2., 0.],
           [0., 0.]], dtype=float32)
    """

    axes: tuple[int, ...] = dataclasses.field(default=(0, 1), metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The coefficients of `x`: the same shape, lowest frequency first."""
        return self._along_axes("x", x)

    def adjoint(self, y: Array) -> Array:
        """The array with the coefficients `y`: the same shape."""
        return self._along_axes("y", y, is_inverse=True)

    def _along_axes(self, name: str, x: Array, *, is_inverse: bool = False) -> Array:
        # JAX itself does not import it before it is used
        from jax.scipy.fft import dct, idct

        check_inexact(name, x)
        ndim = jnp.ndim(x)
        known = [axis % ndim for axis in self.axes if -ndim <= axis < ndim]
        if len(set(known)) < len(self.axes):
            raise ValueError(
                f"`{name}` must have all the axes {self.axes} of the transform, each once, got shape {jnp.shape(x)}."
            )

        def transformed(x: Array) -> Array:
            for axis in self.axes:
                x = (idct if is_inverse else dct)(x, axis=axis % ndim, norm="ortho")
            return x

        return by_parts(transformed, x)
