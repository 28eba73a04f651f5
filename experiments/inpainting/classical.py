"""Inpainting without learning, to compare with."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax.flows import inpainting, smooth_fill

_BALANCE = 5.0  # of the dual against the primal step; edges move far, intensities little


@functools.partial(jax.jit, static_argnames="num_steps")
def variation_inpainting(images: jax.Array, masks: jax.Array, num_steps: int) -> jax.Array:
    """The images of least total variation that have the known pixels, isotropic and with colours coupled.

    By the primal-dual method of Chambolle and Pock (2011), from the smooth fill.

    Args:
        images: `(num, height, width, channels)`.
        masks: `(num, height, width, 1)`.
        num_steps: iterations.
    """
    primal_step, dual_step = 1 / (_BALANCE * math.sqrt(8)), _BALANCE / math.sqrt(8)

    def restore(image: jax.Array, mask: jax.Array) -> jax.Array:
        problem = inpainting(image, mask)

        def step(_: int, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            x, extrapolated, dual = carry
            dual = dual + dual_step * _differences(extrapolated)
            sizes = jnp.sqrt(jnp.sum(dual**2, axis=(0, 3), keepdims=True))
            dual = dual / jnp.broadcast_to(jnp.maximum(sizes, 1), dual.shape)
            x_next = problem.with_measured(x - primal_step * _adjoint(dual))
            return x_next, 2 * x_next - x, dual

        start = smooth_fill(problem)
        dual = jnp.zeros((2, *image.shape), image.dtype)
        return jax.lax.fori_loop(0, num_steps, step, (start, start, dual))[0]

    return jax.vmap(restore)(images, masks)


@jax.jit
def harmonic_inpainting(images: jax.Array, masks: jax.Array) -> jax.Array:
    """The smooth fill of every image, with which the networks start."""
    return jax.vmap(lambda image, mask: smooth_fill(inpainting(image, mask)))(images, masks)


def biharmonic_inpainting(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The biharmonic functions with the known pixels (scikit-image; Damelin and Hoang 2018)."""
    from skimage.restoration import inpaint_biharmonic

    restored = [
        inpaint_biharmonic(image * mask, mask[..., 0] == 0, channel_axis=-1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return np.array(restored, np.float32)


def _differences(x: jax.Array) -> jax.Array:
    down = jnp.pad(x[1:] - x[:-1], ((0, 1), (0, 0), (0, 0)))
    right = jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0)))
    return jnp.stack([down, right])


def _adjoint(dual: jax.Array) -> jax.Array:
    down, right = dual[0][:-1], dual[1][:, :-1]
    vertical = jnp.pad(down, ((1, 0), (0, 0), (0, 0))) - jnp.pad(down, ((0, 1), (0, 0), (0, 0)))
    horizontal = jnp.pad(right, ((0, 0), (1, 0), (0, 0))) - jnp.pad(right, ((0, 0), (0, 1), (0, 0)))
    return vertical + horizontal
