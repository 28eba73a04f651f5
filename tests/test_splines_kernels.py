"""Linear splines against NumPy, and the truths of their derivatives, integrals, inverses and proximal operators."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REAL, ROUNDING, TraceCounter, assert_close, assert_finite, draw, enabled, searched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax.splines import (
    Grid,
    NonuniformGrid,
    UniformGrid,
    _interpolation,
    linear_spline,
    odd_coefficients,
    potential_moreau,
    potential_prox,
    spline_inverse,
    spline_potential,
    spline_slope,
)

# few of them, since each is compiled by itself; one does not reach zero, one has a single cell
UNIFORM = [UniformGrid(-0.1, 0.1, 21), UniformGrid(1.5, 3, 2)]
EXTRAPOLATIONS = ("linear", "constant")
CHANNELS = 3


class Spline(NamedTuple):
    """One or several splines in double precision, and where to evaluate them."""

    grid: UniformGrid | None
    knots: np.ndarray
    coefficients: np.ndarray
    x: np.ndarray

    def made(self, dtype: str, *, uniform: bool = True) -> tuple[jax.Array, jax.Array, Grid]:
        grid = self.grid if self.grid and uniform else NonuniformGrid(jnp.asarray(self.knots, dtype))
        return jnp.asarray(self.x, dtype), jnp.asarray(self.coefficients, dtype), grid

    @property
    def slopes(self) -> np.ndarray:
        return np.diff(self.coefficients) / np.diff(self.knots)

    @property
    def scale(self) -> float:
        """What rounding errors of values are relative to."""
        reach = np.max(np.abs(self.x), initial=1) + np.max(np.abs(self.knots))
        return 1e-30 + float(np.max(np.abs(self.coefficients)) + np.max(np.abs(self.slopes)) * reach)

    @property
    def off_knots(self) -> np.ndarray:
        """Which entries of `x` no rounding moves over a knot."""
        return np.min(np.abs(self.x[..., None] - self.knots), axis=-1) > 1e-4


@st.composite
def splines(
    draw: Any, min_slope: float | None = None, max_slope: float = 4.0, is_uniform: bool | None = None
) -> Spline:
    """Splines, shared or one per channel, on grids of both kinds; with `min_slope`, of slopes from there on."""
    grid = draw(st.sampled_from(UNIFORM)) if (draw(st.booleans()) if is_uniform is None else is_uniform) else None
    if grid is None:
        steps = draw(arrays(np.float64, draw(st.sampled_from([1, 6])), elements=st.floats(0.05, 2)))
        knots = draw(st.floats(-4, 1)) + np.concatenate([[0], np.cumsum(steps)])
    else:
        knots = grid.low + (grid.high - grid.low) * np.arange(grid.num_knots) / (grid.num_knots - 1)
    leading = draw(st.sampled_from([(), (CHANNELS,)]))
    if min_slope is None:
        coefficients = draw(arrays(np.float64, (*leading, len(knots)), elements=st.floats(-3, 3)))
    else:
        slopes = draw(arrays(np.float64, (*leading, len(knots) - 1), elements=st.floats(min_slope, max_slope)))
        first = draw(arrays(np.float64, (*leading, 1), elements=st.floats(-3, 3)))
        coefficients = np.concatenate([first, first + np.cumsum(slopes * np.diff(knots), axis=-1)], axis=-1)
    return Spline(grid, knots, coefficients, draw(arrays(np.float64, (4, CHANNELS), elements=st.floats(-6, 6))))


def numpy_spline(
    x: np.ndarray, knots: np.ndarray, coefficients: np.ndarray, extrapolation: str = "linear"
) -> np.ndarray:
    """`np.interp`, with the end slopes beyond the knots."""
    if coefficients.ndim == 2:
        columns = [numpy_spline(x[..., n], knots, row, extrapolation) for n, row in enumerate(coefficients)]
        return np.stack(columns, axis=-1)
    value = np.interp(x, knots, coefficients)
    if extrapolation == "constant":
        return value
    slopes = np.diff(coefficients) / np.diff(knots)
    return value + slopes[0] * np.minimum(x - knots[0], 0) + slopes[-1] * np.maximum(x - knots[-1], 0)


@functools.cache
def compiled(function: Callable[..., Any], extrapolation: str | None = None) -> Callable[..., Any]:
    return jax.jit(functools.partial(function, **({"extrapolation": extrapolation} if extrapolation else {})))


@functools.cache
def gradients(function: Callable[..., Any], extrapolation: str = "linear") -> Callable[..., Any]:
    """`(cotangent, x, coefficients, grid) -> ` the cotangents of x and of the coefficients."""

    def pulled(cotangent: jax.Array, x: jax.Array, coefficients: jax.Array, grid: Grid) -> Any:
        at = lambda x, coefficients: function(x, coefficients, grid, extrapolation=extrapolation)
        return jax.vjp(at, x, coefficients)[1](cotangent)

    return jax.jit(pulled)


# --- values ---


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines())
def test_equals_numpy(dtype, extrapolation, spline):
    with enabled(dtype):
        value = compiled(linear_spline, extrapolation)(*spline.made(dtype))
    assert value.dtype == dtype
    expected = numpy_spline(spline.x, spline.knots, spline.coefficients, extrapolation)
    np.testing.assert_allclose(value, expected, rtol=0, atol=4 * ROUNDING[dtype] * spline.scale)


@pytest.mark.parametrize("dtype", REAL)
@searched
@given(spline=splines())
def test_the_value_at_a_knot_is_its_coefficient(dtype, spline):
    with enabled(dtype):
        _, coefficients, grid = spline.made(dtype)
        knots = grid.knots if coefficients.ndim == 1 else jnp.tile(grid.knots[:, None], CHANNELS)
        value = compiled(linear_spline)(knots, coefficients, grid)
    np.testing.assert_allclose(value, coefficients.T, rtol=0, atol=4 * ROUNDING[dtype] * spline.scale)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("function", [linear_spline, spline_potential])
@searched
@given(spline=splines(is_uniform=True))
def test_the_nonuniform_code_on_a_uniform_grid_equals_the_uniform_one(dtype, function, spline):
    with enabled(dtype):
        one, other = (compiled(function)(*spline.made(dtype, uniform=uniform)) for uniform in (True, False))
    np.testing.assert_allclose(one, other, rtol=0, atol=40 * ROUNDING[dtype] * spline.scale)


@searched
@given(spline=splines())
def test_slopes_equal_those_of_the_cells_and_continue_outside(spline):
    with enabled("float64"):
        slope, flat = (
            compiled(spline_slope, extrapolation)(*spline.made("float64")) for extrapolation in EXTRAPOLATIONS
        )
    cell = np.clip(np.searchsorted(spline.knots, spline.x, side="right") - 1, 0, len(spline.knots) - 2)
    if spline.coefficients.ndim == 1:
        expected = spline.slopes[cell]
    else:
        expected = np.take_along_axis(spline.slopes, cell.T, axis=1).T
    np.testing.assert_allclose(slope[spline.off_knots], expected[spline.off_knots], rtol=1e-9, atol=1e-9)
    is_inside = (spline.x >= spline.knots[0]) & (spline.x < spline.knots[-1])
    np.testing.assert_array_equal(flat[spline.off_knots], np.where(is_inside, slope, 0)[spline.off_knots])


@pytest.mark.parametrize("grid", [UniformGrid(-1, 1, 5), NonuniformGrid(jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0]))])
def test_slopes_and_derivatives_are_from_the_right(grid):
    coefficients = jnp.array([0.0, 1.0, 3.0, 6.0, 10.0])
    derivative = jax.vmap(jax.grad(linear_spline), in_axes=(0, None, None))
    for slopes in (spline_slope(grid.knots, coefficients, grid), derivative(grid.knots, coefficients, grid)):
        np.testing.assert_array_equal(slopes, [2, 4, 6, 8, 8])
    constant = functools.partial(linear_spline, extrapolation="constant")
    derivative = jax.vmap(jax.grad(constant), in_axes=(0, None, None))
    for slopes in (
        spline_slope(grid.knots, coefficients, grid, extrapolation="constant"),
        derivative(grid.knots, coefficients, grid),
    ):
        np.testing.assert_array_equal(slopes, [2, 4, 6, 8, 0])


@pytest.mark.parametrize("grid", [UniformGrid(-1, 1, 5), NonuniformGrid(jnp.linspace(-1.0, 1.0, 5))])
def test_numbers_beyond_all_integers_extrapolate_and_nan_stays(grid):
    x = jnp.array([-1e30, 1e30, -jnp.inf, jnp.inf, jnp.nan])
    coefficients = jnp.array([2.0, 1.0, 0.0, 0.5, 1.0])
    np.testing.assert_allclose(linear_spline(x, coefficients, grid), [2e30, 1e30, np.inf, np.inf, np.nan], rtol=1e-6)
    constant = linear_spline(x, coefficients, grid, extrapolation="constant")
    np.testing.assert_array_equal(constant, [2, 1, 2, 1, np.nan])


def test_scalars_empty_arrays_and_python_numbers():
    grid, coefficients = UniformGrid(-1.0, 1.0, 3), jnp.array([0.0, 0.0, 1.0])
    assert linear_spline(0.5, coefficients, grid) == linear_spline(jnp.array(0.5), coefficients, grid) == 0.5
    assert linear_spline(jnp.zeros((2, 0)), coefficients, grid).shape == (2, 0)
    assert linear_spline(jnp.zeros((0, 2)), jnp.zeros((2, 3)), grid).shape == (0, 2)
    x = draw(np.random.default_rng(0), (2, 4, 5, 3))
    per_channel = jnp.stack([coefficients, 2 * coefficients, -coefficients])
    shared = linear_spline(x, coefficients, grid)
    assert_close(linear_spline(x, per_channel, grid), shared * jnp.array([1.0, 2.0, -1.0]).reshape(1, 1, 1, 3), 1e-6)
    # one channel is not none
    assert linear_spline(x[..., :1], coefficients[None], grid).shape == (2, 4, 5, 1)


def test_half_precision_finds_its_cells_and_adds_up_in_single_precision():
    grid, coefficients = UniformGrid(-1.0, 1.0, 101), jnp.ones(101, jnp.bfloat16)
    x = jnp.linspace(-1, 1, 2000).astype(jnp.bfloat16)
    value = linear_spline(x, jnp.abs(grid.knots).astype(jnp.bfloat16), grid)
    assert value.dtype == jnp.bfloat16
    np.testing.assert_allclose(value.astype(float), np.abs(x.astype(float)), atol=4e-3)
    gradient = jax.grad(lambda c: jnp.sum(linear_spline(x, c, grid).astype(jnp.float32)))(coefficients)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(jnp.sum(gradient.astype(float)), 2000, rtol=1e-2)
    for function in (spline_slope, spline_potential):
        assert function(x, coefficients, grid).dtype == jnp.bfloat16


@searched
@given(spline=splines(is_uniform=True))
def test_odd_coefficients_make_odd_splines_with_even_potentials(spline):
    with enabled("float64"):
        x, coefficients, _ = spline.made("float64")
        width = (len(spline.knots) - 1) / 4
        args = odd_coefficients(coefficients), UniformGrid(-width, width, len(spline.knots))
        value, potential = compiled(linear_spline), compiled(spline_potential)
        np.testing.assert_allclose(value(-x, *args), -value(x, *args), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(value(0 * x, *args), 0, atol=1e-12)
        np.testing.assert_allclose(potential(-x, *args), potential(x, *args), rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(odd_coefficients(args[0]), args[0])


# --- derivatives of the value ---


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines())
def test_gradients_are_the_slope_and_hat_functions(dtype, extrapolation, spline):
    rng = np.random.default_rng(0)
    with enabled(dtype):
        args = spline.made(dtype)
        cotangent = draw(rng, spline.x.shape, dtype)
        dx, dc = gradients(linear_spline, extrapolation)(cotangent, *args)
        slope = compiled(spline_slope, extrapolation)(*args)
    off_knots, tolerance = spline.off_knots, 20 * ROUNDING[dtype]
    np.testing.assert_allclose(
        dx[off_knots], (slope * cotangent)[off_knots], rtol=tolerance, atol=tolerance * np.max(np.abs(spline.slopes))
    )
    # the value is linear in the coefficients: its derivative in each is the spline of a unit vector
    units = np.eye(len(spline.knots))
    hats = np.stack([numpy_spline(spline.x, spline.knots, unit, extrapolation) for unit in units])
    products = hats * np.asarray(cotangent, float)
    expected = np.sum(products, axis=(1, 2)) if spline.coefficients.ndim == 1 else np.sum(products, axis=1).T
    np.testing.assert_allclose(dc, expected, atol=10 * tolerance * np.max(np.abs(hats)))


@searched
@given(spline=splines())
def test_gradients_in_the_coefficients_sum_to_one(spline):
    with enabled("float64"):
        _, dc = gradients(linear_spline)(jnp.ones_like(jnp.asarray(spline.x)), *spline.made("float64"))
    count = spline.x.size / (1 if spline.coefficients.ndim == 1 else CHANNELS)
    np.testing.assert_allclose(np.sum(np.asarray(dc), axis=-1), count, rtol=1e-9)


@searched
@given(spline=splines())
def test_forward_and_backward_derivatives_are_transposes_and_equal_finite_differences(spline):
    rng = np.random.default_rng(1)
    with enabled("float64"):
        x, coefficients, grid = spline.made("float64", uniform=False)
        args, step = (x, coefficients, grid.knots), 1e-6
        directions = tuple(0.01 * draw(rng, arg.shape, "float64") for arg in args)
        cotangent = draw(rng, x.shape, "float64")
        tangent, cotangents, ahead, behind = _derivatives(args, directions, cotangent, step)
    product = sum(np.vdot(a, b) for a, b in zip(cotangents, directions, strict=True))
    np.testing.assert_allclose(np.vdot(cotangent, tangent), product, rtol=1e-9, atol=1e-9 * spline.scale)
    difference = (np.asarray(ahead) - np.asarray(behind)) / (2 * step)
    np.testing.assert_allclose(
        tangent[spline.off_knots], difference[spline.off_knots], rtol=1e-4, atol=1e-6 * spline.scale
    )


@jax.jit
def _derivatives(args: Any, directions: Any, cotangent: Any, step: Any) -> Any:
    """A tangent, cotangents, and the values one step ahead and behind."""

    def value(x: jax.Array, coefficients: jax.Array, knots: jax.Array) -> jax.Array:
        # a grid from traced knots: their derivative counts too
        return linear_spline(x, coefficients, NonuniformGrid(knots))

    shifted = lambda by: value(*(arg + by * direction for arg, direction in zip(args, directions, strict=True)))
    tangent = jax.jvp(value, args, directions)[1]
    return tangent, jax.vjp(value, *args)[1](cotangent), shifted(step), shifted(-step)


@pytest.mark.parametrize("shape", [(CHANNELS,), ()])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_hessian_vector_products_equal_finite_differences_of_gradients(is_uniform, shape):
    rng, step = np.random.default_rng(0), 1e-6
    with enabled("float64"):
        grid = UniformGrid(-2, 2, 9) if is_uniform else NonuniformGrid(jnp.linspace(-2.0, 2.0, 9))
        args = draw(rng, (50, CHANNELS), "float64"), draw(rng, (*shape, 9), "float64")
        directions = tuple(draw(rng, arg.shape, "float64") for arg in args)
        weight = draw(rng, args[0].shape, "float64")

        def gradient(x, coefficients):
            # of a sum that is not linear in the value, and so that mixed derivatives count
            return jax.grad(lambda x, c: jnp.sum(weight * linear_spline(x, c, grid) ** 3), argnums=(0, 1))(
                x, coefficients
            )

        forward_over_reverse = jax.jvp(gradient, args, directions)[1]
        reverse_over_reverse = jax.vjp(gradient, *args)[1](directions)
        ahead, behind = (
            gradient(*(arg + by * direction for arg, direction in zip(args, directions, strict=True)))
            for by in (step, -step)
        )
        assert_close(forward_over_reverse, reverse_over_reverse, 1e-12)
        difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
        assert_close(forward_over_reverse, difference, 1e-6)


def test_the_second_derivative_is_zero_between_knots():
    grid, coefficients = UniformGrid(-1.0, 1.0, 5), jnp.array([0.0, 2.0, 1.0, 1.0, -3.0])
    second = jax.grad(jax.grad(lambda x: linear_spline(x, coefficients, grid)))
    np.testing.assert_array_equal(jax.vmap(second)(jnp.array([-1.7, -0.3, 0.2, 0.9])), 0)


def test_blocks_give_the_derivatives_that_one_piece_gives(monkeypatch):
    rng = np.random.default_rng(0)
    grid, cubes = UniformGrid(-2, 2, 9), lambda x, c: jnp.sum(linear_spline(x, c, grid) ** 3)
    with enabled("float64"):
        x, direction = draw(rng, (14, 10, CHANNELS), "float64"), draw(rng, (14, 10, CHANNELS), "float64")
        for shape in ((9,), (CHANNELS, 9)):
            coefficients = draw(rng, shape, "float64")
            found = []
            for size in (10**6, 40, 7):  # one piece; blocks of 30 or 42; and 60 that only shared splines divide into
                monkeypatch.setattr(_interpolation, "BLOCK_SIZE", size)
                jax.clear_caches()
                gradient = jax.grad(cubes, argnums=(0, 1))
                found.append(
                    (gradient(x, coefficients), jax.jvp(gradient, (x, coefficients), (direction, coefficients)))
                )
            assert_close(found[1], found[0], 1e-12)
            assert_close(found[2], found[0], 1e-12)
    jax.clear_caches()


@pytest.mark.parametrize("divisible", [9263060, 25600, 7 * 2**15, 1_000_003, 5])
def test_blocks_divide_evenly_and_are_neither_small_nor_one_where_that_goes(divisible):
    count = _interpolation._num_blocks(divisible, divisible)
    assert divisible % count == 0
    assert count == 1 or _interpolation.BLOCK_SIZE / 4 <= divisible / count <= _interpolation.BLOCK_SIZE * 1.5


@searched
@given(spline=splines(min_slope=-4.0))
def test_values_move_no_faster_than_the_steepest_slope(spline):
    with enabled("float64"):
        x, *args = spline.made("float64")
        value = np.asarray(compiled(linear_spline)(x, *args))
        moved = np.abs(value - np.roll(value, 1, axis=0))
    steepest = np.max(np.abs(spline.slopes), initial=0)
    assert np.all(moved <= steepest * np.abs(spline.x - np.roll(spline.x, 1, axis=0)) + 1e-12 * spline.scale)


@searched
@given(spline=splines(min_slope=0.0, max_slope=1.0))
def test_slopes_between_zero_and_one_are_firmly_non_expansive(spline):
    with enabled("float64"):
        x, *args = spline.made("float64")
        value = np.asarray(compiled(linear_spline)(x, *args))
    moved, distance = value - np.roll(value, 1, axis=0), spline.x - np.roll(spline.x, 1, axis=0)
    assert np.all(moved * distance >= moved**2 - 1e-12 * spline.scale**2)


# --- the potential ---


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines())
def test_the_potential_is_the_integral_from_zero(extrapolation, spline):
    with enabled("float64"):
        x, coefficients, grid = spline.made("float64")
        potential = compiled(spline_potential, extrapolation)(x, coefficients, grid)
        origin = compiled(spline_potential, extrapolation)(0 * x, coefficients, grid)
    # the trapezoidal rule is exact between knots and ends, so a fine grid that has them all is
    nodes = np.concatenate([spline.knots, spline.x.ravel(), [0], np.linspace(-7, 7, 50)])
    nodes = np.unique(nodes)
    columns = []
    for channel in range(CHANNELS):
        row = spline.coefficients if spline.coefficients.ndim == 1 else spline.coefficients[channel]
        values = numpy_spline(nodes, spline.knots, row, extrapolation)
        integral = np.concatenate([[0], np.cumsum(np.diff(nodes) * (values[1:] + values[:-1]) / 2)])
        columns.append(np.interp(spline.x[:, channel], nodes, integral) - np.interp(0, nodes, integral))
    np.testing.assert_allclose(potential, np.stack(columns, axis=-1), rtol=1e-9, atol=1e-9 * spline.scale)
    np.testing.assert_allclose(origin, 0, atol=1e-12 * spline.scale)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines())
def test_the_gradient_of_the_potential_is_the_spline(dtype, extrapolation, spline):
    with enabled(dtype):
        args = spline.made(dtype)
        dx, _ = gradients(spline_potential, extrapolation)(jnp.ones_like(args[0]), *args)
        value = compiled(linear_spline, extrapolation)(*args)
    np.testing.assert_allclose(dx, value, rtol=0, atol=10 * ROUNDING[dtype] * spline.scale)


@searched
@given(spline=splines())
def test_the_potential_is_linear_in_the_coefficients(spline):
    with enabled("float64"):
        x, coefficients, grid = spline.made("float64")
        _, dc = gradients(spline_potential)(jnp.ones_like(x), x, coefficients, grid)
        total = np.sum(compiled(spline_potential)(x, coefficients, grid))
    np.testing.assert_allclose(np.vdot(dc, coefficients), total, rtol=1e-9, atol=1e-8 * spline.scale)


@searched
@given(spline=splines(min_slope=-1.5))
def test_the_potential_is_as_weakly_convex_as_its_smallest_slope_says(spline):
    with enabled("float64"):
        x, *args = spline.made("float64")
        y = jnp.roll(x, 1, axis=0)
        at = lambda x: np.asarray(compiled(spline_potential)(x, *args)) + 1.5 * np.asarray(x) ** 2 / 2
        middle, mean = at((x + y) / 2), (at(x) + at(y)) / 2
    assert np.all(middle <= mean + 1e-10 * spline.scale)


# --- the inverse ---


@pytest.mark.parametrize("dtype", REAL)
@searched
@given(spline=splines(min_slope=0.25))
def test_the_inverse_goes_there_and_back(dtype, spline):
    with enabled(dtype):
        x, *args = spline.made(dtype)
        back = compiled(spline_inverse)(compiled(linear_spline)(x, *args), *args)
        there = compiled(linear_spline)(compiled(spline_inverse)(x, *args), *args)
    # slopes are at least 1/4
    np.testing.assert_allclose(back, spline.x, atol=40 * ROUNDING[dtype] * (1 + spline.scale))
    np.testing.assert_allclose(there, spline.x, atol=200 * ROUNDING[dtype] * (1 + spline.scale))


@searched
@given(spline=splines(min_slope=0.25))
def test_the_inverse_equals_bisection(spline):
    with enabled("float64"):
        y, *args = spline.made("float64")
        inverse = compiled(spline_inverse)(y, *args)
    low, high = np.full(y.shape, -1e3), np.full(y.shape, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = numpy_spline(middle, spline.knots, spline.coefficients) < np.asarray(y)
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    np.testing.assert_allclose(inverse, low, atol=1e-9)


# --- the proximal operator ---


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines(min_slope=-1.0), strength=st.floats(0, 0.9))
def test_the_prox_satisfies_its_optimality_condition(extrapolation, spline, strength):
    with enabled("float64"):
        x, *args = spline.made("float64")
        z = np.asarray(compiled(potential_prox, extrapolation)(x, strength, *args))
        other = np.asarray(compiled(potential_prox, extrapolation)(x, jnp.full(CHANNELS, strength), *args))
    value = numpy_spline(z, spline.knots, spline.coefficients, extrapolation)
    np.testing.assert_allclose(z + strength * value, spline.x, rtol=0, atol=1e-12 * max(1, spline.scale))
    np.testing.assert_allclose(other, z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines(min_slope=-1.0), strength=st.floats(0, 0.9))
def test_the_prox_and_the_envelope_equal_a_search_over_a_grid(extrapolation, spline, strength):
    with enabled("float64"):
        x, coefficients, grid = spline.made("float64")
        z = compiled(potential_prox, extrapolation)(x, strength, coefficients, grid)
        envelope = compiled(potential_moreau, extrapolation)(x, strength, coefficients, grid)
        center, radius = np.zeros(x.shape), 200.0
        for _ in range(12):
            points = jnp.asarray(center + radius * np.linspace(-1, 1, 41)[:, None, None])
            objective = strength * compiled(spline_potential, extrapolation)(points, coefficients, grid)
            objective = np.asarray(objective) + (np.asarray(points) - spline.x) ** 2 / 2
            best = np.argmin(objective, axis=0)[None]
            center, radius = np.take_along_axis(np.asarray(points), best, axis=0)[0], radius / 8
    least = np.min(objective, axis=0)
    # a minimizer is known to the square root of what its objective is known to, times 1 / (1 - 0.9)
    np.testing.assert_allclose(z, center, atol=1e-4)
    np.testing.assert_allclose(envelope, least, rtol=1e-6, atol=1e-6)


@searched
@given(spline=splines(min_slope=0.0), strength=st.floats(0, 10))
def test_the_prox_of_a_convex_potential_is_firmly_non_expansive_with_the_slopes_predicted(spline, strength):
    with enabled("float64"):
        x, *args = spline.made("float64")
        prox = compiled(potential_prox)
        z = np.asarray(prox(x, strength, *args))
        ahead = np.asarray(prox(x + 1e-3, strength, *args))
    moved, distance = z - np.roll(z, 1, axis=0), spline.x - np.roll(spline.x, 1, axis=0)
    assert np.all(moved * distance >= moved**2 - 1e-9)
    slopes = (ahead - z) / 1e-3
    assert np.all(slopes >= 1 / (1 + strength * np.max(spline.slopes)) - 1e-9)
    assert np.all(slopes <= 1 / (1 + strength * np.min(spline.slopes)) + 1e-9)


@searched
@given(spline=splines(min_slope=0.1), strength=st.floats(0.1, 5))
def test_moreau_decomposition(spline, strength):
    # prox of s psi at x + s prox of psi* / s at x / s = x; the derivative of psi* is the inverse of f
    with enabled("float64"):
        x, coefficients, grid = spline.made("float64")
        z = compiled(potential_prox)(x, strength, coefficients, grid)
        rows = np.asarray(coefficients) if coefficients.ndim == 2 else np.asarray(coefficients)[None]
        for channel in range(CHANNELS):
            row = rows[channel % len(rows)]
            conjugate = NonuniformGrid(jnp.asarray(row))
            column = x[:, channel] / strength
            dual = compiled(potential_prox)(column, 1 / strength, jnp.asarray(spline.knots), conjugate)
            np.testing.assert_allclose(z[:, channel] + strength * dual, spline.x[:, channel], atol=1e-9 * spline.scale)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@searched
@given(spline=splines(min_slope=-1.0), strength=st.floats(0, 0.9))
def test_the_gradient_of_the_envelope_is_what_the_prox_takes_away(extrapolation, spline, strength):
    with enabled("float64"):
        x, *args = spline.made("float64")
        z = compiled(potential_prox, extrapolation)(x, strength, *args)
        gradient = _envelope_gradient(extrapolation)(x, strength, *args)
    np.testing.assert_allclose(gradient, spline.x - np.asarray(z), atol=1e-9 * (1 + spline.scale))


@functools.cache
def _envelope_gradient(extrapolation: Any) -> Callable[..., Any]:
    envelope = functools.partial(potential_moreau, extrapolation=extrapolation)
    return jax.jit(jax.grad(lambda *args: jnp.sum(envelope(*args))))


def test_prox_and_inverse_are_differentiable_in_everything():
    rng = np.random.default_rng(0)
    with enabled("float64"):
        knots, slopes = jnp.array([-1.0, -0.3, 0.4, 1.5]), jnp.array([[0.5, 2.0, 1.0], [1.0, 0.2, 3.0]])
        steps = jnp.broadcast_to(jnp.diff(knots), slopes.shape)
        coefficients = jnp.concatenate([jnp.zeros((2, 1)), jnp.cumsum(slopes * steps, axis=1)], axis=1)
        x = draw(rng, (20, 2), "float64")
        for function in (
            lambda x, s, c, t: potential_prox(x, s, c, NonuniformGrid(t)),
            lambda x, s, c, t: potential_moreau(x, s, c, NonuniformGrid(t)),
            lambda x, s, c, t: s * spline_inverse(x, c, NonuniformGrid(t)),
            lambda x, s, c, t: s * spline_potential(x, c, NonuniformGrid(t)),
        ):
            args = x, jnp.array(0.7), coefficients, knots
            directions = tuple(draw(rng, arg.shape, "float64") for arg in args)
            tangent = jax.jvp(function, args, directions)[1]
            shifted = lambda by, args=args, directions=directions, function=function: function(
                *(arg + by * direction for arg, direction in zip(args, directions, strict=True))
            )
            np.testing.assert_allclose(tangent, (shifted(1e-6) - shifted(-1e-6)) / 2e-6, atol=1e-6)
            cotangents = jax.vjp(function, *args)[1](x)
            product = sum(np.vdot(a, b) for a, b in zip(cotangents, directions, strict=True))
            np.testing.assert_allclose(product, np.vdot(x, tangent), rtol=1e-9)


# --- transformations, memory, platforms ---

FUNCTIONS = {
    "linear_spline": linear_spline,
    "spline_slope": spline_slope,
    "spline_potential": spline_potential,
    "spline_inverse": spline_inverse,
    "potential_prox": lambda x, coefficients, grid: potential_prox(x, 0.3, coefficients, grid),
    "potential_moreau": lambda x, coefficients, grid: potential_moreau(x, 0.3, coefficients, grid),
}
GRIDS = {"uniform": UniformGrid(-1, 1, 5), "nonuniform": NonuniformGrid(jnp.array([-1.0, -0.9, 0.0, 0.2, 1.0]))}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_grid = pytest.mark.parametrize("kind", GRIDS)


@every_grid
@every_function
def test_vmap_is_a_loop_under_strict_promotion_and_new_values_retrace_nothing(name, kind):
    rng, grid = np.random.default_rng(0), GRIDS[kind]
    xs = draw(rng, (4, 7, CHANNELS))
    coefficients = jnp.cumsum(jnp.abs(draw(rng, (4, CHANNELS, 5))), axis=-1)
    counter = TraceCounter(FUNCTIONS[name])
    one, loss = jax.jit(counter), lambda x, c: jnp.sum(FUNCTIONS[name](x, c, grid) ** 2)
    with jax.numpy_dtype_promotion("strict"):
        looped = jnp.stack([one(x, c, grid) for x, c in zip(xs, coefficients, strict=True)])
        assert counter.count == 1
        assert_close(jax.vmap(FUNCTIONS[name], in_axes=(0, 0, None))(xs, coefficients, grid), looped, 1e-6)
        shared = jnp.stack([one(x, coefficients[0], grid) for x in xs])
        assert_close(jax.vmap(FUNCTIONS[name], in_axes=(0, None, None))(xs, coefficients[0], grid), shared, 1e-6)
        gradient = jax.grad(loss, argnums=(0, 1))
        batched = jax.jit(jax.vmap(gradient))(xs, coefficients)
        for index in range(4):
            single = gradient(xs[index], coefficients[index])
            assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], batched), single, 1e-5)
        assert_finite(batched)


@every_grid
@every_function
def test_reverse_mode_keeps_no_more_than_the_arguments(name, kind):
    grid, x, coefficients = GRIDS[kind], jnp.linspace(-1, 1, 4000).reshape(1000, 4), jnp.arange(20.0).reshape(4, 5)
    _, pullback = jax.vjp(lambda x, c: FUNCTIONS[name](x, c, grid), x, coefficients)
    large = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size >= x.size]
    assert len(large) <= 1
    assert all(leaf.dtype == x.dtype and leaf.size == x.size for leaf in large)


@every_grid
@every_function
def test_compiles_for_every_platform_and_has_no_scatter_on_tpu(name, kind):
    grid, x, coefficients = GRIDS[kind], jnp.zeros((50, 4)), jnp.arange(20.0).reshape(4, 5)
    gradient = jax.jit(jax.grad(lambda x, c: jnp.sum(FUNCTIONS[name](x, c, grid) ** 2), argnums=(0, 1)))
    for platform in ("cpu", "cuda", "tpu"):
        program = jax.export.export(gradient, platforms=[platform])(x, coefficients).mlir_module()
        is_gathered = "stablehlo.scatter" in program or "stablehlo.gather" in program or "dynamic_gather" in program
        assert is_gathered == (platform != "tpu")


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
@every_grid
def test_the_matrix_products_of_tpu_equal_the_gathers(kind, shape, monkeypatch):
    rng, grid = np.random.default_rng(0), GRIDS[kind]
    x, coefficients = draw(rng, (50, 4)), draw(rng, shape)
    results = []
    for method in (_interpolation._GATHER, _interpolation._PRODUCT):
        monkeypatch.setattr(_interpolation, "_GATHER", method)
        jax.clear_caches()
        gradient = jax.grad(lambda x, c: jnp.sum(linear_spline(x, c, grid) ** 2), argnums=(0, 1))
        results.append((linear_spline(x, coefficients, grid), gradient(x, coefficients)))
    jax.clear_caches()
    assert_close(results[1], results[0], 1e-5)


# --- grids ---


@searched
@given(spline=splines())
def test_a_grid_finds_the_cell_and_the_fraction(spline):
    with enabled("float64"):
        x, _, grid = spline.made("float64")
        index, fraction = (np.asarray(part) for part in jax.jit(lambda grid, x: grid.locate(x))(grid, x))
        np.testing.assert_allclose(grid.knots, spline.knots, atol=1e-12)
        np.testing.assert_allclose(grid.steps, np.diff(spline.knots), atol=1e-12)
    assert index.dtype == np.int32
    assert np.all((index >= 0) & (index <= len(spline.knots) - 2))
    steps = np.diff(spline.knots)
    np.testing.assert_allclose(spline.knots[index] + fraction * steps[index], spline.x, atol=1e-10)
    is_inside = (spline.x >= spline.knots[0]) & (spline.x < spline.knots[-1]) & spline.off_knots
    assert np.all((fraction[is_inside] >= 0) & (fraction[is_inside] < 1))


def test_grids_pass_through_jax():
    kinds: dict[str, Any] = {"uniform": UniformGrid}
    uniform = kinds["uniform"](np.float32(-1), jnp.array(1.0), np.int64(5))
    other = NonuniformGrid(jnp.array([0.0, 1.0, 3.0]))
    assert uniform == UniformGrid(-1, 1, 5)
    assert hash(uniform) == hash(UniformGrid(-1, 1, 5))
    assert jax.tree.leaves(uniform) == []
    # gradients are no increasing knots, and pass all the same
    gradient = jax.grad(lambda grid: jnp.sum(linear_spline(jnp.array([0.5, 2.0]), jnp.array([0.0, 1.0, 0.0]), grid)))
    assert isinstance(gradient(other), NonuniformGrid)
    assert_finite(gradient(other))
    assert jax.tree.map(lambda leaf: leaf.shape, other).knots == (3,)
    assert_close(jax.vmap(NonuniformGrid)(jnp.array([[0.0, 1.0], [2.0, 4.0]])).knots[1], jnp.array([2.0, 4.0]), 0)


# --- misuse ---

GRID, LINE = UniformGrid(-1, 1, 5), jnp.arange(5.0)
FALLING = -LINE
WRONG: Any = {"knots": LINE, "count": 2.5, "mode": "flat"}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: UniformGrid(0, 1, 1), "`num_knots` must be a whole number of at least 2, got 1"),
        (lambda: UniformGrid(0, 1, WRONG["count"]), "`num_knots` must be a whole number of at least 2, got 2.5"),
        (lambda: UniformGrid(1, 1, 3), "`low` and `high` must be finite and `low` below `high`, got 1.0 and 1.0"),
        (lambda: UniformGrid(2, 1, 3), "`low` below `high`, got 2.0 and 1.0"),
        (lambda: UniformGrid(0, float("inf"), 3), "must be finite"),
        (lambda: UniformGrid(float("nan"), 1, 3), "must be finite"),
        (lambda: jax.jit(lambda low: UniformGrid(low, 9.0, 3).knots)(1.0), "known numbers"),
        (lambda: NonuniformGrid(jnp.array([0.0])), r"at least 2 knots, got \(1,\)"),
        (lambda: NonuniformGrid(jnp.zeros((2, 3))), r"shape \(num_knots,\).* got \(2, 3\)"),
        (lambda: NonuniformGrid(jnp.array([0.0, 2.0, 1.0])), "`knots` must be sorted and without repeats"),
        (lambda: NonuniformGrid(jnp.array([0.0, 1.0, 1.0])), "`knots` must be sorted and without repeats"),
        (lambda: NonuniformGrid(jnp.array([0.0, 1.0, jnp.inf])), "`knots` must be finite"),
        (lambda: NonuniformGrid(jnp.array([0.0, jnp.nan])), "`knots` must be finite"),
        (lambda: NonuniformGrid(jnp.arange(3)), "`knots` must be real and of a floating-point type, got int32"),
        (lambda: linear_spline(jnp.arange(3), LINE, GRID), "`x` must be real and of a floating-point type.* got int32"),
        (lambda: linear_spline(2, LINE, GRID), "`x` must be real and of a floating-point type"),
        (lambda: linear_spline(jnp.ones(3) + 1j, LINE, GRID), "`x` must be real.* got complex64"),
        (lambda: linear_spline(1.0, jnp.arange(5), GRID), "`coefficients` must be real and.* got int32"),
        (lambda: linear_spline(1.0, jnp.arange(4.0), GRID), r"`coefficients` must have shape \(5,\).*got \(4,\)"),
        (lambda: linear_spline(1.0, jnp.array(1.0), GRID), r"`coefficients` must have shape .*got \(\)"),
        (lambda: linear_spline(1.0, jnp.zeros((2, 3, 5)), GRID), r"`coefficients` must have shape .*got \(2, 3, 5\)"),
        (lambda: linear_spline(jnp.ones((7, 3)), jnp.zeros((2, 5)), GRID), r"shape \(..., 2\), got \(7, 3\)"),
        (lambda: linear_spline(jnp.array(1.0), jnp.zeros((2, 5)), GRID), r"shape \(..., 2\), got \(\)"),
        (lambda: linear_spline(1.0, LINE, WRONG["knots"]), r"`grid` must be .* NonuniformGrid\(knots\)"),
        (
            lambda: linear_spline(1.0, LINE, GRID, extrapolation=WRONG["mode"]),
            "`extrapolation` must be one of .* got 'flat'",
        ),
        (lambda: spline_inverse(1.0, jnp.array([0.0, 1.0, 1.0, 2.0, 3.0]), GRID), "must increase from knot to knot"),
        (lambda: spline_inverse(1.0, FALLING, GRID), "must increase from knot to knot"),
        (lambda: potential_prox(1.0, -1.0, LINE, GRID), "`strength` must be non-negative, got -1.0"),
        (lambda: potential_prox(1.0, 0.5, FALLING, GRID), "`strength` must be less than 1 / rho .* got 0.5"),
        (lambda: potential_moreau(1.0, 0.5, FALLING, GRID), "`strength` must be less than 1 / rho .* got 0.5"),
        (lambda: potential_prox(jnp.ones((7, 3)), jnp.ones(7), LINE, GRID), r"`strength` must have shape \(\), or"),
        (lambda: jax.jit(lambda x: potential_prox(x, 0.5, FALLING, GRID))(1.0), "`strength` must be less than 1 / rho"),
        (lambda: jax.jit(lambda x: spline_inverse(x, FALLING, GRID))(1.0), "must increase from knot to knot"),
    ],
)
def test_misuse_is_told(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_values_that_are_traced_pass_unchecked():
    assert jnp.isfinite(jax.jit(lambda c: potential_prox(0.3, 0.1, c, GRID))(LINE))
    assert jnp.isfinite(jax.jit(lambda c: spline_inverse(0.3, c, GRID))(LINE))
