import inspect
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import ALGORITHMS, name_of
from catalogue.algorithms import L1_WEIGHT, NUM_ATOMS, NUM_MEASUREMENTS
from helpers import (
    DTYPES,
    ROUNDING,
    TraceCounter,
    assert_close,
    assert_finite,
    data_of,
    draw,
    draw_like,
    enabled,
    estimates,
    in_turn,
    inexact_leaves,
    lasso_minimizer,
    lasso_value,
    norm,
    numpy_fista,
    numpy_soft_threshold,
    pick,
    stack,
    to_numpy,
    vdot,
)

from unroll_jax import Algorithm, algorithms, unroll
from unroll_jax.algorithms import (
    LISTAParams,
    NoisyProblem,
    ProximalGradientParams,
    fista,
    lista,
    lista_params,
    perturbed,
    proximal_gradient,
    proximal_gradient_params,
    random_lista_params,
    zero_start,
)
from unroll_jax.objectives import LeastSquares
from unroll_jax.operators import Dense, Diagonal, compose

# public, but no algorithms and no makers of parameters
HELPERS = {
    "adjoint_start",
    "analytic_encoder",
    "bernoulli_gaussian_mean",
    "coherence",
    "one_start",
    "selective_threshold",
    "zero_start",
}

# noise, and encoders that are computed, take no part in derivatives
KEEPS_SOMETHING_CONSTANT = {"perturbed", "alista", "tista"}

every_algorithm = pytest.mark.parametrize("row", ALGORITHMS, ids=name_of)


def every_algorithm_in(*dtypes):
    cases = [(row, dtype) for row in ALGORITHMS for dtype in dtypes if dtype in row.dtypes]
    return pytest.mark.parametrize(("row", "dtype"), in_turn(cases))


def instance(row, dtype="float32", seed=0):
    problem = row.make_problem(np.random.default_rng(seed), dtype)
    return row.make_params(problem), problem


def run(algorithm, params, problem, num_steps=3):
    """The state after some steps; compiled as a loop, or it would take the tests minutes."""
    return jax.lax.fori_loop(
        0, num_steps, lambda _, state: algorithm.step(params, state, problem), algorithm.init(problem)
    )


def one_step(algorithm, params, problem):
    return algorithm.step(params, algorithm.init(problem), problem)


def run_step_by_step(step, start, params, problem, num_steps=3):
    for _ in range(num_steps):
        start = step(params, start, problem)
    return start


def description(tree):
    """Structure, shapes and types: what a scan, a while loop and the compilation cache look at."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def least_squares(seed=0, dtype="float64", size=(NUM_MEASUREMENTS, NUM_ATOMS)) -> Any:
    rng = np.random.default_rng(seed)
    return LeastSquares(Dense(draw(rng, size, dtype)), draw(rng, size[:1], dtype))


def test_every_public_algorithm_is_in_the_catalogue():
    functions = {name for name, value in vars(algorithms).items() if inspect.isfunction(value)}
    public = {name for name in functions if not name.endswith("_params")} - HELPERS
    assert public == {row.name.split()[0] for row in ALGORITHMS}
    assert {inspect.signature(vars(algorithms)[name]).return_annotation for name in public} == {Algorithm}


# --- every algorithm ---


@every_algorithm_in(*DTYPES)
def test_a_step_keeps_its_state(row, dtype):
    with enabled(dtype):
        params, problem = instance(row, dtype)
        start = jax.eval_shape(row.algorithm.init, problem)
        after = jax.eval_shape(row.algorithm.step, params, start, problem)
        assert description(after) == description(start)
        assert start.x.dtype == dtype
        for leaf in inexact_leaves((params, start))[0]:
            assert np.finfo(leaf.dtype) == np.finfo(dtype)
            # an optimizer's update would change a weak type, and a training step be compiled twice
            assert not leaf.weak_type


@every_algorithm
def test_a_step_promotes_nothing(row):
    params, problem = instance(row)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda params, problem: run(row.algorithm, params, problem), params, problem)


@every_algorithm
def test_vmap_over_problems_with_their_operators_and_parameters_is_a_loop(row):
    several = [instance(row, seed=seed) for seed in range(3)]
    one = jax.jit(lambda params, problem: run(row.algorithm, params, problem))
    states = jax.jit(jax.vmap(one))(*stack(several))
    for index, (params, problem) in enumerate(several):
        assert_close(pick(states, index), one(params, problem), 1e-6)


@every_algorithm
def test_jit_changes_nothing_and_new_values_retrace_nothing(row):
    dtype = row.dtypes[-1]  # complex where that means something
    counter = TraceCounter(row.algorithm.step)
    step = jax.jit(counter)
    with enabled(dtype):
        for seed in range(2):
            params, problem = instance(row, dtype, seed)
            start = row.algorithm.init(problem)
            compiled = run_step_by_step(step, start, params, problem)
            assert_close(compiled, run_step_by_step(row.algorithm.step, start, params, problem), ROUNDING[dtype])
    assert counter.count == 1


@every_algorithm_in("float64", "complex128")
def test_derivatives_in_parameters_and_data(row, dtype):
    rng = np.random.default_rng(1)
    with enabled(dtype):
        params, problem = instance(row, dtype)
        leaves, rebuild = inexact_leaves((params, problem))
        num_params = len(inexact_leaves(params)[0])

        def final(leaves):
            params, problem = rebuild(leaves)
            return run(row.algorithm, params, problem).x

        @jax.jit
        def both_modes(leaves, tangents, cotangent):
            x, tangent = jax.jvp(final, (leaves,), (tangents,))
            _, pullback = jax.vjp(final, leaves)
            return x, tangent, pullback(cotangent)[0]

        tangents, cotangent = draw_like(rng, leaves), draw(rng, (NUM_ATOMS,), dtype)
        _, tangent, gradients = both_modes(leaves, tangents, cotangent)
        # the same linear map, forward and backward; JAX transposes it without conjugation
        forward = vdot(jnp.conj(cotangent), tangent)
        backward = vdot(jax.tree.map(jnp.conj, gradients), tangents)
        scale = norm(cotangent) * norm(tangent) + norm(gradients) * norm(tangents)
        assert abs(forward.real - backward.real) <= ROUNDING[dtype] * scale
        assert norm(gradients[:num_params]) > 0
        assert norm(gradients[num_params:]) > 0
        if row.name.split()[0] not in KEEPS_SOMETHING_CONSTANT:
            moved = [
                both_modes([a + h * d for a, d in zip(leaves, tangents, strict=True)], tangents, cotangent)[0]
                for h in (1e-6, -1e-6)
            ]
            assert_close(tangent, (moved[0] - moved[1]) / 2e-6, 1e-5)
        # without data everything rests on its kinks
        *others, measurement = leaves
        at_rest = both_modes([*others, jnp.zeros_like(measurement)], tangents, cotangent)
        assert_finite((tangent, gradients, at_rest))


def same_numbers_in_every_precision(row):
    """JAX draws anew in every precision."""
    return "perturbed" not in row.name and "random" not in row.name


@every_algorithm_in("float32", "complex64")
def test_single_and_double_precision_agree(row, dtype):
    if not same_numbers_in_every_precision(row):
        return
    found = []
    for precision in (dtype, {"float32": "float64", "complex64": "complex128"}[dtype]):
        with enabled(precision):
            found.append(np.asarray(run(row.algorithm, *instance(row, precision)).x))
            assert found[-1].dtype == precision
    np.testing.assert_allclose(*found, atol=1e-5 * np.max(np.abs(found[1])))


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_stays_where_double_is_enabled(dtype):
    with enabled("float64"):
        plain = least_squares(dtype=dtype)
        masked = compose(Diagonal(jnp.ones(NUM_MEASUREMENTS, jnp.float32)), plain.operator)
        problem = LeastSquares(masked, plain.measurement)
        params = proximal_gradient_params(masked, L1_WEIGHT, like=jnp.zeros(NUM_ATOMS, dtype))
        for algorithm in (proximal_gradient(), fista()):
            start = algorithm.init(problem)
            assert description(algorithm.step(params, start, problem)) == description(start)


# --- proximal gradient methods ---


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_one_step_of_ista_is_the_formula(dtype):
    rng = np.random.default_rng(5)
    with enabled(dtype):
        problem, x = least_squares(dtype=dtype), draw(rng, (NUM_ATOMS,), dtype)
        params = ProximalGradientParams(jnp.asarray(0.07), jnp.asarray(0.4))
        algorithm = proximal_gradient(start=lambda problem: x)
        found = one_step(algorithm, params, problem).x
    x, (matrix, measurement) = np.asarray(x), data_of(problem)
    gradient = matrix.conj().T @ (matrix @ x - measurement)
    np.testing.assert_allclose(found, numpy_soft_threshold(x - 0.07 * gradient, 0.07 * 0.4), rtol=1e-12)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_fista_is_the_loop_in_numpy(dtype, restart):
    with enabled(dtype):
        problem = least_squares(dtype=dtype)
        params = proximal_gradient_params(problem.operator, L1_WEIGHT)
        found = estimates(fista(restart=restart), params, problem, 60)
    expected = itertools.islice(numpy_fista(*data_of(problem), L1_WEIGHT, restart=restart), 61)
    np.testing.assert_allclose(found, list(expected), atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_proximal_gradient_params_are_the_classical_ones(dtype):
    with enabled(dtype):
        problem = least_squares(dtype=dtype)
        masked = compose(Diagonal(jnp.ones(NUM_MEASUREMENTS, dtype)), problem.operator)
        direct = proximal_gradient_params(problem.operator, 0.2)
        iterated = proximal_gradient_params(masked, 0.2, like=jnp.zeros(NUM_ATOMS, dtype))
    expected = 1 / np.linalg.norm(data_of(problem)[0], ord=2) ** 2
    np.testing.assert_allclose(direct.step_size, expected, rtol=ROUNDING[dtype])
    np.testing.assert_allclose(iterated.step_size, expected, rtol=1e-3)
    assert float(iterated.step_size) >= expected * (1 - ROUNDING[dtype])
    np.testing.assert_allclose([direct.strength, iterated.strength], 0.2, rtol=ROUNDING[dtype])


def test_zero_start_follows_the_measurement():
    matrix = jnp.ones((3, 4))
    real = zero_start(LeastSquares(Dense(matrix), jnp.ones(3)))
    mixed = zero_start(LeastSquares(Dense(matrix), jnp.ones(3, "complex64")))
    assert (real.shape, real.dtype) == ((4,), jnp.float32)
    assert (mixed.shape, mixed.dtype) == ((4,), jnp.complex64)
    assert not jnp.any(real)


def sparse_problem(seed, share=0.1, decay=0.0):
    """A Lasso problem, its classical parameters, and the objective error along a trajectory; in float64."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((20, 40)) * np.exp(-decay * np.arange(40))
    code = rng.standard_normal(40) * (rng.random(40) < 0.15)
    measurement = matrix @ code + 0.05 * rng.standard_normal(20)
    l1_weight = share * np.max(np.abs(matrix.T @ measurement))
    solution = lasso_minimizer(matrix, measurement, l1_weight)
    minimum = lasso_value(solution, matrix, measurement, l1_weight)
    problem: Any = LeastSquares(Dense(jnp.asarray(matrix)), jnp.asarray(measurement))
    params = proximal_gradient_params(problem.operator, l1_weight)

    def errors(algorithm, num_steps):
        xs = np.asarray(estimates(algorithm, params, problem, num_steps))
        return np.array([lasso_value(x, matrix, measurement, l1_weight) for x in xs]) - minimum

    return problem, params, solution, errors


@pytest.mark.parametrize("seed", [0, 1])
def test_ista_never_raises_the_objective(seed):
    with enabled("float64"):
        _, _, _, errors = sparse_problem(seed)
        error = errors(proximal_gradient(), 300)
    assert np.all(np.diff(error) <= 1e-12 * error[0])
    assert error[-1] < 1e-2 * error[0]


@pytest.mark.parametrize(("seed", "decay"), [(0, 0.0), (1, 0.0), (2, 0.05), (3, 0.1)])
def test_fista_keeps_its_bound_and_restart_costs_nothing(seed, decay):
    with enabled("float64"):
        _, params, solution, errors = sparse_problem(seed, decay=decay)
        plain, restarted = errors(fista(restart=False), 1500), errors(fista(), 1500)
    k = np.arange(1, 1501)
    bound = 2 / float(params.step_size) * np.sum(solution**2) / (k + 1) ** 2
    assert np.all(plain[1:] <= bound * (1 + 1e-9))
    for tolerance in np.logspace(-1, -10, 10) * plain[0]:
        if np.any(plain <= tolerance):
            assert np.argmax(restarted <= tolerance) <= 2 * np.argmax(plain <= tolerance)
            assert np.any(restarted <= tolerance)
    assert restarted[-1] <= 1e-12 * restarted[0]


def test_fista_is_faster_than_ista():
    with enabled("float64"):
        _, _, _, errors = sparse_problem(0, share=0.02)
        ista, accelerated = errors(proximal_gradient(), 500), errors(fista(), 500)
    assert np.argmax(accelerated <= 1e-4) < np.argmax(ista <= 1e-4) / 2 or ista[-1] > 1e-4 >= accelerated[-1]


def test_the_solution_is_a_fixed_point_of_every_classical_algorithm():
    with enabled("float64"):
        problem, params, solution, _ = sparse_problem(0)
        x = jnp.asarray(solution)
        for algorithm in (proximal_gradient(start=lambda problem: x), fista(start=lambda problem: x)):
            np.testing.assert_allclose(run(algorithm, params, problem).x, solution, atol=1e-12)
        network = lista(start=lambda problem: x)
        learned = lista_params(problem.operator, float(params.strength))
        np.testing.assert_allclose(run(network, learned, problem).x, solution, atol=1e-12)


def test_estimates_of_several_arrays():
    gradient = lambda x, problem: jax.tree.map(jnp.subtract, x, problem)
    prox = lambda x, strength: x
    start = lambda problem: jax.tree.map(jnp.zeros_like, problem)
    problem = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    params = ProximalGradientParams(jnp.asarray(0.5), jnp.asarray(0.0))
    for make in (proximal_gradient, fista):
        algorithm = make(gradient, prox, start)
        assert_close(run(algorithm, params, problem, num_steps=100).x, problem, 1e-5)


# --- LISTA ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_lista_at_its_classical_parameters_is_ista(dtype):
    rng = np.random.default_rng(5)
    with enabled(dtype):
        problem, x = least_squares(dtype=dtype), draw(rng, (NUM_ATOMS,), dtype)
        classical = proximal_gradient_params(problem.operator, L1_WEIGHT)
        learned = lista_params(problem.operator, L1_WEIGHT)
        start = lambda problem: x
        expected = run(proximal_gradient(start=start), classical, problem).x
        found = run(lista(start), learned, problem).x
        assert_close(found, expected, ROUNDING[dtype])
        assert_close(run(lista(), learned, problem).x, run(proximal_gradient(), classical, problem).x, ROUNDING[dtype])
        once = one_step(lista(start), learned, problem).x
    # and one step of it is the formula
    code, (matrix, measurement) = np.asarray(x), data_of(problem)
    step_size = 1 / np.linalg.norm(matrix, ord=2) ** 2
    gradient = matrix.conj().T @ (matrix @ code - measurement)
    formula = numpy_soft_threshold(code - step_size * gradient, step_size * L1_WEIGHT)
    np.testing.assert_allclose(once, formula, atol=10 * ROUNDING[dtype])


def test_thresholds_stay_positive_whatever_happens_to_the_parameters():
    problem = LeastSquares(Dense(jnp.zeros((1, 3))), jnp.zeros(1))

    @jax.vmap
    def layer(shift):
        log_threshold = jnp.log(jnp.array([0.1, 1.0, 1.0])) + shift
        threshold = jnp.exp(log_threshold)
        # smaller than every threshold here, larger than every one, and just as large
        x = jnp.array([1e-37, -1e37, threshold[2]])
        params = LISTAParams(jnp.eye(3), jnp.zeros((3, 1)), log_threshold)
        return x, one_step(lista(lambda problem: x), params, problem).x, threshold

    x, moved, threshold = map(np.asarray, layer(jnp.array([-80.0, -5.0, 5.0, 80.0])))
    assert np.all(threshold > 0)
    # a negative threshold would move entries away from zero
    np.testing.assert_array_equal(moved[:, [0, 2]], 0)
    assert np.all((x[:, 1] <= moved[:, 1]) & (moved[:, 1] < 0))


def test_lista_params_of_a_batch_of_dictionaries():
    matrices = draw(np.random.default_rng(0), (3, NUM_MEASUREMENTS, NUM_ATOMS))
    batch = jax.vmap(lambda matrix: lista_params(Dense(matrix), 0.1))(matrices)
    for index, matrix in enumerate(matrices):
        assert_close(pick(batch, index), lista_params(Dense(matrix), 0.1), 1e-5)


def test_random_lista_params():
    make = lambda key, threshold=0.01: random_lista_params(key, 60, 80, gain=2.0, threshold=threshold)
    params = make(jax.random.key(0))
    assert (params.recurrent.shape, params.encoder.shape, params.log_threshold.shape) == (
        (80, 80),
        (80, 60),
        (80,),
    )
    for matrix, fan_in in ((params.recurrent, 80), (params.encoder, 60)):
        deviation = 2 / fan_in**0.5
        assert abs(np.mean(matrix)) <= 4 * deviation / matrix.size**0.5
        np.testing.assert_allclose(np.std(matrix), deviation, rtol=4 / (2 * matrix.size) ** 0.5)
    both = np.stack([np.ravel(params.recurrent[:, :60]), np.ravel(params.encoder)])
    assert abs(np.corrcoef(both)[0, 1]) <= 4 / both.shape[1] ** 0.5
    np.testing.assert_allclose(jnp.exp(params.log_threshold), 0.01, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(make(jax.random.key(0), 2.0).log_threshold), 2, rtol=1e-6)
    assert_close(make(jax.random.key(0)), params, 0)
    assert jnp.all(make(jax.random.key(1)).recurrent != params.recurrent)


def test_a_layer_of_the_paper_has_its_number_of_parameters():
    params = jax.eval_shape(lambda key: random_lista_params(key, 1024, 1228), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_766_684


# --- noise between the layers ---


class Point(NamedTuple):
    x: jax.Array


def standing(start):
    """An algorithm that stays where it is, so that noise is all there is to see."""
    return Algorithm(lambda problem: Point(start), lambda params, state, problem: state)


def noisy_estimates(algorithm, params, problem, num_steps, key):
    return estimates(algorithm, params, NoisyProblem(problem, key), num_steps)


def constant_noise(size):
    return lambda x, problem: jnp.asarray(size)


def test_noise_is_zero_where_its_norm_is():
    problem = least_squares(dtype="float32")
    params = proximal_gradient_params(problem.operator, L1_WEIGHT)
    silent = perturbed(fista(), constant_noise(0.0))
    found = noisy_estimates(silent, params, problem, 5, jax.random.key(0))
    np.testing.assert_array_equal(found, estimates(fista(), params, problem, 5))


def test_noise_in_proportion_to_the_gradient_rests_at_the_solution():
    with enabled("float64"):
        problem = least_squares(size=(NUM_ATOMS, NUM_MEASUREMENTS))
        solution = jnp.asarray(np.linalg.lstsq(*data_of(problem), rcond=None)[0])
        params = proximal_gradient_params(problem.operator, 0.0)
        noisy = perturbed(
            proximal_gradient(start=lambda problem: solution),
            lambda x, problem: jnp.linalg.norm(problem.gradient(x)),
        )
        found = noisy_estimates(noisy, params, problem, 5, jax.random.key(0))
        np.testing.assert_allclose(found, jnp.stack([solution] * 6), atol=1e-12)


def test_noise_is_determined_by_the_key():
    problem = least_squares(dtype="float32")
    params = proximal_gradient_params(problem.operator, L1_WEIGHT)
    noisy = perturbed(proximal_gradient(), constant_noise(1.0))
    keys = stack([jax.random.key(seed) for seed in (0, 0, 1)])
    first, again, other = jax.vmap(lambda key: noisy_estimates(noisy, params, problem, 3, key))(keys)
    np.testing.assert_array_equal(first, again)
    assert np.all(np.any(first[2:] != other[2:], axis=1))


def test_noise_enters_between_layers_only():
    problem = least_squares(dtype="float32")
    params = proximal_gradient_params(problem.operator, L1_WEIGHT)
    noisy = perturbed(proximal_gradient(), constant_noise(1.0))
    plain = estimates(proximal_gradient(), params, problem, 2)
    found = noisy_estimates(noisy, params, problem, 2, jax.random.key(0))
    np.testing.assert_array_equal(found[:2], plain[:2])  # the start and the first output
    assert np.any(found[2] != plain[2])
    # a network of one layer has nothing between its layers
    shallow = unroll(noisy, 1, params)(NoisyProblem(problem, jax.random.key(0)))
    assert_close(shallow.x, unroll(proximal_gradient(), 1, params)(problem).x, 1e-6)


def test_the_last_output_is_what_the_last_layer_made_of_a_noisy_input():
    noisy = perturbed(
        Algorithm(lambda problem: Point(jnp.ones(3)), lambda params, state, problem: Point(0 * state.x)),
        constant_noise(5.0),
    )
    np.testing.assert_array_equal(noisy_estimates(noisy, None, None, 4, jax.random.key(0))[1:], 0)


@pytest.mark.parametrize(
    "start",
    [jnp.zeros((2, 3), "complex64"), {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}],
    ids=["complex", "several"],
)
def test_the_root_mean_square_of_the_noise_norm(start):
    size, num_keys = 3.0, 4000
    noisy = perturbed(standing(start), constant_noise(size))

    @jax.jit
    @jax.vmap
    def after_two_and_three_steps(key):
        problem = NoisyProblem(None, key)
        second = run(noisy, None, problem, num_steps=2)
        return second.x, noisy.step(None, second, problem).x

    keys = jax.random.split(jax.random.key(0), num_keys)
    second, third = (
        np.concatenate([leaf.reshape(num_keys, -1) for leaf in to_numpy(x)], axis=1)
        for x in after_two_and_three_steps(keys)
    )
    for noise in (second, third - second):
        square_norms = np.sum(np.abs(noise) ** 2, axis=1)
        np.testing.assert_allclose(np.mean(square_norms) ** 0.5, size, rtol=0.03)
    # equally strong in all entries, and independent from entry to entry and from layer to layer
    noise = np.concatenate([second, third - second], axis=1)
    covariance = noise.conj().T @ noise / num_keys
    np.testing.assert_allclose(covariance, np.eye(12) * size**2 / 6, atol=0.15)


def test_no_gradient_flows_through_the_size_of_the_noise():
    def final(start, size):
        noisy = perturbed(standing(start), lambda x, problem: size * jnp.sum(x**2))
        return run(noisy, None, NoisyProblem(None, jax.random.key(0)), num_steps=4).x

    by_start, by_size = jax.jit(jax.jacfwd(final, argnums=(0, 1)))(jnp.array([1.0, 2.0]), jnp.asarray(0.5))
    np.testing.assert_array_equal(by_start, np.eye(2))
    np.testing.assert_array_equal(by_size, 0)


def test_a_perturbed_state_shows_the_estimate_without_noise():
    noisy = perturbed(standing(jnp.ones(2)), constant_noise(1.0))
    problem = NoisyProblem(None, jax.random.key(0))
    start = noisy.init(problem)
    first = noisy.step(None, start, problem)
    np.testing.assert_array_equal(start.x, jnp.ones(2))
    np.testing.assert_array_equal(first.x, first.inner.x)
    assert (bool(start.is_start), bool(first.is_start)) == (True, False)
    assert jnp.any(jax.random.key_data(first.key) != jax.random.key_data(start.key))


# --- misuse ---

DENSE = Dense(jnp.ones((2, 3)))
NO_MATRIX: Any = Diagonal(jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: lista_params(NO_MATRIX, 0.1),
            "`operator` must be a Dense operator, got Diagonal",
        ),
        (lambda: lista_params(DENSE, 0.0), r"`l1_weight` must be positive, got 0\.0"),
        (lambda: lista_params(DENSE, -1.0), r"`l1_weight` must be positive, got -1\.0"),
        (
            lambda: random_lista_params(jax.random.key(0), 2, 3, threshold=-1.0),
            r"`threshold` must be positive, got -1\.0",
        ),
        (
            lambda: perturbed(
                standing(jnp.ones(2))._replace(init=lambda problem: jnp.ones(2)), constant_noise(1.0)
            ).init(NoisyProblem(None, jax.random.key(0))),
            "`algorithm` must have a NamedTuple with a field `x`",
        ),
        (lambda: proximal_gradient_params(DENSE, -1.0), r"`strength` must be non-negative, got -1\.0"),
        (lambda: proximal_gradient_params(DENSE, float("nan")), "`strength` must be non-negative, got nan"),
        (
            lambda: proximal_gradient_params(compose(DENSE, Diagonal(jnp.ones(3))), 1.0),
            "`like` must show what the operator Composed takes",
        ),
        (
            lambda: run(
                proximal_gradient(),
                ProximalGradientParams(jnp.ones(()), jnp.ones(())),
                LeastSquares(DENSE, jnp.ones((5, 2))),
            ),
            r"`y` must have shape \(2,\) .*jax\.vmap",
        ),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: (call(), x)[1])(0.0)
