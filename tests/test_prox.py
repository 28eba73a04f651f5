import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import PROXES, name_of
from helpers import DTYPES, REAL, ROUNDING, TraceCounter, assert_close, assert_finite, draw, enabled, in_turn, searched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax import prox
from unroll_jax.prox import box, non_negative, soft_threshold

COMPLEX = ("complex64", "complex128")
COMBINATORS = {
    "conjugate",
    "scaled",
    "translated",
    "with_quadratic",
    "through",
    "separable_sum",
    "envelope",
    "envelope_gradient",
}
# what compiles here runs once or twice: optimizing it would take longer than running it
QUICK = {"xla_backend_optimization_level": "0"}
SEES_PHASES = {"quadratic", "least_squares", "half_space", "affine", "positive_semidefinite"}
SETS = [row for row in PROXES if row.is_set]


def rows_in(*dtypes, rows=PROXES):
    cases = [(row, dtype) for row in rows for dtype in dtypes if dtype in row.dtypes]
    return pytest.mark.parametrize(("row", "dtype"), in_turn(cases))


vectors = arrays(np.float64, 6, elements=st.floats(-1e3, 1e3))


@functools.cache
def compiled(name):
    """The compiled `prox` of a row, the same in every test here, and the counter of its traces."""
    counter = TraceCounter(next(row.prox for row in PROXES if row.name == name))
    return jax.jit(counter, compiler_options=QUICK), counter


@functools.cache
def compiled_derivatives(name):
    """`(xs, strengths, directions) -> (prox, derivatives along a direction and in the strength, gradients)`."""
    function = next(row.prox for row in PROXES if row.name == name)

    def one(x, strength, direction):
        z, along = jax.jvp(lambda x: function(x, strength), (x,), (direction,))
        _, in_strength = jax.jvp(lambda s: function(x, s), (strength,), (jnp.ones_like(strength),))
        loss = lambda x, s: jnp.sum(jnp.abs(function(x, s) - 0.1) ** 2)
        return z, along, in_strength, jax.grad(loss, argnums=(0, 1))(x, strength)

    return jax.jit(jax.vmap(one), compiler_options=QUICK)


def real_type(dtype):
    return np.finfo(dtype).dtype


def apply(row, x, strength, dtype):
    with enabled(dtype):
        return compiled(row.name)[0](jnp.asarray(x, dtype), jnp.asarray(strength, real_type(dtype)))


def objective(row, z, x, strength):
    """What a proximal operator minimizes; a set stays one at strength 0."""
    penalty, distance = row.penalty(z), np.abs(z - x) ** 2 / 2
    return np.maximum(strength, 1e-300) * penalty + (distance if row.minimizer is None else np.sum(distance))


def grid_minimizer(row, x, strength):
    """The minimizer over a grid around zero, refined around its best point: it never sees the answer."""
    axis = np.linspace(-1, 1, 161)
    grid = axis[:, None] + 1j * axis if isinstance(x, complex) else axis
    center, radius = 0.0, 6.0
    for _ in range(8):
        z = center + radius * grid
        center = z.ravel()[np.argmin(objective(row, z, x, strength))]
        radius /= 8
    return center


def points(row, dtype, count, seed=0):
    with enabled(dtype):
        return 2 * np.asarray(draw(np.random.default_rng(seed), (count, *row.shape), dtype))


def kinks(row):
    """Where derivatives may be missing: zero, ties, repeated singular values, and the kinks of scalar functions."""
    pattern = np.resize([1.0, 0.0, -1.0, 2.0, 0.3, -0.5, -7.0, 0.5, -2.0], row.shape)
    repeated = 2 * np.eye(*row.shape) if len(row.shape) == 2 else -np.ones(row.shape)
    return np.stack([np.zeros(row.shape), np.ones(row.shape), repeated, pattern])


def test_every_public_prox_is_in_the_catalogue():
    public = {name for name, value in vars(prox).items() if inspect.isfunction(value)}
    operators = {name for name in public if not name.endswith(("_value", "_gap"))} - COMBINATORS
    assert operators == {row.name.split()[0] for row in PROXES}
    assert {f"{name}_value" for name in operators} - public == {"soft_threshold_value"}
    assert len(operators) >= 30


# --- every proximal operator ---


@rows_in(*DTYPES, rows=[row for row in PROXES if row.minimizer is None])
def test_equals_the_minimizer_over_a_grid(row, dtype):
    for strength in (0.0, 0.3, 1.5):
        x = points(row, dtype, 1)[0]
        z = apply(row, x, strength, dtype)
        assert z.dtype == dtype
        expected = [grid_minimizer(row, entry, strength) for entry in x.tolist()]
        # a minimizer is known to the square root of what its objective is known to
        np.testing.assert_allclose(z, expected, atol=1e-5 if ROUNDING[dtype] > 1e-6 else 1e-6)


@pytest.mark.parametrize("row", [row for row in PROXES if row.minimizer is not None], ids=name_of)
def test_equals_the_minimizer_that_a_solver_finds(row):
    assert row.minimizer is not None
    for strength, x in zip((0.0, 0.3, 1.5), points(row, "float32", 3), strict=True):
        expected = row.minimizer(x.astype(float), strength)
        for dtype in REAL:
            z = apply(row, x, strength, dtype)
            assert z.dtype == dtype
            np.testing.assert_allclose(z, expected, atol=2e-5)


@rows_in("float64", "complex128")
def test_beats_every_random_neighbour_and_leaves_a_subgradient(row, dtype):
    strength = 0.7
    x, *others = points(row, dtype, 5)
    z = np.asarray(apply(row, x, strength, dtype))
    best = np.sum(objective(row, z, x, strength))
    assert np.isfinite(best)
    slack = 1e-9 * (1 + np.sum(np.abs(x) ** 2)) if row.tolerance <= 1e-9 else 1e-6
    steps = [scale * step for scale in (1e-3, 1e-1, 1.0) for step in points(row, dtype, 100, seed=1)]
    if not row.is_convex:
        for step in steps:
            assert np.sum(objective(row, z + step, x, strength)) >= best - slack
        return
    # where most neighbours are outside a set, points towards others inside
    inside = [np.asarray(apply(row, other, strength, dtype)) for other in others]
    steps += [scale * (other - z) for scale in (1e-3, 1e-1, 1.0) for other in inside]
    lowest = strength * np.sum(row.penalty(z))
    for step in steps:
        # x - z is a subgradient at z, which is more than to be the best: Moreau's identity, x - z is a conjugate's prox
        rise = np.sum(np.real(np.conj(x - z) * step))
        assert strength * np.sum(row.penalty(z + step)) >= lowest + rise - slack


@rows_in("float64", "complex128", rows=[row for row in PROXES if row.is_convex])
def test_firmly_non_expansive(row, dtype):
    far, near = points(row, dtype, 10), points(row, dtype, 10, seed=1)
    pairs = [(x, y) for x, y in zip(far, near, strict=True)] + [
        (x, x + 1e-3 * y) for x, y in zip(far, near, strict=True)
    ]
    for strength in (0.4, 3.0):
        for x, y in pairs:
            moved = np.asarray(apply(row, x, strength, dtype)) - np.asarray(apply(row, y, strength, dtype))
            size = np.sum(np.abs(x) ** 2 + np.abs(y) ** 2)
            product = np.sum(np.real(np.conj(moved) * (x - y)))
            assert np.sum(np.abs(moved) ** 2) <= product + row.tolerance * (1 + size)


@rows_in("float64", "complex128")
def test_the_value_is_strength_times_the_penalty(row, dtype):
    x = points(row, dtype, 1)[0]
    outside = x + 5 * np.arange(x.size).reshape(x.shape) - 7
    with enabled(dtype):
        value = jax.jit(row.value, compiler_options=QUICK)
        for strength in (0.7, 0.2):
            z = np.asarray(apply(row, x, strength, dtype))
            expected = 0.0 if row.is_set else strength * np.sum(row.penalty(z))
            np.testing.assert_allclose(value(z, jnp.asarray(strength)), expected, rtol=1e-11, atol=1e-11)
        if row.is_set:
            assert np.isinf(np.max(row.penalty(outside))) and np.isinf(value(outside, jnp.asarray(0.2)))


@rows_in("float64", "complex128")
def test_jit_and_vmap_are_a_loop_and_new_values_retrace_nothing(row, dtype):
    xs, directions = points(row, dtype, 4), points(row, dtype, 4, seed=1)
    strengths = np.array([0.0, 0.5, 1.0, 2.0])
    counter = compiled(row.name)[1]
    apply(row, xs[0], 0.1, dtype)
    count = counter.count
    looped = np.stack([apply(row, x, strength, dtype) for x, strength in zip(xs, strengths, strict=True)])
    assert counter.count == count
    with enabled(dtype):
        batched = compiled_derivatives(row.name)(xs, strengths, directions)[0]
    np.testing.assert_allclose(batched, looped, atol=1e-9)


@rows_in("float64", "complex128")
def test_derivatives_are_finite_at_zero_and_on_every_kink(row, dtype):
    xs = kinks(row).astype(dtype)
    for strength in (1.0, 0.0):
        with enabled(dtype):
            assert_finite(compiled_derivatives(row.name)(xs, np.full(len(xs), strength), np.ones_like(xs)))


@rows_in("float64", "complex128")
def test_derivatives_are_those_of_finite_differences(row, dtype):
    xs, directions = points(row, dtype, 4), points(row, dtype, 4, seed=1)
    strengths, h = np.array([0.2, 0.5, 0.9, 1.4]), 1e-6
    with enabled(dtype):
        _, along, in_strength, gradients = compiled_derivatives(row.name)(xs, strengths, directions)
    moved = [
        [np.asarray(apply(row, x + sign * h * d, s, dtype)) for sign in (1, -1)]
        for x, s, d in zip(xs, strengths, directions, strict=True)
    ]
    stronger = [
        [np.asarray(apply(row, x, s + sign * h, dtype)) for sign in (1, -1)] for x, s in zip(xs, strengths, strict=True)
    ]
    tolerance = 1e-6 if row.tolerance <= 1e-9 else 1e-3
    for found, pairs in ((along, moved), (in_strength, stronger)):
        expected = np.stack([(ahead - behind) / (2 * h) for ahead, behind in pairs])
        np.testing.assert_allclose(found, expected, atol=tolerance)
    # reverse mode agrees with forward mode
    zs = np.stack([np.asarray(apply(row, x, s, dtype)) for x, s in zip(xs, strengths, strict=True)])
    axes = tuple(range(1, zs.ndim))
    for direction, gradient, found in ((directions, gradients[0], along), (1.0, gradients[1], in_strength)):
        slope = np.sum(2 * np.real(np.conj(zs - 0.1) * np.asarray(found)), axis=axes)
        product = np.real(np.asarray(gradient) * direction)  # the gradient of a complex `x` is conjugate
        np.testing.assert_allclose(np.sum(product, axis=axes) if product.ndim > 1 else product, slope, atol=1e-8)


@rows_in(*DTYPES)
def test_the_type_is_that_of_the_data(row, dtype):
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct(row.shape, dtype)
        wide = jax.ShapeDtypeStruct((), "float64")
        shapes = [jax.eval_shape(lambda x: row.prox(x, 0.5), x), jax.eval_shape(row.prox, x, wide)]
        value = jax.eval_shape(row.value, x, wide)
    for shape in shapes:
        assert (shape.shape, shape.dtype, shape.weak_type) == (row.shape, dtype, False)
    assert (value.shape, value.dtype) == ((), real_type(dtype))


@pytest.mark.parametrize("row", [row for row in PROXES if not row.is_set], ids=name_of)
def test_a_strength_that_is_none_is_told(row):
    x = np.ones(row.shape, np.float32)
    for function in (row.prox, row.value):
        with pytest.raises(ValueError, match=r"`strength` must be non-negative, got -0.5"):
            function(x, -0.5)
        with pytest.raises(ValueError, match="`strength` must"):
            function(x, np.ones((5, 7)))
        with pytest.raises(ValueError, match="`strength` must be real"):
            function(x, jnp.ones((), "complex64"))
    if "complex64" not in row.dtypes:
        with pytest.raises(ValueError, match="`x` must be real, got complex64"):
            row.prox(x.astype("complex64"), 1.0)


@rows_in("complex128", rows=[row for row in PROXES if row.minimizer and row.name.split()[0] not in SEES_PHASES])
def test_a_common_phase_comes_out_again(row, dtype):
    (x,) = points(row, "float64", 1)
    phase = np.exp(0.7j)
    expected = np.asarray(apply(row, x, 0.4, "float64")) * phase
    np.testing.assert_allclose(apply(row, x * phase, 0.4, dtype), expected, atol=1e-8)


# --- soft thresholding ---


def test_soft_threshold_by_hand():
    x = jnp.array([-2.0, -0.5, 0.0, 0.5, 3.0])
    np.testing.assert_array_equal(soft_threshold(x, 1.0), [-1, 0, 0, 0, 2])
    np.testing.assert_array_equal(soft_threshold(x, jnp.array([0.0, 0.0, 1.0, 0.25, 4.0])), [-2, -0.5, 0, 0.25, 0])


@searched
@given(x=arrays(np.complex128, 5, elements=st.complex_numbers(max_magnitude=1e3)), strength=st.floats(0, 100))
def test_soft_threshold_of_complex_numbers_shrinks_the_modulus_and_keeps_the_phase(x, strength):
    with enabled("float64"):
        z = np.asarray(soft_threshold(jnp.asarray(x), strength))
    np.testing.assert_allclose(np.abs(z), np.maximum(np.abs(x) - strength, 0), rtol=1e-12, atol=1e-12)
    # a product with the conjugate that is real and non-negative: the same phase
    np.testing.assert_allclose(z * x.conj(), np.abs(z) * np.abs(x), rtol=1e-12, atol=1e-9)


def test_soft_threshold_of_real_numbers_is_that_of_complex_ones():
    x = draw(np.random.default_rng(0), (100,))
    assert_close(soft_threshold(x + 0j, 0.5), soft_threshold(x, 0.5) + 0j, 1e-6)


# --- projections ---


@searched
@given(x=vectors)
def test_projections_equal_those_of_optax(x):
    with enabled("float64"):
        x = jnp.asarray(x)
        np.testing.assert_array_equal(non_negative(x), optax.projections.projection_non_negative(x))
        np.testing.assert_array_equal(box(x), optax.projections.projection_box(x, 0.0, 1.0))
        np.testing.assert_array_equal(box(x, lower=-3.0, upper=0.25), optax.projections.projection_box(x, -3.0, 0.25))


@pytest.mark.parametrize("row", SETS, ids=name_of)
def test_projections_ignore_the_strength_and_change_nothing_the_second_time(row):
    (x,) = points(row, "float32", 1)
    once = apply(row, x, 1.0, "float32")
    np.testing.assert_array_equal(apply(row, x, 100.0, "float32"), once)
    np.testing.assert_array_equal(apply(row, x, -1.0, "float32"), once)
    np.testing.assert_allclose(apply(row, once, 1.0, "float32"), once, atol=2e-6)


def test_box_takes_bounds_of_every_entry():
    x, lower, upper = jnp.array([-1.0, 0.0, 5.0]), jnp.array([0.0, -1.0, 2.0]), jnp.array([1.0, 1.0, 3.0])
    np.testing.assert_array_equal(box(x, lower=lower, upper=upper), [0, 0, 3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_estimate_stays_empty(dtype):
    with enabled(dtype):
        assert soft_threshold(jnp.zeros((0,), dtype), 1.0).shape == (0,)
