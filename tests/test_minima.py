"""The minima that classical methods reach, against scikit-learn and NumPy: objectives to 1e-6.

Those of total variation denoising are compared with scikit-image's in `test_splitting_methods.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stack
from sklearn.linear_model import Lasso as ScikitLasso

from unroll_jax import algorithms, objectives, operators, prox
from unroll_jax.algorithms import proximal_gradient, proximal_gradient_params

NUM_ROWS, NUM_COLUMNS, L1_WEIGHT = 30, 20, 2.0
RNG = np.random.default_rng(7)
MATRIX = RNG.standard_normal((NUM_ROWS, NUM_COLUMNS)) + 0.5
CODE = np.where(RNG.random(NUM_COLUMNS) < 0.3, RNG.standard_normal(NUM_COLUMNS), 0)
MEASUREMENT = MATRIX @ CODE + 0.3 * RNG.standard_normal(NUM_ROWS)
CURVATURES = np.linalg.eigvalsh(MATRIX.T @ MATRIX)
LIPSCHITZ, CONVEXITY = float(CURVATURES[-1]), float(CURVATURES[0])


class Method(NamedTuple):
    """An algorithm, `make_params(operator, strength)`, and steps that suffice."""

    algorithm: Any
    make_params: Any
    num_steps: int = 1500


def identity(problem: Any) -> operators.Dense:
    del problem
    return operators.Dense(jnp.eye(NUM_COLUMNS))


def shrink(threshold: Any, x: Any) -> Any:
    return prox.l1(x, threshold)


def ista_params(operator: Any, strength: float) -> Any:
    return proximal_gradient_params(operator, strength)


SMOOTH = {
    "gradient_descent": Method(
        algorithms.gradient_descent(), lambda a, s: algorithms.gradient_descent_params(LIPSCHITZ), 3000
    ),
    "heavy_ball": Method(algorithms.heavy_ball(), lambda a, s: algorithms.heavy_ball_params(LIPSCHITZ, CONVEXITY)),
    "nesterov": Method(algorithms.nesterov(), lambda a, s: algorithms.nesterov_params(LIPSCHITZ, CONVEXITY)),
    "accelerated_gradient": Method(
        algorithms.accelerated_gradient(), lambda a, s: algorithms.accelerated_gradient_params(LIPSCHITZ)
    ),
    "adagd": Method(algorithms.adagd(), lambda a, s: algorithms.adagd_params(1e-4)),
}

# with strength 0 these solve least squares, too
COMPOSITE = {
    "proximal_gradient": Method(proximal_gradient(), ista_params, 3000),
    "fista": Method(algorithms.fista(), ista_params),
    "fista without restart": Method(algorithms.fista(restart=False), ista_params, 6000),
    "safeguarded_agd": Method(
        algorithms.safeguarded_agd(prox=prox.l1), lambda a, s: algorithms.safeguarded_agd_params(LIPSCHITZ, 0.0, s)
    ),
    "nmapg": Method(algorithms.nmapg(prox=prox.l1), lambda a, s: algorithms.nmapg_params(1 / LIPSCHITZ, s), 200),
    "admm": Method(algorithms.admm(), lambda a, s: algorithms.admm_params(s, penalty=20.0)),
    "linearized_admm": Method(
        algorithms.linearized_admm(identity),
        lambda a, s: algorithms.linearized_admm_params(identity(None), s, penalty=20.0),
    ),
    "douglas_rachford": Method(
        algorithms.douglas_rachford(), lambda a, s: algorithms.douglas_rachford_params(s, step_size=0.05)
    ),
    "chambolle_pock": Method(
        algorithms.chambolle_pock(),
        lambda a, s: algorithms.chambolle_pock_params(a, primal_strength=s, ratio=0.02),
        4000,
    ),
    "condat_vu": Method(
        algorithms.condat_vu(identity, prox_dual=lambda y, strength, problem: prox.l1(y, strength)),
        lambda a, s: algorithms.condat_vu_params(identity(None), LIPSCHITZ, dual_strength=s, ratio=20.0),
        3000,
    ),
    "plug_and_play": Method(
        algorithms.plug_and_play(shrink),
        lambda a, s: algorithms.plug_and_play_params(a, jnp.asarray(s / LIPSCHITZ)),
        3000,
    ),
    "plug_and_play_admm": Method(
        algorithms.plug_and_play_admm(shrink),
        lambda a, s: algorithms.plug_and_play_admm_params(jnp.asarray(s / 20), penalty=20.0),
    ),
    "relaxed": Method(
        algorithms.relaxed(proximal_gradient()), lambda a, s: algorithms.relaxed_params(ista_params(a, s), 1.4), 3000
    ),
    "monotone": Method(algorithms.monotone(algorithms.fista(), fields=("x", "extrapolated")), ista_params),
    "anderson": Method(algorithms.anderson(proximal_gradient()), ista_params, 300),
}

LEARNED = {
    "lista": Method(algorithms.lista(), lambda a, s: algorithms.lista_params(a, s), 3000),
    "slista": Method(algorithms.slista(), lambda a, s: algorithms.slista_params(a), 3000),
}
NEEDS_ITS_VALUE = ("nmapg", "monotone", "slista")


def objective(x: Any, l1_weight: float) -> float:
    return float(np.sum((MATRIX @ np.asarray(x) - MEASUREMENT) ** 2) / 2 + l1_weight * np.sum(np.abs(x)))


def reached(name: str, method: Method, strengths: list[float]) -> list[float]:
    """The objective at the method's last estimate, for each strength."""
    operator, measurement = operators.Dense(jnp.asarray(MATRIX)), jnp.asarray(MEASUREMENT)

    def last(params: Any, strength: Any) -> Any:
        problem: Any = objectives.LeastSquares(operator, measurement)
        if name in NEEDS_ITS_VALUE:
            problem = objectives.Lasso(operator, measurement, strength)
        body = lambda _, state: method.algorithm.step(params, state, problem)
        return jax.lax.fori_loop(0, method.num_steps, body, method.algorithm.init(problem)).x

    params = stack([method.make_params(operator, strength) for strength in strengths])
    xs = jax.jit(jax.vmap(last))(params, jnp.asarray(strengths))
    return [objective(x, strength) for x, strength in zip(xs, strengths, strict=True)]


@pytest.fixture(scope="module")
def lasso_minimum():
    """The minimum that scikit-learn's coordinate descent finds, whose least squares are divided by their number."""
    solver = ScikitLasso(alpha=L1_WEIGHT / NUM_ROWS, fit_intercept=False, tol=1e-14, max_iter=100_000)
    code = solver.fit(MATRIX, MEASUREMENT).coef_
    assert 0 < np.sum(code == 0) < NUM_COLUMNS
    return objective(code, L1_WEIGHT)


@pytest.fixture(scope="module")
def least_squares_minimum():
    return objective(np.linalg.lstsq(MATRIX, MEASUREMENT, rcond=None)[0], 0.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COMPOSITE)
def test_the_lasso_of_scikit_learn_and_the_least_squares_of_numpy(name, lasso_minimum, least_squares_minimum):
    found = reached(name, COMPOSITE[name], [L1_WEIGHT, 0.0])
    np.testing.assert_allclose(found, [lasso_minimum, least_squares_minimum], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LEARNED)
def test_learned_networks_at_their_classical_parameters_solve_the_lasso_of_scikit_learn(name, lasso_minimum):
    np.testing.assert_allclose(reached(name, LEARNED[name], [L1_WEIGHT]), [lasso_minimum], rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SMOOTH)
def test_the_least_squares_of_numpy(name, least_squares_minimum):
    np.testing.assert_allclose(reached(name, SMOOTH[name], [0.0]), [least_squares_minimum], rtol=1e-6)
