"""Splitting and primal-dual methods, classical and with learned denoisers, against oracles in NumPy and SciPy."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from catalogue.splitting_methods import ALGORITHMS
from flax import nnx
from helpers import (
    assert_close,
    data_of,
    draw,
    enabled,
    estimates,
    lasso_minimizer,
    lasso_value,
    numpy_soft_threshold,
    stack,
)
from skimage.restoration import denoise_tv_chambolle

from unroll_jax import Unrolled, solve, unroll
from unroll_jax.algorithms import (
    ADMMParams,
    ChambollePockParams,
    CondatVuParams,
    CondatVuState,
    DouglasRachfordParams,
    HalfQuadraticParams,
    LearnedPrimalDualParams,
    LinearizedADMMParams,
    MoDLParams,
    PlugAndPlayADMMParams,
    PlugAndPlayParams,
    adjoint_start,
    admm,
    admm_params,
    chambolle_pock,
    chambolle_pock_params,
    condat_vu,
    condat_vu_params,
    douglas_rachford,
    douglas_rachford_params,
    half_quadratic_params,
    half_quadratic_splitting,
    learned_primal_dual,
    linearized_admm,
    linearized_admm_params,
    modl,
    modl_params,
    plug_and_play,
    plug_and_play_admm,
    plug_and_play_admm_params,
    plug_and_play_params,
    proximal_gradient,
    proximal_gradient_params,
)
from unroll_jax.objectives import LeastSquares
from unroll_jax.operators import Dense, Diagonal, operator_norm
from unroll_jax.prox import soft_threshold, total_variation

SIZE, STRENGTH = (14, 9), 0.8
KINDS = ["float64", "complex128"]


def least_squares(dtype: str = "float64", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return LeastSquares(Dense(draw(rng, SIZE, dtype)), draw(rng, SIZE[:1], dtype))


def last(algorithm: Any, params: Any, problem: Any, num_steps: int) -> Any:
    body = lambda _, state: algorithm.step(params, state, problem)
    return jax.lax.fori_loop(0, num_steps, body, algorithm.init(problem))


def identity_of(problem: Any) -> Dense:
    return Dense(jnp.eye(SIZE[1], dtype=problem.measurement.dtype))


def differences_of(problem: Any) -> Dense:
    return Dense(jnp.asarray(np.diff(np.eye(SIZE[1]), axis=0), problem.measurement.dtype))


def data_prox(x: Any, strength: Any, problem: Any) -> Any:
    return problem.prox(x, strength)


def threshold(x: Any, strength: Any, problem: Any) -> Any:
    del problem
    return jax.tree.map(soft_threshold, x, jax.tree.map(lambda _: strength, x))


# --- the same minimizer ---


class Method(NamedTuple):
    algorithm: Any
    params: Any  # (problem, strength, pace) -> params
    num_steps: int


def _condat_vu_params(problem, strength, pace):
    lipschitz = operator_norm(problem.operator) ** 2
    return condat_vu_params(identity_of(problem), lipschitz, dual_strength=strength, ratio=pace)


METHODS = {
    "admm": Method(admm(), lambda problem, s, pace: admm_params(s, penalty=4 * pace, relaxation=1.5), 500),
    "douglas_rachford": Method(
        douglas_rachford(),
        lambda problem, s, pace: douglas_rachford_params(s, step_size=0.25 * pace, relaxation=1.2),
        500,
    ),
    "linearized_admm": Method(
        linearized_admm(identity_of),
        lambda problem, s, pace: linearized_admm_params(identity_of(problem), s, penalty=20 * pace),
        2000,
    ),
    "chambolle_pock": Method(
        chambolle_pock(),
        lambda problem, s, pace: chambolle_pock_params(problem.operator, primal_strength=s, ratio=pace),
        2000,
    ),
    "chambolle_pock, data on the primal side": Method(
        chambolle_pock(identity_of, data_prox, threshold),
        lambda problem, s, pace: chambolle_pock_params(identity_of(problem), dual_strength=s, ratio=0.2 * pace),
        2000,
    ),
    "condat_vu": Method(condat_vu(identity_of), _condat_vu_params, 2000),
}


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_minimizer_whatever_its_steps(name, dtype):
    algorithm, make_params, num_steps = METHODS[name]
    with enabled(dtype):
        problem = least_squares(dtype)
        matrix, measurement = data_of(problem)
        solutions = [
            lasso_minimizer(matrix, measurement, STRENGTH),
            np.linalg.lstsq(matrix, measurement, rcond=None)[0],
        ]
        cases = [(s, pace) for s in (STRENGTH, 0.0) for pace in (0.5, 2.0)]
        params = stack([make_params(problem, *case) for case in cases])
        found = jax.jit(jax.vmap(lambda params: last(algorithm, params, problem, num_steps).x))(params)
    for x, (strength, _) in zip(np.asarray(found), cases, strict=True):
        solution = solutions[0] if strength else solutions[1]
        minimum = lasso_value(solution, matrix, measurement, strength)
        np.testing.assert_allclose(x, solution, atol=1e-8)
        np.testing.assert_allclose(lasso_value(x, matrix, measurement, strength), minimum, rtol=1e-12)


def fused_lasso_minimizer(matrix: np.ndarray, measurement: np.ndarray, strength: float) -> np.ndarray:
    """The minimizer of ||A x - b||^2 / 2 + strength ||D x||_1 through its dual, a least-squares problem in a box."""
    inverse = np.linalg.inv(np.linalg.cholesky(matrix.T @ matrix))  # of the lower factor
    differences = np.diff(np.eye(matrix.shape[1]), axis=0)
    target = inverse @ matrix.T @ measurement
    dual = scipy.optimize.lsq_linear(inverse @ differences.T, target, (-strength, strength), method="bvls", tol=1e-15)
    return inverse.T @ (target - inverse @ differences.T @ dual.x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """x -> (first(x), second(x)), for what the tests need of it."""

    first: Any
    second: Any

    def __call__(self, x: Any) -> Any:
        return self.first(x), self.second(x)

    def adjoint(self, y: Any) -> Any:
        return self.first.adjoint(y[0]) + self.second.adjoint(y[1])


def stacked_prox(y: Any, strength: Any, problem: Any) -> Any:
    distance = (y[0] + strength[0] * problem.measurement) / (1 + strength[0])
    return distance, soft_threshold(y[1], strength[1])


@pytest.mark.usefixtures("x64")
def test_penalties_of_differences():
    problem = least_squares()
    strength, like = 2.5, jnp.zeros(SIZE[1])
    differences = differences_of(problem)
    stack_of = lambda problem: Stacked(problem.operator, differences)
    lipschitz = operator_norm(problem.operator) ** 2
    nothing = lambda x, strength, problem: x
    cases = [
        (linearized_admm(differences_of), linearized_admm_params(differences, strength, penalty=10.0)),
        (
            chambolle_pock(differences_of, data_prox, threshold),
            chambolle_pock_params(differences, dual_strength=strength, ratio=0.3),
        ),
        (
            chambolle_pock(stack_of, nothing, stacked_prox),
            chambolle_pock_params(stack_of(problem), like, dual_strength=(1.0, strength)),
        ),
        (condat_vu(differences_of), condat_vu_params(differences, lipschitz, dual_strength=strength)),
    ]
    run = jax.jit(lambda params: [last(case[0], p, problem, 3000).x for case, p in zip(cases, params, strict=True)])
    expected = fused_lasso_minimizer(*data_of(problem), strength)
    assert 0 < np.sum(np.abs(np.diff(expected)) < 1e-9) < SIZE[1] - 1
    for x in run([params for _, params in cases]):
        np.testing.assert_allclose(x, expected, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_constraint_beside_the_penalty():
    """Condat-Vu with all three terms, against bounded least squares."""
    problem = least_squares()
    non_negative = lambda x, strength, problem: jnp.maximum(x, 0)
    ridge = lambda y, strength, problem: y / (1 + strength)  # of ||y||^2 / 2
    algorithm = condat_vu(identity_of, non_negative, ridge)
    matrix, measurement = data_of(problem)
    params = condat_vu_params(identity_of(problem), operator_norm(problem.operator) ** 2, dual_strength=3.0)
    found = jax.jit(lambda: last(algorithm, params, problem, 2000).x)()
    rows = np.vstack([matrix, 3**0.5 * np.eye(SIZE[1])])
    expected, _ = scipy.optimize.nnls(rows, np.concatenate([measurement, np.zeros(SIZE[1])]))
    assert 0 < np.sum(expected == 0) < SIZE[1]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_x_may_rest_while_the_multipliers_move():
    """So the default residual of `solve` would stop at zero, and one that sees the whole state does not."""
    problem = least_squares()
    params = chambolle_pock_params(problem.operator, primal_strength=STRENGTH, ratio=5.0)
    algorithm = chambolle_pock()
    assert not jnp.any(one_step(algorithm, params, problem).x)

    def change(previous, state, problem):
        del problem
        return jnp.linalg.norm(state.x - previous.x) + jnp.linalg.norm(state.dual - previous.dual)

    solution = solve(algorithm, params, problem, tolerance=1e-12, max_steps=5000, residual=change)
    assert solution.converged
    np.testing.assert_allclose(solution.state.x, lasso_minimizer(*data_of(problem), STRENGTH), atol=1e-8)


# --- half-quadratic splitting ---


@pytest.mark.parametrize("dtype", KINDS)
def test_half_quadratic_splitting_minimizes_the_envelope(dtype):
    penalty = 3.0
    with enabled(dtype):
        problem = least_squares(dtype)
        params = half_quadratic_params(STRENGTH, penalty=penalty)
        x = np.asarray(jax.jit(lambda: last(half_quadratic_splitting(), params, problem, 500).x)())
    matrix, measurement = data_of(problem)
    # the Moreau envelope of the l1 norm is Huber's function, whose gradient is this
    huber_gradient = penalty * x / np.maximum(1, penalty * np.abs(x) / STRENGTH)
    np.testing.assert_allclose(matrix.conj().T @ (measurement - matrix @ x), huber_gradient, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_growing_penalties_lead_to_the_minimizer_and_constant_ones_do_not():
    problem = least_squares()
    matrix, measurement = data_of(problem)
    solution = lasso_minimizer(matrix, measurement, STRENGTH)
    params = stack([half_quadratic_params(STRENGTH, growth=growth) for growth in (0.0, 0.1)])
    xs = jax.vmap(lambda params: estimates(half_quadratic_splitting(), params, problem, 4000))(params)
    error = np.linalg.norm(np.asarray(xs) - solution, axis=-1) / np.linalg.norm(solution)
    assert error[0, -1] > 0.05
    assert error[1, -1] < 2e-3
    # as one over the number of iterations
    np.testing.assert_allclose(error[1, 4000] / error[1, 2000], 0.5, rtol=0.1)


# --- total variation ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Differences:
    """Forward differences of an image, `(h, w)` to `(h, w, 2)`, zero past the last row and column."""

    def __call__(self, x: Any) -> Any:
        down = jnp.pad(jnp.diff(x, axis=0), ((0, 1), (0, 0)))
        right = jnp.pad(jnp.diff(x, axis=1), ((0, 0), (0, 1)))
        return jnp.stack([down, right], axis=-1)

    def adjoint(self, y: Any) -> Any:
        down = jnp.diff(jnp.pad(y[:-1, :, 0], ((1, 1), (0, 0))), axis=0)
        right = jnp.diff(jnp.pad(y[:, :-1, 1], ((0, 0), (1, 1))), axis=1)
        return -down - right


def shorten(y: Any, strength: Any, problem: Any) -> Any:
    """The proximal operator of the sum of the lengths of the vectors on the last axis."""
    del problem
    length = jnp.linalg.norm(y, axis=-1, keepdims=True)
    return y * jnp.maximum(1 - strength / jnp.where(length == 0, 1, length), 0)


class Denoising(NamedTuple):
    noisy: jax.Array

    def prox(self, x: Any, strength: Any) -> Any:
        return (x + strength * self.noisy) / (1 + strength)

    def gradient(self, x: Any) -> Any:
        return x - self.noisy


def tv_value(x: np.ndarray, noisy: np.ndarray, weight: float) -> float:
    down = np.pad(np.diff(x, axis=0), ((0, 1), (0, 0)))
    right = np.pad(np.diff(x, axis=1), ((0, 0), (0, 1)))
    return float(np.sum((x - noisy) ** 2) / 2 + weight * np.sum(np.sqrt(down**2 + right**2)))


@pytest.mark.usefixtures("x64")
def test_total_variation_denoising():
    rng = np.random.default_rng(0)
    noisy = np.kron(rng.random((3, 4)), np.ones((5, 4))) + 0.1 * rng.standard_normal((15, 16))
    weight = 0.05
    oracle = denoise_tv_chambolle(noisy, weight=weight, eps=0.0, max_num_iter=3000)
    start = lambda problem: problem.noisy
    differences, like = Differences(), jnp.asarray(noisy)
    of_image = lambda problem: differences
    plain = chambolle_pock_params(differences, like, dual_strength=weight, ratio=0.1)
    accelerated = chambolle_pock_params(differences, like, dual_strength=weight, strong_convexity=0.5)
    cases = [
        (chambolle_pock(of_image, data_prox, shorten, start), accelerated),
        (chambolle_pock(of_image, data_prox, shorten, start), plain),
        (
            condat_vu(of_image, prox_dual=shorten, start=start),
            condat_vu_params(differences, 1.0, like, dual_strength=weight, ratio=0.05),
        ),
        (
            linearized_admm(of_image, lambda y, strength: shorten(y, strength, None), start=start),
            linearized_admm_params(differences, weight, like, penalty=3.0),
        ),
    ]
    problem = Denoising(like)
    run = jax.jit(lambda params: [last(case[0], p, problem, 4000).x for case, p in zip(cases, params, strict=True)])
    values = [tv_value(np.asarray(x), noisy, weight) for x in run([params for _, params in cases])]
    values.append(tv_value(np.asarray(total_variation(like, weight, num_steps=2000)), noisy, weight))
    best = tv_value(oracle, noisy, weight)
    assert best < 0.8 * tv_value(noisy, noisy, weight)
    np.testing.assert_allclose(values, best, rtol=1e-6)


# --- one step is the formula, a run the loop ---


def numpy_data_prox(x, strength, matrix, measurement):
    system = np.eye(len(x)) + strength * matrix.conj().T @ matrix
    return np.linalg.solve(system, x + strength * matrix.conj().T @ measurement)


def project(y, radius):
    """The proximal operator of the conjugate of radius ||y||_1: onto the ball of the largest modulus."""
    return y / np.maximum(1, np.abs(y) / radius)


def numpy_half_quadratic(matrix, measurement, analysis):
    x = np.zeros(matrix.shape[1], measurement.dtype)
    for k in range(40):
        penalty = 2.0 * (1 + 0.3 * k)
        z = numpy_soft_threshold(x, STRENGTH / penalty)
        x = numpy_data_prox(z, 1 / penalty, matrix, measurement)
        yield x


def numpy_admm(matrix, measurement, analysis):
    z = u = np.zeros(matrix.shape[1], measurement.dtype)
    for _ in range(40):
        x = numpy_data_prox(z - u, 1 / 3.0, matrix, measurement)
        v = 1.6 * x - 0.6 * z
        z = numpy_soft_threshold(v + u, STRENGTH / 3.0)
        u = u + v - z
        yield x


def numpy_linearized_admm(matrix, measurement, analysis):
    x = np.zeros(matrix.shape[1], measurement.dtype)
    z = u = analysis @ x
    for _ in range(40):
        x = x - 0.1 * 2.0 * analysis.conj().T @ (analysis @ x - z + u)
        x = numpy_data_prox(x, 0.1, matrix, measurement)
        z = numpy_soft_threshold(analysis @ x + u, STRENGTH / 2.0)
        u = u + analysis @ x - z
        yield x


def numpy_douglas_rachford(matrix, measurement, analysis):
    v = np.zeros(matrix.shape[1], measurement.dtype)
    for _ in range(40):
        x = numpy_data_prox(v, 0.3, matrix, measurement)
        v = v + 1.4 * (numpy_soft_threshold(2 * x - v, 0.3 * STRENGTH) - x)
        yield x


def numpy_chambolle_pock(matrix, measurement, analysis):
    x = x_bar = np.zeros(matrix.shape[1], measurement.dtype)
    y = analysis @ x
    primal_step, step_size = 0.4, 0.5
    for _ in range(40):
        y = project(y + step_size * analysis @ x_bar, STRENGTH)
        previous, x = x, numpy_data_prox(x - primal_step * analysis.conj().T @ y, primal_step, matrix, measurement)
        theta = 1 / np.sqrt(1 + 2 * 0.7 * primal_step)
        x_bar = x + 0.9 * theta * (x - previous)
        primal_step, step_size = theta * primal_step, step_size / theta
        yield x


def numpy_condat_vu(matrix, measurement, analysis):
    x = np.zeros(matrix.shape[1], measurement.dtype)
    y = analysis @ x
    for _ in range(40):
        gradient = matrix.conj().T @ (matrix @ x - measurement)
        x_next = numpy_soft_threshold(x - 0.02 * (gradient + analysis.conj().T @ y), 0.02 * 0.3)
        y_next = project(y + 0.6 * analysis @ (2 * x_next - x), STRENGTH)
        x, y = x + 0.9 * (x_next - x), y + 0.9 * (y_next - y)
        yield x


LOOPS = {
    "half_quadratic_splitting": (
        half_quadratic_splitting(),
        HalfQuadraticParams(*map(jnp.array, (2.0, STRENGTH, 0.3))),
        numpy_half_quadratic,
    ),
    "admm": (admm(), ADMMParams(*map(jnp.array, (3.0, STRENGTH, 1.6))), numpy_admm),
    "linearized_admm": (
        linearized_admm(differences_of),
        LinearizedADMMParams(*map(jnp.array, (0.1, 2.0, STRENGTH))),
        numpy_linearized_admm,
    ),
    "douglas_rachford": (
        douglas_rachford(),
        DouglasRachfordParams(*map(jnp.array, (0.3, STRENGTH, 1.4))),
        numpy_douglas_rachford,
    ),
    "chambolle_pock": (
        chambolle_pock(differences_of, data_prox, threshold),
        ChambollePockParams(*map(jnp.array, (0.4, 0.5, 1.0, STRENGTH, 0.9, 0.7))),
        numpy_chambolle_pock,
    ),
    "condat_vu": (
        condat_vu(differences_of, threshold),
        CondatVuParams(*map(jnp.array, (0.02, 0.6, 0.3, STRENGTH, 0.9))),
        numpy_condat_vu,
    ),
}


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", LOOPS)
def test_a_run_is_the_loop_in_numpy(name, dtype):
    algorithm, params, loop = LOOPS[name]
    with enabled(dtype):
        # the numbers themselves, not their roundings to single precision
        params = jax.tree.map(lambda leaf: jnp.asarray(float(f"{float(leaf):.6g}")), params)
        problem = least_squares(dtype)
        found = estimates(algorithm, params, problem, 40)[1:]
    expected = list(loop(*data_of(problem), np.diff(np.eye(SIZE[1]), axis=0)))
    np.testing.assert_allclose(found, expected, atol=1e-11)


# --- one method as a case of another ---


@pytest.mark.usefixtures("x64")
def test_admm_is_douglas_rachford_with_the_roles_swapped():
    problem = least_squares()
    first = admm(start=lambda problem: jnp.ones(SIZE[1]))
    params = admm_params(STRENGTH, penalty=3.0)
    state = first.step(params, first.init(problem), problem)
    # Douglas-Rachford on g, then f, governed by x + u
    second = douglas_rachford(
        prox=lambda x, strength: problem.prox(x, strength),
        prox_data=lambda x, strength, problem: soft_threshold(x, STRENGTH * strength),
        start=lambda problem: state.x,
    )
    swapped = second.init(problem)
    for _ in range(5):
        swapped = second.step(douglas_rachford_params(1.0, step_size=1 / 3.0), swapped, problem)
        np.testing.assert_allclose(swapped.x, state.auxiliary, atol=1e-12)
        state = first.step(params, state, problem)


@pytest.mark.usefixtures("x64")
def test_condat_vu_without_a_smooth_term_is_chambolle_pock():
    problem = least_squares()
    pdhg = chambolle_pock(differences_of, data_prox, threshold)
    flat = condat_vu(differences_of, data_prox, threshold, gradient=lambda x, problem: jnp.zeros_like(x))
    params = chambolle_pock_params(differences_of(problem), dual_strength=STRENGTH)
    others = CondatVuParams(
        params.primal_step, params.dual_step, params.primal_strength, params.dual_strength, jnp.ones(())
    )
    previous = pdhg.init(problem)
    state = pdhg.step(params, previous, problem)
    other = CondatVuState(previous.x, state.dual)  # it updates x first
    for _ in range(5):
        other = flat.step(others, other, problem)
        np.testing.assert_allclose(other.x, state.x, atol=1e-12)
        state = pdhg.step(params, state, problem)
        np.testing.assert_allclose(other.dual, state.dual, atol=1e-12)


@pytest.mark.parametrize("dtype", KINDS)
def test_learned_primal_dual_holds_chambolle_pock(dtype):
    with enabled(dtype):
        problem = least_squares(dtype)
        params = chambolle_pock_params(problem.operator, primal_strength=STRENGTH)

        def dual_update(params, memory, projection, measurement):
            y = memory[..., 0] + params.dual_step * projection
            return ((y - params.dual_step * measurement) / (1 + params.dual_step))[..., None] - memory

        def primal_update(params, memory, image):
            x = soft_threshold(memory[..., 0] - params.primal_step * image, params.primal_step * STRENGTH)
            return jnp.stack([x, 2 * x - memory[..., 0]], axis=-1) - memory

        learned = learned_primal_dual(primal_update, dual_update, num_primal=2, num_dual=1)
        found = estimates(learned, LearnedPrimalDualParams(params, params), problem, 20)
        np.testing.assert_allclose(found, estimates(chambolle_pock(), params, problem, 20), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_methods_with_a_proximal_operator_for_denoiser_are_the_classical_ones():
    problem = least_squares()
    shrink = lambda strength, x: soft_threshold(x, strength)
    classical = proximal_gradient_params(problem.operator, STRENGTH)
    weight = classical.step_size * STRENGTH
    pairs = [
        (
            (plug_and_play(shrink), plug_and_play_params(problem.operator, weight)),
            (proximal_gradient(), classical),
        ),
        (
            (plug_and_play_admm(shrink), plug_and_play_admm_params(jnp.array(0.2), penalty=4.0, relaxation=1.3)),
            (admm(), admm_params(0.8, penalty=4.0, relaxation=1.3)),
        ),
        (
            (modl(shrink), modl_params(jnp.array(0.2), penalty=4.0)),
            (half_quadratic_splitting(start=adjoint_start), half_quadratic_params(0.8, penalty=4.0)),
        ),
    ]
    for learned, plain in pairs:
        found, expected = (estimates(algorithm, params, problem, 10) for algorithm, params in (learned, plain))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_relaxed_denoisers_are_averages():
    problem, algorithm = least_squares(), plug_and_play(lambda params, x: jnp.tanh(params * x))
    x = algorithm.init(problem).x
    params = PlugAndPlayParams(jnp.array(2.0), jnp.array(0.05), jnp.array(0.4))
    matrix, measurement = data_of(problem)
    forward = np.asarray(x) - 0.05 * matrix.T @ (matrix @ np.asarray(x) - measurement)
    found = algorithm.step(params, algorithm.init(problem), problem).x
    np.testing.assert_allclose(found, 0.4 * np.tanh(2 * forward) + 0.6 * forward, rtol=1e-12)


# --- estimates of several arrays, and precision ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Doubled:
    """x -> 2 x on any tree."""

    def __call__(self, x: Any) -> Any:
        return jax.tree.map(lambda leaf: 2 * leaf, x)

    def adjoint(self, y: Any) -> Any:
        return self(y)


def test_estimates_of_several_arrays():
    problem = {"a": jnp.array([3.0, -0.5]), "b": jnp.array([[1.5 + 2j]])}
    start = lambda problem: jax.tree.map(jnp.zeros_like, problem)
    prox = lambda x, strength: threshold(x, strength, None)
    prox_data = lambda x, strength, problem: jax.tree.map(lambda a, b: (a + strength * b) / (1 + strength), x, problem)
    gradient = lambda x, problem: jax.tree.map(jnp.subtract, x, problem)
    doubled, like = (lambda problem: Doubled()), problem
    shrink = lambda params, x: threshold(x, params, None)
    # K x = 2 x doubles the weight of the l1 norm
    pairs = [
        (admm(prox, prox_data, start), admm_params(1.0)),
        (douglas_rachford(prox, prox_data, start), douglas_rachford_params(1.0)),
        (linearized_admm(doubled, prox, prox_data, start), linearized_admm_params(Doubled(), 0.5, like)),
        (
            chambolle_pock(doubled, prox_data, threshold, start),
            chambolle_pock_params(Doubled(), like, dual_strength=0.5),
        ),
        (
            condat_vu(doubled, prox_dual=threshold, gradient=gradient, start=start),
            condat_vu_params(Doubled(), 1.0, like, dual_strength=0.5),
        ),
        (
            plug_and_play(shrink, gradient, start),
            PlugAndPlayParams(jnp.array(1.0), jnp.array(1.0), jnp.array(1.0)),
        ),
        (plug_and_play_admm(shrink, prox_data, start), plug_and_play_admm_params(jnp.array(1.0))),
    ]
    run = jax.jit(lambda params: [last(pair[0], p, problem, 200).x for pair, p in zip(pairs, params, strict=True)])
    for x in run([params for _, params in pairs]):
        assert_close(x, {"a": jnp.array([2.0, 0.0]), "b": jnp.array([[0.9 + 1.2j]])}, 1e-5)


def test_methods_with_memory_take_several_arrays_too():
    problem = LeastSquares(Doubled(), {"a": jnp.array([3.0, -0.5]), "b": jnp.array([[1.5]])})
    learned = learned_primal_dual(
        lambda step, memory, image: jax.tree.map(lambda m, a: -step * a[..., None] + 0 * m, memory, image),
        lambda step, memory, data, measurement: jax.tree.map(
            lambda m, a, b: (a - b)[..., None] - m, memory, data, measurement
        ),
        num_primal=3,
        num_dual=1,
    )
    params = LearnedPrimalDualParams(jnp.array(0.1), jnp.array(0.0))
    averaged = modl(lambda scale, x: jax.tree.map(lambda leaf: scale * leaf, x), start=lambda p: p.measurement)
    both = jax.jit(
        lambda: (last(learned, params, problem, 100).x, last(averaged, modl_params(jnp.array(1.0)), problem, 100).x)
    )
    for x in both():
        assert_close(x, jax.tree.map(lambda leaf: leaf / 2, problem.measurement), 1e-5)


@pytest.mark.parametrize("row", ALGORITHMS, ids=lambda row: row.name)
def test_parameters_of_double_precision_leave_the_data_in_single(row):
    with enabled("float64"):
        problem = row.make_problem(np.random.default_rng(0), "float32")
        params = row.make_params(problem)
        if not row.name.startswith("learned"):
            params = jax.tree.map(lambda leaf: leaf.astype("float64"), params)
        start = jax.eval_shape(row.algorithm.init, problem)
        after = jax.eval_shape(row.algorithm.step, params, start, problem)
    assert {leaf.dtype for leaf in jax.tree.leaves(start)} == {jnp.dtype("float32")}
    assert jax.tree.leaves(after) == jax.tree.leaves(start)


def test_a_denoiser_in_half_precision_leaves_the_state_in_single():
    problem = least_squares("float32")
    algorithm = plug_and_play(lambda params, x: (params * x).astype(jnp.bfloat16))
    params = plug_and_play_params(problem.operator, jnp.array(0.5))
    assert algorithm.step(params, algorithm.init(problem), problem).x.dtype == jnp.float32


# --- classical parameters ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Hidden:
    """A matrix whose norm takes power iteration."""

    matrix: Any

    def __call__(self, x: Any) -> Any:
        return self.matrix @ x

    def adjoint(self, y: Any) -> Any:
        return self.matrix.T.conj() @ y


@pytest.mark.parametrize("hide", [False, True])
def test_classical_parameters_keep_their_conditions(hide):
    dense = least_squares("float32").operator
    norm = np.linalg.norm(dense.matrix, 2)
    operator, like = (Hidden(dense.matrix), jnp.zeros(SIZE[1])) if hide else (dense, None)
    for ratio in (0.1, 1.0, 10.0):
        params = chambolle_pock_params(operator, like, ratio=ratio)
        np.testing.assert_allclose(params.primal_step / params.dual_step, ratio**2, rtol=1e-5)
        assert 0.97 < params.primal_step * params.dual_step * norm**2 < 1
        params = condat_vu_params(operator, 5.0, like, ratio=ratio)
        slack = 1 / params.primal_step - params.dual_step * norm**2
        assert 1 < slack / 2.5 < 1.05 * (1 + 1 / ratio)
        # the relaxation of 1 is inside its range
        assert params.relaxation < 2 - 2.5 / slack
    params = linearized_admm_params(operator, 0.5, like, penalty=7.0)
    assert 0.97 < params.step_size * params.penalty * norm**2 < 1
    params = plug_and_play_params(operator, None, like)
    np.testing.assert_allclose(params.step_size, norm**-2, rtol=1e-3)


def test_strengths_that_are_pytrees_and_numbers_of_numpy():
    params = chambolle_pock_params(Dense(jnp.eye(2)), dual_strength=(1, np.float32(0.5)))
    assert [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(params)] == [(jnp.float32, False)] * 7
    params = admm_params((1, 0.5), penalty=np.int64(2))  # pyright: ignore
    assert [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(params)] == [(jnp.float32, False)] * 4
    assert jax.tree.structure(params.strength) == jax.tree.structure((0, 0))


# --- networks as parameters ---


class Denoiser(nnx.Module):
    """x minus what a convolution takes for its noise; for images `(h, w, 1)`."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 1, (3, 3), rngs=rngs, kernel_init=nnx.initializers.normal(0.1))

    def __call__(self, x: Any) -> Any:
        return x - jax.nn.tanh(self.conv(x))


class Update(nnx.Module):
    """A pointwise network of all that it sees, channels last; for images without a channel axis."""

    def __init__(self, num_memory: int, num_more: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(num_memory + num_more, num_memory, rngs=rngs)

    def __call__(self, memory: Any, *more: Any) -> Any:
        return jax.nn.tanh(self.linear(jnp.concatenate([memory, *(leaf[..., None] for leaf in more)], axis=-1)))


def network_cases() -> dict[str, Any]:
    rngs = nnx.Rngs(0)
    scalar = jnp.array(0.7)
    return {
        "modl": unroll(modl(), 3, MoDLParams(Denoiser(rngs), scalar), layer_axes=None),
        "plug_and_play": unroll(plug_and_play(), 3, PlugAndPlayParams(Denoiser(rngs), scalar, scalar)),
        "plug_and_play_admm": unroll(
            plug_and_play_admm(), 3, PlugAndPlayADMMParams(Denoiser(rngs), scalar, scalar), layer_axes=None
        ),
        "learned_primal_dual": unroll(
            learned_primal_dual(num_primal=3, num_dual=2),
            3,
            LearnedPrimalDualParams(Update(3, 1, rngs), Update(2, 2, rngs)),
        ),
    }


@pytest.mark.parametrize("name", ["modl", "plug_and_play", "plug_and_play_admm", "learned_primal_dual"])
def test_networks_as_parameters_train(name):
    rng = np.random.default_rng(0)
    shape = (5, 6) if name == "learned_primal_dual" else (5, 6, 1)
    model: Unrolled = network_cases()[name]
    clean = draw(rng, (4, *shape))
    mask = jnp.asarray(rng.random(shape) < 0.7, jnp.float32)

    def loss(model, clean):
        solve = lambda x: model(LeastSquares(Diagonal(mask), mask * x)).x
        return jnp.mean((jax.vmap(solve)(clean) - clean) ** 2)

    @jax.jit
    def step(model):
        value, gradient = jax.value_and_grad(loss)(model, clean)
        return value, gradient, jax.tree.map(lambda a, b: a - 0.05 * b, model, gradient)

    before, gradient, model = step(model)
    after, _, _ = step(model)
    assert after < before
    sizes = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)]
    assert np.all(np.isfinite(sizes))
    assert np.mean(np.array(sizes) > 0) > 0.8
    if name == "modl":  # weights shared by all layers
        assert all(leaf.shape in {(3, 3, 1, 1), (1,), ()} for leaf in jax.tree.leaves(gradient))


# --- misuse ---


def one_step(algorithm: Any, params: Any, problem: Any) -> Any:
    return algorithm.step(params, algorithm.init(problem), problem)


MISUSES = {
    "a strength below zero": (lambda: admm_params(-1.0), ["`strength` must be non-negative"]),
    "one of several strengths below zero": (
        lambda: chambolle_pock_params(Dense(jnp.eye(2)), dual_strength=(1.0, -1.0)),
        ["`dual_strength` must be non-negative"],
    ),
    "a penalty of zero": (lambda: half_quadratic_params(1.0, penalty=0.0), ["`penalty` must be positive"]),
    "a step of zero": (lambda: douglas_rachford_params(1.0, step_size=0.0), ["`step_size` must be positive"]),
    "a relaxation of two": (
        lambda: admm_params(1.0, relaxation=2.0),
        ["`relaxation` must lie strictly between 0 and 2, got 2.0"],
    ),
    "a shrinking penalty": (lambda: half_quadratic_params(1.0, growth=-0.1), ["`growth`", "non-negative"]),
    "a gradient without curvature": (
        lambda: condat_vu_params(Dense(jnp.eye(2)), 0.0),
        ["`lipschitz` must be positive"],
    ),
    "an operator instead of a function": (
        lambda: linearized_admm(Dense(jnp.eye(2))),  # pyright: ignore
        ["`operator` must be a function of the problem", "Dense", "lambda problem: operator"],
    ),
    "a function that gives a matrix": (
        lambda: condat_vu(lambda problem: jnp.eye(2)).init(least_squares("float32")),  # pyright: ignore
        ["`operator(problem)` must be a linear operator"],
    ),
    "a problem without a proximal operator": (
        lambda: one_step(admm(start=lambda problem: problem.noisy), admm_params(1.0), Bare(jnp.ones(2))),
        ["`problem` must have `.prox`", "`prox_data`"],
    ),
    "the parameters of another method": (
        lambda: one_step(admm(), half_quadratic_params(1.0), least_squares("float32")),
        ["`params` must have", "ADMMParams, as admm_params makes them"],
    ),
    "a denoiser that changes the shape": (
        lambda: one_step(modl(lambda params, x: x[None]), modl_params(None), least_squares("float32")),
        ["`denoiser` must return what has the shape (9,), got (1, 9)", "batch"],
    ),
    "an update that forgets the memory": (
        lambda: one_step(
            learned_primal_dual(lambda params, memory, image: image, lambda params, memory, a, b: memory),
            LearnedPrimalDualParams(None, None),
            least_squares("float32"),
        ),
        ["`primal_update` must return what has the shape (9, 5), got (9,)"],
    ),
    "no memory": (lambda: learned_primal_dual(num_primal=0), ["`num_primal`", "at least 1"]),
}


class Bare(NamedTuple):
    noisy: jax.Array


@pytest.mark.parametrize("name", MISUSES)
def test_misuse(name):
    call, words = MISUSES[name]
    with pytest.raises(ValueError, match="`") as caught:
        call()
    for word in words:
        assert word in str(caught.value)
