"""Total variation of splines, pruning, and knots removed or added."""

import functools
import itertools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REAL, draw, enabled, searched
from hypothesis import given
from hypothesis import strategies as st

from unroll_jax.splines import (
    NonuniformGrid,
    SlopeBox,
    UniformGrid,
    bv2_norm,
    cell_slopes,
    clip_slopes,
    flat_ends,
    insert_knots,
    kinks,
    linear_spline,
    prune,
    refine,
    remove_knots,
    second_order_variation,
)

every_dtype = pytest.mark.parametrize("dtype", REAL)


def in_dtype(test):
    """The test with arrays of its `dtype` enabled."""

    @functools.wraps(test)
    def enabled_test(*args, dtype, **kwargs):
        with enabled(dtype):
            return test(*args, dtype=dtype, **kwargs)

    return enabled_test


jit_prune = jax.jit(prune)
evaluate = jax.jit(linear_spline)
jit_variation = jax.jit(second_order_variation)
jit_norm = jax.jit(bv2_norm)

# where every draw has shapes of its own to compile for


@st.composite
def splines(draw, *, num_knots=(2, 3, 6, 11), channels=2):
    """Knots and coefficients in NumPy, `(num_knots,)` and `(channels, num_knots)`."""
    num_knots = draw(st.sampled_from(num_knots))
    floats = lambda low, high, size: np.array(draw(st.lists(st.floats(low, high), min_size=size, max_size=size)))
    knots = draw(st.floats(-3, 1)) + np.pad(np.cumsum(floats(1 / 8, 1, num_knots - 1)), (1, 0))
    # some neighbours are equal, and many second differences small
    coefficients = np.cumsum(floats(-4, 4, channels * num_knots).reshape(channels, -1).round(1), axis=-1)
    return knots, coefficients


def arrays_of(spline, dtype):
    knots, coefficients = spline
    return NonuniformGrid(jnp.asarray(knots, dtype)), jnp.asarray(coefficients, dtype)


def size(x):
    return max(1.0, float(np.max(np.abs(x))))


def points(grid, dtype):
    """Points between the knots and outside them."""
    low, high = grid.knots[0], grid.knots[-1]
    return jnp.linspace(low - (high - low), high + (high - low), 301, dtype=dtype)


def values(x, coefficients, grid):
    """Every spline at every point, `(channels, num_points)`."""
    return jnp.stack([evaluate(x, c, grid) for c in coefficients])


def slope_rounding(coefficients, grid):
    return 8 * np.finfo(coefficients.dtype).eps * size(coefficients) / float(np.min(grid.steps))


# --- variation ---


@every_dtype
@searched
@given(spline=splines())
@in_dtype
def test_kinks_are_those_of_the_relu_form(dtype, spline):
    grid, coefficients = arrays_of(spline, dtype)
    x = points(grid, dtype)
    expected = values(x, coefficients, grid)
    sizes = np.asarray(kinks(coefficients, grid), float)
    slopes = np.asarray(cell_slopes(coefficients, grid), float)
    variation = jit_variation(coefficients, grid)
    x, knots = np.asarray(x, float), np.asarray(grid.knots, float)
    relus = np.maximum(x - knots[1:-1, None], 0)
    affine = np.asarray(coefficients, float)[:, :1] + slopes[:, :1] * (x - knots[0])
    rounding = slope_rounding(coefficients, grid) * len(knots)
    np.testing.assert_allclose(affine + sizes @ relus, expected, rtol=0, atol=rounding * (x[-1] - x[0]))
    np.testing.assert_allclose(variation, np.sum(np.abs(sizes), axis=-1), rtol=0, atol=2 * rounding)


@pytest.mark.usefixtures("x64")
@searched
@given(spline=splines(), scale=st.floats(0.1, 10), slope=st.floats(-3, 3))
def test_variation_sees_no_scale_and_no_affine_part(spline, scale, slope):
    grid, coefficients = arrays_of(spline, "float64")
    variation = jit_variation(coefficients, grid)
    scaled = NonuniformGrid(grid.knots / scale)
    np.testing.assert_allclose(jit_variation(coefficients / scale, scaled), variation, atol=1e-10 * size(variation))
    affine = jnp.broadcast_to(slope * grid.knots + 1, coefficients.shape)
    np.testing.assert_allclose(jit_variation(coefficients + affine, grid), variation, atol=1e-10 * size(variation))
    np.testing.assert_allclose(jit_variation(affine, grid), 0, atol=1e-10)
    # a norm: it is no less than the largest difference of values over a distance of one
    lipschitz = jnp.max(jnp.abs(cell_slopes(coefficients, grid)), axis=-1)
    assert np.all(lipschitz <= jit_norm(coefficients, grid) * (1 + 1e-9) + 1e-9)
    at = lambda point: np.abs([evaluate(jnp.asarray(point), c, grid) for c in coefficients])
    np.testing.assert_allclose(jit_norm(coefficients, grid), variation + at(0.0) + at(1.0), rtol=1e-10, atol=1e-10)


def test_variation_on_a_uniform_grid_is_that_of_second_differences():
    grid = UniformGrid(-1.0, 1.0, 21)
    coefficients = draw(np.random.default_rng(0), (3, 21))
    expected = [np.sum(np.abs(np.convolve(c, [1, -2, 1], "valid"))) / 0.1 for c in np.asarray(coefficients)]
    np.testing.assert_allclose(second_order_variation(coefficients, grid), expected, rtol=1e-5)
    same = NonuniformGrid(grid.knots)
    np.testing.assert_allclose(second_order_variation(coefficients, same), expected, rtol=1e-5)
    assert second_order_variation(coefficients[0], grid).shape == ()


def test_variation_of_a_straight_spline_has_a_gradient_of_zero():
    grid = UniformGrid(-1.0, 1.0, 5)
    np.testing.assert_array_equal(jax.grad(second_order_variation)(grid.knots, grid), np.zeros(5))


# --- pruning ---


@every_dtype
@searched
@given(spline=splines(), threshold=st.floats(0, 4), box=st.sampled_from([(-1, 1), (0, 1), (-math.inf, 0.5)]))
@in_dtype
def test_pruning_keeps_the_box_and_moves_no_further_than_what_it_removed(dtype, spline, threshold, box):
    grid, coefficients = arrays_of(spline, dtype)
    coefficients = clip_slopes(coefficients, grid, SlopeBox(*box))
    pruned = jit_prune(coefficients, grid, threshold)
    x = jnp.linspace(grid.knots[0], grid.knots[-1], 301, dtype=dtype)
    change = np.max(np.abs(values(x, pruned, grid) - values(x, coefficients, grid)), axis=-1)
    sizes = np.abs(kinks(coefficients, grid))
    left = np.abs(kinks(pruned, grid))
    slopes = cell_slopes(pruned, grid)
    variation = [second_order_variation(c, grid) for c in (coefficients, pruned)]
    removed = np.where(sizes <= threshold, sizes, 0)
    rounding = slope_rounding(coefficients, grid)
    extent = float(grid.knots[-1] - grid.knots[0])
    assert pruned.dtype == dtype
    assert np.all(change <= np.sum(removed, axis=-1) * extent / 4 + rounding * extent)
    assert np.all(slopes >= box[0] - rounding) and np.all(slopes <= box[1] + rounding)
    assert np.all(left[sizes <= threshold] <= rounding)
    assert np.all(variation[1] <= variation[0] + rounding * sizes.shape[-1])
    stays = np.pad(sizes > threshold, ((0, 0), (1, 1)), constant_values=True)
    np.testing.assert_array_equal(np.asarray(pruned)[stays], np.asarray(coefficients)[stays])


@pytest.mark.usefixtures("x64")
@searched
@given(spline=splines())
def test_pruning_at_zero_changes_nothing_and_at_infinity_leaves_a_line(spline):
    grid, coefficients = arrays_of(spline, "float64")
    np.testing.assert_allclose(
        jit_prune(coefficients, grid, 0.0), coefficients, rtol=0, atol=1e-13 * size(coefficients)
    )
    line = jit_prune(coefficients, grid, math.inf)
    np.testing.assert_allclose(kinks(line, grid), 0, atol=slope_rounding(coefficients, grid))
    np.testing.assert_array_equal(line[:, [0, -1]], coefficients[:, [0, -1]])


def test_pruning_keeps_flat_ends():
    grid = UniformGrid(-1.0, 1.0, 5)
    box = flat_ends(SlopeBox.lipschitz(), grid)
    coefficients = jnp.array([0.0, 0.0, 0.05, 0.05, 0.05])
    np.testing.assert_allclose(prune(coefficients, grid, 0.5, box=box), [0.0, 0.0, 0.025, 0.05, 0.05])
    np.testing.assert_allclose(prune(coefficients, grid, 0.5), [0.0, 0.0125, 0.025, 0.0375, 0.05])


def test_every_channel_is_pruned_by_itself_at_its_own_threshold():
    grid = UniformGrid(-2.0, 2.0, 5)
    coefficients = jnp.array([[0.0, 0.0, 0.1, 0.0, 0.0]] * 2)
    pruned = prune(coefficients, grid, jnp.array([[0.05], [0.5]]))
    np.testing.assert_allclose(pruned, [[0.0, 0.0, 0.1, 0.0, 0.0], [0.0] * 5])


# --- knots ---


@every_dtype
@searched
@given(spline=splines(), threshold=st.floats(0, 4))
@in_dtype
def test_a_pruned_spline_on_fewer_knots_equals_its_parent(dtype, spline, threshold):
    grid, coefficients = arrays_of(spline, dtype)
    pruned = jit_prune(coefficients, grid, threshold)
    fewer, smaller = remove_knots(pruned, grid)
    x = points(grid, dtype)
    difference = np.abs(values(x, fewer, smaller) - values(x, pruned, grid))
    # outside the knots a spline continues a slope, which has rounding
    rounding = slope_rounding(coefficients, grid) * float(x[-1] - x[0])
    assert fewer.dtype == dtype and isinstance(smaller, NonuniformGrid)
    assert np.max(difference) <= rounding
    inside = (x >= grid.knots[0]) & (x <= grid.knots[-1])
    assert np.max(difference[:, inside]) <= 16 * np.finfo(dtype).eps * size(coefficients)
    stays = np.any(np.abs(kinks(coefficients, grid)) > threshold, axis=0)
    assert smaller.num_knots <= 2 + np.sum(stays)


def test_a_pruned_spline_of_101_knots_equals_its_parent_to_1e_6():
    grid = UniformGrid(-1.0, 1.0, 101)
    x = jnp.linspace(-1.5, 1.5, 1001)
    noise = 1e-3 * draw(np.random.default_rng(0), (101,))
    coefficients = jnp.maximum(grid.knots - 0.2, 0) - 0.5 * jnp.maximum(grid.knots + 0.4, 0) + noise * 0.01
    pruned = prune(coefficients, grid, 0.1)
    fewer, smaller = remove_knots(pruned, grid)
    np.testing.assert_allclose(smaller.knots, [-1.0, -0.4, 0.2, 1.0], atol=1e-6)
    np.testing.assert_allclose(linear_spline(x, fewer, smaller), linear_spline(x, pruned, grid), atol=1e-6)
    np.testing.assert_allclose(linear_spline(x, pruned, grid), linear_spline(x, coefficients, grid), atol=1e-3)


@pytest.mark.usefixtures("x64")
@searched
@given(spline=splines(), tolerance=st.floats(0, 3))
def test_removing_knots_moves_splines_by_at_most_the_tolerance(spline, tolerance):
    grid, coefficients = arrays_of(spline, "float64")
    fewer, smaller = remove_knots(coefficients, grid, tolerance=tolerance)
    x = jnp.linspace(grid.knots[0], grid.knots[-1], 301)
    assert np.max(np.abs(values(x, fewer, smaller) - values(x, coefficients, grid))) <= tolerance + 1e-12
    old, new = cell_slopes(coefficients, grid), cell_slopes(fewer, smaller)
    assert np.all(np.max(new, axis=-1) <= np.max(old, axis=-1) + 1e-10)
    assert np.all(np.min(new, axis=-1) >= np.min(old, axis=-1) - 1e-10)
    assert set(smaller.knots.tolist()) <= set(grid.knots.tolist())
    assert smaller.knots[0] == grid.knots[0] and smaller.knots[-1] == grid.knots[-1]


@every_dtype
@searched
@given(spline=splines(num_knots=(2, 6)), new=st.lists(st.floats(-6, 12), min_size=3, max_size=3))
@in_dtype
def test_more_knots_change_nothing(dtype, spline, new):
    grid, coefficients = arrays_of(spline, dtype)
    # knots that lie closer than their own rounding make no sense
    hypothesis.assume(min(b - a for a, b in itertools.pairwise(sorted([*new, *grid.knots.tolist()]))) > 1e-2)
    x = points(grid, dtype)
    expected = values(x, coefficients, grid)
    more, larger = insert_knots(coefficients, grid, jnp.asarray([*new, *new, *grid.knots.tolist()], dtype))
    finer, fine = refine(coefficients, grid, 3)
    assert larger.num_knots <= grid.num_knots + 3 and fine.num_knots == 3 * (grid.num_knots - 1) + 1
    for c, knots in ((more, larger), (finer, fine)):
        assert c.dtype == dtype and np.all(np.diff(knots.knots) > 0)
        reach = float(np.max(np.abs([*x, *knots.knots])))
        np.testing.assert_allclose(values(x, c, knots), expected, rtol=0, atol=slope_rounding(c, knots) * reach)


def test_knots_that_are_there_are_not_inserted_again():
    coefficients, grid = insert_knots(jnp.array([0.0, 2.0]), UniformGrid(0.0, 1.0, 2), [0.0, 0.5, 0.5])
    np.testing.assert_array_equal(grid.knots, [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(coefficients, [0.0, 1.0, 2.0])


def test_refining_keeps_the_kind_of_grid():
    grid = UniformGrid(-1.0, 1.0, 3)
    coefficients, finer = refine(jnp.array([1.0, 0.0, 1.0]), grid, 4)
    assert finer == UniformGrid(-1.0, 1.0, 9)
    np.testing.assert_array_equal(coefficients, np.abs(finer.knots))
    coefficients, finer = refine(jnp.array([1.0, 0.0, 3.0]), NonuniformGrid(jnp.array([-1.0, 0.0, 3.0])), 2)
    np.testing.assert_array_equal(finer.knots, [-1.0, -0.5, 0.0, 1.5, 3.0])
    back, coarse = remove_knots(coefficients, finer)
    np.testing.assert_array_equal(back, [1.0, 0.0, 3.0])
    np.testing.assert_array_equal(coarse.knots, [-1.0, 0.0, 3.0])


# --- misuse ---

GRID = UniformGrid(-1.0, 1.0, 3)


@pytest.mark.parametrize(
    "function",
    [
        kinks,
        second_order_variation,
        bv2_norm,
        lambda c, grid: prune(c, grid, 0.1),
        remove_knots,
        lambda c, grid: insert_knots(c, grid, [0.5]),
        lambda c, grid: refine(c, grid, 2),
    ],
)
@pytest.mark.parametrize("shape", [(), (4,), (3, 2)])
def test_coefficients_that_do_not_fit_the_grid(function, shape):
    with pytest.raises(ValueError, match=r"`coefficients` .*3.*got"):
        function(jnp.zeros(shape), GRID)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prune(jnp.zeros(3), GRID, -0.1), "`threshold` must be non-negative, got -0.1"),
        (lambda: prune(jnp.zeros(3), GRID, math.nan), "`threshold` must be non-negative, got nan"),
        (
            lambda: prune(jnp.zeros(3), GRID, jnp.ones((2, 1))),
            r"`threshold` must have shape \(\)",
        ),
        (lambda: prune(jnp.zeros(3), GRID, 0.1, box=SlopeBox(1.0, -1.0)), "`box` is empty"),
        (lambda: remove_knots(jnp.zeros(3), GRID, tolerance=-1.0), "`tolerance` must be non-negative, got -1.0"),
        (lambda: jax.jit(lambda c: remove_knots(c, GRID))(jnp.zeros(3)), "`remove_knots` .*outside jax.jit"),
        (
            lambda: jax.jit(lambda knots: insert_knots(jnp.zeros(3), GRID, knots))(jnp.zeros(3)),
            "`insert_knots` .*outside jax.jit",
        ),
        (lambda: insert_knots(jnp.zeros(3), GRID, [0.5, math.inf]), "`knots` must be a vector of finite numbers"),
        (lambda: insert_knots(jnp.zeros(3), GRID, 0.5), "`knots` must be a vector of finite numbers"),
        (lambda: refine(jnp.zeros(3), GRID, 0), "`factor` must be a whole number of at least 1, got 0"),
        (lambda: refine(jnp.zeros(3), GRID, 1.5), "`factor` must be a whole number"),  # type: ignore
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
