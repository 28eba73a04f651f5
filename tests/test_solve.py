import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    TraceCounter,
    assert_close,
    data_of,
    draw,
    enabled,
    estimates,
    lasso_minimizer,
    pick,
    stack,
)

from unroll_jax import Algorithm, solve
from unroll_jax.algorithms import (
    ProximalGradientParams,
    ProximalGradientState,
    fista,
    proximal_gradient,
    proximal_gradient_params,
)
from unroll_jax.objectives import Lasso, LeastSquares
from unroll_jax.operators import Dense
from unroll_jax.prox import non_negative
from unroll_jax.stopping import absolute_change, duality_gap, gradient_norm, relative_change, state_change

# the exact descent on ||x - problem||^2 / 2, which halves its error in every step
HALVING = proximal_gradient(lambda x, problem: x - problem, lambda x, strength: x, jnp.zeros_like)
HALF = ProximalGradientParams(jnp.asarray(0.5), jnp.asarray(0.0))


def least_squares(seed=0, size=(12, 6), dtype="float64"):
    rng = np.random.default_rng(seed)
    return LeastSquares(Dense(draw(rng, size, dtype)), draw(rng, size[:1], dtype))


def solve_least_squares(problem, algorithm=None, strength=0.0, **options):
    params = proximal_gradient_params(problem.operator, strength)
    options = {"tolerance": 1e-12, "max_steps": 20_000} | options
    return solve(fista() if algorithm is None else algorithm, params, problem, **options)


# --- solutions ---


@pytest.mark.parametrize("make", [proximal_gradient, fista])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_least_squares_equals_numpy(make, dtype):
    with enabled(dtype):
        problem = least_squares(dtype=dtype)
        solution = solve_least_squares(problem, make())
    expected = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    np.testing.assert_allclose(solution.state.x, expected, atol=1e-9)
    assert bool(solution.converged)
    assert float(solution.residual) <= 1e-12
    assert 1 < int(solution.num_steps) < 20_000


def test_non_negative_least_squares_meets_its_optimality_conditions():
    with enabled("float64"):
        problem = least_squares()
        x = solve_least_squares(problem, fista(prox=non_negative)).state.x
        gradient = np.asarray(problem.gradient(x))
    x = np.asarray(x)
    assert np.all(x >= 0)
    assert np.all(gradient >= -1e-9)
    assert np.any(x > 0)
    assert np.any(x == 0)
    np.testing.assert_allclose(gradient * x, 0, atol=1e-9)


@pytest.mark.parametrize("residual", [relative_change, duality_gap])
def test_lasso_meets_its_optimality_conditions(residual):
    l1_weight = 0.8
    with enabled("float64"):
        smooth = least_squares(size=(6, 12))
        problem = Lasso(smooth.operator, smooth.measurement, jnp.asarray(l1_weight))
        solution = solve_least_squares(problem, strength=l1_weight, tolerance=1e-13, residual=residual)
        correlation = np.asarray(problem.operator.adjoint(problem.measurement - problem.operator(solution.state.x)))
    x = np.asarray(solution.state.x)
    assert bool(solution.converged)
    assert np.max(np.abs(correlation)) <= l1_weight * (1 + 1e-6)
    np.testing.assert_allclose(correlation[x != 0], l1_weight * np.sign(x[x != 0]), rtol=1e-5)
    np.testing.assert_allclose(x, lasso_minimizer(*data_of(problem), l1_weight), atol=1e-6)


def test_single_precision():
    problem = least_squares(dtype="float32")
    solution = solve_least_squares(problem, tolerance=1e-6)
    expected = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    assert bool(solution.converged)
    assert solution.state.x.dtype == solution.residual.dtype == jnp.float32
    assert jnp.issubdtype(solution.num_steps.dtype, jnp.integer)
    np.testing.assert_allclose(solution.state.x, expected, atol=1e-4)


# --- the steps it makes ---


@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_the_state_is_that_of_as_many_steps(num_steps):
    problem = least_squares(dtype="float32")
    params = proximal_gradient_params(problem.operator, 0.0)
    solution = solve(fista(), params, problem, tolerance=0.0, max_steps=num_steps)
    assert int(solution.num_steps) == num_steps
    assert_close(solution.state.x, estimates(fista(), params, problem, num_steps)[-1], 1e-6)


def test_it_stops_at_the_first_step_that_reaches_the_tolerance():
    problem = jnp.array([1.0, 1.0])
    solution = solve(HALVING, HALF, problem, tolerance=0.1, max_steps=100)
    # x = 1 - 2^-k changes by 2^-k, relative to x: 1, 1/3, 1/7, 1/15
    assert int(solution.num_steps) == 4
    np.testing.assert_allclose(solution.residual, 1 / 15, rtol=1e-6)
    np.testing.assert_allclose(solution.state.x, 1 - 1 / 16)
    assert bool(solution.converged)


def test_a_residual_on_the_tolerance_has_reached_it():
    residual = lambda previous, state, problem: jnp.abs(state.x - problem)
    solution = solve(HALVING, HALF, jnp.ones(()), tolerance=0.125, max_steps=100, residual=residual)
    assert int(solution.num_steps) == 3
    assert bool(solution.converged)


def test_reaching_max_steps_is_no_convergence():
    solution = solve(HALVING, HALF, jnp.ones(2), tolerance=1e-6, max_steps=5)
    assert int(solution.num_steps) == 5
    assert not bool(solution.converged)
    np.testing.assert_allclose(solution.residual, 1 / 31, rtol=1e-6)


@pytest.mark.parametrize(
    ("check_every", "max_steps", "expected"),
    [(1, 10, 4), (3, 10, 6), (4, 10, 4), (7, 10, 7), (7, 2, 7), (2, 3, 4)],
)
def test_check_every(check_every, max_steps, expected):
    solution = solve(HALVING, HALF, jnp.ones(2), tolerance=0.1, max_steps=max_steps, check_every=check_every)
    assert int(solution.num_steps) == expected
    np.testing.assert_allclose(solution.state.x, 1 - 0.5**expected, rtol=1e-6)
    # the change of the last step, not of all steps since the last check
    np.testing.assert_allclose(solution.residual, 1 / (2**expected - 1), rtol=1e-6)
    assert bool(solution.converged) == (expected >= 4)


def test_the_residual_sees_the_problem_and_both_states():
    def residual(previous, state, problem):
        return jnp.where(problem == 3, jnp.abs(state.x - previous.x), jnp.inf)

    solution = solve(HALVING, HALF, jnp.asarray(3.0), tolerance=0.2, max_steps=100, residual=residual)
    assert float(solution.residual) == 3 / 16


def test_relative_change():
    states = [ProximalGradientState(jnp.array(x)) for x in ([0.0, 0.0], [3.0, 4.0], [3.0, 3.0])]
    assert relative_change(states[0], states[0], None) == 0
    assert relative_change(states[0], states[1], None) == 1
    np.testing.assert_allclose(relative_change(states[2], states[1], None), 0.2)
    # a state without `.x` is its own estimate
    np.testing.assert_allclose(relative_change({"a": jnp.ones(2)}, {"a": 2 * jnp.ones(2)}, None), 0.5)


def test_stopping_rules():
    problem = least_squares(dtype="float32")
    x, y = draw(np.random.default_rng(1), (2, 6))
    np.testing.assert_allclose(absolute_change(y, x, problem), np.linalg.norm(x - y), rtol=1e-6)
    np.testing.assert_allclose(gradient_norm(y, x, problem), np.linalg.norm(problem.gradient(x)), rtol=1e-6)
    whole = state_change({"x": x, "count": jnp.asarray(1)}, {"x": y, "count": jnp.asarray(9)}, problem)
    np.testing.assert_allclose(whole, np.linalg.norm(x - y) / np.linalg.norm(y), rtol=1e-6)
    assert state_change(x, x, problem) == 0
    lasso = Lasso(problem.operator, problem.measurement, 0.5)
    np.testing.assert_allclose(duality_gap(y, x, lasso), lasso.duality_gap(x))
    for rule in (gradient_norm, duality_gap):
        with pytest.raises(
            ValueError, match=f"`problem` must have `.{'gradient' if rule is gradient_norm else 'dual'}"
        ):
            rule(y, x, None)


@pytest.mark.parametrize("check_every", [1, 3])
def test_records_are_of_the_start_and_every_check_and_then_of_the_last(check_every):
    options = {"tolerance": 0.1, "max_steps": 10, "check_every": check_every, "record": lambda state: {"x": state.x}}
    solution = solve(HALVING, HALF, jnp.ones(2), **options)
    # it stops after 4 steps, or 6
    steps = np.minimum(np.arange(0, 10 + check_every, check_every), int(solution.num_steps))
    np.testing.assert_allclose(solution.records["x"], 1 - 0.5 ** steps[:, None] * np.ones(2), rtol=1e-6)
    batch = jax.vmap(lambda problem: solve(HALVING, HALF, problem, **options))(jnp.array([[1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(batch.records["x"][0], solution.records["x"])
    np.testing.assert_array_equal(batch.records["x"][1], 0)


# --- when something goes wrong ---


@pytest.mark.parametrize("check_every", [1, 5])
def test_data_that_are_not_numbers_end_the_loop_at_once(check_every):
    problem = least_squares(dtype="float32")
    spoiled = LeastSquares(problem.operator, problem.measurement.at[0].set(jnp.nan))
    solution = solve_least_squares(spoiled, check_every=check_every)
    assert int(solution.num_steps) == check_every
    assert not bool(solution.converged)
    assert not np.isfinite(solution.residual)


def test_divergence_ends_the_loop():
    too_long = ProximalGradientParams(jnp.asarray(50.0), jnp.asarray(0.0))
    solution = solve(HALVING, too_long, jnp.ones(2), tolerance=1e-6, max_steps=10_000)
    assert int(solution.num_steps) < 100
    assert not bool(solution.converged)
    assert not np.isfinite(solution.residual)


def test_an_estimate_that_is_not_finite_is_reported_whatever_the_residual_says():
    blind = lambda previous, state, problem: jnp.asarray(0.5)
    too_long = ProximalGradientParams(jnp.asarray(1e30), jnp.asarray(0.0))
    solution = solve(HALVING, too_long, jnp.ones(2), tolerance=0.1, max_steps=10_000, residual=blind)
    assert int(solution.num_steps) < 10
    assert not bool(solution.is_finite)
    satisfied = solve(HALVING, too_long, jnp.ones(2), tolerance=1.0, max_steps=10_000, residual=blind, check_every=9)
    assert not bool(satisfied.converged)
    assert bool(solve(HALVING, HALF, jnp.ones(2), tolerance=0.1, max_steps=10).is_finite)


def test_an_estimate_that_falls_to_zero_converges():
    # its relative change is infinite once, in the step that arrives at zero
    shrink = proximal_gradient(lambda x, problem: x - problem, start=lambda problem: jnp.ones(2))
    params = ProximalGradientParams(jnp.asarray(0.5), jnp.asarray(10.0))
    solution = solve(shrink, params, jnp.zeros(2), tolerance=1e-6, max_steps=100)
    assert int(solution.num_steps) == 2
    assert bool(solution.converged)
    np.testing.assert_array_equal(solution.state.x, 0)


def test_starting_at_the_solution_takes_one_step():
    solution = solve(HALVING, HALF, jnp.zeros(2), tolerance=0.0, max_steps=100)
    assert int(solution.num_steps) == 1
    assert bool(solution.converged)
    assert solution.residual == 0


# --- compiled and in batches ---


@pytest.mark.parametrize("check_every", [1, 4])
def test_every_example_of_a_batch_stops_on_its_own(check_every):
    with enabled("float64"):
        # of different conditioning, so of different duration
        problems = [least_squares(seed, size=(7, 6)) for seed in range(4)]
        run = functools.partial(solve_least_squares, tolerance=1e-8, check_every=check_every)
        batch = jax.jit(jax.vmap(run))(stack(problems))
        one = jax.jit(run)
        singles = [one(problem) for problem in problems]
        steps = [int(single.num_steps) for single in singles]
        assert len(set(steps)) == len(steps)
        np.testing.assert_array_equal(batch.num_steps, steps)
        assert np.all(batch.converged)
        for index, single in enumerate(singles):
            assert_close(pick(batch, index).state.x, single.state.x, 1e-10)


def test_an_example_that_is_spoiled_leaves_the_others_alone():
    problem = jnp.array([[1.0, 1.0], [jnp.nan, 1.0], [2.0, 0.5]])
    batch = jax.vmap(lambda p: solve(HALVING, HALF, p, tolerance=1e-6, max_steps=100))(problem)
    np.testing.assert_array_equal(batch.converged, [True, False, True])
    assert batch.num_steps[1] == 1
    np.testing.assert_allclose(batch.state.x[::2], problem[::2], rtol=1e-5)


def test_jit_changes_nothing_and_new_values_retrace_nothing():
    counter = TraceCounter(functools.partial(solve_least_squares, tolerance=1e-5))
    compiled = jax.jit(counter)
    for seed in range(3):
        problem = least_squares(seed, dtype="float32")
        assert_close(compiled(problem).state.x, solve_least_squares(problem, tolerance=1e-5).state.x, 1e-4)
    assert counter.count == 1


def test_prepare_runs_once():
    calls = []

    def prepare(params, problem):
        jax.debug.callback(lambda: calls.append("prepared"))
        return ProximalGradientParams(params.step_size / problem[0], params.strength)

    problem = jnp.array([2.0, 2.0])
    solve_prepared = jax.jit(
        lambda params: solve(HALVING, params, problem, tolerance=1e-6, max_steps=100, prepare=prepare)
    )
    solution = solve_prepared(ProximalGradientParams(jnp.asarray(1.0), jnp.asarray(0.0)))
    jax.effects_barrier()
    assert calls == ["prepared"]
    plain = solve(HALVING, HALF, problem, tolerance=1e-6, max_steps=100)
    assert int(solution.num_steps) == int(plain.num_steps) > 5
    assert_close(solution.state.x, plain.state.x, 1e-6)


def test_a_state_may_be_anything():
    # a bare number; a dictionary
    bare = Algorithm(init=lambda problem: 0.0, step=lambda params, state, problem: (state + problem) / 2)
    solution = solve(bare, None, 3.0, tolerance=1e-6, max_steps=100)
    np.testing.assert_allclose(solution.state, 3, rtol=1e-5)
    pair = Algorithm(
        init=lambda problem: {"a": jnp.zeros(2), "b": jnp.zeros(())},
        step=lambda params, state, problem: jax.tree.map(lambda s: (s + problem) / 2, state),
    )
    assert bool(solve(pair, None, 3.0, tolerance=1e-6, max_steps=100).converged)


# --- misuse ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1e-3}, r"`tolerance` must be non-negative, got -0\.001"),
        ({"tolerance": float("nan")}, "`tolerance` must be non-negative, got nan"),
        ({"max_steps": 0}, "`max_steps` must be a whole number of at least 1, got 0"),
        ({"max_steps": 1.5}, r"`max_steps` must be a whole number of at least 1, got 1\.5"),
        ({"check_every": 0}, "`check_every` must be a whole number of at least 1, got 0"),
        ({"check_every": -2}, "`check_every` must be a whole number of at least 1, got -2"),
    ],
)
def test_misuse(options, message):
    call = lambda problem: solve(HALVING, HALF, problem, **({"tolerance": 1e-3, "max_steps": 10} | options))
    with pytest.raises(ValueError, match=message):
        call(jnp.ones(2))
    with pytest.raises(ValueError, match=message):
        jax.jit(call)(jnp.ones(2))
