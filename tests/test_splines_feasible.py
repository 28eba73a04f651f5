"""Slope boxes, and splines that are made to lie in them: by clipping, by projection, after steps of optimizers."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import REAL, ROUNDING, TraceCounter, draw, enabled, searched
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from unroll_jax.splines import (
    NonuniformGrid,
    SlopeBox,
    UniformGrid,
    cell_slopes,
    clip_slopes,
    flat_ends,
    keep_feasible,
    linear_spline,
    project_slopes,
)
from unroll_jax.splines.feasible import feasible_update

KEEPS = ("mean", "anchor", "odd")
every_dtype = pytest.mark.parametrize("dtype", REAL)


def in_dtype(test):
    """The test with arrays of its `dtype` enabled."""

    @functools.wraps(test)
    def enabled_test(*args, dtype, **kwargs):
        with enabled(dtype):
            return test(*args, dtype=dtype, **kwargs)

    return enabled_test


every_keep = pytest.mark.parametrize("keep", KEEPS)


class Case(NamedTuple):
    """A spline and a box, in NumPy: `steps` between knots from `low` on."""

    low: float
    steps: np.ndarray
    coefficients: np.ndarray
    lower: float
    upper: float
    is_flat: bool

    @property
    def box(self):
        return SlopeBox(self.lower, self.upper)

    def grid(self, dtype):
        return NonuniformGrid(jnp.asarray(self.low + np.pad(np.cumsum(self.steps), (1, 0)), dtype))


@st.composite
def cases(draw, *, is_odd=False, num_knots=(2, 3, 6, 11)):
    """Random knots, coefficients and boxes, some of them with infinite bounds, of one point, or flat at the ends."""
    num_knots = draw(st.sampled_from(num_knots))
    floats = lambda low, high, size: np.array(draw(st.lists(st.floats(low, high), min_size=size, max_size=size)))
    steps = floats(1 / 8, 1, num_knots - 1)
    if is_odd:
        steps = (steps + steps[::-1]) / 2
    low = -np.sum(steps) / 2 if is_odd else draw(st.floats(-3, 1))
    coefficients = floats(-8, 8, 2 * num_knots).reshape(2, -1)
    lower, upper = sorted(floats(-3, 3, 2))
    lower, upper = draw(st.sampled_from([(lower, upper)] * 3 + [(-math.inf, upper), (lower, math.inf), (lower, lower)]))
    is_flat = draw(st.booleans()) and lower <= 0 <= upper
    return Case(low, steps, coefficients, lower, upper, is_flat)


def parts(case, dtype):
    """Coefficients, grid and box as arrays of `dtype`."""
    grid = case.grid(dtype)
    box = SlopeBox(jnp.asarray(case.lower, dtype), jnp.asarray(case.upper, dtype))
    return jnp.asarray(case.coefficients, dtype), grid, flat_ends(box, grid) if case.is_flat else box


def violation(coefficients, grid, box, *, rounding=0.0):
    """How far slopes lie outside the box, relative to 1 + |s|, beyond what `rounding` of coefficients makes."""
    steps = np.asarray(grid.steps, float)
    slopes = np.diff(np.asarray(coefficients, float)) / steps
    largest = np.max(np.abs(coefficients), axis=-1, keepdims=True)
    outside = np.maximum(np.asarray(box.lower, float) - slopes, slopes - np.asarray(box.upper, float))
    return np.max((outside - rounding * largest / steps) / (1 + np.abs(slopes)), initial=0)


def size(x):
    return max(1.0, float(np.max(np.abs(x))))


clips = {keep: jax.jit(functools.partial(clip_slopes, keep=keep)) for keep in KEEPS}
project = jax.jit(project_slopes)
evaluate = jax.jit(linear_spline)


# --- boxes ---


@pytest.mark.parametrize(
    ("box", "lower", "upper"),
    [
        (SlopeBox.lipschitz(), -1, 1),
        (SlopeBox.lipschitz(2.5), -2.5, 2.5),
        (SlopeBox.firmly_nonexpansive(), 0, 1),
        (SlopeBox.monotone(), 0, math.inf),
        (SlopeBox.invertible(0.25), 0.25, 4),
        (SlopeBox.invertible(1), 1, 1),
        (SlopeBox.averaged(0.5), 0, 1),
        (SlopeBox.averaged(0.75), -0.5, 1),
        (SlopeBox.weakly_convex(1.0), -1, math.inf),
        (SlopeBox.weakly_convex(1.0, 3.0), -1, 3),
        (SlopeBox.strongly_monotone(0.5), 0.5, math.inf),
        (SlopeBox.strongly_monotone(0.5, 2), 0.5, 2),
    ],
)
def test_boxes(box, lower, upper):
    assert (box.lower, box.upper) == (lower, upper)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlopeBox.lipschitz(-1.0), "`bound` must be non-negative, got -1.0"),
        (lambda: SlopeBox.lipschitz(math.nan), "`bound` must be non-negative, got nan"),
        (lambda: SlopeBox.invertible(0.0), r"`smallest` must lie in \(0, 1\], got 0.0"),
        (lambda: SlopeBox.invertible(1.5), r"`smallest` must lie in \(0, 1\], got 1.5"),
        (lambda: SlopeBox.invertible(math.nan), r"`smallest` must lie in \(0, 1\], got nan"),
        (lambda: SlopeBox.averaged(0.0), r"`weight` must lie in \(0, 1\), got 0.0"),
        (lambda: SlopeBox.averaged(1.0), r"`weight` must lie in \(0, 1\), got 1.0"),
        (lambda: SlopeBox.weakly_convex(-1.0), "`modulus` must be non-negative, got -1.0"),
        (lambda: SlopeBox.weakly_convex(1.0, -2.0), "`-modulus` must be nowhere above `smoothness`"),
        (lambda: SlopeBox.strongly_monotone(0.0), "`modulus` must be positive, got 0.0"),
        (lambda: SlopeBox.strongly_monotone(2.0, 1.0), "`modulus` must be nowhere above `lipschitz`"),
    ],
)
def test_boxes_that_do_not_exist(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bound_of_a_box_may_be_learned():
    grid = UniformGrid(-1.0, 1.0, 3)
    last = lambda bound: clip_slopes(jnp.array([0.0, 2.0, 9.0]), grid, SlopeBox.lipschitz(bound), keep="anchor")[-1]
    assert jax.jit(jax.grad(last))(0.5) == 1.0


# --- clipping ---


@every_dtype
@every_keep
@searched
@given(data=st.data())
@in_dtype
def test_clipped_slopes_lie_in_the_box_and_keep_what_they_say(keep, dtype, data):
    case = data.draw(cases(is_odd=keep == "odd"))
    coefficients, grid, box = parts(case, dtype)
    clipped = clips[keep](coefficients, grid, box)
    again = clips[keep](clipped, grid, box)
    at_zero = evaluate(jnp.zeros(2, dtype), clipped, grid)
    eps, scale = np.finfo(dtype).eps, size(coefficients)
    assert clipped.dtype == dtype and clipped.shape == coefficients.shape
    assert violation(clipped, grid, box, rounding=8 * eps) <= ROUNDING[dtype]
    np.testing.assert_allclose(again, clipped, rtol=0, atol=100 * eps * size(clipped))
    if keep == "mean":
        np.testing.assert_allclose(np.mean(clipped, -1), np.mean(coefficients, -1), rtol=0, atol=100 * eps * scale)
    else:
        extent = 1 + float(np.max(np.abs(grid.knots)) / np.min(grid.steps))  # 0 may lie outside all knots
        np.testing.assert_allclose(at_zero, 0, atol=100 * eps * size(clipped) * extent)
    if keep == "odd":
        np.testing.assert_array_equal(clipped, -clipped[:, ::-1])


@every_dtype
@every_keep
@in_dtype
def test_what_lies_in_the_box_comes_back(keep, dtype):
    grid = UniformGrid(-1.0, 1.0, 11)
    inside = jnp.sin(3 * grid.knots).astype(dtype) * 0.3
    clipped = clip_slopes(inside, grid, SlopeBox.lipschitz(), keep=keep)
    np.testing.assert_allclose(clipped, inside, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("x64")
@searched
@given(case=cases(is_odd=True))
def test_odd_symmetrizes_first_and_is_then_exact(case):
    coefficients, grid, box = parts(case, "float64")
    slopes = np.asarray(cell_slopes(coefficients, grid))
    expected = np.clip((slopes + slopes[:, ::-1]) / 2, box.lower, box.upper)
    np.testing.assert_allclose(cell_slopes(clips["odd"](coefficients, grid, box), grid), expected, atol=1e-11)


@every_keep
def test_flat_ends_make_constant_extrapolation(keep):
    grid = UniformGrid(-1.0, 1.0, 7)
    box = flat_ends(SlopeBox.lipschitz(), grid)
    clipped = clip_slopes(draw(np.random.default_rng(0), (7,)), grid, box, keep=keep)
    outside = linear_spline(jnp.array([-9.0, -1.0, -0.7, 0.7, 1.0, 9.0]), clipped, grid)
    np.testing.assert_allclose(outside, np.repeat(clipped[jnp.array([0, -1])], 3), atol=1e-6)


def test_the_anchor_holds_outside_the_knots_too():
    grid = NonuniformGrid(jnp.array([1.0, 2.0, 4.0]))
    clipped = clip_slopes(jnp.array([5.0, 5.5, 0.0]), grid, SlopeBox.lipschitz(), keep="anchor")
    assert linear_spline(jnp.zeros(()), clipped, grid) == 0
    np.testing.assert_allclose(clipped, [0.5, 1.0, -1.0])


# --- derivatives of the clipping ---


@every_dtype
@searched
@given(case=cases())
@in_dtype
def test_slopes_on_a_bound_learn(dtype, case):
    """Where every slope lies in the closed box, the derivative of the clipping is the identity."""
    coefficients, grid, box = parts(case, dtype)
    on_bounds = clips["mean"](coefficients, grid, box)[0]
    jacobians = [mode(clips["mean"])(on_bounds, grid, box) for mode in (jax.jacfwd, jax.jacrev)]
    for jacobian in jacobians:
        np.testing.assert_allclose(jacobian, np.eye(on_bounds.size), rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("x64")
@every_keep
def test_the_derivative_of_clipping_equals_differences(keep):
    grid = UniformGrid(-1.0, 1.0, 9)
    coefficients = draw(np.random.default_rng(1), (9,), "float64")
    box = SlopeBox(-1.0, 2.0)
    clip = lambda c: clips[keep](c, grid, box)
    shifted = lambda sign: jax.vmap(lambda e: clip(coefficients + sign * 1e-6 * e))(jnp.eye(9))
    expected = ((shifted(1) - shifted(-1)) / 2e-6).T
    is_outside = (cell_slopes(coefficients, grid) > 2) | (cell_slopes(coefficients, grid) < -1)
    assert 0 < np.sum(is_outside) < 8
    np.testing.assert_allclose(jax.jacfwd(clip)(coefficients), expected, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(clip)(coefficients), expected, atol=1e-8)


def test_infinite_bounds_leave_gradients_finite():
    knots = jnp.array([-1.0, 0.5, 1.0])
    for function in (clip_slopes, project_slopes):
        loss = lambda c, knots, function=function: jnp.sum(
            function(c, NonuniformGrid(knots), SlopeBox(-math.inf, 0.5)) ** 2
        )
        for gradient in jax.grad(loss, (0, 1))(jnp.array([1.0, 2.0, -1.0]), knots):
            assert np.all(np.isfinite(gradient)) and np.any(gradient)


def test_nan_is_not_hidden():
    grid = UniformGrid(-1.0, 1.0, 3)
    assert np.all(np.isnan(clip_slopes(jnp.array([0.0, jnp.nan, 1.0]), grid, SlopeBox.lipschitz())))
    assert np.any(np.isnan(project_slopes(jnp.array([0.0, jnp.nan, 1.0]), grid, SlopeBox.lipschitz())))


# --- projection ---


def qp_solution(values, steps, lower, upper):
    """The nearest values whose slopes have bounds, by an active-set solver in the variables (first value, slopes)."""
    matrix = np.tril(np.concatenate([np.ones(1), steps])[None, :] * np.ones((values.size, 1)))
    lower, upper = np.concatenate([[-np.inf], lower]), np.concatenate([[np.inf], upper])
    is_free = lower < upper
    solution = np.where(is_free, 0, lower)  # the solver takes no bounds that are equal
    result = lsq_linear(
        matrix[:, is_free], values - matrix @ solution, (lower[is_free], upper[is_free]), method="bvls", tol=1e-14
    )
    solution[is_free] = result.x
    return matrix @ solution


def assert_equals_qp(case, dtype, tolerance):
    coefficients, grid, box = parts(case, dtype)
    projected = np.asarray(project(coefficients, grid, box))
    shape = (case.steps.size,)
    steps = np.asarray(grid.steps, float)
    for values, mine in zip(np.asarray(coefficients, float), projected, strict=True):
        lower, upper = (np.broadcast_to(np.asarray(bound, float), shape) for bound in box)
        expected = qp_solution(values, steps, lower, upper)
        np.testing.assert_allclose(mine, expected, rtol=0, atol=tolerance * size(expected))


@every_dtype
@searched
@given(case=cases(num_knots=(2, 3, 6, 11, 24)))
@in_dtype
def test_the_projection_equals_a_quadratic_program(dtype, case):
    assert_equals_qp(case, dtype, 1e-10 if dtype == "float64" else 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_knots", [2, 5, 41])
def test_the_projection_on_uniform_knots_equals_a_quadratic_program(num_knots):
    rng = np.random.default_rng(num_knots)
    steps = np.full(num_knots - 1, 2 / (num_knots - 1))
    for lower, upper in [(-1, 1), (0, 1), (0, np.inf), (-np.inf, 0.5), (-np.inf, np.inf), (0.5, 2), (1, 1)]:
        smooth = np.cumsum(rng.standard_normal((2, num_knots)), axis=-1) / np.sqrt(num_knots)
        assert_equals_qp(Case(-1.0, steps, smooth, lower, upper, False), "float64", 1e-10)


@every_dtype
@searched
@given(case=cases())
@in_dtype
def test_the_projection_is_optimal(dtype, case):
    """The conditions of Karush, Kuhn and Tucker: a multiplier only where a slope lies on its bound, of its sign."""
    coefficients, grid, box = parts(case, dtype)
    projected = project(coefficients, grid, box)
    again = project(projected, grid, box)
    eps = np.finfo(dtype).eps
    scale = size(coefficients) + size(projected)
    assert violation(projected, grid, box, rounding=8 * eps) <= ROUNDING[dtype]
    multipliers = np.cumsum(np.asarray(projected, float) - np.asarray(coefficients, float), axis=-1)
    rounding = 50 * eps * scale * multipliers.shape[-1]
    np.testing.assert_allclose(multipliers[:, -1], 0, atol=rounding)  # the mean stays
    slopes = np.asarray(cell_slopes(projected, grid), float)
    slack = 50 * eps * scale / np.min(grid.steps)
    lower, upper = (np.broadcast_to(np.asarray(bound, float), slopes.shape) for bound in box)
    assert np.all((multipliers[:, :-1] <= rounding) | (slopes >= upper - slack))
    assert np.all((multipliers[:, :-1] >= -rounding) | (slopes <= lower + slack))
    np.testing.assert_allclose(again, projected, rtol=0, atol=100 * eps * scale)


@pytest.mark.usefixtures("x64")
@searched
@given(case=cases(is_odd=True), other=st.integers(0, 2**32 - 1))
def test_the_projection_is_nearer_than_clipping_and_nonexpansive_and_keeps_oddness(case, other):
    coefficients, grid, box = parts(case, "float64")
    projected = project(coefficients, grid, box)
    distance = lambda a, b: np.linalg.norm(np.asarray(a - b), axis=-1)
    clipped = clips["mean"](coefficients, grid, box)
    assert np.all(distance(projected, coefficients) <= distance(clipped, coefficients) + 1e-10)
    second = coefficients + draw(np.random.default_rng(other), coefficients.shape, "float64")
    assert np.all(distance(project(second, grid, box), projected) <= distance(second, coefficients) + 1e-10)
    odd = coefficients - jnp.flip(coefficients, -1)
    projected = project(odd, grid, box)
    np.testing.assert_allclose(projected, -jnp.flip(projected, -1), atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_channels_and_layers_are_projected_each_by_itself():
    rng = np.random.default_rng(0)
    grid = NonuniformGrid(jnp.cumsum(0.1 + jnp.abs(draw(rng, (8,), "float64"))))
    coefficients = draw(rng, (2, 3, 8), "float64")
    bounds = jnp.abs(draw(rng, (3, 1), "float64"))
    for function in (project, clips["mean"], clips["anchor"]):
        together = function(coefficients, grid, SlopeBox(-bounds, bounds))
        mapped = jax.vmap(jax.vmap(lambda c, b, f=function: f(c, grid, SlopeBox(-b, b))), (0, None))(
            coefficients, bounds[:, 0]
        )
        np.testing.assert_allclose(together, mapped, atol=1e-14)
        for layer, channel in np.ndindex(2, 3):
            alone = function(coefficients[layer, channel], grid, SlopeBox.lipschitz(bounds[channel, 0]))
            np.testing.assert_allclose(together[layer, channel], alone, atol=1e-14)


def seven_knots():
    return NonuniformGrid(jnp.array([-1.0, -0.9, -0.5, 0.0, 0.2, 0.6, 1.0]))


def jacobians(function, x):
    """Forward, in reverse and by differences, for a function of a vector that is linear around `x`."""

    @jax.jit
    def all_of(x):
        shifted = lambda sign: jax.vmap(lambda e: function(x + sign * 1e-6 * e), out_axes=1)(jnp.eye(x.size))
        return jax.jacfwd(function)(x), jax.jacrev(function)(x), (shifted(1) - shifted(-1)) / 2e-6

    return all_of(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("box", [SlopeBox(-0.5, 1.5), SlopeBox(0.0, math.inf), SlopeBox(-math.inf, 0.2)])
def test_the_derivative_of_the_projection_equals_differences(box):
    coefficients = draw(np.random.default_rng(3), (7,), "float64")
    forward, reverse, differences = jacobians(lambda c: project_slopes(c, seven_knots(), box), coefficients)
    np.testing.assert_allclose(forward, differences, atol=1e-8)
    np.testing.assert_allclose(reverse, differences, atol=1e-8)
    np.testing.assert_allclose(forward, forward.T, atol=1e-14)
    np.testing.assert_allclose(forward @ forward, forward, atol=1e-14)
    assert 0 < np.linalg.matrix_rank(forward) < 7


@pytest.mark.usefixtures("x64")
def test_the_projection_is_differentiable_in_knots_and_bounds_and_twice():
    coefficients = draw(np.random.default_rng(3), (7,), "float64")
    of_knots = lambda knots: project_slopes(coefficients, NonuniformGrid(knots), SlopeBox(-0.5, 1.5))
    of_bounds = lambda bounds: project_slopes(coefficients, seven_knots(), SlopeBox(*bounds))
    for function, x in ((of_knots, seven_knots().knots), (of_bounds, jnp.array([-0.5, 1.5]))):
        forward, reverse, differences = jacobians(function, x)
        np.testing.assert_allclose(forward, differences, atol=1e-8)
        np.testing.assert_allclose(reverse, differences, atol=1e-8)
    value = lambda c: jnp.sum(project_slopes(c, seven_knots(), SlopeBox(-0.5, 1.5)) ** 2) / 2
    expected = jacobians(lambda c: project_slopes(c, seven_knots(), SlopeBox(-0.5, 1.5)), coefficients)[0]
    np.testing.assert_allclose(jax.jit(jax.hessian(value))(coefficients), expected, atol=1e-14)


def test_inside_the_box_the_projection_passes_gradients():
    grid = UniformGrid(-1.0, 1.0, 5)
    on_bounds = jnp.array([-1.0, -0.5, 0.0, 0.5, 0.0])
    np.testing.assert_array_equal(project_slopes(on_bounds, grid, SlopeBox.lipschitz()), on_bounds)
    jacobian = jax.jacrev(project_slopes)(on_bounds, grid, SlopeBox.lipschitz())
    np.testing.assert_array_equal(jacobian, np.eye(5))


def test_a_second_call_does_not_compile_again():
    grid, box = UniformGrid(-1.0, 1.0, 5), SlopeBox.lipschitz()
    for function in (clip_slopes, project_slopes):
        counter = TraceCounter(lambda c, f=function: f(c, grid, box))
        compiled = jax.jit(counter)
        compiled(jnp.zeros(5))
        compiled(jnp.ones(5))
        assert counter.count == 1


def test_the_projection_is_one_program_for_any_number_of_knots():
    def num_lines(num_knots):
        grid = UniformGrid(-1.0, 1.0, num_knots)
        return len(str(jax.make_jaxpr(lambda c: project_slopes(c, grid, SlopeBox.lipschitz()))(grid.knots)).split("\n"))

    assert num_lines(11) == num_lines(101)


# --- what a box buys ---


@every_dtype
@searched
@given(case=cases(), seed=st.integers(0, 2**32 - 1), use_projection=st.booleans())
@in_dtype
def test_slopes_bound_the_function(dtype, case, seed, use_projection):
    case = case._replace(lower=max(case.lower, -3.0), upper=min(case.upper, 3.0))
    coefficients, grid, box = parts(case, dtype)
    c = (project if use_projection else clips["mean"])(coefficients, grid, box)[0]
    x, y = 3 * draw(np.random.default_rng(seed), (2, 50), dtype)
    fx, fy = evaluate(x, c, grid), evaluate(y, c, grid)
    firm = clips["anchor"](coefficients, grid, SlopeBox.firmly_nonexpansive())[0]
    gx, gy = evaluate(x, firm, grid), evaluate(y, firm, grid)
    d, f, g = (np.asarray(a, float) - np.asarray(b, float) for a, b in [(x, y), (fx, fy), (gx, gy)])
    # what rounding does to a slope reaches as far as x does
    slack = 100 * np.finfo(dtype).eps * size(c) * size(np.concatenate([x, y])) / float(np.min(grid.steps))
    assert np.all(np.abs(f) <= max(abs(case.lower), abs(case.upper)) * np.abs(d) + slack)
    assert np.all(f * d >= case.lower * d**2 - slack * (np.abs(d) + 1))
    assert np.all(f * d <= case.upper * d**2 + slack * (np.abs(d) + 1))
    assert np.all(g * d >= g**2 - slack * (np.abs(d) + np.abs(g) + 1) * size(firm))


# --- after steps of optimizers ---

PROJECTS = {
    **{f"clip {keep}": functools.partial(clip_slopes, keep=keep) for keep in KEEPS},
    "project": project_slopes,
}
OPTIMIZERS = {
    "sgd 1e3": lambda: optax.sgd(1e3),
    "sgd 1e-1": lambda: optax.sgd(1e-1),
    "momentum 1e3": lambda: optax.sgd(1e3, momentum=0.9),
    "adam 1e3": lambda: optax.adam(1e3),
}


@every_dtype
@pytest.mark.parametrize("name", PROJECTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("is_uniform", [True, False])
@in_dtype
def test_slopes_stay_in_the_box_for_1000_steps(optimizer, name, dtype, is_uniform):
    rng = np.random.default_rng(0)
    steps = rng.uniform(0.3, 1, 20)
    knots = np.pad(np.cumsum(steps + steps[::-1]), (1, 0))
    knots = 2 * knots / knots[-1] - 1
    grid = UniformGrid(-1.0, 1.0, 21) if is_uniform else NonuniformGrid(jnp.asarray((knots - knots[::-1]) / 2, dtype))
    lower, upper = jnp.asarray([[-1.0, 0.0, -0.5], [1.0, 1.0, 2.0]], dtype)[..., None]
    box = flat_ends(SlopeBox(lower, upper), grid) if is_uniform else SlopeBox(lower, upper)
    transformation = optax.chain(OPTIMIZERS[optimizer](), keep_feasible(grid, box, project=PROJECTS[name]))
    start = PROJECTS[name](draw(rng, (3, 21), dtype), grid, box)

    def step(carry, gradient):
        params, state = carry
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    gradients = draw(rng, (1000, 3, 21), dtype)
    _, path = jax.jit(lambda *carry: jax.lax.scan(step, carry, gradients))(start, transformation.init(start))
    assert violation(path, grid, box) <= ROUNDING[dtype]
    assert path.dtype == dtype and np.std(path[-1]) > 0


def test_a_sum_in_floating_point_lies_in_the_box_where_the_plain_difference_does_not():
    grid, box = UniformGrid(-1.0, 1.0, 21), SlopeBox.lipschitz()
    start, change = draw(np.random.default_rng(0), (2, 21))
    start = project(start, grid, box)
    target = project(start + 1e5 + change, grid, box)
    assert violation(start + (target - start), grid, box) > 1e-3
    update = feasible_update(start, 1e5 + change, grid, box, project_slopes)
    assert violation(start + update, grid, box) == 0
    np.testing.assert_allclose(start + update, target, rtol=1e-6)


def test_an_update_that_is_feasible_is_kept():
    grid, box = UniformGrid(-1.0, 1.0, 5), SlopeBox.lipschitz()
    update = jnp.array([0.25, 0.0, 0.25, 0.5, 0.5])
    for function in PROJECTS.values():
        if function is not PROJECTS["clip odd"] and function is not PROJECTS["clip anchor"]:
            np.testing.assert_array_equal(feasible_update(jnp.zeros(5), update, grid, box, function), update)


@pytest.mark.parametrize("name", ["clip mean", "project"])
def test_slopes_that_start_on_a_bound_are_not_dead(name):
    """From the identity, whose slopes all lie on the upper bound, to a target inside the box."""
    grid, box = UniformGrid(-1.0, 1.0, 11), SlopeBox.lipschitz()
    x = jnp.linspace(-1, 1, 101)
    target = 0.3 * jnp.sin(3 * x)
    loss = lambda c: jnp.mean((linear_spline(x, PROJECTS[name](c, grid, box), grid) - target) ** 2)
    optimizer = optax.chain(optax.adam(1e-2), keep_feasible(grid, box, project=PROJECTS[name]))

    @jax.jit
    def fit(c):
        def step(carry, _):
            c, state = carry
            updates, state = optimizer.update(jax.grad(loss)(c), state, c)
            return (optax.apply_updates(c, updates), state), None

        return jax.lax.scan(step, (c, optimizer.init(c)), length=1000)[0][0]

    fitted = fit(grid.knots)
    assert loss(fitted) < 1e-4 < loss(grid.knots)
    assert violation(fitted, grid, box) <= 1e-6


def test_only_what_the_mask_selects_is_projected():
    grid, box = UniformGrid(-1.0, 1.0, 3), SlopeBox.lipschitz()
    params = {"weight": jnp.zeros((2, 2)), "spline": {"coefficients": jnp.zeros((2, 3))}}
    grads = jax.tree.map(lambda p: jnp.arange(1.0, p.size + 1).reshape(p.shape), params)
    by_name = lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: "coefficients" in str(path), tree)
    for mask in (by_name, by_name(params)):
        optimizer = optax.chain(optax.sgd(-10.0), keep_feasible(grid, box, mask=mask))
        updates: Any = optimizer.update(grads, optimizer.init(params), params)[0]
        np.testing.assert_array_equal(updates["weight"], 10 * grads["weight"])
        np.testing.assert_allclose(updates["spline"]["coefficients"], [[19, 20, 21], [49, 50, 51]])


def test_parameters_of_nnx_modules_are_projected():
    class Activation(nnx.Module):
        def __init__(self):
            self.coefficients = nnx.Param(jnp.linspace(-1.0, 1.0, 5))
            self.scale = nnx.Param(jnp.ones(()))

    grid, box = UniformGrid(-1.0, 1.0, 5), SlopeBox.firmly_nonexpansive()
    mask = lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: "coefficients" in str(path), tree)
    transformation = optax.chain(optax.adam(1e3), keep_feasible(grid, box, mask=mask))
    model = Activation()
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    value = lambda model: jnp.sum(jnp.cos(9 * model.coefficients[...])) + model.scale[...]
    for _ in range(3):
        optimizer.update(model, nnx.grad(value)(model))
        assert violation(model.coefficients[...], grid, box) <= 1e-6
    assert model.scale[...] < -2000


# --- misuse ---

GRID = UniformGrid(-1.0, 1.0, 3)
BOX = SlopeBox.lipschitz()


@pytest.mark.parametrize("function", [clip_slopes, project_slopes])
@pytest.mark.parametrize(
    ("coefficients", "grid", "box", "message"),
    [
        (jnp.zeros(3), GRID, SlopeBox(1.0, 0.0), r"`box` is empty.*got \[1.0, 0.0\]"),
        (jnp.zeros(3), GRID, SlopeBox(math.nan, 0.0), "`box` is empty"),
        (jnp.zeros(3), GRID, SlopeBox(0.0, math.nan), "`box` is empty"),
        (jnp.zeros(3), GRID, SlopeBox(math.inf, math.inf), "`box` is empty"),
        (jnp.zeros(3), GRID, SlopeBox(-math.inf, -math.inf), "`box` is empty"),
        (jnp.zeros((2, 3)), GRID, SlopeBox(jnp.zeros((2, 1)), jnp.array([[1.0], [-1.0]])), "`box` is empty"),
        (jnp.zeros((2, 3)), GRID, SlopeBox(0.0, jnp.ones(4)), r"`box.upper` must have shape \(\), \(2,\)"),
        (jnp.zeros(3), GRID, SlopeBox(jnp.zeros((2, 1)), 1.0), r"`box.lower` must have shape \(\)"),
        (jnp.zeros(4), GRID, BOX, r"`coefficients` .*3.*got \(4,\)"),
        (jnp.zeros((3, 2)), GRID, BOX, r"`coefficients` .*3.*got \(3, 2\)"),
        (jnp.zeros(()), GRID, BOX, r"`coefficients` .*got \(\)"),
        (jnp.zeros(3, int), GRID, BOX, "`coefficients` must be .*floating-point.* int32"),
        (jnp.zeros(3, complex), GRID, BOX, "`coefficients` must be .*real.* complex64"),
    ],
)
def test_misuse(function, coefficients, grid, box, message):
    with pytest.raises(ValueError, match=message):
        function(coefficients, grid, box)
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda c: function(c, grid, box))(coefficients)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: clip_slopes(jnp.zeros(3), GRID, BOX, keep="median"),  # type: ignore
            r"`keep` must be one of \('mean', .*got 'median'",
        ),
        (
            lambda: clip_slopes(jnp.zeros(3), UniformGrid(-1.0, 2.0, 3), BOX, keep="odd"),
            "`grid` must be symmetric about 0 for `keep='odd'`",
        ),
        (
            lambda: clip_slopes(jnp.zeros(3), NonuniformGrid(jnp.array([-1.0, 0.1, 1.0])), BOX, keep="odd"),
            "`grid` must be symmetric about 0 for `keep='odd'`",
        ),
        (
            lambda: clip_slopes(jnp.zeros(3), GRID, SlopeBox(jnp.array([0.0, -1.0]), 1.0), keep="odd"),
            "`box.lower` must be the same in opposite cells",
        ),
        (lambda: flat_ends(SlopeBox.invertible(0.5), GRID), "`box` must contain the slope 0"),
        (lambda: flat_ends(SlopeBox(1.0, -1.0), GRID), "`box` is empty"),
        (lambda: clip_slopes(jnp.zeros(1), UniformGrid(-1.0, 1.0, 1), BOX), "`num_knots` must be .* at least 2"),
        (lambda: feasible_update(jnp.zeros(3), jnp.zeros(2), GRID, BOX, clip_slopes), r"`update` must have the shape"),
        (lambda: keep_feasible(GRID, BOX).update(jnp.zeros(3), optax.EmptyState()), "`keep_feasible` needs the param"),
        (
            lambda: keep_feasible(GRID, BOX).update(jnp.zeros(4), optax.EmptyState(), jnp.zeros(4)),
            r"`coefficients` .*got \(4,\)",
        ),
    ],
)
def test_other_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
