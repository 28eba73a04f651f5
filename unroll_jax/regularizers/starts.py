"""Where the training of a ridge regularizer starts: random filters, and potentials in the shape that it ends with."""

import dataclasses

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_non_negative
from unroll_jax._types import Array
from unroll_jax.regularizers.filters import check_kernels
from unroll_jax.regularizers.ridge import NOISE_GRID, RidgeParams, check_params, feasible
from unroll_jax.splines import UniformGrid, linear_spline


def ridge_params(
    key: Array,
    *,
    channels: tuple[int, ...] = (4, 8, 60),
    size: int = 5,
    rho: float = 1.0,
    mu: float = 50.0,
    width: float = 0.002,
    num_knots: int = 101,
    reach: float = 0.1,
    scale: float = 5.0,
    num_potentials: int = 1,
) -> RidgeParams:
    """Parameters to start training from: random filters, and activations in the shape that training ends with.

    The published ones converge to a clip of width h and a soft threshold that is cut off, so it starts there:
    f_+(t) = clip(t, -h, h) and f_-(t) = clip(soft_threshold(t, h), -(reach - 2 h), reach - 2 h).

    Args:
        key: a random key.
        channels: of the convolutions after each other.
        size: of each of their kernels, odd.
        rho: how weakly convex the regularizer is; 0 for a convex one.
        mu: where its curvature bound starts. Training changes it slowly: 100 suits a convex one, 50 one with
            rho = 1.
        width: h, at least a knot's distance.
        num_knots: of the splines, odd.
        reach: the last knot.
        scale: the logarithm of the scaling at all noise levels.
        num_potentials: of which every filter has its own mixture, see `mix_potentials`; with 1 all filters share one.
    """
    check_non_negative("rho", rho)
    check_count("num_potentials", num_potentials)
    keys = jax.random.split(key, len(channels))
    inputs = (1, *channels[:-1])
    kernels = tuple(
        jax.random.normal(key, (size, size, num_in, num_out)) / (size * num_in**0.5)
        for key, num_in, num_out in zip(keys, inputs, channels, strict=True)
    )
    check_kernels(kernels)
    grid = UniformGrid(-reach, reach, num_knots)
    knots = grid.knots
    limit = reach - grid.step - width
    beyond = jnp.sign(knots) * jnp.maximum(jnp.abs(knots) - width, 0)
    params = RidgeParams(
        kernels=kernels,
        convex=jnp.clip(knots, -width, width),
        concave=jnp.clip(beyond, -limit, limit),
        log_mu=jnp.log(jnp.asarray(mu, float)),
        scaling=jnp.full((channels[-1], NOISE_GRID.num_knots), scale, float),
        grid=grid,
        rho=rho,
    )
    return params if num_potentials == 1 else mix_potentials(params, num_potentials)


def mix_potentials(params: RidgeParams, num_potentials: int, *, share: float = 0.8) -> RidgeParams:
    """`params` with a mixture of potentials for every filter, in place of one that all filters share.

    The potentials are that of `params` at several widths, psi(t / w) w^2 with w = 1/2, 1, 2, 4, ...; the slopes of each
    one's activation are in [-rho, mu], and so are those of any mean. A filter can then have a narrow kink at zero with
    long tails, and other ones at other noise levels.

    Args:
        params: without a mixture, with one potential for all filters on a uniform grid.
        num_potentials: at least 2.
        share: the weight of the potential of `params` itself, in (0, 1); the others share the rest.

    Raises:
        ValueError: for other `params`, fewer potentials, or a `share` that is not between 0 and 1.

    >>> params = mix_potentials(ridge_params(jax.random.key(0), channels=(2,)), 3)
    >>> params.convex.shape, params.mixture.shape
    ((3, 401), (2, 3, 11))
    """
    check_params(params)
    grid = params.grid
    if params.mixture is not None or jnp.ndim(params.convex) != 1 or not isinstance(grid, UniformGrid):
        raise ValueError(
            "`params` must have one potential that all filters share, on a UniformGrid and without a mixture, got "
            f"`convex` of shape {jnp.shape(params.convex)} on a {type(grid).__name__}"
            f"{' with a mixture' if params.mixture is not None else ''}."
        )
    check_count("num_potentials", num_potentials)
    if num_potentials < 2 or not 0 < share < 1:
        raise ValueError(
            f"`num_potentials` must be at least 2 and `share` between 0 and 1, got {num_potentials} and {share}."
        )
    widest = 2 ** (num_potentials - 1)
    wide_grid = UniformGrid(widest * grid.low, widest * grid.high, widest * (grid.num_knots - 1) + 1)

    def widened(part: Array) -> Array:
        part = feasible(part, grid)
        widths = 2.0 ** jnp.arange(num_potentials, dtype=part.dtype)
        at = lambda width: width * linear_spline(wide_grid.knots / width, part, grid, extrapolation="constant")
        return jnp.stack([at(width) for width in widths])

    num_filters, num_levels = params.scaling.shape
    own = jnp.log(share * (num_potentials - 1) / (1 - share))
    mixture = jnp.zeros((num_filters, num_potentials, num_levels), params.scaling.dtype).at[:, 1].set(own)
    return dataclasses.replace(
        params,
        convex=widened(params.convex),
        concave=widened(params.concave),
        # the second potential at twice the scale is the old one
        scaling=params.scaling + jnp.log(2.0).astype(params.scaling.dtype),
        mixture=mixture,
        grid=wide_grid,
    )
