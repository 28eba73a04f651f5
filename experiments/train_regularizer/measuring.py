"""Whether a regularizer keeps what it promises: its norm and curvature, at random images and their borders."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax.regularizers import RidgeParams, prepare_ridge, ridge_hvp
from unroll_jax.regularizers.filters import norm_bound, same_convolution, same_transpose

SIZE = 24  # of the random images: with kernels of 13 pixels every pixel is near a border
NUM_PAIRS = 1_000
POWER_STEPS = 200
ROUNDING = 1e-5


class Bounds(NamedTuple):
    """What was promised and what was found.

    Attributes:
        norm_bound: of the filters, certified: an upper bound of the norm of the convolution, border included.
        norm_found: the same by power iteration on a small image, from below.
        rho: the promised bound of the negative curvature.
        mu: that of the positive one.
        lowest: the smallest v'Hv / ||v||^2 found.
        highest: the largest.
        num_pairs: how many pairs of an image and a direction were tried.
        holds: whether all lie within the bounds, up to rounding.
    """

    norm_bound: float
    norm_found: float
    rho: float
    mu: float
    lowest: float
    highest: float
    num_pairs: int
    holds: bool


def audit(params: RidgeParams, sigmas: Sequence[float], seed: int) -> Bounds:
    """`Bounds` of the regularizer at the noise levels `sigmas`, in 8-bit units, together.

    Half of the directions are random, the others are images of filters' own kind: W^T of random responses, which is
    where the curvature is. Half of them live at the border only.
    """
    ridges = [prepare_ridge(params, sigma / 255) for sigma in sigmas]
    kernel = ridges[0].kernel

    @jax.jit
    def curvatures(ridge, key):
        def one(key):
            image_key, scale_key, direction_key, kind_key = jax.random.split(key, 4)
            scale = 10 ** jax.random.uniform(scale_key, minval=-3.0, maxval=0.0)
            x = scale * jax.random.normal(image_key, (SIZE, SIZE, 1))
            plain = jax.random.normal(direction_key, x.shape)
            responses = jax.random.normal(direction_key, (SIZE, SIZE, kernel.shape[3]))
            kind = jax.random.randint(kind_key, (), 0, 4)
            direction = jnp.where(kind % 2 == 0, plain, same_transpose(responses, kernel))
            distance = jnp.minimum(jnp.arange(SIZE), jnp.arange(SIZE)[::-1])
            at_border = (jnp.minimum(distance[:, None], distance[None]) < kernel.shape[0] // 2)[..., None]
            direction = jnp.where((kind >= 2) & ~at_border, 0, direction)
            return jnp.vdot(direction, ridge_hvp(ridge, x, direction)) / jnp.vdot(direction, direction)

        return jax.lax.map(one, jax.random.split(key, -(-NUM_PAIRS // len(sigmas))))

    keys = jax.random.split(jax.random.key(seed), len(ridges))
    found = np.concatenate([curvatures(ridge, key) for ridge, key in zip(ridges, keys, strict=True)])

    @jax.jit
    def squared_norm(key):
        def power(_, v):
            v = same_transpose(same_convolution(v, kernel), kernel)
            return v / jnp.linalg.norm(v)

        v = jax.lax.fori_loop(0, POWER_STEPS, power, jax.random.normal(key, (4 * SIZE, 4 * SIZE, 1)))
        return jnp.vdot(v, same_transpose(same_convolution(v, kernel), kernel)) / jnp.vdot(v, v)

    bound, norm = float(norm_bound(kernel)), float(jnp.sqrt(squared_norm(keys[0])))
    mu, rho = float(ridges[0].mu), params.rho
    lowest, highest = float(np.min(found)), float(np.max(found))
    holds = (
        bound <= 1 + ROUNDING
        and norm <= bound * (1 + ROUNDING)
        and lowest >= -rho - ROUNDING * max(rho, 1)
        and highest <= mu * (1 + ROUNDING)
    )
    return Bounds(bound, norm, rho, mu, lowest, highest, len(found), holds)
