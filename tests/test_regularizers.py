import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.signal
from helpers import assert_close, draw, enabled, norm, pick, vdot

from unroll_jax.operators import Convolution, _tiles
from unroll_jax.regularizers import (
    collapsed,
    mix_potentials,
    prepare_ridge,
    ridge_gradient,
    ridge_hvp,
    ridge_params,
    ridge_value,
)
from unroll_jax.regularizers.filters import norm_bound, same_convolution, same_transpose, zero_mean
from unroll_jax.splines import linear_spline

SIGMA = 15 / 255


KINDS = ("shared", "per filter", "mixture")


@functools.cache
def random_params(rho=1.0, dtype="float64", kind="shared"):
    """Parameters far from their start, whose splines leave the box before they are clipped."""
    rng = np.random.default_rng(0)
    with enabled(dtype):
        params = ridge_params(jax.random.key(0), channels=(2, 5), size=3, rho=rho, mu=8.0, num_knots=21, width=0.01)
        if kind == "mixture":
            params = mix_potentials(params, 3)
            params = dataclasses.replace(params, mixture=2 * draw(rng, params.mixture.shape, dtype))
        shape = (5, 21) if kind == "per filter" else params.convex.shape
        wild = lambda start: jnp.broadcast_to(start, shape) + 0.01 * draw(rng, shape, dtype)
        return dataclasses.replace(
            params,
            convex=wild(params.convex),
            concave=wild(params.concave),
            scaling=4.0 + 0.5 * draw(rng, params.scaling.shape, dtype),
        )


def image(size, dtype="float64", seed=1):
    return jnp.asarray(np.random.default_rng(seed).random((*size, 1)), dtype)


# --- filters ---


@pytest.mark.parametrize("sides", [((3, 3),), ((5, 3), (3, 5)), ((3, 3), (1, 1), (5, 5))])
def test_the_collapsed_kernel_is_the_chain_in_the_interior(sides):
    rng = np.random.default_rng(0)
    with enabled("float64"):
        channels = [1, 2, 3, 4]
        kernels = [draw(rng, (*side, *channels[i : i + 2]), "float64") for i, side in enumerate(sides)]
        x = image((24, 23))
        chain = x
        for kernel in kernels:
            chain = same_convolution(chain, kernel)
        whole = collapsed(kernels)
        found = same_convolution(x, whole)
    margin = [side // 2 for side in whole.shape[:2]]
    inside = np.s_[margin[0] : 24 - margin[0], margin[1] : 23 - margin[1]]
    np.testing.assert_allclose(found[inside], chain[inside], atol=1e-12)
    assert whole.shape[:2] == tuple(1 + sum(side[axis] - 1 for side in sides) for axis in (0, 1))


def test_filters_without_mean_do_not_see_constants():
    with enabled("float64"):
        kernel = zero_mean(draw(np.random.default_rng(0), (5, 5, 1, 3), "float64"))
        found = same_convolution(jnp.ones((11, 12, 1)), kernel)
    np.testing.assert_allclose(found[2:-2, 2:-2], 0, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "side"), [((16, 12), (5, 5)), ((9, 14), (3, 7)), ((6, 5), (13, 13)), ((4, 4), (1, 1))]
)
def test_products_over_tiles_are_the_convolution(size, side):
    rng = np.random.default_rng(0)
    with enabled("float64"):
        x, kernel = draw(rng, (*size, 2), "float64"), draw(rng, (*side, 2, 3), "float64")
        expected = Convolution(kernel, boundary="zero")(x)
        tiles = _tiles.to_tiles(x, kernel)
        y = draw(rng, expected.shape, "float64")
        np.testing.assert_allclose(_tiles.image_of_tiles(tiles, size), expected, atol=1e-12)
        np.testing.assert_allclose(_tiles.tiles_of_image(expected), tiles, atol=1e-12)
        back = _tiles.from_tiles(_tiles.tiles_of_image(y), kernel, size)
        np.testing.assert_allclose(back, Convolution(kernel, boundary="zero").adjoint(y), atol=1e-12)
        cotangent = draw(rng, tiles.shape, "float64")  # not zero beyond the image
        adjoint = _tiles.from_tiles(cotangent, kernel, size)
    assert abs(vdot(tiles, cotangent) - vdot(x, adjoint)) <= 1e-12 * norm(tiles) * norm(cotangent)


def largest_singular_value(forward, backward, shape, num_steps=300):
    """By power iteration, which comes from below."""

    def step(_, x):
        x = backward(forward(x))
        return x / jnp.linalg.norm(x)

    x = jax.lax.fori_loop(0, num_steps, step, draw(np.random.default_rng(0), shape))
    return float(jnp.linalg.norm(forward(x)))


def test_the_norm_is_bounded_for_the_operator_that_is_applied_border_included():
    # found by search: padded in between, this chain has at its border what the middle cancels
    rows = ([-0.62, 1.17, -1.08, 0.73, -0.2], [-0.47, -0.75, -0.09, 1.33, 1.32])
    first, second = (jnp.array(row).reshape(1, 5, 1, 1) for row in rows)
    kernel = collapsed([zero_mean(first), second])
    bound, shape = float(norm_bound(kernel)), (3, 40, 1)
    applied = lambda x: same_convolution(x, kernel)
    assert 0.95 * bound < largest_singular_value(applied, lambda y: same_transpose(y, kernel), shape) <= bound

    # so for the published way, a chain that pads, the bound by frequencies does not hold
    chain = lambda x: same_convolution(same_convolution(x, zero_mean(first)), second)
    transposed = jax.linear_transpose(chain, jnp.zeros(shape))
    assert largest_singular_value(chain, lambda y: transposed(y)[0], shape) > 1.2 * bound


@pytest.mark.parametrize(("size", "num_filters"), [((13, 13), 60), ((5, 9), 3), ((1, 1), 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bound_of_the_norm_is_tight_and_differentiable(size, num_filters, dtype):
    with enabled(dtype):
        kernel = zero_mean(draw(np.random.default_rng(4), (*size, 1, num_filters), dtype)) + 0.1
        spectra = np.fft.rfft2(np.asarray(kernel, float)[:, :, 0], (1024, 1024), axes=(0, 1))
        norm = np.sqrt(np.max(np.sum(np.abs(spectra) ** 2, -1)))
        assert norm <= norm_bound(kernel) <= 1.002 * norm
        if dtype == "float64":
            jax.test_util.check_grads(norm_bound, (kernel,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_filters_of_zeros_have_norm_zero():
    bound, gradient = jax.value_and_grad(norm_bound)(jnp.zeros((3, 3, 1, 2)))
    assert bound == 0
    assert np.all(np.isfinite(gradient))


# --- the regularizer ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(12, 16), (13, 10)])
def test_gradient_and_hessian_are_those_of_autodiff(size, kind):
    with enabled("float64"):
        ridge = prepare_ridge(random_params(kind=kind), SIGMA)
        x, direction = image(size), draw(np.random.default_rng(2), (*size, 1), "float64")

        @jax.jit
        def both(ridge, x, direction):
            found = ridge_gradient(ridge, x), ridge_hvp(ridge, x, direction)
            exact = jax.grad(ridge_value, argnums=1)(ridge, x)
            return found, (exact, jax.jvp(lambda x: ridge_gradient(ridge, x), (x,), (direction,))[1])

        found, expected = both(ridge, x, direction)
    assert_close(found, expected, 1e-10)
    assert norm(found[0]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_curvature_lies_between_minus_rho_and_mu(rho, kind):
    with enabled("float64"):
        ridge = prepare_ridge(random_params(rho=rho, kind=kind), SIGMA)
        xs = jnp.asarray(np.random.default_rng(0).random((40, 11, 9, 1))) * jnp.logspace(-2, 0, 40)[:, None, None, None]
        basis = jnp.eye(99).reshape(99, 11, 9, 1)
        hessian = lambda x: jax.vmap(lambda direction: ridge_hvp(ridge, x, direction))(basis).reshape(99, 99)
        hessians, mu = np.asarray(jax.jit(jax.vmap(hessian))(xs)), float(ridge.mu)
    np.testing.assert_allclose(hessians, np.swapaxes(hessians, 1, 2), atol=1e-12)
    curvatures = np.linalg.eigvalsh(hessians)
    assert np.max(curvatures) <= mu * (1 + 1e-9)
    assert np.min(curvatures) >= -rho - 1e-9
    assert np.max(curvatures) > 0.05 * mu
    assert np.min(curvatures) < -0.02 or rho == 0


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_it_is_even_zero_at_zero_and_a_convex_one_is_not_negative(rho):
    with enabled("float64"):
        ridge = prepare_ridge(random_params(rho=rho), SIGMA)
        x = image((9, 8))
        value = ridge_value(ridge, x)
        np.testing.assert_allclose(ridge_value(ridge, -x), value, rtol=1e-12)
        assert ridge_value(ridge, jnp.zeros_like(x)) == 0
        if rho == 0:
            assert value > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_denoising_objective_is_convex(rho, kind):
    with enabled("float64"):
        ridge = prepare_ridge(random_params(rho=rho, kind=kind), SIGMA)
        a, b = image((9, 8), seed=1), image((9, 8), seed=2)
        objective = jax.jit(
            jax.vmap(lambda t: jnp.sum(((1 - t) * a + t * b) ** 2) / 2 + ridge_value(ridge, (1 - t) * a + t * b))
        )
        values = np.asarray(objective(jnp.linspace(0, 1, 101)))
    assert np.min(np.diff(values, 2)) >= -1e-9 * np.max(np.abs(values))


def test_parameters_from_arrays_give_the_energy_of_the_formula():
    with enabled("float64"):
        params = dataclasses.replace(random_params(), norm=jnp.asarray(7.0))
        ridge = prepare_ridge(params, SIGMA)
        x = image((10, 11))
        value, gradient = ridge_value(ridge, x), ridge_gradient(ridge, x)
    # in NumPy: collapse, scale, connect the dots, integrate by fine quadrature
    first, second = (np.asarray(kernel) for kernel in params.kernels)
    first = first - first.mean(axis=(0, 1, 2))
    knots = np.linspace(-0.1, 0.1, 21)

    def feasible(coefficients):
        heights = np.asarray(coefficients)
        slopes = (heights[1:] - heights[:-1]) / 0.01
        slopes = np.clip((slopes + slopes[::-1]) / 2, 0, 1)
        slopes[[0, -1]] = 0
        values = np.concatenate([[0], np.cumsum(slopes) * 0.01])
        return values - values[10]

    heights = float(np.exp(params.log_mu)) * feasible(params.convex) - feasible(params.concave)
    energy, slope = 0.0, np.zeros((10, 11))
    for index in range(5):
        parts = [scipy.signal.convolve2d(first[:, :, 0, middle], second[:, :, middle, index]) for middle in range(2)]
        kernel = np.sum(parts, axis=0) / 7.0
        scale = np.exp(np.interp(15.0, np.linspace(0, 30, 11), params.scaling[index])) / (15.0 + 1e-5)
        response = scale * scipy.signal.correlate2d(np.asarray(x)[..., 0], kernel, mode="same")
        fine = np.linspace(0, np.max(np.abs(response)), 200_001)
        table = np.concatenate(
            [[0], np.cumsum((np.interp(fine[1:], knots, heights) + np.interp(fine[:-1], knots, heights)) / 2)]
        )
        energy += np.sum(np.interp(np.abs(response), fine, table * fine[1])) / scale**2
        slope += scipy.signal.convolve2d(np.interp(response, knots, heights) / scale, kernel, mode="same")
    np.testing.assert_allclose(gradient[..., 0], slope, atol=1e-9 * np.max(np.abs(slope)))
    np.testing.assert_allclose(value, energy, rtol=1e-7)


def test_a_mixture_is_the_mean_of_its_potentials_by_weights_at_the_noise_level():
    with enabled("float64"):
        params = random_params(kind="mixture")
        x = image((9, 8))
        assert params.mixture is not None
        rows = np.reshape(params.mixture, (15, 11))
        weights = np.exp([np.interp(15.0, np.linspace(0, 30, 11), row) for row in rows]).reshape(5, 3)
        weights /= np.sum(weights, axis=1, keepdims=True)
        mean = 0
        for index in range(3):
            parts = (params.convex[index], params.concave[index])
            ridge = prepare_ridge(dataclasses.replace(params, convex=parts[0], concave=parts[1], mixture=None), SIGMA)
            mean = mean + np.outer(weights[:, index], ridge.coefficients)
        expected = ridge_gradient(dataclasses.replace(ridge, coefficients=jnp.asarray(mean)), x)
        found = ridge_gradient(prepare_ridge(params, SIGMA), x)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("num_potentials", [2, 4])
def test_a_mixture_starts_near_the_one_potential_it_is_made_of(num_potentials):
    with enabled("float64"):
        params, x = random_params(), image((9, 8))
        mixed = mix_potentials(params, num_potentials, share=1 - 1e-12)
        value = lambda params: float(ridge_value(prepare_ridge(params, SIGMA), x))
        expected, found, other = (value(each) for each in (params, mixed, mix_potentials(params, num_potentials)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert abs(other - expected) > 1e-3 * abs(expected)


def test_the_potentials_of_a_mixture_are_one_at_widths_that_double():
    with enabled("float64"):
        params = ridge_params(jax.random.key(0), channels=(2,), size=3, num_potentials=3)
        points = jnp.linspace(-0.45, 0.45, 37)
        at = lambda part, x: linear_spline(x, part, params.grid, extrapolation="constant")
        for part in (params.convex, params.concave):
            for index in (1, 2):
                width = 2**index
                np.testing.assert_allclose(at(part[index], points), width * at(part[0], points / width), atol=1e-12)


def test_noise_levels_and_images_go_through_vmap():
    params = random_params(dtype="float32", kind="mixture")
    xs, sigmas = jnp.stack([image((8, 9), "float32", seed) for seed in range(3)]), jnp.array([5.0, 15.0, 25.0]) / 255
    one = jax.jit(lambda x, sigma: ridge_gradient(prepare_ridge(params, sigma), x))
    batch = jax.jit(jax.vmap(lambda x, sigma: ridge_gradient(prepare_ridge(params, sigma), x)))(xs, sigmas)
    for index in range(3):
        assert_close(pick(batch, index), one(xs[index], sigmas[index]), 1e-5)


# --- misuse ---


def as_params(value: Any) -> Any:
    return value


def test_misuse():
    params = ridge_params(jax.random.key(0), channels=(2, 5), size=3)
    ridge, mixed = prepare_ridge(params, SIGMA), mix_potentials(params, 2)
    with pytest.warns(UserWarning, match=r"`sigma` of 6.38e\+03 in 8-bit units is beyond the noise levels 0 to 30"):
        prepare_ridge(params, 25.0)
    for call, message in (
        (lambda: ridge_params(jax.random.key(0), size=4), r"`kernels\[0\]` must have shape .* with odd sides"),
        (lambda: collapsed([jnp.ones((3, 3, 2, 4))]), r"`kernels\[0\]` must take the 1 channels that come in"),
        (lambda: collapsed([]), "`kernels` must be a tuple of at least one"),
        (lambda: prepare_ridge(params, -0.1), "`sigma` must be non-negative"),
        (lambda: prepare_ridge(params, jnp.ones(3)), r"`sigma` must have shape \(\), got \(3,\)"),
        (lambda: prepare_ridge(as_params(ridge), 0.1), "`params` must have `.kernels`"),
        (
            lambda: prepare_ridge(dataclasses.replace(params, convex=jnp.zeros(7)), 0.1),
            r"`params.convex` must have shape \(101,\)",
        ),
        (
            lambda: prepare_ridge(dataclasses.replace(params, scaling=jnp.zeros((4, 11))), 0.1),
            r"`params.scaling` must have shape \(5, 11\)",
        ),
        (
            lambda: prepare_ridge(dataclasses.replace(mixed, mixture=jnp.zeros((5, 2))), 0.1),
            r"`params.mixture` must have shape \(5, potentials, 11\).* got \(5, 2\)",
        ),
        (
            lambda: prepare_ridge(dataclasses.replace(mixed, convex=mixed.convex[0]), 0.1),
            r"`params.convex` must have shape \(2, 201\), one activation for each",
        ),
        (lambda: mix_potentials(mixed, 2), r"`params` must have one potential .* got `convex` of shape \(2, 201\)"),
        (lambda: mix_potentials(params, 1), "`num_potentials` must be at least 2 and `share` between 0 and 1, got 1"),
        (lambda: mix_potentials(params, 2, share=1.0), "`share` between 0 and 1, got 2 and 1.0"),
        (lambda: ridge_params(jax.random.key(0), num_potentials=0), "`num_potentials` must be a whole number"),
        (
            lambda: ridge_gradient(ridge, jnp.ones((8, 8))),
            r"`x` must be one gray image \(height, width, 1\), got shape \(8, 8\). Add the axis",
        ),
        (lambda: ridge_value(ridge, jnp.ones((8, 8, 3))), "Give each channel of a colour image by itself"),
        (lambda: ridge_hvp(ridge, jnp.ones((8, 8, 1)), jnp.ones((8, 9, 1))), "`direction` must have the shape of `x`"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
