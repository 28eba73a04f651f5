"""Many Lasso problems to one duality gap, with one matrix for all or one each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import unroll_jax as uj
from experiments.benchmarks import lasso_peers as others
from experiments.benchmarks.harness import Side, compare
from experiments.benchmarks.lasso_problems import GAP, Problems, batch_of, gap_side, make_problems
from experiments.benchmarks.rows import Row, ratio_row, seconds_row

FISTA = uj.algorithms.fista()
ISTA = uj.algorithms.proximal_gradient()
ADMM = uj.algorithms.admm()


def measure(quick: bool) -> list[Row]:
    """The rows of both kinds of batches."""
    num, size, rounds = (3, (32, 40), 2) if quick else (256, (256, 307), 10)
    shared = make_problems(num, size, is_shared=True)
    return [
        *_rows("shared matrix", shared, rounds),
        *_rows("own matrices", make_problems(num, size, is_shared=False), rounds),
        *_admm_rows(shared, rounds),
    ]


def _rows(name: str, problems: Problems, rounds: int) -> list[Row]:
    num = len(problems.measurements)
    own = {
        "FISTA": gap_side(problems, _library(problems, FISTA), num),
        "ISTA": gap_side(problems, _library(problems, ISTA), num),
    }
    makers = {
        "scikit-learn": (others.scikit_learn_side, ">= 3.0" if len(problems.matrices) == 1 else ""),
        "scikit-learn, all at once": (others.scikit_learn_at_once_side, ""),
        "skglm": (others.skglm_side, ""),
        "celer": (others.celer_side, ""),
        "scico": (others.scico_side, ">= 5.0" if len(problems.matrices) == 1 else ""),
        "scico, all at once": (others.scico_at_once_side, ""),
        "jaxopt": (others.jaxopt_side, ">= 5.0" if len(problems.matrices) == 1 else ""),
        "jaxopt under vmap": (others.jaxopt_vmap_side, ""),
        "optimistix under vmap": (others.optimistix_side, ""),
    }
    if len(problems.matrices) > 1:
        del makers["scikit-learn, all at once"], makers["scico, all at once"]
    peers = {name: lambda make=make: make(problems) for name, (make, _) in makers.items()}
    compared = compare(own, peers, rounds=rounds, warm_up=2, budget=120)
    rows = [
        seconds_row(f"Lasso, {name}: FISTA, per problem", compared, "FISTA"),
        seconds_row(f"Lasso, {name}: ISTA, per problem", compared, "ISTA"),
    ]
    for other, (_, target) in makers.items():
        under = "ISTA" if other.startswith("optimistix") else "FISTA"
        rows.append(ratio_row(f"Lasso, {name}: {other} / {under}", compared, other, under, target))
    return rows


def _admm_rows(problems: Problems, rounds: int) -> list[Row]:
    num = 50
    matrix = jnp.asarray(problems.matrices[0])
    own = {
        "ADMM": Side(_library_admm(uj.operators.factored(matrix), problems, num)),
        "ADMM, Dense": Side(_library_admm(uj.operators.Dense(matrix), problems, num), same_as="ADMM"),
    }
    compared = compare(own, {"scico": lambda: others.scico_admm_side(problems, num)}, rounds=rounds, warm_up=2)
    return [
        seconds_row(f"Lasso, one problem: {num} iterations of ADMM", compared, "ADMM"),
        ratio_row(f"Lasso, one problem: scico / {num} iterations of ADMM", compared, "scico", "ADMM"),
        ratio_row("Lasso, one problem: ADMM, a factor in each iteration / factored", compared, "ADMM, Dense", "ADMM"),
    ]


def _library(problems: Problems, algorithm: uj.Algorithm) -> Callable[[], Any]:
    axis, arguments = batch_of(problems)
    weight = jnp.float32(problems.l1_weight)

    def relative_gap(_: Any, state: Any, problem: uj.objectives.Lasso) -> jax.Array:
        return problem.duality_gap(state.x) / problem.value(state.x)

    def solve(matrix: jax.Array, measurement: jax.Array, step: jax.Array) -> jax.Array:
        problem = uj.objectives.Lasso(uj.operators.Dense(matrix), measurement, weight)
        params = uj.algorithms.ProximalGradientParams(step, weight)
        return uj.solve(
            algorithm, params, problem, tolerance=GAP, max_steps=10_000, residual=relative_gap, check_every=10
        ).state.x

    batched = jax.jit(jax.vmap(solve, (axis, 0, axis)))
    return lambda: batched(*arguments)


def _library_admm(operator: uj.operators.Dense, problems: Problems, num_iterations: int) -> Callable[[], Any]:
    params = uj.algorithms.admm_params(problems.l1_weight)

    @jax.jit
    def solve(measurement: jax.Array) -> jax.Array:
        problem = uj.objectives.LeastSquares(operator, measurement)
        start = ADMM.init(problem)
        return uj.scan_layers(ADMM.step, params, start, problem, num_layers=num_iterations, layer_axes=None)[0].x

    measurement = jnp.asarray(problems.measurements[0])
    return lambda: solve(measurement)
