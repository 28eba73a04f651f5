import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    DTYPES,
    ROUNDING,
    assert_close,
    assert_finite,
    data_of,
    draw,
    draw_like,
    enabled,
    estimates,
    lasso_minimizer,
    lasso_value,
    searched,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax import algorithms
from unroll_jax._solve import solve
from unroll_jax.objectives import Lasso, LeastSquares, Poisson
from unroll_jax.operators import Dense, Diagonal

NUM_MEASUREMENTS, NUM_ATOMS = 8, 12


def lasso(dtype="float64", seed=0, share=0.1):
    """A problem whose weight is a share of the one at which its solution becomes zero."""
    rng = np.random.default_rng(seed)
    matrix, measurement = (
        draw(rng, (NUM_MEASUREMENTS, NUM_ATOMS), dtype),
        draw(rng, (NUM_MEASUREMENTS,), dtype),
    )
    l1_weight = share * jnp.max(jnp.abs(Dense(matrix).adjoint(measurement)))
    return Lasso(Dense(matrix), measurement, l1_weight)


def minimizer(problem):
    return lasso_minimizer(*data_of(problem), float(problem.l1_weight))


def fista_solution(problem, tolerance):
    return solve(
        algorithms.fista(),
        algorithms.proximal_gradient_params(problem.operator, problem.l1_weight),
        problem,
        tolerance=tolerance,
        max_steps=20_000,
        residual=lambda previous, state, problem: problem.duality_gap(state.x),
        check_every=10,
    )


@functools.cache
def known_problem():
    """A problem, its minimum, and the compiled gap and value: one compilation for all draws of hypothesis."""
    with enabled("float64"):
        problem = lasso()
    matrix, measurement = data_of(problem)
    minimum = lasso_value(minimizer(problem), matrix, measurement, float(problem.l1_weight))
    return problem, minimum, jax.jit(lambda x: (problem.duality_gap(x), problem.value(x)))


# --- value and gradient ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_value_equals_the_formula(dtype):
    rng = np.random.default_rng(1)
    with enabled(dtype):
        problem = lasso(dtype)
        x = draw(rng, (NUM_ATOMS,), dtype)
        values = problem.least_squares.value(x), problem.value(x)
        weight = float(problem.l1_weight)
    matrix, measurement = data_of(problem)
    for value, l1_weight in zip(values, (0.0, weight), strict=True):
        assert value.shape == ()
        assert value.dtype == np.finfo(dtype).dtype
        expected = lasso_value(np.asarray(x), matrix, measurement, l1_weight)
        np.testing.assert_allclose(value, expected, rtol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_is_that_of_autodiff(dtype):
    rng = np.random.default_rng(1)
    with enabled(dtype):
        problem = lasso(dtype).least_squares
        x, direction = draw(rng, (NUM_ATOMS,), dtype), draw(rng, (NUM_ATOMS,), dtype)
        gradient = problem.gradient(x)
        # for complex estimates JAX returns the conjugate of the direction of ascent
        assert_close(gradient, jnp.conj(jax.grad(problem.value)(x)), ROUNDING[dtype])
        _, slope = jax.jvp(problem.value, (x,), (direction,))
    np.testing.assert_allclose(np.vdot(gradient, direction).real, slope, rtol=10 * ROUNDING[dtype])


def test_gradient_of_a_lasso_is_that_of_its_smooth_part():
    problem = lasso("float32")
    x = draw(np.random.default_rng(1), (NUM_ATOMS,))
    assert_close(problem.gradient(x), problem.least_squares.gradient(x), 0)


def test_estimates_and_measurements_of_several_arrays():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Both:
        """x -> (A x["a"] + x["b"], x["b"])."""

        first: Dense

        def __call__(self, x):
            return self.first(x["a"]) + x["b"], x["b"]

        def adjoint(self, y):
            return {"a": self.first.adjoint(y[0]), "b": y[0] + y[1]}

    rng = np.random.default_rng(0)
    problem = LeastSquares(Both(Dense(draw(rng, (3, 2)))), (draw(rng, (3,)), draw(rng, (3,))))
    x = draw_like(rng, {"a": jnp.zeros(2), "b": jnp.zeros(3)})
    assert_close(problem.gradient(x), jax.grad(problem.value)(x), 1e-5)


def test_a_batch_of_problems_is_a_vmap():
    problem, x = lasso("float32"), draw(np.random.default_rng(1), (NUM_ATOMS,))
    measurements = draw(np.random.default_rng(2), (5, NUM_MEASUREMENTS))
    values = jax.vmap(lambda b: LeastSquares(problem.operator, b).value(x))(measurements)
    assert_close(values, jnp.stack([LeastSquares(problem.operator, b).value(x) for b in measurements]), 1e-6)


# --- the duality gap ---


@searched
@given(x=arrays(np.float64, NUM_ATOMS, elements=st.floats(-1e3, 1e3)))
def test_the_gap_bounds_the_distance_to_the_minimum(x):
    _, minimum, gap_and_value = known_problem()
    with enabled("float64"):
        gap, value = map(float, gap_and_value(jnp.asarray(x)))
    assert gap >= 0
    assert gap >= (value - minimum) - 1e-12 * value


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_gap_closes_and_the_optimality_conditions_hold_at_the_solution(dtype):
    with enabled(dtype):
        problem = lasso(dtype)
        found = fista_solution(problem, tolerance=1e-13)
        x = found.state.x
        correlation = problem.operator.adjoint(problem.measurement - problem.operator(x))
        gap, weight = float(problem.duality_gap(x)), float(problem.l1_weight)
        exact = float(problem.duality_gap(jnp.asarray(minimizer(problem))))
    assert bool(found.converged)
    assert np.max(np.abs(correlation)) <= weight * (1 + 1e-6)
    assert 0 <= gap <= 1e-13
    assert 0 <= exact <= 1e-13
    np.testing.assert_allclose(x, minimizer(problem), atol=1e-6)


def test_the_gap_closes_along_the_iterations():
    problem = known_problem()[0]
    with enabled("float64"):
        params = algorithms.proximal_gradient_params(problem.operator, problem.l1_weight)
        xs = estimates(algorithms.fista(), params, problem, 200)
        gaps = np.asarray(jax.vmap(problem.duality_gap)(xs))
    assert gaps[0] > 10 * gaps[50] > 100 * gaps[100]
    assert gaps[-1] <= 1e-12


def test_the_gap_in_single_precision_is_known_to_rounding_and_never_negative():
    problem = lasso("float32", share=0.9)
    solution = jnp.asarray(minimizer(problem), jnp.float32)
    nearby = solution[None] * (1 + 1e-7 * draw(np.random.default_rng(0), (100, NUM_ATOMS)))
    gaps = np.asarray(jax.vmap(problem.duality_gap)(nearby))
    assert np.all(gaps >= 0)
    assert np.all(gaps <= 1e-6 * np.sum(np.asarray(problem.measurement) ** 2))


def test_a_zero_measurement():
    zero, x = jnp.zeros(NUM_ATOMS), draw(np.random.default_rng(0), (NUM_ATOMS,))
    problem = Lasso(lasso("float32").operator, jnp.zeros(NUM_MEASUREMENTS), 0.1)
    assert problem.value(zero) == 0
    assert problem.duality_gap(zero) == 0
    assert problem.duality_gap(x) >= problem.value(x) > 0
    np.testing.assert_array_equal(problem.gradient(zero), zero)
    # as a measure in training
    assert_finite(jax.grad(problem.duality_gap)(zero))


def test_zero_is_the_solution_from_the_largest_weight_on():
    with enabled("float64"):
        zero = jnp.zeros(NUM_ATOMS)
        assert lasso(share=1.0).duality_gap(zero) <= 1e-14
        assert lasso(share=2.0).duality_gap(zero) <= 1e-14
        assert lasso(share=0.9).duality_gap(zero) > 1e-3


# --- precision ---


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_values_keep_single_precision_where_double_is_enabled(dtype):
    with enabled("float64"):
        problem = lasso(dtype)
        x = draw(np.random.default_rng(1), (NUM_ATOMS,), dtype)
        assert problem.value(x).dtype == jnp.float32
        assert problem.duality_gap(x).dtype == jnp.float32


# --- misuse ---


def test_misuse():
    operator, x = Dense(jnp.ones((3, 2))), jnp.ones(2)
    batch = LeastSquares(operator, jnp.ones((5, 3)))
    message = r"`measurement` must have the shape of operator\(x\), \(3,\), got \(5, 3\).*jax\.vmap"
    for call in (batch.value, batch.gradient, Lasso(operator, batch.measurement, 0.1).value):
        with pytest.raises(ValueError, match=message):
            call(x)
    with pytest.raises(ValueError, match=r"\(3,\), got \(1,\)"):
        LeastSquares(operator, jnp.ones(1)).value(x)  # it would broadcast
    with pytest.raises(ValueError, match=r"`x` must have shape \(2,\)"):
        LeastSquares(operator, jnp.ones(3)).value(jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r"`x` must have the shape \(2,\)"):
        LeastSquares(Diagonal(x), x).gradient(jnp.ones(3))
    for shape in ((5, 3), (1,)):
        with pytest.raises(ValueError, match=r"`measurement` must have the shape of operator\(x\), \(3,\)"):
            Lasso(operator, jnp.ones(shape), 0.1).duality_gap(x)


def test_a_vector_of_l1_weights_is_refused():
    with pytest.raises(ValueError, match=r"`l1_weight` must have shape \(\), got \(2,\)"):
        Lasso(Dense(jnp.eye(2)), jnp.ones(2), jnp.ones(2)).value(jnp.ones(2))


# --- counts ---


@pytest.mark.parametrize("with_background", [False, True])
def test_poisson_is_the_divergence_and_its_gradient_that_of_autodiff(with_background):
    rng = np.random.default_rng(0)
    with enabled("float64"):
        matrix, x = jnp.abs(draw(rng, (8, 5), "float64")), jnp.abs(draw(rng, (5,), "float64"))
        counts = jnp.asarray(rng.poisson(3.0, 8), float).at[0].set(0.0)
        background = jnp.full(8, 0.3) if with_background else None
        problem = Poisson(Dense(matrix), counts, background)
        value, gradient = problem.value(x), problem.gradient(x)
        expected = jax.grad(problem.value)(x)
        smallest = Poisson(Dense(matrix), problem.expected(x), background).value(x)
    mean = np.asarray(matrix) @ np.asarray(x) + (0.3 if with_background else 0)
    seen = np.asarray(counts)
    logs = np.where(seen > 0, seen * np.log(np.where(seen > 0, seen, 1) / mean), 0)
    np.testing.assert_allclose(value, np.sum(mean - seen + logs), rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)
    assert abs(float(smallest)) < 1e-12


def test_counts_that_cannot_be_are_infinitely_unlikely_and_their_gradient_is_finite():
    problem = Poisson(Dense(jnp.eye(2)), jnp.array([1.0, 0.0]))
    assert problem.value(jnp.array([0.0, 1.0])) == jnp.inf
    assert problem.value(jnp.array([1.0, -1.0])) == jnp.inf
    assert problem.value(jnp.array([1.0, 0.0])) == 0
    assert_finite(problem.gradient(jnp.zeros(2)))


def test_a_measurement_of_another_shape_than_the_mean():
    with pytest.raises(ValueError, match="`measurement` must have the shape of operator"):
        Poisson(Dense(jnp.eye(2)), jnp.ones(3)).value(jnp.ones(2))
