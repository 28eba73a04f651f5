"""Convex and weakly convex ridge regularizers: R(x) = sum of potentials of filter responses, with explicit bounds.

Learned once on clean images, such a prior solves any linear inverse problem (CRR-NN, arXiv 2211.12461; WCRR-NN, arXiv
2308.10542). Here the operator that is applied is the one whose norm is bounded: at the border too.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from unroll_jax._checks import check_attributes, check_non_negative
from unroll_jax._types import Array
from unroll_jax.operators import _tiles as tiles
from unroll_jax.regularizers.filters import (
    check_kernels,
    collapsed,
    norm_bound,
    same_convolution,
    same_transpose,
    stop_where_zero,
    zero_mean,
)
from unroll_jax.splines import (
    Grid,
    SlopeBox,
    UniformGrid,
    clip_slopes,
    flat_ends,
    linear_spline,
    spline_potential,
    spline_slope,
)

GRID = UniformGrid(-0.1, 0.1, 101)
NOISE_GRID = UniformGrid(0.0, 30.0, 11)
SIGMA_UNIT = 255.0  # noise grids are in 8-bit units, as published; images and sigma are in [0, 1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RidgeParams:
    """What is learned of a ridge regularizer; `prepare_ridge` makes a feasible `Ridge` of it.

    A plain pytree, so it can be set from arrays: weights published elsewhere come in by their owner's hand.

    Attributes:
        kernels: a chain of convolutions, `(height, width, in_channels, out_channels)` each, from 1 channel. The first
            is used without its mean; the product is divided by a bound of its norm.
        convex: `(num_knots,)` or `(filters, num_knots)`, the values of f_+ at the knots. It is made odd, with slopes in
            [0, 1] that are 0 at the ends. With a `mixture`, `(potentials, num_knots)`.
        concave: the same, of f_-. The activation is mu f_+ - rho f_-.
        log_mu: `()`, the logarithm of mu, which bounds the curvature of R.
        scaling: `(filters, num_noise_levels)`, the logarithms of how filters are scaled at the noise levels of
            `noise_grid`, between which they are interpolated, and beyond which they go on straight.
        norm: `()`, what the product of the kernels is divided by; None for the certified bound. Give it for weights
            that come with their own: then whether the bounds hold is not known.
        mixture: `(filters, potentials, num_noise_levels)`, or None. With it, a filter's activation at a noise level is
            a mean of those of all potentials, which keeps the bounds; its weights are the softmax of these numbers,
            interpolated like the scales. `mix_potentials` makes them.
        grid: where the knots of the splines are, symmetric around 0.
        noise_grid: the noise levels, in 8-bit units.
        rho: how weakly convex R is; 0 makes it convex.
    """

    kernels: tuple[Array, ...]
    convex: Array
    concave: Array
    log_mu: Array
    scaling: Array
    norm: Array | None = None
    mixture: Array | None = None
    grid: Grid = dataclasses.field(default=GRID)
    noise_grid: UniformGrid = dataclasses.field(default=NOISE_GRID, metadata={"static": True})
    rho: float = dataclasses.field(default=1.0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Ridge:
    """A ridge regularizer at one noise level, ready for use: R(x) = sum_i,pixels psi(a_i (w_i * x)) / a_i^2.

    With the convolution W = (w_i) of norm at most 1 and slopes of psi' in [-rho, mu], whatever the scales a_i:
    -rho <= v'Hv / ||v||^2 <= mu for the Hessian H of R.

    R has a lower bound where no activation ends below zero, as it always is for rho = 0; for rho > 0 the bounds of its
    curvature do not imply one.

    Attributes:
        kernel: `(height, width, 1, filters)`, the filters w_i, of norm at most 1.
        coefficients: `(num_knots,)` or `(filters, num_knots)`, the values of psi' at the knots.
        scales: `(filters,)`, the a_i.
        mu: `()`, an upper bound of the curvature.
        rho: `()`, minus the lower bound; R + rho ||x||^2 / 2 is convex.
        grid: where the knots are.
    """

    kernel: Array
    coefficients: Array
    scales: Array
    mu: Array
    rho: Array
    grid: Grid


def prepare_ridge(params: RidgeParams, sigma: Array | float) -> Ridge:
    """The feasible regularizer of `params` at the noise level `sigma`: once before an iteration, not in it.

    Args:
        params: what is learned.
        sigma: `()`, the standard deviation of noise in the unit of the image, where 1 is white.

    Raises:
        ValueError: if `params` are none or do not fit each other, or `sigma` is negative.

    Warns:
        UserWarning: if a known `sigma` is beyond the noise levels of the training; the scales go on straight.

    >>> from unroll_jax.regularizers import ridge_params
    >>> params = ridge_params(jax.random.key(0))
    >>> ridge = prepare_ridge(params, 25 / 255)
    >>> ridge.kernel.shape
    (13, 13, 1, 60)
    """
    check_params(params)
    check_non_negative("sigma", sigma)
    if jnp.shape(sigma) != ():
        raise ValueError(f"`sigma` must have shape (), got {jnp.shape(sigma)}. Map over noise levels by jax.vmap.")
    _warn_of_range(params.noise_grid, sigma)
    dtype = params.kernels[0].dtype
    first, *others = params.kernels
    kernel = collapsed([zero_mean(first), *others])
    norm = norm_bound(kernel) if params.norm is None else params.norm
    mu = jnp.exp(params.log_mu)
    convex, concave = (feasible(part, params.grid) for part in (params.convex, params.concave))
    coefficients = mu * convex - params.rho * concave
    level = SIGMA_UNIT * jnp.asarray(sigma, dtype)
    if params.mixture is not None:
        weights = jax.nn.softmax(_at_level(level, params.mixture, params.noise_grid), axis=-1)
        coefficients = jnp.matmul(weights, coefficients, precision="highest")
    return Ridge(
        kernel=kernel / stop_where_zero(norm),
        coefficients=coefficients,
        scales=jnp.exp(_at_level(level, params.scaling, params.noise_grid)) / (level + 1e-5),
        mu=mu,
        rho=jnp.asarray(params.rho, dtype),
        grid=params.grid,
    )


def ridge_value(ridge: Ridge, x: Array) -> Array:
    """R(x): `()`. It is not negative where rho is 0.

    Args:
        ridge: of `prepare_ridge`.
        x: `(height, width, 1)`, an image in [0, 1].

    Raises:
        ValueError: if `x` is not one gray image.
    """
    check_image("x", x)
    ridge = _in_precision_of(x, ridge)

    def potentials(responses: Array) -> Array:
        scaled = responses * _like(ridge.scales, responses)
        values = spline_potential(scaled, ridge.coefficients, ridge.grid, extrapolation="constant")
        return values / _like(ridge.scales**2, responses)

    # a response of zero has no potential, so what tiles have beyond the image adds nothing
    return _by_platform(
        lambda x: jnp.sum(potentials(tiles.to_tiles(x, ridge.kernel))),
        lambda x: jnp.sum(potentials(same_convolution(x, ridge.kernel))),
        x,
    )


def ridge_gradient(ridge: Ridge, x: Array) -> Array:
    """The gradient of R at `x`, W^T phi(W x) with phi_i(v) = psi'(a_i v) / a_i: the shape of `x`.

    Args:
        ridge: of `prepare_ridge`.
        x: `(height, width, 1)`.

    Raises:
        ValueError: if `x` is not one gray image.
    """
    check_image("x", x)
    ridge = _in_precision_of(x, ridge)

    def activation(responses: Array) -> Array:
        scales = _like(ridge.scales, responses)
        values = linear_spline(responses * scales, ridge.coefficients, ridge.grid, extrapolation="constant")
        return values / scales

    return _through_filters(ridge.kernel, activation, x)


def ridge_hvp(ridge: Ridge, x: Array, direction: Array) -> Array:
    """The Hessian of R at `x` times `direction`, W^T (phi'(W x) W direction): the shape of `x`.

    Args:
        ridge: of `prepare_ridge`.
        x: `(height, width, 1)`.
        direction: the shape of `x`.

    Raises:
        ValueError: if `x` or `direction` are not gray images of one size.
    """
    check_image("x", x)
    ridge = _in_precision_of(x, ridge)
    if jnp.shape(direction) != jnp.shape(x):
        raise ValueError(f"`direction` must have the shape of `x`, {jnp.shape(x)}, got {jnp.shape(direction)}.")

    def product(responses: Array, directions: Array) -> Array:
        scaled = responses * _like(ridge.scales, responses)
        return directions * spline_slope(scaled, ridge.coefficients, ridge.grid, extrapolation="constant")

    return _through_filters(ridge.kernel, product, x, direction)


def feasible(part: Array, grid: Grid) -> Array:
    """The splines `part` made odd, with slopes in [0, 1] that are 0 at the ends."""
    return clip_slopes(part, grid, flat_ends(SlopeBox.firmly_nonexpansive(), grid), keep="odd")


def _at_level(level: Array, values: Array, noise_grid: UniformGrid) -> Array:
    """`values`, `(..., num_noise_levels)`, interpolated at the noise level `level`: `(...)`."""
    tables = values.reshape(-1, values.shape[-1])
    return linear_spline(jnp.broadcast_to(level, tables.shape[:1]), tables, noise_grid).reshape(values.shape[:-1])


def _in_precision_of(x: Array, ridge: Ridge) -> Ridge:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(x)), ridge)


def _through_filters(kernel: Array, between: Callable[..., Array], *images: Array) -> Array:
    """W^T between(W x, ...), by products over tiles on CPU."""
    height, width, _ = images[0].shape

    def by_tiles(*images: Array) -> Array:
        responses = [tiles.to_tiles(image, kernel) for image in images]
        return tiles.from_tiles(between(*responses), kernel, (height, width))

    def by_convolution(*images: Array) -> Array:
        responses = [same_convolution(image, kernel) for image in images]
        return same_transpose(between(*responses), kernel)

    return _by_platform(by_tiles, by_convolution, *images)


def _by_platform(cpu: Callable[..., Array], default: Callable[..., Array], *args: Array) -> Array:
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def _like(scales: Array, responses: Array) -> Array:
    return jnp.broadcast_to(scales.astype(responses.dtype), responses.shape)


def check_params(params: Any) -> None:
    """Raise unless `params` are `RidgeParams` whose arrays fit each other."""
    fields = tuple(field.name for field in dataclasses.fields(RidgeParams))
    check_attributes("params", params, fields, "RidgeParams, as ridge_params makes them")
    check_kernels(params.kernels)
    num_filters, num_knots, mixture = params.kernels[-1].shape[3], params.grid.num_knots, params.mixture
    if mixture is not None:
        shape, num_levels = jnp.shape(mixture), params.noise_grid.num_knots
        if len(shape) != 3 or (shape[0], shape[2]) != (num_filters, num_levels) or shape[1] == 0:
            raise ValueError(
                f"`params.mixture` must have shape ({num_filters}, potentials, {num_levels}), a number for each "
                f"filter, potential and noise level, got {shape}. `mix_potentials` makes it."
            )
    for name in ("convex", "concave"):
        shape = jnp.shape(getattr(params, name))
        if mixture is not None:
            if shape != (mixture.shape[1], num_knots):
                raise ValueError(
                    f"`params.{name}` must have shape ({mixture.shape[1]}, {num_knots}), one activation for each "
                    f"potential of `params.mixture`, got {shape}."
                )
        elif shape not in ((num_knots,), (num_filters, num_knots)):
            raise ValueError(
                f"`params.{name}` must have shape ({num_knots},) for one activation or "
                f"({num_filters}, {num_knots}) for one per filter, got {shape}."
            )
    shape = jnp.shape(params.scaling)
    if shape != (num_filters, params.noise_grid.num_knots):
        raise ValueError(
            f"`params.scaling` must have shape ({num_filters}, {params.noise_grid.num_knots}), the filters and the "
            f"noise levels, got {shape}."
        )
    check_non_negative("params.rho", params.rho)


def check_image(name: str, x: Any) -> None:
    """Raise unless `x` is one gray image."""
    shape = jnp.shape(x)
    if len(shape) != 3 or shape[2] != 1:
        hint = "Add the axis: image[..., None]."
        if len(shape) == 3:
            hint = "Give each channel of a colour image by itself."
        raise ValueError(f"`{name}` must be one gray image (height, width, 1), got shape {shape}. {hint}")
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(
            f"`{name}` must hold floating-point numbers in [0, 1], got {jnp.result_type(x)}. "
            "Divide integers of 8 bits by 255."
        )


def _warn_of_range(noise_grid: UniformGrid, sigma: Any) -> None:
    if isinstance(sigma, Tracer):
        return
    level = SIGMA_UNIT * float(sigma)
    if not noise_grid.low <= level <= noise_grid.high:
        warnings.warn(
            f"`sigma` of {level:.3g} in 8-bit units is beyond the noise levels {noise_grid.low:g} to "
            f"{noise_grid.high:g} that the regularizer was trained for: its scales are extrapolated. If images are in "
            "[0, 255], divide them and sigma by 255.",
            stacklevel=3,
        )
