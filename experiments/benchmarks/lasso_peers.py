"""The Lasso solvers of other libraries, each at the loosest setting that reaches the duality gap."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.benchmarks.harness import Side, peer
from experiments.benchmarks.lasso_problems import Problems, batch_of, gap_side, loosest

TOLERANCES = [10 ** (-half / 2) for half in range(2, 17)]
COUNTS = [round(10 * 1.25**power) for power in range(30)]
NUM_LOOPED = 2
"""Problems of a loop that compiles anew for each, so that it ends."""


def _estimators(problems: Problems, make: Callable[[float, float], Any]) -> Side:
    """A loop over estimators in the manner of scikit-learn: `make(alpha, tolerance)`, then `fit` and `coef_`."""
    num, rows = problems.measurements.shape
    alpha = problems.l1_weight / rows  # they divide the data term by the number of rows
    # column by column, as coordinate descent reads it
    matrices = [np.asfortranarray(matrix) for matrix in problems.matrices]

    def looped(tolerance: float) -> Callable[[], np.ndarray]:
        estimator = make(alpha, tolerance)

        def run() -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fits = (estimator.fit(matrices[i % len(matrices)], problems.measurements[i]) for i in range(num))
                return np.stack([fit.coef_.ravel().copy() for fit in fits])

        return run

    return gap_side(problems, loosest(problems, looped, TOLERANCES), num)


def scikit_learn_side(problems: Problems) -> Side:
    """A loop over `sklearn.linear_model.Lasso`, coordinate descent."""
    models = peer("sklearn.linear_model")
    return _estimators(
        problems,
        lambda alpha, tol: models.Lasso(alpha=alpha, tol=tol, fit_intercept=False, copy_X=False, max_iter=10_000),
    )


def scikit_learn_at_once_side(problems: Problems) -> Side:
    """One fit for all measurements of one matrix, whose Gram matrix is computed once."""
    models = peer("sklearn.linear_model")
    matrix = np.asfortranarray(problems.matrices[0])
    num, rows = problems.measurements.shape
    targets = np.asfortranarray(problems.measurements.T)

    def fitted(tolerance: float) -> Callable[[], np.ndarray]:
        model = models.Lasso(
            alpha=problems.l1_weight / rows,
            tol=tolerance,
            fit_intercept=False,
            copy_X=False,
            max_iter=10_000,
            precompute=True,
        )

        def run() -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return model.fit(matrix, targets).coef_.copy()

        return run

    return gap_side(problems, loosest(problems, fitted, TOLERANCES), num)


def skglm_side(problems: Problems) -> Side:
    """A loop over `skglm.Lasso`, coordinate descent on working sets."""
    skglm = peer("skglm")
    return _estimators(problems, lambda alpha, tol: skglm.Lasso(alpha=alpha, tol=tol, fit_intercept=False))


def celer_side(problems: Problems) -> Side:
    """A loop over `celer.Lasso`, coordinate descent on working sets from dual extrapolation."""
    celer = peer("celer")
    return _estimators(problems, lambda alpha, tol: celer.Lasso(alpha=alpha, tol=tol, fit_intercept=False))


def quiet_scico() -> dict[str, Any]:
    """Options for scico that keep it from computing the objective in every iteration."""
    return {"itstat_options": {"fields": {"Iter": "%d"}, "itstat_func": lambda solver: (solver.itnum,)}}


def _scico_solver(problems: Problems, index: int | None, num_iterations: int) -> Any:
    """FISTA of scico for one problem, or for all as the columns of one (None)."""
    functional, linop, loss, optimize = (peer(f"scico.{name}") for name in ("functional", "linop", "loss", "optimize"))
    matrix = jnp.asarray(problems.matrix(index or 0))
    measured = jnp.asarray(problems.measurements.T if index is None else problems.measurements[index])
    columns = measured.shape[1] if index is None else 0
    norm = problems.norms[index if index is not None and len(problems.norms) > 1 else 0]
    return optimize.AcceleratedPGM(
        f=loss.SquaredL2Loss(y=measured, A=linop.MatrixOperator(matrix, input_cols=columns)),
        g=problems.l1_weight * functional.L1Norm(),
        L0=float(norm) ** 2,
        x0=jnp.zeros((matrix.shape[1], *measured.shape[1:])),
        maxiter=num_iterations,
        **quiet_scico(),
    )


def scico_side(problems: Problems) -> Side:
    """A loop over solvers, each of which compiles its own step."""
    num = min(NUM_LOOPED, len(problems.measurements))

    def looped(count: int) -> Callable[[], Any]:
        return lambda: np.stack([np.asarray(_scico_solver(problems, i, count).solve()) for i in range(num)])

    return gap_side(problems, loosest(problems, looped, COUNTS), num)


def scico_at_once_side(problems: Problems) -> Side:
    """FISTA of scico for all measurements of one matrix, as the columns of one problem."""

    def solved(count: int) -> Callable[[], Any]:
        return lambda: np.asarray(_scico_solver(problems, None, count).solve()).T

    return gap_side(problems, loosest(problems, solved, COUNTS), len(problems.measurements))


def _jaxopt_solver(problems: Problems, tolerance: float) -> Callable[..., Any]:
    jaxopt = peer("jaxopt")
    # a number, for it searches a line where it is told none; matrices of one distribution hardly differ in norm
    step = float(1 / np.max(problems.norms) ** 2)

    def smooth(x: jax.Array, data: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.sum((data[0] @ x - data[1]) ** 2) / 2

    solver = jaxopt.ProximalGradient(
        smooth, jaxopt.prox.prox_lasso, stepsize=step, tol=tolerance, maxiter=10_000, implicit_diff=False
    )

    def solve(matrix: jax.Array, measurement: jax.Array) -> jax.Array:
        start = jnp.zeros(matrix.shape[1])
        return solver.run(start, problems.l1_weight, data=(matrix, measurement)).params

    return solve


def jaxopt_side(problems: Problems) -> Side:
    """A loop over jaxopt's accelerated proximal gradient method, compiled once."""
    num = len(problems.measurements)
    matrices = [jnp.asarray(matrix) for matrix in problems.matrices]
    measurements = [jnp.asarray(measurement) for measurement in problems.measurements]
    arguments = [(matrices[i % len(matrices)], measurements[i]) for i in range(num)]

    def looped(tolerance: float) -> Callable[[], Any]:
        solve = jax.jit(_jaxopt_solver(problems, tolerance))
        return lambda: np.stack([np.asarray(solve(*each)) for each in arguments])

    return gap_side(problems, loosest(problems, looped, TOLERANCES), num)


def jaxopt_vmap_side(problems: Problems) -> Side:
    """The accelerated proximal gradient method of jaxopt for all problems in one program."""
    axis, (matrices, measurements, _) = batch_of(problems)

    def solved(tolerance: float) -> Callable[[], Any]:
        solve = jax.jit(jax.vmap(_jaxopt_solver(problems, tolerance), (axis, 0)))
        return lambda: solve(matrices, measurements)

    return gap_side(problems, loosest(problems, solved, TOLERANCES), len(problems.measurements))


def optimistix_side(problems: Problems) -> Side:
    """ISTA as a fixed point: the solver for such that optimistix has."""
    optimistix = peer("optimistix")
    axis, arguments = batch_of(problems)
    weight = problems.l1_weight

    def iteration(x: jax.Array, data: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        matrix, measurement, step = data
        return uj.prox.soft_threshold(x - step * (matrix.T @ (matrix @ x - measurement)), step * weight)

    def solved(tolerance: float) -> Callable[[], Any]:
        solver = optimistix.FixedPointIteration(rtol=tolerance, atol=tolerance)

        def solve(*data: jax.Array) -> jax.Array:
            start = jnp.zeros(data[0].shape[1])
            return optimistix.fixed_point(iteration, solver, start, data, max_steps=10_000, throw=False).value

        batched = jax.jit(jax.vmap(solve, (axis, 0, axis)))
        return lambda: batched(*arguments)

    return gap_side(problems, loosest(problems, solved, TOLERANCES), len(problems.measurements))


def scico_admm_side(problems: Problems, num_iterations: int) -> Side:
    """As many iterations of scico's ADMM on the first problem, which factors its matrix once."""
    functional, linop, loss, optimize = (peer(f"scico.{name}") for name in ("functional", "linop", "loss", "optimize"))
    subproblems = peer("scico.optimize.admm")
    matrix = jnp.asarray(problems.matrices[0])
    start = jnp.zeros(matrix.shape[1])

    def run() -> Any:
        return optimize.ADMM(
            f=loss.SquaredL2Loss(y=jnp.asarray(problems.measurements[0]), A=linop.MatrixOperator(matrix)),
            g_list=[problems.l1_weight * functional.L1Norm()],
            C_list=[linop.Identity(start.shape)],
            rho_list=[1.0],
            x0=start,
            maxiter=num_iterations,
            subproblem_solver=subproblems.MatrixSubproblemSolver(),
            **quiet_scico(),
        ).solve()

    return Side(run, same_as="ADMM", tolerance=1e-2)
