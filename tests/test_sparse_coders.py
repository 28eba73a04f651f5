"""The LISTA family against its formulas in NumPy, its classical starts, and what its sources prove of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROUNDING, data_of, draw, enabled, estimates, lasso_minimizer, numpy_soft_threshold

import unroll_jax as uj
from unroll_jax.algorithms import (
    SLISTAParams,
    SupportSelection,
    TiLISTAParams,
    alista,
    alista_params,
    analytic_encoder,
    bernoulli_gaussian_mean,
    coherence,
    glista,
    glista_params,
    lamp,
    lamp_params,
    lista_cp,
    lista_cp_params,
    proximal_gradient,
    proximal_gradient_params,
    selective_threshold,
    slista,
    slista_params,
    tilista,
    tilista_params,
    tista,
    tista_params,
)
from unroll_jax.objectives import Lasso, LeastSquares
from unroll_jax.operators import Dense, compose, mask

SIZE = (6, 10)
Axes: Any = TiLISTAParams
L1_WEIGHT = 0.3
SUPPORT = SupportSelection(growth=0.1, limit=0.2)


def unit_columns(rng, size, dtype="float64"):
    matrix = np.asarray(draw(rng, size, dtype))
    return matrix / np.linalg.norm(matrix, axis=0)


def lasso(seed=0, dtype="float64", size=SIZE) -> Any:
    rng = np.random.default_rng(seed)
    matrix, measurement = jnp.asarray(unit_columns(rng, size, dtype)), draw(rng, size[:1], dtype)
    return Lasso(Dense(matrix), measurement, jnp.asarray(L1_WEIGHT, jnp.finfo(dtype).dtype))


def sparse_problem(seed, size=(100, 200), num_nonzero=15, noise=0.0) -> Any:
    """A problem with a known sparse code; a single precision one, as in use."""
    rng = np.random.default_rng(seed)
    matrix = unit_columns(rng, size, "float32")
    code = np.zeros(size[1], np.float32)
    code[rng.choice(size[1], num_nonzero, replace=False)] = rng.standard_normal(num_nonzero)
    measurement = matrix @ code + noise * rng.standard_normal(size[0]).astype(np.float32)
    return LeastSquares(Dense(jnp.asarray(matrix)), jnp.asarray(measurement)), code


def numpy_selective(x, threshold, count):
    """The rule entry by entry."""
    passes = np.zeros(x.shape, bool)
    passes[np.argsort(-np.abs(x))[:count]] = True
    return np.where(passes & (np.abs(x) > threshold), x, numpy_soft_threshold(x, threshold))


# --- support selection ---


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_the_largest_entries_pass_unless_they_are_below_the_threshold(count):
    x = np.array([0.25, -2.0, 1.5, 0.0, -0.75, 1.25], np.float32)
    found = selective_threshold(jnp.asarray(x), 1.0, jnp.asarray(count), most_trusted=5)
    np.testing.assert_allclose(found, numpy_selective(x, 1.0, count), rtol=1e-6)


def test_support_grows_by_its_share_up_to_its_limit():
    layers = jnp.arange(17)
    found = SupportSelection(0.012, 0.13).num_trusted(layers, num_atoms=500)
    np.testing.assert_array_equal(found, np.minimum(6 * np.arange(17), 65))


def test_what_passes_has_slope_one_and_a_selection_of_nothing_is_soft_thresholding():
    x = jnp.array([3.0, -2.0, 0.5])
    one_passes = lambda x, threshold: selective_threshold(x, threshold, jnp.asarray(1), most_trusted=1)
    slope = jax.jit(jax.jacobian(one_passes, (0, 1)))(x, 1.0)
    np.testing.assert_array_equal(slope[0], np.diag([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(slope[1], [0.0, 1.0, 0.0])
    nothing = [SupportSelection(0.0, 0.5).num_trusted(jnp.asarray(3), 10), jnp.asarray(0)]
    for num_trusted, most_trusted in zip(nothing, (3, 0), strict=True):
        np.testing.assert_array_equal(
            selective_threshold(x, 1.0, num_trusted, most_trusted), uj.prox.soft_threshold(x, 1.0)
        )


@pytest.mark.parametrize("make", [lista_cp, tilista, alista, glista])
def test_misuse_of_support_selection_is_told(make):
    with pytest.raises(ValueError, match=r"`support` must be SupportSelection\(growth, limit\) or None, got float"):
        make(support=0.1)
    with pytest.raises(ValueError, match="`limit` must be a share of the entries, at most 1, got 13"):
        make(support=SupportSelection(1.2e-2, 13))
    with pytest.raises(ValueError, match="`growth` must be non-negative"):
        make(support=SupportSelection(-0.1, 0.1))


# --- classical starts ---


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_coupled_coders_start_as_ista(dtype):
    with enabled(dtype):

        @jax.jit
        def run_all(problem):
            operator = problem.operator
            return [
                uj.scan_layers(a.step, p, a.init(problem), problem, num_layers=5, layer_axes=None, record=lambda s: s.x)
                for a, p in (
                    (proximal_gradient(), proximal_gradient_params(operator, L1_WEIGHT)),
                    (lista_cp(), lista_cp_params(operator, L1_WEIGHT)),
                    (tilista(), tilista_params(operator, L1_WEIGHT)),
                    (slista(), slista_params(operator)),
                    (glista(), glista_params(operator, L1_WEIGHT)),
                )
            ]

        (_, expected), *others = run_all(lasso(dtype=dtype))
        for _, found in others:
            np.testing.assert_allclose(found, expected, atol=10 * ROUNDING[dtype])


def test_slista_takes_operators_without_a_matrix_and_has_the_minimizer_as_fixed_point():
    with enabled("float64"):
        problem = lasso()
        solution = jnp.asarray(lasso_minimizer(*data_of(problem), L1_WEIGHT))
        masked = Lasso(compose(mask(jnp.ones(SIZE[0], bool)), problem.operator), problem.measurement, L1_WEIGHT)
        params = slista_params(masked.operator, like=jnp.zeros(SIZE[1]))
        there = slista(lambda problem: solution)

        @jax.jit
        def step(log_step_size):
            return there.step(SLISTAParams(log_step_size), there.init(masked), masked).x

        for change in (0.0, 0.5, -3.0):
            np.testing.assert_allclose(step(params.log_step_size + change), solution, atol=1e-12)
    norm = np.linalg.norm(data_of(problem)[0], ord=2)
    np.testing.assert_allclose(params.log_step_size, -2 * np.log(norm), atol=1e-3)


# --- formulas ---


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("support", [None, SUPPORT])
def test_coupled_coders_are_their_formulas(dtype, support):
    rng = np.random.default_rng(3)
    with enabled(dtype):
        problem = lasso(dtype=dtype)
        encoder = 0.3 * draw(rng, SIZE[::-1], dtype)
        params = TiLISTAParams(encoder, jnp.log(0.7), jnp.log(0.2))
        found = {make: estimates(make(support=support), params, problem, 4) for make in (tilista, alista)}
        coupled = lista_cp_params(problem.operator, 1.0)._replace(encoder=0.7 * encoder, log_threshold=jnp.log(0.2))
        found[lista_cp] = estimates(lista_cp(support=support), coupled, problem, 4)
    matrix, b, encoder = (np.asarray(a) for a in (problem.operator.matrix, problem.measurement, encoder))
    x, expected = np.zeros(SIZE[1], dtype), [np.zeros(SIZE[1], dtype)]
    for layer in range(1, 5):
        count = 0 if support is None else min(layer, 2)
        x = numpy_selective(x + 0.7 * encoder @ (b - matrix @ x), 0.2, count)
        expected.append(x)
    for xs in found.values():
        np.testing.assert_allclose(xs, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("support", [None, SUPPORT])
def test_glista_is_its_formula(support):
    gain, overshoot, width, threshold = 0.4, 0.2, 0.3, 0.15
    with enabled("float64"):
        problem = lasso()
        params = glista_params(problem.operator, L1_WEIGHT)._replace(
            gain=jnp.asarray(gain),
            overshoot=jnp.asarray(overshoot),
            log_width=jnp.log(width),
            log_threshold=jnp.log(threshold),
        )
        found = estimates(glista(support=support), params, problem, 4)
        encoder = np.asarray(params.encoder)
    matrix, b = np.asarray(problem.operator.matrix), np.asarray(problem.measurement)
    x = shrinkage = np.zeros(SIZE[1])
    for layer in range(1, 5):
        count = 0 if support is None else min(layer, 2)
        h = x * (1 + gain * shrinkage / (np.abs(x) + width))
        r = h + encoder @ (b - matrix @ h)
        z = numpy_selective(r, threshold, count)
        shrinkage = np.where(z == r, 0, threshold)
        x = x + (z - x) * (1 + overshoot * shrinkage / (np.abs(z - x) + width))
        np.testing.assert_allclose(found[layer], x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_lamp_starts_as_approximate_message_passing(dtype):
    with enabled(dtype):
        problem = lasso(dtype=dtype, size=(30, 60))
        found = estimates(lamp(), lamp_params(problem.operator, 1.1), problem, 6)
        scaled = lamp_params(problem.operator, 1.1)._replace(scale=jnp.asarray(0.8))
        damped = estimates(lamp(), scaled, problem, 6)
    matrix, y = np.asarray(problem.operator.matrix), np.asarray(problem.measurement)

    def divergence(r, t):
        """By central differences, over real and imaginary parts."""
        h, total = 1e-6, 0.0
        for unit in (1.0, 1j) if np.iscomplexobj(r) else (1.0,):
            slope = (numpy_soft_threshold(r + h * unit, t) - numpy_soft_threshold(r - h * unit, t)) / (2 * h)
            total += np.sum((slope / unit).real)
        return total / (2 if np.iscomplexobj(r) else 1)

    for scale, xs in ((1.0, found), (0.8, damped)):
        x, v = np.zeros(60, y.dtype), y
        for layer in range(1, 7):
            r, t = x + matrix.conj().T @ v, 1.1 * np.linalg.norm(v) / np.sqrt(30)
            x = scale * numpy_soft_threshold(r, t)
            v = y - matrix @ x + scale / 30 * divergence(r, t) * v
            np.testing.assert_allclose(xs[layer], x, rtol=1e-6, atol=1e-7)


def test_tista_is_its_formula():
    share, variance, noise, step_size = 0.2, 1.5, 0.01, 1.3
    with enabled("float64"):
        problem = lasso()
        params = tista_params(problem.operator, share, variance, noise)._replace(log_step_size=jnp.log(step_size))
        found = estimates(tista(), params, problem, 3)
    a, y = np.asarray(problem.operator.matrix), np.asarray(problem.measurement)
    m, n = a.shape
    w = a.T @ np.linalg.inv(a @ a.T)

    def normal(x, var):
        return np.exp(-(x**2) / (2 * var)) / np.sqrt(2 * np.pi * var)

    x = np.zeros(n)
    for layer in range(1, 4):
        left = y - a @ x
        v = max((left @ left - m * noise) / np.trace(a.T @ a), 1e-9)
        t = v / n * (n + (step_size**2 - 2 * step_size) * m) + step_size**2 * noise / n * np.trace(w @ w.T)
        r = x + step_size * w @ left
        on, off = share * normal(r, variance + t), (1 - share) * normal(r, t)
        x = variance / (variance + t) * r * on / (on + off)
        np.testing.assert_allclose(found[layer], x, rtol=1e-9, atol=1e-12)


def test_the_bernoulli_gaussian_mean_is_the_posterior_mean():
    """The posterior's integral, on a grid."""
    share, variance, noise = 0.3, 2.0, 0.25
    z = np.linspace(-12, 12, 200_001)
    prior = share * np.exp(-(z**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    x = np.array([-3.0, -0.4, 0.0, 1.0, 2.5])
    likelihood = np.exp(-((x[:, None] - z) ** 2) / (2 * noise))
    spike = (1 - share) * np.exp(-(x**2) / (2 * noise))
    spacing = z[1] - z[0]
    expected = spacing * (likelihood * prior) @ z / (spacing * np.sum(likelihood * prior, axis=1) + spike)
    with enabled("float64"):
        found = bernoulli_gaussian_mean(jnp.asarray(x), noise, np.log(share / (1 - share)), variance)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_bernoulli_gaussian_mean_stays_finite_at_its_ends():
    slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda x, noise: bernoulli_gaussian_mean(x, noise, -2.2, 1.0))))
    x = jnp.array([0.0, 1e-6, 1e-3, 1.0, 30.0] * 2)
    value, slope = slopes(x, jnp.repeat(jnp.array([1e-9, 1e3]), 5))
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
    np.testing.assert_allclose(value[3:5], x[3:5], rtol=1e-6)


# --- the analytic encoder ---


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_analytic_encoder_beats_its_neighbours_and_projected_gradients(dtype):
    rng = np.random.default_rng(0)
    with enabled(dtype):
        matrix = draw(rng, SIZE, dtype)
        encoder = np.asarray(analytic_encoder(Dense(matrix)))
    matrix = np.asarray(matrix)

    def project(w):
        """Onto w_i a_i = 1, row by row."""
        excess = np.sum(w * matrix.T, axis=1) - 1
        return w - (excess / np.sum(np.abs(matrix) ** 2, axis=0))[:, None] * matrix.T.conj()

    def energy(w):
        return np.sum(np.abs(w @ matrix) ** 2)

    np.testing.assert_allclose(np.sum(encoder * matrix.T, axis=1), 1, rtol=1e-12)
    for _ in range(20):
        neighbour = project(encoder + 0.01 * rng.standard_normal(SIZE[::-1]))
        assert energy(neighbour) > energy(encoder)
    w, step_size = project(matrix.conj().T), 1 / np.linalg.norm(matrix, ord=2) ** 2
    for _ in range(20_000):
        w = project(w - step_size * w @ matrix @ matrix.conj().T)
    np.testing.assert_allclose(w, encoder, atol=1e-8)


def test_the_analytic_encoder_is_less_coherent_than_the_adjoint():
    problem, _ = sparse_problem(0)
    matrix = problem.operator.matrix
    products = np.abs(np.asarray(matrix).T @ np.asarray(matrix))
    np.fill_diagonal(products, 0)
    found = coherence(matrix.T, problem.operator)
    np.testing.assert_allclose(found, np.max(products), rtol=1e-5)
    assert coherence(analytic_encoder(problem.operator), problem.operator) < found


def test_without_full_rank_the_encoder_still_meets_its_constraint():
    rng = np.random.default_rng(0)
    with enabled("float64"):
        low_rank = draw(rng, (4, 2), "float64") @ draw(rng, (2, 5), "float64")
        encoder = analytic_encoder(Dense(low_rank))
        np.testing.assert_allclose(jnp.sum(encoder * low_rank.T, axis=1), 1, rtol=1e-10)
        tall = draw(rng, (7, 3), "float64")
        np.testing.assert_allclose(analytic_encoder(Dense(tall)) @ tall, np.eye(3), atol=1e-12)


def test_no_gradient_reaches_what_is_computed():
    problem, _ = sparse_problem(0, size=(6, 10), num_nonzero=2)
    made = {
        alista(support=SUPPORT): (alista_params(problem.operator, 0.1), ("encoder",)),
        tista(): (tista_params(problem.operator, 0.1, noise_variance=0.01), ("encoder", "noise_variance")),
    }
    for algorithm, (params, fixed) in made.items():
        slope = jax.jit(jax.grad(lambda p, a=algorithm: jnp.sum(estimates(a, p, problem, 3)[-1] ** 2)))(params)
        for name, leaf in slope._asdict().items():
            assert bool(jnp.any(leaf != 0)) == (name not in fixed), name


# --- recovery ---


@pytest.mark.parametrize(
    ("algorithm", "make_params", "num_nonzero"),
    [
        (alista(support=SupportSelection(0.005, 0.05)), lambda operator: alista_params(operator, 0.1), 5),
        (lamp(), lambda operator: lamp_params(operator, 1.2), 15),
        (tista(), lambda operator: tista_params(operator, 0.08), 15),
    ],
    ids=["alista", "lamp", "tista"],
)
def test_untrained_coders_recover_sparse_codes(algorithm, make_params, num_nonzero):
    problem, code = sparse_problem(1, num_nonzero=num_nonzero)
    xs = np.asarray(estimates(algorithm, make_params(problem.operator), problem, 60))
    errors = np.sum((xs - code) ** 2, axis=1) / np.sum(code**2)
    assert errors[-1] < 1e-3
    # in 16 layers they are beyond what ISTA reaches
    ista = estimates(proximal_gradient(), proximal_gradient_params(problem.operator, 0.05), problem, 16)[-1]
    assert errors[16] < np.sum((ista - code) ** 2) / np.sum(code**2)


def test_the_error_that_lamp_estimates_is_the_one_it_makes():
    problem, code = sparse_problem(2, size=(400, 800), num_nonzero=80, noise=0.02)
    operator = problem.operator
    matrix, b = np.asarray(operator.matrix), np.asarray(problem.measurement)
    state = jax.jit(uj.unroll(lamp(), 3, lamp_params(operator)))(problem)
    seen = state.x + matrix.T @ state.residual
    np.testing.assert_allclose(np.std(seen - code), np.linalg.norm(state.residual) / 20, rtol=0.1)
    # and without its correction the residual says less than the error is
    plain = np.linalg.norm(b - matrix @ state.x) / 20
    assert plain < 0.9 * np.std(seen - code)


# --- as networks ---


no_matrix: Any = mask(jnp.ones(3, bool))


def test_a_tied_network_trains_one_encoder_and_numbers_per_layer():
    problem, code = sparse_problem(0, size=(20, 40), num_nonzero=3)
    params = tilista_params(problem.operator, 0.1)
    network = uj.unroll(tilista(support=SUPPORT), 4, params, layer_axes=Axes(None, 0, 0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(network.params)]
    assert shapes == [(40, 20), (4,), (4,)]
    xs = network.trajectory(problem, lambda state: state.x)
    np.testing.assert_allclose(xs, estimates(tilista(support=SUPPORT), params, problem, 4), atol=1e-5)
    deeper = uj.unroll(tilista(), 4, params)
    assert jax.tree.leaves(deeper.params)[0].shape == (4, 40, 20)
    assert network(problem).num_layers == 4 and code.shape == (40,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda operator: lista_cp_params(operator, 0.0), "`l1_weight` must be positive"),
        (lambda operator: tilista_params(operator, -1.0), "`l1_weight` must be positive"),
        (lambda operator: glista_params(operator, -1.0), "`l1_weight` must be positive"),
        (lambda operator: alista_params(operator, 0.0), "`threshold` must be positive"),
        (lambda operator: alista_params(operator, 0.1, step_size=0.0), "`step_size` must be positive"),
        (lambda operator: lamp_params(operator, 0.0), "`threshold` must be positive"),
        (lambda operator: tista_params(operator, 1.0), "`share` must lie strictly between 0 and 1"),
        (lambda operator: tista_params(operator, 0.1, -1.0), "`variance` must be positive"),
        (lambda operator: tista_params(operator, 0.1, 1.0, -1.0), "`noise_variance` must be non-negative"),
        (lambda operator: tista_params(Dense(operator.matrix.T), 0.1), "`operator` must have at most as many rows"),
        (lambda _: lista_cp_params(no_matrix, 0.1), "`operator` must be a Dense operator, got Di"),
        (lambda operator: analytic_encoder(operator.matrix), "`operator` must be a Dense operator, got Array"),
    ],
)
def test_params_that_cannot_be_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make(lasso(dtype="float32").operator)


def test_params_of_another_problem_or_coder_are_told():
    problem, other = lasso(dtype="float32"), lasso(dtype="float32", size=(5, 10))
    layers = {
        lista_cp(): lista_cp_params(other.operator, 0.1),
        tilista(): tilista_params(other.operator, 0.1),
        alista(): alista_params(other.operator, 0.1),
        glista(): glista_params(other.operator, 0.1),
        lamp(): lamp_params(other.operator),
        tista(): tista_params(other.operator, 0.1),
    }
    for algorithm, params in layers.items():
        state = algorithm.init(problem)
        with pytest.raises(ValueError, match=r"`encoder` must have shape \(10, 6\).*got \(10, 5\)"):
            algorithm.step(params, state, problem)
        with pytest.raises(ValueError, match=r"`params` must have `\.encoder`"):
            algorithm.step(None, state, problem)
    with pytest.raises(ValueError, match=r"`params` must have `\.log_step_size`"):
        slista().step(None, slista().init(problem), problem)
    with pytest.raises(ValueError, match=r"`problem` must have `\.gradient` and `\.l1_weight`"):
        slista().init(problem.least_squares)
    with pytest.raises(ValueError, match="`operator` must be a Dense operator"):
        tista().init(LeastSquares(mask(jnp.ones(3, bool)), jnp.ones(3)))
    complex_code = tista().init(problem)._replace(x=jnp.zeros(10, "complex64"))
    with pytest.raises(ValueError, match="`x` must be real, got complex64"):
        tista().step(tista_params(problem.operator, 0.1), complex_code, problem)
