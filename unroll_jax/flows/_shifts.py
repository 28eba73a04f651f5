"""3 x 3 convolutions as matrix products, which CPUs do not slow down inside of loops as they do convolutions."""

import jax.numpy as jnp

from unroll_jax._types import Array


def convolve(x: Array, kernel: Array, border: float = 0.0) -> Array:
    """The correlation of `x` with 3 x 3 kernels, of the same height and width: `(height, width, num_out)`.

    Shifts move either the image before the matrix products or what comes out of them: whichever are fewer numbers.

    Args:
        x: `(height, width, num_in)`.
        kernel: `(3, 3, num_in, num_out)`.
        border: what surrounds the image.
    """
    (height, width, num_in), num_out = x.shape, kernel.shape[-1]
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=border)
    if height * width * num_in <= (height + 2) * (width + 2) * num_out:
        wide = jnp.concatenate([padded[:, j : j + width] for j in range(3)], axis=-1)
        first, second, third = (wide[i : i + height] @ kernel[i].reshape(3 * num_in, num_out) for i in range(3))
        return first + second + third
    parts = padded @ kernel.transpose(2, 1, 0, 3).reshape(num_in, 9 * num_out)
    first, second, third = (parts[:, j : j + width, 3 * num_out * j : 3 * num_out * (j + 1)] for j in range(3))
    wide = first + second + third
    first, second, third = (wide[i : i + height, :, num_out * i : num_out * (i + 1)] for i in range(3))
    return first + second + third
