import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_finite,
    data_of,
    draw,
    enabled,
    estimates,
    lasso_minimizer,
    lasso_value,
    numpy_soft_threshold,
    stack,
)

from unroll_jax import Algorithm, solve, unroll
from unroll_jax.algorithms import (
    ProximalGradientParams,
    anderson,
    averaged,
    fista,
    gradient_descent,
    monotone,
    proximal_gradient,
    proximal_gradient_params,
    relaxed,
    relaxed_params,
)
from unroll_jax.objectives import Lasso, LeastSquares
from unroll_jax.operators import Dense
from unroll_jax.prox import non_negative
from unroll_jax.stopping import relative_change

L1_WEIGHT = 0.2


def lasso(seed=0, size=(8, 12), dtype="float64") -> Any:
    rng = np.random.default_rng(seed)
    return Lasso(Dense(draw(rng, size, dtype)), draw(rng, size[:1], dtype), jnp.asarray(L1_WEIGHT, dtype))


def ista_map(problem):
    """One step of ISTA in NumPy, and the classical parameters."""
    matrix, measurement = data_of(problem)
    step_size = 1 / np.linalg.norm(matrix, 2) ** 2

    def step(x):
        return numpy_soft_threshold(x - step_size * matrix.T @ (matrix @ x - measurement), step_size * L1_WEIGHT)

    return step, proximal_gradient_params(problem.operator, L1_WEIGHT)


def linear(matrix, shift) -> tuple[Algorithm, Any]:
    """The iteration x+ = matrix x + shift, which needs no parameters."""
    step = lambda params, x, problem: x - matrix @ x - shift
    return gradient_descent(step, start=lambda problem: jnp.zeros_like(shift)), None


class Pair(NamedTuple):
    x: jax.Array
    y: jax.Array


# --- all of them ---

WRAPPERS = {
    "relaxed": (relaxed, lambda params: relaxed_params(params, 1.3)),
    "averaged": (averaged, lambda params: params),
    "monotone": (monotone, lambda params: params),
    "anderson": (functools.partial(anderson, memory=3), lambda params: params),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_solves_and_unrolls_in_batches_and_learns_the_inner_parameters(name):
    wrap, wrap_params = WRAPPERS[name]
    algorithm = wrap(proximal_gradient())
    with enabled("float64"):
        problems = stack([lasso(seed) for seed in range(2)])
        params = wrap_params(proximal_gradient_params(lasso().operator, L1_WEIGHT))

        @jax.jit
        def run(problems):
            network = unroll(algorithm, 4, params)
            solution = jax.vmap(lambda p: solve(algorithm, params, p, tolerance=1e-2, max_steps=200))(problems)
            loss = lambda network: jnp.sum(jax.vmap(lambda p: network(p).x)(problems) ** 2)
            return solution, jax.grad(loss)(network)

        solution, slope = run(problems)
    assert np.all(np.asarray(solution.converged))
    assert_finite(slope.params)
    inner = slope.params.inner if name == "relaxed" else slope.params
    assert np.all(np.asarray(inner.step_size[...])[-1] != 0)


# --- relaxed ---


def test_relaxed_is_the_formula():
    with enabled("float64"):
        problem = lasso()
        step, params = ista_map(problem)
        found = estimates(relaxed(proximal_gradient()), relaxed_params(params, 1.4), problem, 4)
    x = np.zeros(12)
    for k in range(4):
        x = x + 1.4 * (step(x) - x)
        np.testing.assert_allclose(found[k + 1], x, rtol=1e-10)


def test_the_fields_that_are_relaxed():
    swap = Algorithm(lambda problem: Pair(problem, -problem), lambda params, state, problem: Pair(state.y, state.x))
    start = jnp.array([4.0])
    step = lambda fields: relaxed(swap, fields).step(relaxed_params(None, 0.5), swap.init(start), start)
    assert (float(step(("x",)).x[0]), float(step(("x",)).y[0])) == (0, 4)
    assert (float(step(("x", "y")).x[0]), float(step(("x", "y")).y[0])) == (0, 0)


# --- averaged ---


def test_averaged_is_the_mean_of_what_it_runs():
    problem = lasso(dtype="float32")
    _, params = ista_map(problem)
    plain = np.asarray(estimates(fista(), params, problem, 7))
    found = estimates(averaged(fista()), params, problem, 7)
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_allclose(found[1:], np.cumsum(plain[1:], axis=0) / np.arange(1, 8)[:, None], atol=1e-6)


def test_the_mean_converges_where_the_iteration_does_not():
    # a rotation by 60 degrees; the mean of a full turn is its center
    angle = np.pi / 3
    turn = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation = gradient_descent(lambda params, x, center: x - center - turn @ (x - center), lambda center: jnp.zeros(2))
    found = estimates(averaged(rotation), None, jnp.array([1.0, 2.0]), 6)
    np.testing.assert_allclose(found[-1], [1, 2], atol=1e-5)


# --- monotone ---


def test_the_objective_never_rises_and_fista_gets_there_all_the_same():
    with enabled("float64"):
        problem = lasso(seed=3, size=(20, 40))
        _, params = ista_map(problem)
        free = estimates(fista(restart=False), params, problem, 400)
        algorithm = monotone(fista(restart=False), fields=("x", "extrapolated"))
        guarded = np.asarray(estimates(algorithm, params, problem, 400))
        value = jax.jit(jax.vmap(problem.value))
        free_values, values = np.asarray(value(free)), np.asarray(value(guarded))
    rounding = 1e-14 * values[0]
    assert np.any(np.diff(free_values) > rounding)
    assert np.all(np.diff(values) <= rounding)
    assert np.any(np.all(guarded[1:] == guarded[:-1], axis=1))
    best = lasso_value(lasso_minimizer(*data_of(problem), L1_WEIGHT), *data_of(problem), L1_WEIGHT)
    assert values[-1] - best <= 1e-6 * best


def test_steps_that_diverge_or_are_not_numbers_are_not_taken():
    leap = gradient_descent(lambda params, x, problem: params * x, start=lambda problem: problem)
    safe = monotone(leap, lambda x, problem: jnp.sum(x**2))
    state = safe.init(jnp.ones(2))
    for factor, x, accepted in ((0.5, 0.5, True), (3.0, 0.5, False), (np.nan, 0.5, False), (2.0, -0.5, True)):
        state = safe.step(jnp.asarray(factor), state, None)
        np.testing.assert_array_equal(state.x, x)
        assert bool(state.accepted) == accepted
        assert float(state.value) == 0.5


def test_an_estimate_that_stays_has_not_converged():
    problem = lasso(dtype="float32")
    params = proximal_gradient_params(problem.operator, L1_WEIGHT)
    too_long = ProximalGradientParams(30 * params.step_size, params.strength)
    safe = monotone(proximal_gradient())
    residual = lambda *states: jnp.where(states[1].accepted, relative_change(*states), jnp.inf)
    run = lambda **options: solve(safe, too_long, problem, tolerance=1e-3, max_steps=50, **options)
    assert bool(run().converged)  # as its docstring warns
    assert not bool(run(residual=residual).converged)


# --- Anderson acceleration ---


def numpy_anderson(x, step, memory, regularization, num_steps):
    """Walker and Ni 2011, with differences, by least squares on the stacked system."""
    values, residuals, xs = [], [], [x]
    for _ in range(num_steps):
        value = step(x)
        values, residuals = [*values, value][-memory - 1 :], [*residuals, value - x][-memory - 1 :]
        x = value
        if len(values) > 1:
            columns = np.diff(residuals, axis=0).T
            ridge = regularization**0.5 * np.diag(np.linalg.norm(columns, axis=0))
            stacked = np.vstack([columns, ridge])
            target = np.concatenate([residuals[-1], np.zeros(len(ridge))])
            x = value - np.diff(values, axis=0).T @ np.linalg.lstsq(stacked, target, rcond=None)[0]
        xs.append(x)
    return np.array(xs)


@pytest.mark.parametrize("memory", [1, 3])
def test_anderson_is_the_loop_in_numpy(memory):
    with enabled("float64"):
        problem = lasso()
        step, params = ista_map(problem)
        algorithm = anderson(proximal_gradient(), memory, regularization=1e-6, growth=1e9)
        found = estimates(algorithm, params, problem, 12)
    np.testing.assert_allclose(found, numpy_anderson(np.zeros(12), step, memory, 1e-6, 12), atol=1e-7)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_anderson_solves_linear_problems_in_as_many_steps_as_there_are_unknowns(dtype):
    rng = np.random.default_rng(0)
    size = 4
    with enabled(dtype):
        matrix = draw(rng, (size, size), dtype)
        matrix = 0.9 * matrix / jnp.linalg.norm(matrix, ord=2)
        shift = draw(rng, (size,), dtype)
        expected = np.linalg.solve(np.eye(size) - np.asarray(matrix), shift)
        # a complex number is two unknowns
        num_steps = (2 if dtype == "complex128" else 1) * size + 2
        algorithm = anderson(linear(matrix, shift)[0], num_steps, regularization=1e-14, growth=1e9)
        found = np.asarray(estimates(algorithm, None, None, num_steps)[-1])
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_anderson_takes_fewer_steps_in_single_precision():
    problem = lasso(seed=1, size=(20, 40), dtype="float32")
    _, params = ista_map(problem)
    best = lasso_minimizer(*data_of(problem), L1_WEIGHT).astype("float32")

    def reached(previous, state, problem):
        return jnp.linalg.norm(state.x - best) / jnp.linalg.norm(best)

    counts = [
        int(solve(algorithm, params, problem, tolerance=1e-3, max_steps=5000, residual=reached).num_steps)
        for algorithm in (proximal_gradient(), anderson(proximal_gradient()))
    ]
    assert counts[1] < counts[0] / 3


def test_a_fixed_point_stays_one():
    problem = lasso(dtype="float32")
    _, params = ista_map(problem)
    nothing = LeastSquares(problem.operator, jnp.zeros(8))
    np.testing.assert_array_equal(estimates(anderson(proximal_gradient()), params, nothing, 8), 0)


def test_the_safeguard_gives_up_points_that_are_worse():
    # the slope is small where the start is, and large where the solution is: extrapolation overshoots
    def kinked(x, problem):
        return jnp.where(x > 1, 4 * (x - 1), 0) + 0.1 * x - problem

    iteration = proximal_gradient(kinked, lambda x, strength: non_negative(x), jnp.zeros_like)
    params = ProximalGradientParams(jnp.asarray(1 / 4), jnp.asarray(0.0))
    algorithm = anderson(iteration, 2, growth=1.0)
    problem = jnp.array([0.3, 0.25, 0.8, 1.5])

    @jax.jit
    def run(problem):
        def body(state, _):
            state = algorithm.step(params, state, problem)
            return state, (state.x, state.count, state.residual["x"])

        return jax.lax.scan(body, algorithm.init(problem), length=300)[1]

    xs, counts, residuals = map(np.asarray, run(problem))
    assert np.any(np.diff(counts) < 0), "nothing was given up"
    # of the residuals that were taken, none is larger than the one before
    norms = np.linalg.norm(residuals, axis=1)
    taken = np.diff(counts) > 0
    after_extrapolation = counts[:-1] >= 2
    assert np.all(norms[1:][taken & after_extrapolation] <= norms[:-1][taken & after_extrapolation] * (1 + 1e-6))
    np.testing.assert_allclose(xs[-1], (4 + np.asarray(problem)) / 4.1, atol=1e-3)


def test_the_safeguard_survives_what_is_not_a_number():
    # the logarithm of an extrapolated point below zero
    root = gradient_descent(lambda params, x, problem: 0.05 * jnp.log(x / problem), start=lambda problem: 20 * problem)
    found = np.asarray(estimates(anderson(root, 3), None, jnp.array([0.1, 0.2]), 200))
    assert np.all(np.isfinite(found[-1]))
    np.testing.assert_allclose(found[-1], [0.1, 0.2], rtol=1e-3)


def test_estimates_of_several_arrays():
    target = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0 + 1.0j]])}
    toward = proximal_gradient(
        lambda x, b: jax.tree.map(jnp.subtract, x, b), lambda x, s: x, lambda b: jax.tree.map(jnp.zeros_like, b)
    )
    params = ProximalGradientParams(jnp.asarray(0.5), jnp.asarray(0.0))
    value = lambda x, b: jax.tree.reduce(jnp.add, jax.tree.map(lambda a, c: jnp.sum(jnp.abs(a - c)), x, b))
    for algorithm, own in (
        (relaxed(toward), relaxed_params(params, 1.5)),
        (averaged(toward), params),
        (monotone(toward, value), params),
        (anderson(toward), params),
    ):
        solution = jax.jit(
            lambda b, algorithm=algorithm, own=own: solve(algorithm, own, b, tolerance=1e-4, max_steps=300)
        )(target)
        for name, leaf in target.items():
            np.testing.assert_allclose(solution.state.x[name], leaf, atol=0.1)


def test_wrappers_of_wrappers():
    with enabled("float64"):
        problem = lasso(seed=1)
        step, params = ista_map(problem)
        damped = anderson(relaxed(proximal_gradient()), 3, growth=1e9)
        found = estimates(damped, relaxed_params(params, 0.7), problem, 8)
    expected = numpy_anderson(np.zeros(12), lambda x: x + 0.7 * (step(x) - x), 3, 1e-6, 8)
    np.testing.assert_allclose(found, expected, atol=1e-7)


# --- misuse ---

BARE = Algorithm(lambda problem: jnp.ones(2), lambda params, state, problem: state)
WRONG: Any = 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relaxed(WRONG), "`algorithm` must be an Algorithm"),
        (lambda: averaged(WRONG), "`algorithm` must be an Algorithm"),
        (lambda: monotone(WRONG), "`algorithm` must be an Algorithm"),
        (lambda: anderson(WRONG), "`algorithm` must be an Algorithm"),
        (lambda: relaxed_params(None, -1.0), r"`relaxation` must be positive, got -1\.0"),
        (lambda: relaxed(BARE).init(None), "`algorithm` must have a NamedTuple with a field `x` as its state"),
        (lambda: anderson(BARE).init(None), "`algorithm` must have a NamedTuple with a field `x` as its state"),
        (lambda: monotone(BARE).init(None), "`algorithm` must have a NamedTuple with a field `x` as its state"),
        (
            lambda: relaxed(fista(), ("dual",)).init(lasso(dtype="float32")),
            "a field `dual` as its state, got FISTAState",
        ),
        (
            lambda: relaxed(fista()).step(ProximalGradientParams(WRONG, WRONG), WRONG, None),
            "RelaxedParams, as relaxed_params makes them",
        ),
        (lambda: monotone(fista(), WRONG), "`value` must be a function such as"),
        (lambda: anderson(fista(), 0), "`memory` must be a whole number of at least 1, got 0"),
        (lambda: anderson(fista(), regularization=0.0), r"`regularization` must be positive, got 0\.0"),
        (lambda: anderson(fista(), growth=0.5), r"`growth` must be at least 1, got 0\.5"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
