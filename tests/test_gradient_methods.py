import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_finite,
    data_of,
    draw,
    enabled,
    estimates,
    lasso_minimizer,
    lasso_value,
    numpy_fista,
    numpy_soft_threshold,
)

from unroll_jax import Algorithm, prox, solve, unroll
from unroll_jax.algorithms import (
    GradientDescentParams,
    MomentumParams,
    accelerated_gradient,
    accelerated_gradient_params,
    adagd,
    adagd_params,
    gradient_descent,
    gradient_descent_params,
    heavy_ball,
    heavy_ball_params,
    mirror_descent,
    mlem,
    mlem_params,
    nesterov,
    nesterov_params,
    nmapg,
    nmapg_params,
    relaxed_params,
    safeguarded_agd,
    safeguarded_agd_params,
    sirt,
    sirt_params,
)
from unroll_jax.objectives import Lasso, LeastSquares
from unroll_jax.operators import Dense

L1_WEIGHT = 0.3


def least_squares(seed=0, size=(8, 5), dtype="float64"):
    rng = np.random.default_rng(seed)
    return LeastSquares(Dense(draw(rng, size, dtype)), draw(rng, size[:1], dtype))


def curvature(problem) -> tuple[float, float]:
    """The largest and the smallest eigenvalue of A* A."""
    values = np.linalg.svd(data_of(problem)[0], compute_uv=False)
    return float(values[0] ** 2), float(values[-1] ** 2)


def value_and_gradient(problem):
    matrix, measurement = data_of(problem)
    residual = lambda x: matrix @ x - measurement
    return lambda x: np.sum(np.abs(residual(x)) ** 2) / 2, lambda x: matrix.conj().T @ residual(x)


def positive_problem(seed=0, size=(8, 5), empty=True):
    """Counts of a non-negative operator; a measurement that sees nothing, and an entry that nothing sees."""
    rng = np.random.default_rng(seed)
    matrix = np.abs(rng.standard_normal(size))
    if empty:
        matrix[2], matrix[:, 1] = 0, 0
    counts = rng.poisson(10 * matrix @ np.abs(rng.standard_normal(size[1]))).astype(float)
    return LeastSquares(Dense(jnp.asarray(matrix)), jnp.asarray(counts))


# --- every method is its loop in NumPy ---


def numpy_momentum(x, gradient, step_size, momentum, *, looks_ahead):
    before = x
    while True:
        yield x
        ahead = x + momentum * (x - before)
        x, before = ahead - step_size * gradient(ahead if looks_ahead else x), x


def numpy_accelerated(x, gradient, step_size, strong_convexity, *, restart):
    """Chambolle and Pock 2016, algorithm 5, with the gradient restart of O'Donoghue and Candes."""
    z, t, q = x, 1.0, step_size * strong_convexity
    while True:
        yield x
        slope = gradient(z)
        x_next = z - step_size * slope
        if restart and np.vdot(slope, x_next - x).real > 0:
            z, t = x_next, 1.0
        else:
            t_next = (1 - q * t**2 + np.sqrt((1 - q * t**2) ** 2 + 4 * t**2)) / 2
            z = x_next + (t - 1) / t_next * (1 - t_next * q) / (1 - q) * (x_next - x)
            t = t_next
        x = x_next


def numpy_safeguarded(x, gradient, step_size, weak_convexity, threshold):
    """MATH D.3: the extrapolated point is taken back where it may lie higher than the last one."""
    x_before, z_before, t_before, t = x, x, 1.0, 1.0
    while True:
        yield x
        z = x + (t_before - 1) / t * (x - x_before)
        shift = z - z_before
        if np.vdot(gradient(z), shift).real + weak_convexity / 2 * np.vdot(shift, shift).real > 0:
            z, t = x, 1.0
        x_before, x = x, numpy_soft_threshold(z - step_size * gradient(z), step_size * threshold)
        z_before, t_before, t = z, t, (1 + np.sqrt(1 + 4 * t**2)) / 2


def numpy_adagd(x, gradient, first_step_size):
    """Malitsky and Mishchenko 2020, algorithm 1."""
    yield x
    before, slope_before, step_size, growth = x, gradient(x), first_step_size, np.inf
    x = x - step_size * slope_before
    while True:
        yield x
        slope = gradient(x)
        measured = np.linalg.norm(x - before) / (2 * np.linalg.norm(slope - slope_before))
        new = min(np.sqrt(1 + growth) * step_size, measured)
        growth, step_size = new / step_size, new
        x, before, slope_before = x - step_size * slope, x, slope


def numpy_nmapg(x, value, gradient, threshold, step_size, shrink=0.9, decrease=0.1, memory=0.8):
    """Li and Lin 2015, algorithm 4, with a decrease in units of the step."""
    objective = lambda x: value(x) + threshold * np.sum(np.abs(x))
    x_before, z, t_before, t, c, q = x, x, 0.0, 1.0, objective(x), 1.0
    last = None

    def search(point, slope, bound):
        a = step_size
        if last is not None:
            r, s = slope - last[1], point - last[0]
            a = abs(np.vdot(r, s).real) / np.vdot(r, r).real
        while True:
            trial = numpy_soft_threshold(point - a * slope, a * threshold)
            needed = decrease / a * np.sum(np.abs(trial - point) ** 2)
            if objective(trial) <= bound - needed:
                return trial, needed
            a *= shrink

    while True:
        yield x
        y = x + t_before / t * (z - x) + (t_before - 1) / t * (x - x_before)
        slope = gradient(y)
        z, needed = search(y, slope, max(objective(y), c))
        x_next = z
        if objective(z) > c - needed:
            v, _ = search(x, gradient(x), c)
            x_next = z if objective(z) <= objective(v) else v
        last = (y, slope)
        t_before, t = t, (1 + np.sqrt(1 + 4 * t**2)) / 2
        c = (memory * q * c + objective(x_next)) / (memory * q + 1)
        q = memory * q + 1
        x_before, x = x, x_next


class Case(NamedTuple):
    algorithm: Algorithm
    params: Any
    loop: Any


def case_of(name, problem):
    """A method with its parameters, and the loop in NumPy that it must be."""
    value, gradient = value_and_gradient(problem)
    lipschitz, smallest = curvature(problem)
    x = np.zeros_like(problem.operator.matrix[0])
    match name.split():
        case ["gradient_descent"]:
            loop = numpy_momentum(x, gradient, 1 / lipschitz, 0.0, looks_ahead=False)
            return Case(gradient_descent(), gradient_descent_params(lipschitz), loop)
        case ["heavy_ball"]:
            top, bottom = lipschitz**0.5, smallest**0.5
            step_size, momentum = (2 / (top + bottom)) ** 2, ((top - bottom) / (top + bottom)) ** 2
            loop = numpy_momentum(x, gradient, step_size, momentum, looks_ahead=False)
            return Case(heavy_ball(), heavy_ball_params(lipschitz, smallest), loop)
        case ["nesterov"]:
            ratio = (lipschitz / smallest) ** 0.5
            loop = numpy_momentum(x, gradient, 1 / lipschitz, (ratio - 1) / (ratio + 1), looks_ahead=True)
            return Case(nesterov(), nesterov_params(lipschitz, smallest), loop)
        case ["accelerated_gradient", *options]:
            strong = smallest if "strong" in options else 0.0
            restart = "restart" in options
            loop = numpy_accelerated(x, gradient, 1 / lipschitz, strong, restart=restart)
            return Case(accelerated_gradient(restart=restart), accelerated_gradient_params(lipschitz, strong), loop)
        case ["safeguarded_agd"]:
            loop = numpy_safeguarded(x, gradient, 1 / lipschitz, 0.5 * 1.001, L1_WEIGHT)
            algorithm = safeguarded_agd(prox=prox.soft_threshold)
            return Case(algorithm, safeguarded_agd_params(lipschitz, 0.5, L1_WEIGHT), loop)
        case ["adagd"]:
            return Case(adagd(), adagd_params(1e-5), numpy_adagd(x, gradient, 1e-5))
        case ["nmapg"]:
            loop = numpy_nmapg(x, value, gradient, L1_WEIGHT, 5.0)
            return Case(nmapg(prox=prox.soft_threshold), nmapg_params(5.0, L1_WEIGHT), loop)
    raise AssertionError(name)


LOOPS = (
    "gradient_descent",
    "heavy_ball",
    "nesterov",
    "accelerated_gradient",
    "accelerated_gradient restart",
    "accelerated_gradient strong",
    "safeguarded_agd",
    "adagd",
    "nmapg",
)


@pytest.mark.parametrize("name", LOOPS)
def test_it_is_the_loop_in_numpy_and_ends_at_the_minimum(name):
    with enabled("complex128"):
        problem = least_squares(dtype="complex128")
        algorithm, params, loop = case_of(name, problem)
        if name == "nmapg":  # whose objective is that of its problem
            problem = Lasso(problem.operator, problem.measurement, jnp.asarray(L1_WEIGHT))
        found = np.asarray(estimates(algorithm, params, problem, 400))
    np.testing.assert_allclose(found[:41], list(itertools.islice(loop, 41)), atol=1e-9)
    l1_weight = float(getattr(params, "strength", 0.0))
    data = data_of(problem)
    expected = lasso_minimizer(*data, l1_weight) if l1_weight else np.linalg.lstsq(*data, rcond=None)[0]
    value = functools.partial(lasso_value, matrix=data[0], measurement=data[1], l1_weight=l1_weight)
    assert value(found[-1]) <= value(expected) * (1 + 1e-6)
    np.testing.assert_allclose(found[-1], expected, atol=1e-4)


# --- rates ---


def stretched_problem(smallest_scale):
    """Columns of different sizes, so eigenvalues of A* A of very different ones; its minimum is zero."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((40, 20)) * np.linspace(smallest_scale, 1, 20)
    return LeastSquares(Dense(jnp.asarray(matrix)), jnp.asarray(matrix @ rng.standard_normal(20)))


def objective_errors(algorithm, params, problem, num_steps):
    value, _ = value_and_gradient(problem)
    return np.array([value(x) for x in np.asarray(estimates(algorithm, params, problem, num_steps))])


@pytest.mark.usefixtures("x64")
def test_the_accelerated_bound_and_what_restart_costs():
    problem = stretched_problem(0.03)
    lipschitz, _ = curvature(problem)
    params = accelerated_gradient_params(lipschitz)
    plain = objective_errors(accelerated_gradient(restart=False), params, problem, 600)
    restarted = objective_errors(accelerated_gradient(), params, problem, 600)
    solution = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    bound = 2 * lipschitz * np.sum(solution**2) / (np.arange(1, 601) + 1) ** 2
    assert np.all(plain[1:] <= bound)
    for tolerance in np.logspace(-1, -10, 10) * plain[0]:
        if np.any(plain <= tolerance):
            assert np.any(restarted <= tolerance)
            assert np.argmax(restarted <= tolerance) <= 2 * np.argmax(plain <= tolerance)
    assert restarted[-1] < 1e-3 * plain[-1]


@pytest.mark.usefixtures("x64")
def test_strong_convexity_gives_the_linear_bound():
    problem = stretched_problem(0.2)
    lipschitz, smallest = curvature(problem)
    strong = accelerated_gradient_params(lipschitz, smallest)
    errors = objective_errors(accelerated_gradient(restart=False), strong, problem, 200)
    solution = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    distance, root, k = np.sum(solution**2), (smallest / lipschitz) ** 0.5, np.arange(1, 201)
    rounding = 1e-26 * errors[0]
    bound = lipschitz * distance * np.minimum(2 / (k + 1) ** 2, (1 + root) * (1 - root) ** k / 2)
    assert np.all(errors[1:] <= bound + rounding)
    # Nesterov 2004, theorem 2.2.3
    errors = objective_errors(nesterov(), nesterov_params(lipschitz, smallest), problem, 200)
    bound = (1 - root) ** k * (errors[0] + smallest / 2 * distance)
    assert np.all(errors[1:] <= bound + rounding)
    # Polyak: the error of x falls by ((1 - root) / (1 + root)) a step, up to a polynomial; in the end the fastest
    heavy = objective_errors(heavy_ball(), heavy_ball_params(lipschitz, smallest), problem, 200)
    assert np.all(heavy[1:] <= 10 * k**2 * ((1 - root) / (1 + root)) ** (2 * k) * heavy[0] + rounding)
    assert (
        heavy[150]
        < errors[150]
        < objective_errors(gradient_descent(), gradient_descent_params(lipschitz), problem, 150)[-1]
    )


def test_a_perfectly_conditioned_problem_takes_one_step():
    params = accelerated_gradient_params(2.0, 2.0)
    found = estimates(accelerated_gradient(lambda x, b: 2 * (x - b), jnp.zeros_like), params, jnp.array([3.0]), 3)
    np.testing.assert_array_equal(found[1:], 3)


# --- gradient descent with a direction of one's own ---


class Denoise(NamedTuple):
    noisy: jax.Array
    sigma: jax.Array


def direction(prior, x, problem):
    smooth = lambda x: jnp.sum(jnp.sqrt(1 + jnp.diff(x, axis=0) ** 2))
    return prior["step_size"] * (x - problem.noisy + prior["weight"] * problem.sigma * jax.grad(smooth)(x))


def test_a_denoiser_of_one_function_in_two_modes():
    algorithm = gradient_descent(direction, start=lambda problem: problem.noisy)
    with enabled("float64"):
        prior = {"step_size": jnp.asarray(0.2), "weight": jnp.asarray(2.0)}
        problem = Denoise(draw(np.random.default_rng(0), (6, 5, 1), "float64"), jnp.asarray(0.5))
        solution = solve(algorithm, prior, problem, tolerance=1e-10, max_steps=500)
        assert bool(solution.converged)
        np.testing.assert_allclose(direction(prior, solution.state.x, problem), 0, atol=1e-9)

        def loss(prior):
            return jnp.sum(unroll(algorithm, 200, prior, layer_axes=None)(problem).x ** 2)

        value, slope = jax.jit(jax.value_and_grad(loss))(prior)
        np.testing.assert_allclose(value, jnp.sum(solution.state.x**2), rtol=1e-6)
        # all the way to the solution, the step size changes nothing
        assert abs(float(slope["step_size"])) < 1e-6 < abs(float(slope["weight"]))


def test_a_momentum_of_zero_is_gradient_descent():
    problem = least_squares(dtype="float32")
    plain = estimates(gradient_descent(), GradientDescentParams(jnp.asarray(0.05)), problem, 5)
    params = MomentumParams(jnp.asarray(0.05), jnp.asarray(0.0))
    for method in (heavy_ball(), nesterov()):
        np.testing.assert_allclose(estimates(method, params, problem, 5), plain, rtol=1e-6)


def test_the_momentum_of_t_without_a_prox_is_fista():
    with enabled("float64"):
        problem = least_squares()
        params = accelerated_gradient_params(curvature(problem)[0])
        found = estimates(accelerated_gradient(), params, problem, 60)
    np.testing.assert_allclose(found, list(itertools.islice(numpy_fista(*data_of(problem), 0.0), 61)), atol=1e-11)


# --- the safeguard ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(2))
def test_the_objective_of_a_weakly_convex_problem_never_rises_at_the_base(seed):
    rng = np.random.default_rng(seed)
    weight = 8.0
    matrix, b = rng.standard_normal((2, 2)), 3 * rng.standard_normal(2)

    # log(1 + x^2) has second derivatives in [-1/4, 2]
    def value(x):
        return jnp.sum((matrix @ x - b) ** 2) / 2 + weight * jnp.sum(jnp.log1p(x**2))

    lipschitz = float(np.linalg.norm(matrix, 2) ** 2 + 2 * weight)
    params = safeguarded_agd_params(lipschitz, weight / 4)
    starts = jnp.asarray(5 * rng.standard_normal((20, 2)))

    @jax.jit
    @jax.vmap
    def run(start):
        algorithm = safeguarded_agd(lambda x, problem: jax.grad(value)(x), start=lambda problem: start)

        def body(state, _):
            state = algorithm.step(params, state, None)
            return state, (value(state.base), value(state.x), state.momentum)

        state, records = jax.lax.scan(body, algorithm.init(None), length=400)
        return records, jax.grad(value)(state.x)

    (base, after, momentum), slope = run(starts)
    assert np.all(np.diff(base, axis=1) <= 1e-12 * np.abs(base[:, :-1]))
    # and a step never ends above where it started
    assert np.all(after <= base * (1 + 1e-12))
    np.testing.assert_allclose(slope, 0, atol=1e-7)
    assert np.any(np.diff(momentum, axis=1) < 0), "nothing had to be guarded"


def test_where_everything_might_rise_nothing_is_extrapolated():
    with enabled("float64"):
        problem = least_squares()
        lipschitz = curvature(problem)[0]
        guarded = estimates(safeguarded_agd(), safeguarded_agd_params(lipschitz, 1e9), problem, 20)
        plain = estimates(gradient_descent(), gradient_descent_params(lipschitz), problem, 20)
        free = estimates(safeguarded_agd(), safeguarded_agd_params(lipschitz, 0.0), problem, 20)
    np.testing.assert_allclose(guarded, plain, rtol=1e-12)
    assert np.max(np.abs(free[-1] - plain[-1])) > 1e-3


# --- adaptive step sizes ---


def test_adagd_finds_its_step_size_in_single_precision():
    problem = least_squares(seed=2, dtype="float32")
    lipschitz = curvature(problem)[0]
    solution = solve(adagd(), adagd_params(1e-2 / lipschitz), problem, tolerance=1e-6, max_steps=2000)
    expected = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.state.x, expected, atol=1e-4)


def test_adagd_rests_at_a_minimizer():
    at_rest = adagd(lambda x, problem: x - problem, start=lambda problem: problem)
    params = adagd_params(0.1)
    found = lambda b: jax.lax.fori_loop(0, 5, lambda _, state: at_rest.step(params, state, b), at_rest.init(b))
    state, slope = jax.jit(lambda b: (found(b), jax.jacrev(lambda b: found(b).x)(b)))(jnp.ones(2))
    assert_finite((state.x, state.step_size, slope))
    np.testing.assert_array_equal(state.x, 1)
    np.testing.assert_allclose(state.step_size, 0.1)


def test_adagd_grows_where_nothing_bends():
    # an affine objective: nothing limits the step size but its growth, (1 + growth)^(1/2) each time
    slide = adagd(lambda x, problem: jnp.ones_like(x), start=jnp.zeros_like)
    x = np.asarray(estimates(slide, adagd_params(0.1), jnp.zeros(1), 6))[:, 0]
    sizes = -np.diff(x)
    np.testing.assert_allclose(sizes[:2], 0.1, rtol=1e-5)  # no growth known, nothing measured
    growth = sizes[1:] / sizes[:-1]
    np.testing.assert_allclose(growth[1:], np.sqrt(1 + growth[:-1]), rtol=1e-4)


def test_adagd_projects():
    with enabled("float64"):
        problem = least_squares(seed=4)
        x = estimates(adagd(project=prox.non_negative), adagd_params(1e-3), problem, 2000)
        slope = np.asarray(problem.gradient(x[-1]))
    assert np.all(np.asarray(x) >= 0)
    np.testing.assert_allclose(slope * np.asarray(x[-1]), 0, atol=1e-8)
    assert np.all(slope >= -1e-8)


# --- backtracking ---


@pytest.mark.usefixtures("x64")
def test_nmapg_never_rises_above_its_reference():
    def value(x, problem):
        return jnp.sum((x - problem) ** 2) / 2 + 3 * jnp.sum(jnp.cos(3 * x))

    algorithm = nmapg(lambda x, problem: jax.grad(value)(x, problem), value, start=lambda problem: 4 * problem)
    problems = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)))

    @jax.jit
    @jax.vmap
    def run(problem):
        def body(state, _):
            before = state.reference
            state = algorithm.step(nmapg_params(100.0), state, problem)
            return state, (value(state.x, problem), before, state.num_backtracks, state.accepted)

        state, records = jax.lax.scan(body, algorithm.init(problem), length=200)
        return records, jax.grad(value)(state.x, problem)

    (values, references, num_backtracks, accepted), slope = run(problems)
    assert np.all(values <= references + 1e-12 * np.abs(references))
    assert np.all(accepted)
    assert np.all(num_backtracks[:, 0] > 10)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_nmapg_says_when_it_found_no_step():
    uphill = nmapg(lambda x, problem: -x, lambda x, problem: jnp.sum(x**2), start=lambda problem: problem)
    state = jax.jit(lambda b: uphill.step(nmapg_params(1.0), uphill.init(b), b))(jnp.ones(2))
    assert not bool(state.accepted)
    assert int(state.num_backtracks) == 200
    np.testing.assert_array_equal(state.x, 1)


def test_nmapg_does_not_care_for_the_scale_of_the_objective():
    scale = 1e4
    with enabled("float64"):
        problem = least_squares(seed=1)
        one = estimates(nmapg(), nmapg_params(1.0), problem, 30)
        scaled = nmapg(
            lambda x, problem: scale * problem.gradient(x), value=lambda x, problem: scale * problem.value(x)
        )
        other = estimates(scaled, nmapg_params(1.0 / scale), problem, 30)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_nmapg_in_single_precision_reaches_rounding():
    problem = least_squares(seed=1, dtype="float32")
    expected = np.linalg.lstsq(*data_of(problem), rcond=None)[0]
    x = estimates(nmapg(), nmapg_params(10.0), problem, 200)
    # it compares objectives, which tell points apart down to the square root of rounding only
    np.testing.assert_allclose(x[-1], expected, atol=2e-3 * np.max(np.abs(expected)))


@pytest.mark.usefixtures("x64")
def test_derivatives_of_nmapg_pass_through_what_its_functions_close_over():
    problem = least_squares(seed=1)
    smooth = lambda x: jnp.sum(jnp.sqrt(1 + x**2))

    def final(weight):
        whole = lambda x, problem: problem.value(x) + weight * smooth(x)
        algorithm = nmapg(lambda x, problem: problem.gradient(x) + weight * x / jnp.sqrt(1 + x**2), whole)
        return jnp.sum(unroll(algorithm, 4, nmapg_params(2.0))(problem).x ** 2)

    weights = jnp.array([0.5, 1.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(final)))(
        jnp.concatenate([weights, weights - 1e-6, weights + 1e-6])
    )
    np.testing.assert_allclose(slopes[:2], (values[4:] - values[2:4]) / 2e-6, rtol=1e-5)


# --- positive problems ---


@pytest.mark.usefixtures("x64")
def test_mirror_descent_solves_least_squares_on_the_simplex():
    problem = least_squares(seed=5, size=(6, 8))
    matrix, _ = data_of(problem)
    params = gradient_descent_params(np.max(np.abs(matrix.T @ matrix)))
    uniform = lambda problem: jnp.full(8, 1 / 8)
    xs = np.asarray(estimates(mirror_descent(start=uniform, simplex=True), params, problem, 3000))
    np.testing.assert_allclose(np.sum(xs, axis=1), 1, rtol=1e-12)
    assert np.all(xs >= 0)
    value, gradient = value_and_gradient(problem)
    values = np.array([value(x) for x in xs])
    assert np.all(np.diff(values) <= 1e-12 * values[0])
    # the gradient is the same wherever there is mass, and nowhere smaller
    slope, support = gradient(xs[-1]), xs[-1] > 1e-6
    assert 1 < np.sum(support) < 8
    np.testing.assert_allclose(slope[support], np.min(slope), atol=1e-5)
    # the classical rate: log(n) L / k from the uniform start
    best = values[-1]
    assert np.all(values[1:] - best <= np.log(8) / params.step_size / np.arange(1, 3001))


def test_mirror_descent_on_the_orthant_is_the_formula():
    problem = positive_problem()
    _, gradient = value_and_gradient(problem)
    found = estimates(mirror_descent(), GradientDescentParams(jnp.asarray(0.01)), problem, 2)
    x = np.ones(5)
    for step in range(2):
        x = x * np.exp(-0.01 * gradient(x))
        np.testing.assert_allclose(found[step + 1], x, rtol=1e-4)


def test_mirror_descent_survives_steep_slopes():
    steep = mirror_descent(lambda x, problem: problem, jnp.ones_like, simplex=True)
    slope = jnp.array([1e4, -1e4, 0.0])
    found = estimates(steep, gradient_descent_params(1.0), slope, 3)
    np.testing.assert_allclose(found[-1], [0, 3, 0], atol=1e-6)


def log_likelihood(x, matrix, counts, background):
    mean = matrix @ x + background
    return np.sum(np.where(counts > 0, counts * np.log(np.where(mean > 0, mean, 1)), 0) - mean)


class Counts(NamedTuple):
    operator: Any
    measurement: jax.Array
    background: jax.Array | None = None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("background", [0.0, 2.0])
def test_mlem_raises_the_likelihood_and_keeps_the_counts(background):
    smooth = positive_problem()
    matrix, counts = data_of(smooth)
    problem = Counts(smooth.operator, smooth.measurement, jnp.full(8, background) if background else None)
    params = mlem_params(problem.operator, problem.measurement)
    xs = np.asarray(estimates(mlem(), params, problem, 300))
    likelihood = np.array([log_likelihood(x, matrix, counts, background) for x in xs])
    assert np.all(np.diff(likelihood) >= -1e-10 * np.abs(likelihood[:-1]))
    assert np.all(xs >= 0)
    np.testing.assert_array_equal(xs[:, 1], 1)  # no measurement sees it
    seen = matrix.sum(axis=1) > 0
    # the loop
    x, sensitivity = np.ones(5), matrix.sum(axis=0)
    for step in range(4):
        expected = matrix @ x + background
        ratio = counts / np.where(expected > 0, expected, 1)
        x = x * np.where(sensitivity > 0, (matrix.T @ ratio) / np.where(sensitivity > 0, sensitivity, 1), 1)
        np.testing.assert_allclose(xs[step + 1], x, rtol=1e-10)
    if not background:
        np.testing.assert_allclose(xs[1:] @ sensitivity, np.sum(counts[seen]), rtol=1e-12)
    # optimality: no entry could raise the likelihood
    slope = matrix.T @ (counts / np.where(seen, matrix @ xs[-1] + background, 1) - 1)
    assert np.all(slope[sensitivity > 0] <= 1e-2)


def test_mlem_without_counts_is_zero_and_stays_differentiable():
    problem = positive_problem()
    params = mlem_params(problem.operator, problem.measurement)

    def final(counts):
        return unroll(mlem(), 3, params)(LeastSquares(problem.operator, counts)).x

    nothing = jnp.zeros(8)
    found, slope = jax.jit(lambda counts: (final(counts), jax.jacrev(final)(counts)))(nothing)
    np.testing.assert_array_equal(found, [0, 1, 0, 0, 0])
    assert_finite(slope)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [0.5, 1.9])
def test_sirt_solves_weighted_least_squares(relaxation):
    problem = positive_problem()
    matrix, counts = data_of(problem)
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    inverse = lambda sums: np.where(sums > 0, 1 / np.where(sums > 0, sums, 1), 0)
    params = sirt_params(problem.operator, jax.ShapeDtypeStruct((8,), "float64"), relaxation)
    np.testing.assert_allclose(params.row_weights, inverse(rows), rtol=1e-12)
    np.testing.assert_allclose(params.column_weights, inverse(columns), rtol=1e-12)
    xs = np.asarray(estimates(sirt(), params, problem, 2000))
    x = np.zeros(5)
    for step in range(3):
        x = x + relaxation * inverse(columns) * (matrix.T @ (inverse(rows) * (counts - matrix @ x)))
        np.testing.assert_allclose(xs[step + 1], x, rtol=1e-11)
    root = np.sqrt(inverse(rows))[:, None]
    expected = np.linalg.lstsq(root * matrix, root[:, 0] * counts, rcond=None)[0]
    np.testing.assert_allclose(xs[-1], expected, atol=1e-7 * np.max(expected))


def test_sirt_in_a_box():
    problem = positive_problem()
    params = sirt_params(problem.operator, problem.measurement)
    xs = np.asarray(estimates(sirt(project=functools.partial(prox.box, upper=2.0)), params, problem, 50))
    assert np.all((xs >= 0) & (xs <= 2))
    assert np.any(xs[-1] == 2)


# --- estimates of several arrays, precisions ---

TREE_METHODS = {
    "gradient_descent": lambda gradient, start: (
        gradient_descent(lambda size, x, b: jax.tree.map(lambda g: size * g, gradient(x, b)), start),
        jnp.asarray(0.5),
    ),
    "heavy_ball": lambda gradient, start: (heavy_ball(gradient, start), heavy_ball_params(1.0, 0.5)),
    "nesterov": lambda gradient, start: (nesterov(gradient, start), nesterov_params(1.0, 0.5)),
    "accelerated": lambda gradient, start: (accelerated_gradient(gradient, start), accelerated_gradient_params(2.0)),
    "safeguarded": lambda gradient, start: (
        safeguarded_agd(gradient, start=start),
        safeguarded_agd_params(2.0, 0.0),
    ),
    "adagd": lambda gradient, start: (adagd(gradient, start), adagd_params(0.1)),
    "nmapg": lambda gradient, start: (nmapg(gradient, tree_value, start=start), nmapg_params(0.3)),
}


def tree_value(x, b):
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b) ** 2) / 2, x, b)
    return jax.tree.reduce(jnp.add, squares)


@pytest.mark.parametrize("name", TREE_METHODS)
def test_estimates_of_several_arrays_and_types(name):
    gradient = lambda x, b: jax.tree.map(jnp.subtract, x, b)
    start = lambda b: jax.tree.map(jnp.zeros_like, b)
    algorithm, params = TREE_METHODS[name](gradient, start)
    problem = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0 + 1.0j]])}
    state = jax.jit(
        lambda b: jax.lax.fori_loop(0, 60, lambda _, state: algorithm.step(params, state, b), algorithm.init(b))
    )(problem)
    assert_close(state.x, problem, 1e-4)


def test_positive_estimates_of_several_arrays():
    target = {"a": jnp.array([0.1, 0.2]), "b": jnp.array([[0.7]])}
    gradient = lambda x, b: jax.tree.map(jnp.subtract, x, b)
    start = lambda b: jax.tree.map(lambda leaf: jnp.full_like(leaf, 1 / 3), b)
    x = solve(
        mirror_descent(gradient, start, simplex=True),
        gradient_descent_params(1.0),
        target,
        tolerance=1e-6,
        max_steps=500,
    ).state.x
    assert_close(x, target, 1e-3)


@pytest.mark.parametrize("name", LOOPS)
def test_single_precision_stays_where_parameters_are_double(name):
    with enabled("float64"):
        problem = least_squares(dtype="float32")
        algorithm, params, _ = case_of(name, problem)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float64"), params)
        start = jax.eval_shape(algorithm.init, problem)
        after = jax.eval_shape(algorithm.step, params, start, problem)
        assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(start)]


def test_whole_numbers_make_parameters_that_can_be_trained():
    made = [
        gradient_descent_params(4),
        heavy_ball_params(4, 1),
        nesterov_params(4, 1),
        accelerated_gradient_params(4, 1),
        safeguarded_agd_params(4, 1, 1),
        adagd_params(1),
        nmapg_params(1, 1),
        sirt_params(UNIT.operator, jnp.ones(2), 1),
        relaxed_params(None, 1),
    ]
    for leaf in jax.tree.leaves(made):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type


# --- misuse ---

UNIT = LeastSquares(Dense(jnp.eye(2)), jnp.ones(2))
WRONG: Any = None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_descent_params(0.0), r"`lipschitz` must be positive, got 0\.0"),
        (lambda: heavy_ball_params(1.0, -1.0), r"`strong_convexity` must be positive, got -1\.0"),
        (lambda: nesterov_params(1.0, 0.0), r"`strong_convexity` must be positive, got 0\.0"),
        (lambda: nesterov_params(1.0, 2.0), "`strong_convexity` must be nowhere above `lipschitz`"),
        (lambda: accelerated_gradient_params(1.0, 2.0), "`strong_convexity` must be nowhere above `lipschitz`"),
        (lambda: safeguarded_agd_params(1.0, -0.5), r"`weak_convexity` must be non-negative, got -0\.5"),
        (lambda: safeguarded_agd_params(1.0, 0.5, margin=0.9), r"`margin` must be at least 1, got 0\.9"),
        (lambda: adagd_params(0.0), r"`first_step_size` must be positive, got 0\.0"),
        (lambda: nmapg_params(-1.0), r"`step_size` must be positive, got -1\.0"),
        (lambda: nmapg(shrink=1.0), r"`shrink` must lie strictly between 0\.0 and 1\.0, got 1\.0"),
        (lambda: nmapg(memory=1.0), r"`memory` must lie in \[0, 1\), got 1\.0"),
        (lambda: nmapg(max_backtracks=0), "`max_backtracks` must be a whole number of at least 1, got 0"),
        (lambda: sirt_params(WRONG, jnp.ones(2)), "`operator` must be a linear operator"),
        (lambda: mlem_params(WRONG, jnp.ones(2)), "`operator` must be a linear operator"),
        (lambda: sirt_params(UNIT.operator, jnp.ones(2), 0.0), r"`relaxation` must be positive, got 0\.0"),
        (lambda: solve(gradient_descent(), WRONG, UNIT, tolerance=0.1, max_steps=1), "gradient_descent_params"),
        (lambda: solve(nesterov(), WRONG, UNIT, tolerance=0.1, max_steps=1), "nesterov_params makes them"),
        (lambda: solve(sirt(), WRONG, UNIT, tolerance=0.1, max_steps=1), "sirt_params makes them"),
        (
            lambda: heavy_ball(start=lambda problem: jnp.ones(2)).step(heavy_ball_params(1.0, 0.5), UNSTARTED, None),
            "`problem` must have `.gradient`",
        ),
        (lambda: mlem(lambda problem: jnp.ones(2) + 1j).init(UNIT), "`x` must be real, got complex64"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


UNSTARTED = heavy_ball(start=lambda problem: jnp.ones(2)).init(None)
