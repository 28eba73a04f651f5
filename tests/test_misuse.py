"""Mistakes that users make, and what they are told: the argument's name, what it must be, and what came instead.

One row a mistake. What is told is the error's text with its notes, as a traceback shows them, or stderr of the command
line. Sizes and values are drawn once from a fixed seed; no two sizes are equal, so that none stands in for another.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import unroll_jax as uj
from experiments import cli
from unroll_jax import (
    adapters,
    algorithms,
    certificates,
    constraints,
    export,
    flows,
    noise,
    objectives,
    operators,
    prox,
    stopping,
    testing,
    training,
)

RNG = np.random.default_rng(2312)
M, N, BATCH, LAYERS = (int(size) for size in RNG.permutation(np.arange(3, 12))[:4])

KEY = jax.random.key(0)
MATRIX: Any = RNG.standard_normal((M, N)).astype(np.float32)
YS: Any = RNG.standard_normal((BATCH, M)).astype(np.float32)
XS: Any = RNG.standard_normal((BATCH, N)).astype(np.float32)
VALUES = np.sort(RNG.random((BATCH, LAYERS + 1)), axis=1)[:, ::-1]

DENSE = operators.Dense(jnp.asarray(MATRIX))
ISTA, ISTA_PARAMS = algorithms.proximal_gradient(), algorithms.ProximalGradientParams(jnp.array(0.01), jnp.array(0.1))
LISTA, LISTA_PARAMS = algorithms.lista(), algorithms.LISTAParams(jnp.eye(N), jnp.asarray(MATRIX.T), jnp.zeros(N))
IMAGE = jnp.ones((M, N))
DISTANCE = constraints.distance_to(lambda example: example["x"])
EXAMPLE = {"x": XS[0], "y": YS[0]}


class Misuse(NamedTuple):
    """One mistake.

    Attributes:
        name: what is wrong.
        act: does it, given an empty folder; or the arguments of the command line, in a folder of runs.
        outcome: the exception's type, or the exit status.
        says: what must be told, in any order.
    """

    name: str
    act: Callable[[Path], Any] | list[str]
    outcome: type[BaseException] | int
    says: tuple[str, ...]


def problem(y: Any = YS[0], operator: Any = DENSE) -> objectives.LeastSquares:
    return objectives.LeastSquares(operator, y)


def network(**options: Any) -> uj.Unrolled:
    return uj.unroll(LISTA, LAYERS, LISTA_PARAMS, **options)


def stacked(params: Any = LISTA_PARAMS, num_layers: int = LAYERS) -> Any:
    return uj.stack_layers([params] * num_layers)


def solve(algorithm: Any = ISTA, params: Any = ISTA_PARAMS, one: Any = None, **options: Any) -> uj.Solution:
    options = {"tolerance": 1e-3, "max_steps": 5} | options
    return uj.solve(algorithm, params, problem() if one is None else one, **options)


def fixed_point(algorithm: Any = ISTA, **options: Any) -> Any:
    options = {"tolerance": 1e-3, "max_steps": 5} | options
    return uj.equilibrium(algorithm, ISTA_PARAMS, problem(), **options)


def batch_terms(model: Any, batch: Any, key: Any) -> Any:
    del key
    trajectories = jax.vmap(lambda y: model.trajectory(problem(y), lambda state: state.x))(batch["y"])
    violation = jax.vmap(constraints.descent(DISTANCE, 0.1))(trajectories, batch)
    return jnp.mean((trajectories[:, -1] - batch["x"]) ** 2), {"descent": jnp.mean(violation, axis=0)}


ARRAYS = {"x": XS, "y": YS}


def trainer(terms: Any = batch_terms, primal: Any = None, dual: Any = None, **options: Any) -> uj.PrimalDual:
    primal = optax.sgd(1e-3) if primal is None else primal
    return uj.primal_dual(terms, primal, optax.sgd(1e-3) if dual is None else dual, **options)


def init(model: Any = None, terms: Any = batch_terms, key: Any = KEY, **options: Any) -> uj.PrimalDualState:
    return trainer(terms, **options).init(network() if model is None else model, ARRAYS, key)


def fit(batches: Any = None, **options: Any) -> training.Fitted:
    options = {"trainer": trainer(), "model": network(), "num_steps": 1, "key": KEY} | options
    batches = (lambda step: ARRAYS) if batches is None else batches
    return training.fit(options.pop("trainer"), options.pop("model"), batches, **options)


class Bare(nnx.Module):
    """A module whose array is no nnx.Param."""

    def __init__(self):
        self.scale = nnx.data(jnp.ones(()))


class Tied(nnx.Module):
    """A module with one nnx.Param at two places."""

    def __init__(self):
        self.first = nnx.Param(jnp.ones(()))
        self.second = self.first


class NoAdjoint(NamedTuple):
    """A map without `adjoint`."""

    matrix: Any

    def __call__(self, x: Any) -> Any:
        return self.matrix @ x


class WrongAdjoint(NoAdjoint):
    """A map whose adjoint loses an entry."""

    def adjoint(self, y: Any) -> Any:
        return self.matrix[:, 1:].T @ y


def saved_solver(folder: Path) -> export.Solver:
    path = folder / "scale.zip"
    export.save(jnp.array(2.0), jnp.zeros(M), path, apply=lambda scale, y: scale * y, platforms=["cpu"])
    return export.load(path)


def resave(folder: Path, first: Any, second: Any) -> None:
    training.Checkpoints(folder).save(1, first)
    training.Checkpoints(folder).restore(second)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def glow() -> flows.Glow:
    return flows.Glow(num_levels=2, num_steps=1, width=2, key=KEY)


IN_VMAP = "jax.vmap"

MISUSES = [
    # --- unroll, solve: one problem, one layer's parameters ---
    Misuse("network, a batch", lambda _: network()(problem(YS)), ValueError,
           ("`measurement`", f"({M},)", f"({BATCH}, {M})", IN_VMAP)),
    Misuse("network, a measurement of another size", lambda _: network()(problem(XS[0])), ValueError,
           ("`measurement`", f"({M},)", f"({N},)", "`operator`")),
    Misuse("network, the measurement alone", lambda _: network()(YS[0]), ValueError,
           ("`problem`", "LeastSquares(operator, measurement)", "ndarray")),
    Misuse("network, a matrix as operator", lambda _: network()(problem(operator=MATRIX)), ValueError,
           ("`operator`", "Dense", "ndarray")),
    Misuse("network, whole numbers", lambda _: uj.unroll(ISTA, LAYERS, ISTA_PARAMS)(
        objectives.LeastSquares(operators.Dense(jnp.ones((M, N), int)), jnp.ones(M, int))), ValueError,
           ("`measurement`", "floating-point", "int32", "astype")),
    Misuse("network, parameters for another operator", lambda _: uj.unroll(
        LISTA, LAYERS, LISTA_PARAMS)(problem(YS[0, :-1], operators.Dense(DENSE.matrix[:-1]))), ValueError,
           ("`encoder`", f"({N}, {M - 1})", f"({N}, {M})")),
    Misuse("solve, a batch", lambda _: solve(one=problem(YS)), ValueError,
           ("`measurement`", f"({M},)", f"({BATCH}, {M})", IN_VMAP)),
    Misuse("solve, a batch for FISTA", lambda _: solve(algorithms.fista(), one=problem(YS)), ValueError,
           ("`measurement`", f"({BATCH}, {M})", IN_VMAP)),
    Misuse("solve, whole numbers for FISTA", lambda _: solve(algorithms.fista(), one=objectives.LeastSquares(
        operators.Dense(jnp.ones((M, N), int)), jnp.ones(M, int))), ValueError,
           ("`measurement`", "floating-point", "int32")),
    Misuse("solve, a network's stacked parameters", lambda _: solve(LISTA, stacked()), ValueError,
           ("`recurrent`", f"({N}, {N})", f"({LAYERS}, {N}, {N})", "one layer")),
    Misuse("solve, the parameters of another algorithm", lambda _: solve(LISTA, ISTA_PARAMS), ValueError,
           ("`params`", "`.recurrent`", "LISTAParams", "ProximalGradientParams")),
    Misuse("solve, a dictionary of parameters", lambda _: solve(params={"step_size": 0.1}), ValueError,
           ("`params`", "`.step_size`", "ProximalGradientParams", "dict")),
    Misuse("solve, a factory that was not called", lambda _: solve(algorithms.fista), ValueError,
           ("`algorithm`", "Algorithm(init, step)", "function", "fista()")),
    Misuse("solve, a negative tolerance", lambda _: solve(tolerance=-1e-3), ValueError,
           ("`tolerance`", "non-negative", "-0.001")),
    Misuse("solve, no tolerance", lambda _: solve(tolerance=None), ValueError,
           ("`tolerance`", "non-negative", "None")),
    Misuse("solve, no steps", lambda _: solve(max_steps=0), ValueError,
           ("`max_steps`", "whole number of at least 1", "0")),
    Misuse("solve, a residual per entry", lambda _: solve(residual=lambda a, b, p: b.x - a.x), ValueError,
           ("`residual`", "one number", f"({N},)", "norm")),
    Misuse("solve, a step that changes the state's shape", lambda _: solve(
        uj.Algorithm(lambda p: jnp.zeros(N), lambda params, x, p: x[1:]), one=EXAMPLE), ValueError,
           ("`step`", f"float32[{N}]", f"float32[{N - 1}]", "`init`")),
    Misuse("unroll, no layers", lambda _: uj.unroll(LISTA, 0, LISTA_PARAMS), ValueError,
           ("`num_layers`", "whole number of at least 1", "0")),
    Misuse("unroll, half a layer", lambda _: uj.unroll(LISTA, 2.5, LISTA_PARAMS), ValueError,  # pyright: ignore
           ("`num_layers`", "whole number of at least 1", "2.5")),
    Misuse("unroll, a factory that was not called", lambda _: uj.unroll(
        algorithms.lista, LAYERS, LISTA_PARAMS), ValueError,  # pyright: ignore
           ("`algorithm`", "Algorithm(init, step)", "lista()")),
    Misuse("unroll, stacked parameters", lambda _: uj.unroll(LISTA, LAYERS, stacked())(problem()), ValueError,
           ("`recurrent`", f"({N}, {N})", f"({LAYERS}, {N}, {N})", "`unroll` takes the params of one layer")),
    Misuse("unroll, an axis that is none", lambda _: network(layer_axes=1), ValueError,
           ("`layer_axes`", "0 (own value per layer)", "None (shared by all layers)", "got 1")),
    Misuse("unroll, axes of another structure", lambda _: network(layer_axes={"recurrent": None}), ValueError,
           ("`layer_axes`", "prefix tree of `params`", "{'recurrent': None}")),
    Misuse("unroll, a word that remat does not know", lambda _: network(remat=True), ValueError,
           ("`remat`", '"layer"', '"nested"', "got True")),
    Misuse("unroll, more layers at once than there are", lambda _: network(layers_per_iteration=LAYERS + 1), ValueError,
           ("`layers_per_iteration`", f"at most the number of layers, {LAYERS}", f"got {LAYERS + 1}")),
    Misuse("unroll, no layers at once", lambda _: network(layers_per_iteration=0), ValueError,
           ("`layers_per_iteration`", "whole number of at least 1", "0")),
    Misuse("unroll, whole numbers to compute in", lambda _: network(compute_dtype=jnp.int8), ValueError,
           ("`compute_dtype`", "jnp.bfloat16", "int8")),
    Misuse("Unrolled, one layer's parameters", lambda _: uj.Unrolled(LISTA, LAYERS, LISTA_PARAMS), ValueError,
           ("`params", f"leading axis of {LAYERS} layers", f"({N}, {N})", "stack_layers")),
    Misuse("Unrolled, fewer layers than it says", lambda _: uj.Unrolled(LISTA, LAYERS, stacked(num_layers=2)),
           ValueError, ("`params", f"leading axis of {LAYERS} layers", f"(2, {N}, {N})")),
    Misuse("stack_layers, layers of other shapes", lambda _: uj.stack_layers([{"a": XS[0]}, {"a": YS[0]}]), ValueError,
           ("`layers`", "share their shapes", f"({N},)", f"({M},)")),
    Misuse("scan_layers, a step that changes the state's type", lambda _: uj.scan_layers(
        lambda params, x, p: (x, x), None, XS[0], None, num_layers=LAYERS), ValueError,
           ("`step`", "structure of its state", "`init`")),
    # --- algorithms ---
    Misuse("lista_params, a matrix", lambda _: algorithms.lista_params(MATRIX, 0.1), ValueError,  # pyright: ignore
           ("`operator`", "Dense", "ndarray")),
    Misuse("lista_params, a batch of operators", lambda _: algorithms.lista_params(
        operators.Dense(jnp.ones((BATCH, M, N))), 0.1), ValueError,
           ("`matrix`", "(m, n)", f"({BATCH}, {M}, {N})", IN_VMAP)),
    Misuse("lista_params, a weight of zero", lambda _: algorithms.lista_params(DENSE, 0.0), ValueError,
           ("`l1_weight`", "positive", "0.0")),
    Misuse("random_lista_params, a seed as key", lambda _: algorithms.random_lista_params(0, M, N),  # pyright: ignore
           ValueError, ("`key`", "jax.random.key(seed)", "int")),
    Misuse("random_lista_params, the layers' keys", lambda _: algorithms.random_lista_params(
        jax.random.split(KEY, LAYERS), M, N), ValueError, ("`key`", "one random key", f"({LAYERS},)", IN_VMAP)),
    Misuse("random_lista_params, a negative threshold", lambda _: algorithms.random_lista_params(
        KEY, M, N, threshold=-0.1), ValueError, ("`threshold`", "positive", "-0.1")),
    Misuse("random_lista_params, a matrix in place of its size", lambda _: algorithms.random_lista_params(
        KEY, MATRIX, N), ValueError, ("`num_measurements`", "whole number of at least 1")),  # pyright: ignore
    Misuse("proximal_gradient_params, a negative strength", lambda _: algorithms.proximal_gradient_params(DENSE, -1.0),
           ValueError, ("`strength`", "non-negative", "-1.0")),
    Misuse("proximal_gradient_params, a complex strength", lambda _: algorithms.proximal_gradient_params(
        DENSE, 1j), ValueError, ("`strength`", "real", "1j")),  # pyright: ignore
    Misuse("perturbed, a number as noise", lambda _: algorithms.perturbed(LISTA, 0.1), ValueError,  # pyright: ignore
           ("`noise_norm`", "function", "lambda x, problem: 0.1", "float")),
    Misuse("perturbed, noise per entry", lambda _: uj.unroll(
        algorithms.perturbed(ISTA, lambda x, p: jnp.abs(x)), LAYERS, ISTA_PARAMS)(
        algorithms.NoisyProblem(problem(), KEY)), ValueError, ("`noise_norm`", "one number", f"({N},)", "norm")),
    Misuse("perturbed, a problem without a key", lambda _: algorithms.perturbed(
        ISTA, lambda x, p: jnp.ones(())).init(problem()), ValueError,
           ("`problem`", "NoisyProblem(problem, key)", "LeastSquares")),
    Misuse("perturbed, a seed as key", lambda _: algorithms.perturbed(ISTA, lambda x, p: jnp.ones(())).init(
        algorithms.NoisyProblem(problem(), 0)), ValueError,  # pyright: ignore
           ("`key`", "jax.random.key(seed)", "int")),
    # --- operators, prox, objectives ---
    Misuse("Dense, a batch", lambda _: DENSE(XS), ValueError, ("`x`", f"({N},)", f"({BATCH}, {N})", IN_VMAP)),
    Misuse("Dense, the adjoint of what it takes", lambda _: DENSE.adjoint(XS[0]), ValueError,
           ("`y`", f"({M},)", f"({N},)")),
    Misuse("Diagonal, a batch", lambda _: operators.Diagonal(XS[0])(XS), ValueError,
           ("`x`", f"({N},)", f"({BATCH}, {N})", IN_VMAP)),
    Misuse("compose, operators that do not follow each other", lambda _: operators.compose(DENSE, DENSE), ValueError,
           ("`operators`", f"({M}, {N})", "operators[1]", "operators[0]")),
    Misuse("compose, a mask of another size", lambda _: operators.compose(
        operators.Diagonal(XS[0]), DENSE)(XS[0]), ValueError, (f"({N},)", f"({M},)", "operators[0]", "`compose`")),
    Misuse("compose, a list", lambda _: operators.compose([DENSE, DENSE]), ValueError,  # pyright: ignore
           ("`operators[0]`", "`adjoint`", "list")),
    Misuse("adjoint, a map without one", lambda _: operators.adjoint(NoAdjoint(MATRIX)), ValueError,  # pyright: ignore
           ("`operator`", "`adjoint`", "NoAdjoint")),
    Misuse("operator_norm, a matrix", lambda _: operators.operator_norm(MATRIX), ValueError,  # pyright: ignore
           ("`operator`", "Dense(matrix)", "ndarray")),
    Misuse("operator_norm, nothing to take", lambda _: operators.operator_norm(
        operators.compose(operators.adjoint(DENSE), DENSE)), ValueError,
           ("`like`", "jax.ShapeDtypeStruct", "None")),
    Misuse("operator_norm, a shape in place of an array", lambda _: operators.operator_norm(
        operators.compose(operators.adjoint(DENSE), DENSE), (N,)), ValueError,
           ("`like`", "jax.ShapeDtypeStruct", "int")),
    Misuse("operator_norm, a seed as key", lambda _: operators.operator_norm(
        operators.compose(operators.adjoint(DENSE), DENSE), XS[0], key=3), ValueError,  # pyright: ignore
           ("`key`", "jax.random.key(seed)", "int")),
    Misuse("soft_threshold, a negative strength", lambda _: prox.soft_threshold(XS[0], -0.5), ValueError,
           ("`strength`", "non-negative", "-0.5")),
    Misuse("soft_threshold, a strength of another shape", lambda _: prox.soft_threshold(XS[0], YS[0] ** 2), ValueError,
           ("`strength`", f"({N},)", f"({M},)", "()")),
    Misuse("soft_threshold, a strength that makes x larger", lambda _: prox.soft_threshold(
        XS[0], jnp.ones((BATCH, 1))), ValueError, ("`strength`", f"({N},)", f"({BATCH}, 1)")),
    Misuse("non_negative, complex numbers", lambda _: prox.non_negative(XS[0] + 1j), ValueError,
           ("`x`", "real", "complex64")),
    Misuse("box, complex numbers", lambda _: prox.box(XS[0] + 1j), ValueError, ("`x`", "real", "complex64")),
    Misuse("box, bounds in the wrong order", lambda _: prox.box(XS[0], lower=1.0, upper=-1.0), ValueError,
           ("`lower`", "`upper`", "1.0", "-1.0")),
    Misuse("box, a bound of another shape", lambda _: prox.box(XS[0], upper=jnp.ones(M)), ValueError,
           ("`upper`", f"({N},)", f"({M},)")),
    Misuse("LeastSquares, a batch of measurements", lambda _: problem(YS).gradient(XS[0]), ValueError,
           ("`measurement`", f"({M},)", f"({BATCH}, {M})", IN_VMAP)),
    Misuse("LeastSquares, a matrix as operator", lambda _: problem(operator=MATRIX).value(XS[0]), ValueError,
           ("`operator`", "Dense(matrix)", "ndarray")),
    Misuse("Lasso, a weight per entry", lambda _: objectives.Lasso(DENSE, YS[0], jnp.ones(N)).value(XS[0]), ValueError,
           ("`l1_weight`", "()", f"({N},)")),
    Misuse("Lasso, a negative weight", lambda _: objectives.Lasso(DENSE, YS[0], -0.1).duality_gap(XS[0]), ValueError,
           ("`l1_weight`", "non-negative", "-0.1")),
    # --- methods ---
    Misuse("solve, an adjoint of the wrong shape", lambda _: solve(
        one=problem(operator=WrongAdjoint(MATRIX))), ValueError,
           ("`operator.adjoint`", f"({N - 1},)", "conjugate transpose", "`from_function`")),
    Misuse("solve, ADMM with an adjoint of the wrong shape", lambda _: solve(
        algorithms.admm(), algorithms.admm_params(0.1), problem(operator=WrongAdjoint(MATRIX))), ValueError,
           ("`operator.adjoint`", f"({N - 1},)")),
    Misuse("solve, a number as residual", lambda _: solve(residual=1e-3), ValueError,
           ("`residual`", "unroll_jax.stopping.relative_change", "0.001")),
    Misuse("solve, parameters as prepare", lambda _: solve(prepare=ISTA_PARAMS), ValueError,
           ("`prepare`", "lambda params, problem: params", "ProximalGradientParams")),
    Misuse("solve, a flag as record", lambda _: solve(record=True), ValueError,
           ("`record`", "lambda state: state.x", "True")),
    Misuse("solve, a residual every 0 steps", lambda _: solve(check_every=0), ValueError,
           ("`check_every`", "whole number of at least 1", "0")),
    Misuse("solve, the gap of a problem without one", lambda _: solve(residual=stopping.duality_gap), ValueError,
           ("`problem`", "`.duality_gap`", "LeastSquares", "Lasso")),
    Misuse("solve, a start of another structure", lambda _: solve(algorithms.proximal_gradient(
        start=lambda p: {"code": jnp.zeros(N)})), ValueError, ("`x`", "one array", "dict")),
    Misuse("solve, a start of another shape", lambda _: solve(algorithms.proximal_gradient(
        start=lambda p: jnp.zeros(M))), ValueError, ("`x`", f"({N},)", f"({M},)")),
    Misuse("solve, a gradient of another structure", lambda _: solve(algorithms.proximal_gradient(
        lambda x, p: (x, x))), ValueError, ("`gradient`", "structure", "PyTreeDef(*)", "PyTreeDef((*, *))", "`start`")),
    Misuse("solve, a prox of another structure", lambda _: solve(algorithms.proximal_gradient(
        prox=lambda x, strength: (x, x))), ValueError, ("`step`", "structure of its state")),
    Misuse("solve, a problem without prox for ADMM", lambda _: solve(
        algorithms.admm(), algorithms.admm_params(0.1), objectives.Lasso(DENSE, YS[0], 0.1)), ValueError,
           ("`problem`", "`.prox`", "Lasso", "prox_data")),
    Misuse("solve, a denoiser that shortens", lambda _: solve(algorithms.plug_and_play(
        lambda weight, x: x[1:]), algorithms.plug_and_play_params(DENSE, None)), ValueError,
           ("`denoiser`", f"({N},)", f"({N - 1},)")),
    Misuse("solve, inner parameters for relaxed", lambda _: solve(algorithms.relaxed(ISTA)), ValueError,
           ("`params`", "`.relaxation`", "relaxed_params")),
    Misuse("equilibrium, no steps", lambda _: fixed_point(max_steps=0), ValueError,
           ("`max_steps`", "whole number of at least 1", "0")),
    Misuse("equilibrium, a factory that was not called", lambda _: fixed_point(algorithms.fista), ValueError,
           ("`algorithm`", "Algorithm(init, step)", "fista()")),
    Misuse("equilibrium, a word as gradient", lambda _: fixed_point(gradient="implicit"), ValueError,
           ("`gradient`", "ImplicitGradient(...)", "JacobianFree(...)", "str")),
    Misuse("equilibrium, a solver that is none", lambda _: fixed_point(
        gradient=uj.ImplicitGradient(solver="lu")), ValueError,  # pyright: ignore
           ("`gradient.solver`", "gmres", "'lu'")),
    Misuse("equilibrium, a monitor of several numbers", lambda _: fixed_point(monitor=jnp.zeros(M)), ValueError,
           ("`monitor`", "()", f"({M},)")),
    Misuse("gradient_descent_params, a negative constant", lambda _: algorithms.gradient_descent_params(-1.0),
           ValueError, ("`lipschitz`", "positive", "-1.0")),
    Misuse("heavy_ball_params, constants in the wrong order", lambda _: algorithms.heavy_ball_params(1.0, 2.0),
           ValueError, ("`strong_convexity`", "`lipschitz`", "2.0", "1.0")),
    Misuse("admm_params, too much relaxation", lambda _: algorithms.admm_params(0.1, relaxation=2.0), ValueError,
           ("`relaxation`", "between 0 and 2", "2.0")),
    Misuse("chambolle_pock, an operator", lambda _: algorithms.chambolle_pock(DENSE), ValueError,  # pyright: ignore
           ("`operator`", "function of the problem", "lambda problem: operator")),
    Misuse("plug_and_play, a strength as denoiser", lambda _: algorithms.plug_and_play(0.1), ValueError,  # pyright: ignore
           ("`denoiser`", "function", "0.1")),
    Misuse("anderson, no memory", lambda _: algorithms.anderson(ISTA, 0), ValueError,
           ("`memory`", "whole number of at least 1", "0")),
    Misuse("monotone, a field that is none", lambda _: solve(algorithms.monotone(ISTA, fields=("z",))), ValueError,
           ("`algorithm`", "field `z`", "ProximalGradientState")),
    Misuse("tista_params, a share in percent", lambda _: algorithms.tista_params(DENSE, 20.0, 1.0, 0.1), ValueError,
           ("`share`", "between 0 and 1", "20.0")),
    Misuse("SupportSelection, a negative growth", lambda _: algorithms.lista_cp(
        support=algorithms.SupportSelection(growth=-1.0, limit=0.2)), ValueError, ("`growth`", "non-negative", "-1.0")),
    # --- operators of images ---
    Misuse("operator_norm, an adjoint of the wrong shape", lambda _: operators.operator_norm(
        WrongAdjoint(MATRIX), XS[0]), ValueError, ("`operator.adjoint`", f"({N},)", f"({N - 1},)")),
    Misuse("from_function, a function with a constant", lambda _: operators.from_function(
        lambda x: x + 1, XS[0]), ValueError, ("`function(zero)`", "linear", "constant")),
    Misuse("from_function, a function that is not linear", lambda _: operators.from_function(
        lambda x: x**2, XS[0]), ValueError, ("`function`", "linear in `x`")),
    Misuse("from_function, the adjoint of what it takes", lambda _: operators.from_function(
        lambda x: x[1:], XS[0]).adjoint(XS[0]), ValueError, ("`y`", f"({N - 1},)", f"({N},)")),
    Misuse("add, operators of other sizes", lambda _: operators.add(DENSE, operators.adjoint(DENSE))(XS[0]), ValueError,
           ("`y`", f"({M},)", f"({N},)")),
    Misuse("stack, parts that are not", lambda _: operators.stack(DENSE, DENSE).adjoint(YS[0]), ValueError,
           ("`y`", "tuple of 2")),
    Misuse("scale, a factor per entry", lambda _: operators.scale(DENSE, YS[0]), ValueError,  # pyright: ignore
           ("`factor`", "()", f"({M},)")),
    Misuse("Convolution, a gray image without channels", lambda _: operators.Convolution(jnp.ones((3, 3, 1, 1)))(IMAGE),
           ValueError, ("`x`", "(height, width, 1)", f"({M}, {N})", "x[..., None]")),
    Misuse("Convolution, a boundary that is none", lambda _: operators.Convolution(
        jnp.ones((3, 3, 1, 1)), "periodic")(IMAGE[..., None]), ValueError,  # pyright: ignore
           ("`boundary`", "'circular'", "'periodic'")),
    Misuse("CircularBlur, a batch of images", lambda _: operators.CircularBlur(jnp.ones((3, 3)))(
        jnp.ones((BATCH, M, N, 3))), ValueError, ("`x`", "(height, width)", f"({BATCH}, {M}, {N}, 3)", IN_VMAP)),
    Misuse("Downsampling, a factor that does not divide", lambda _: operators.Downsampling(
        M + 1, jnp.ones((3, 3)))(IMAGE), ValueError, ("`x`", f"factor {M + 1}", f"({M}, {N})", "Crop or pad")),
    Misuse("FiniteDifferences, a vector", lambda _: operators.FiniteDifferences()(XS[0]), ValueError,
           ("`x`", "(height, width, ...)", f"({N},)")),
    Misuse("Wavelets, a name that is none", lambda _: operators.Wavelets("sym4", 1)(IMAGE), ValueError,  # pyright: ignore
           ("`name`", "'db2'", "'sym4'")),
    Misuse("Wavelets, an image of odd sides", lambda _: operators.Wavelets("db2", 1)(jnp.ones((3, N))), ValueError,
           ("`x`", "multiples of 2", f"(3, {N})", "Crop or pad")),
    Misuse("SubsampledFourier, a mask of another shape", lambda _: operators.SubsampledFourier(
        jnp.ones((N, M)))(IMAGE), ValueError, ("`x`", f"({N}, {M})", f"({M}, {N})", "mask")),
    Misuse("MultiCoilMRI, one sensitivity", lambda _: operators.MultiCoilMRI(jnp.ones((M, N)), jnp.ones((M, N)))(IMAGE),
           ValueError, ("`sensitivities`", "(num_coils, height, width)", f"({M}, {N})")),
    Misuse("mask, weights", lambda _: operators.mask(jnp.full(N, 0.5)), ValueError,
           ("`keep`", "zeros and ones")),
    Misuse("cartesian_mask, a share in place of an acceleration", lambda _: operators.cartesian_mask(
        KEY, (M, N), acceleration=0.25), ValueError, ("`acceleration`", "at least 1", "0.25")),
    Misuse("ParallelBeamCT, a batch of angles", lambda _: operators.ParallelBeamCT(
        jnp.ones((BATCH, 2)), (M, N), 5)(IMAGE), ValueError,
           ("`angles`", "(num_angles,)", f"({BATCH}, 2)", IN_VMAP)),
    Misuse("ParallelBeamCT, one side", lambda _: operators.ParallelBeamCT(jnp.ones(2), N, 5)(IMAGE),  # pyright: ignore
           ValueError, ("`image_shape`", "(height, width)", str(N))),
    Misuse("filtered_backprojection, a filter that is none", lambda _: operators.filtered_backprojection(
        operators.ParallelBeamCT(jnp.ones(2), (M, N), 5), jnp.ones((2, 5)), filter="ram-lak"),  # pyright: ignore
           ValueError, ("`filter`", "'ramp'", "'ram-lak'")),
    # --- proximal operators, noise, tests of parts, other libraries ---
    Misuse("l1, no strength", lambda _: prox.l1(XS[0], None), ValueError,  # pyright: ignore
           ("`strength`", "number", "NoneType")),
    Misuse("l1, several arrays", lambda _: prox.l1({"code": XS[0]}, 1.0), ValueError,  # pyright: ignore
           ("`x`", "one array", "dict")),
    Misuse("group_l21, an axis that is none", lambda _: prox.group_l21(XS[0], 1.0, axis=2), ValueError,
           ("`axis`", "got 2", f"({N},)")),
    Misuse("l2_ball, a negative radius", lambda _: prox.l2_ball(XS[0], 1.0, radius=-1.0), ValueError,
           ("`radius`", "non-negative", "-1.0")),
    Misuse("mcp, no width", lambda _: prox.mcp(XS[0], 1.0, width=0.0), ValueError, ("`width`", "0.0")),
    Misuse("nuclear, a vector", lambda _: prox.nuclear(XS[0], 1.0), ValueError, ("`x`", "matrix (m, n)", f"({N},)")),
    Misuse("conjugate, a negative strength", lambda _: prox.conjugate(prox.l1)(XS[0], -1.0), ValueError,
           ("`strength`", "positive", "-1.0")),
    Misuse("separable_sum, parts that are missing", lambda _: prox.separable_sum((prox.l1, prox.l2))((XS[0],), 1.0),
           ValueError, ("`x`", "structure of `proxes`")),
    Misuse("through, a matrix", lambda _: prox.through(MATRIX, prox.l1), ValueError,  # pyright: ignore
           ("`operator`", "Dense(matrix)", "ndarray")),
    Misuse("Gaussian, a negative deviation", lambda _: noise.Gaussian(-0.1).sample(KEY, XS[0]), ValueError,
           ("`sigma`", "non-negative", "-0.1")),
    Misuse("Gaussian, the clean image first", lambda _: noise.Gaussian(0.1).sample(XS[0], KEY), ValueError,
           ("`key`", "jax.random.key(seed)", f"({N},)")),
    Misuse("Poisson, no gain", lambda _: noise.Poisson(0.0).sample(KEY, XS[0]), ValueError,
           ("`gain`", "positive", "0.0")),
    Misuse("SaltAndPepper, percent", lambda _: noise.SaltAndPepper(20.0).sample(KEY, XS[0]), ValueError,
           ("`probability`", "[0, 1]", "20.0")),
    Misuse("Gaussian, a batch against one image", lambda _: noise.Gaussian(0.1).negative_log_likelihood(XS, XS[0]),
           ValueError, ("`measurement`", f"({N},)", f"({BATCH}, {N})", IN_VMAP)),
    Misuse("check_adjoint, the wrong shape", lambda _: testing.check_adjoint(WrongAdjoint(MATRIX), XS[0]),
           AssertionError, ("operator.adjoint(y)", f"({N},)", f"({N - 1},)")),
    Misuse("check_prox, a number as value", lambda _: testing.check_prox(prox.l1, 1.0, XS[0], 0.1),  # pyright: ignore
           ValueError, ("`value`", "value(z, strength)", "1.0")),
    Misuse("check_algorithm, parameters that are no arrays", lambda _: testing.check_algorithm(
        ISTA, algorithms.ProximalGradientParams(0.1, 0.1), problem()), AssertionError,  # pyright: ignore
           ("`params.step_size`", "float32")),
    Misuse("from_lineax, a matrix", lambda _: adapters.from_lineax(MATRIX), ValueError,
           ("`operator`", "`.mv`", "lineax", "ndarray")),
    Misuse("to_lineax, a shape", lambda _: adapters.to_lineax(DENSE, (N,)), ValueError,
           ("`like`", "int")),
    # --- constraints, certificates ---
    Misuse("descent, a rate in percent", lambda _: constraints.descent(DISTANCE, 5), ValueError,
           ("`rate`", "[0, 1)", "got 5", "0.05")),
    Misuse("descent, no rate", lambda _: constraints.descent(DISTANCE, None), ValueError,  # pyright: ignore
           ("`rate`", "[0, 1)", "got None")),
    Misuse("descent, a form that is none", lambda _: constraints.descent(DISTANCE, 0.1, form="quotient"),  # pyright: ignore
           ValueError, ("`form`", '"difference"', '"ratio"', "'quotient'")),
    Misuse("descent, whole states in place of estimates", lambda _: constraints.descent(DISTANCE, 0.1)(
        network().trajectory(problem()), EXAMPLE), ValueError, ("`target`", "LISTAState", "lambda state: state.x")),
    Misuse("descent, a batch of trajectories", lambda _: constraints.descent(DISTANCE, 0.1)(
        jnp.zeros((BATCH, LAYERS + 1, N)), ARRAYS), ValueError,
           ("`target`", f"({LAYERS + 1}, {N})", f"({BATCH}, {N})", IN_VMAP)),
    Misuse("descent, a measure per entry", lambda _: constraints.descent(lambda x, example: x - example["x"], 0.1)(
        jnp.zeros((LAYERS + 1, N)), EXAMPLE), ValueError, ("`measure`", "one number", f"({N},)")),
    Misuse("descent, one estimate in place of a trajectory", lambda _: constraints.descent(
        DISTANCE, 0.1)(network()(problem()).x, EXAMPLE), ValueError, ("`target`", f"({N},)", "()")),
    Misuse("distance_to, an array", lambda _: constraints.distance_to(XS[0]), ValueError,  # pyright: ignore
           ("`target`", "function", "lambda example:")),
    Misuse("prox_gradient_residual, a negative step size", lambda _: constraints.prox_gradient_residual(
        lambda x, p: p.gradient(x), prox.soft_threshold, step_size=-0.1, strength=0.1), ValueError,
           ("`step_size`", "positive", "-0.1")),
    Misuse("prox_gradient_residual, a complex step size", lambda _: constraints.prox_gradient_residual(
        lambda x, p: p.gradient(x), prox.soft_threshold, step_size=0.1j, strength=0.1), ValueError,  # pyright: ignore
           ("`step_size`", "real", "0.1j")),
    Misuse("ratio_of_means, one example", lambda _: constraints.ratio_of_means(VALUES[0], 0.1), ValueError,
           ("`values`", "(batch, layers)", f"({LAYERS + 1},)", IN_VMAP)),
    Misuse("expected_hinge, a negative allowance", lambda _: constraints.expected_hinge(
        jnp.zeros((BATCH, LAYERS)), -1.0), ValueError, ("`allowance`", "non-negative", "-1.0")),
    Misuse("conditional_value_at_risk, a level in percent", lambda _: constraints.conditional_value_at_risk(
        jnp.zeros((BATCH, LAYERS)), 95), ValueError, ("`level`", "[0, 1)", "95", "0.95")),
    Misuse("certify, one sample", lambda _: uj.certify(VALUES[0], rate=0.1), ValueError,
           ("`values`", "(num_samples, num_layers + 1)", f"({LAYERS + 1},)", IN_VMAP)),
    Misuse("certify, too few samples", lambda _: uj.certify(VALUES[:1], rate=0.1), ValueError,
           ("`values`", "at least 2 samples", f"(1, {LAYERS + 1})")),
    Misuse("certify, a sample that diverged", lambda _: uj.certify(
        np.where(np.arange(BATCH)[:, None] == 1, np.nan, VALUES), rate=0.1), ValueError,
           ("`values`", "finite", f"1 of {BATCH} samples", "Repair it")),
    Misuse("certify, an objective", lambda _: uj.certify(VALUES - 1, rate=0.1), ValueError,
           ("`values`", "non-negative", "gap to its minimum")),
    Misuse("certify, inside jit", lambda _: jax.jit(lambda v: uj.certify(v, rate=0.1).rate)(VALUES), ValueError,
           ("`values`", "traced", "outside")),
    Misuse("certify, a confidence in percent", lambda _: uj.certify(VALUES, rate=0.1, confidence=95), ValueError,
           ("`confidence`", "(0, 1)", "got 95", "0.95")),
    Misuse("certify, a bound of zero", lambda _: uj.certify(VALUES, rate=0.1, value_bound=0.0), ValueError,
           ("`value_bound`", "positive and finite", "0.0", "training set")),
    Misuse("geometric_envelope, half a layer", lambda _: certificates.geometric_envelope(
        1.0, rate=0.1, num_layers=2.5), ValueError, ("`num_layers`", "whole number", "2.5")),  # pyright: ignore
    # --- primal_dual ---
    Misuse("augmented_weight, a negative penalty", lambda _: uj.augmented_weight(-2.0), ValueError,
           ("`penalty`", "non-negative", "-2.0")),
    Misuse("primal_dual, a penalty as weight", lambda _: trainer(weight=2.0), ValueError,
           ("`weight`", "augmented_weight(penalty)", "2.0")),
    Misuse("primal_dual, augmented_weight that was not called", lambda _: trainer(weight=uj.augmented_weight),
           ValueError, ("`weight`", "augmented_weight(penalty)")),
    Misuse("primal_dual, a learning rate as optimizer", lambda _: trainer(primal=1e-3), ValueError,
           ("`primal_optimizer`", "optax.adam(1e-3)", "0.001")),
    Misuse("primal_dual, an optimizer that was not called", lambda _: trainer(dual=optax.sgd), ValueError,
           ("`dual_optimizer`", "optax.sgd(1e-3)", "function")),
    Misuse("init, terms that forget vmap", lambda _: init(terms=lambda model, batch, key: (
        jnp.mean(model(problem(batch["y"])).x), {})), ValueError, ("`measurement`", f"({BATCH}, {M})", IN_VMAP)),
    Misuse("init, terms without a key", lambda _: init(terms=lambda model, batch: (0.0, {})), TypeError,
           ("`terms`", "(model, batch, key)")),
    Misuse("init, terms that return a loss alone", lambda _: init(
        terms=lambda model, batch, key: jnp.mean(batch["x"])), ValueError,
           ("`terms`", "(loss, {name: violation})", "empty dictionary", "got Array")),
    Misuse("init, a loss per example", lambda _: init(terms=lambda model, batch, key: (
        jnp.sum(batch["x"], axis=1), {})), ValueError, ("`terms`", "loss of shape ()", f"({BATCH},)", "mean")),
    Misuse("init, violations per example", lambda _: init(terms=lambda model, batch, key: (
        0.0, {"descent": jnp.zeros((BATCH, LAYERS))})), ValueError,
           ("`terms`", "(num_layers,)", f"({BATCH}, {LAYERS})", "'descent'", "mean")),
    Misuse("init, a violation that is a number", lambda _: init(terms=lambda model, batch, key: (
        0.0, {"norm": jnp.zeros(())})), ValueError, ("`terms`", "(num_layers,)", "()", "'norm'", "value[None]")),
    Misuse("init, a model without nnx.Param", lambda _: init(Bare()), ValueError,
           ("`model`", "no nnx.Param", "wrap the arrays")),
    Misuse("init, a parameter at two places", lambda _: init(Tied()), ValueError,
           ("`model`", "two places", "Keep it once")),
    Misuse("init, a seed as key", lambda _: init(key=0), ValueError, ("`key`", "jax.random.key(seed)", "int")),
    # --- training ---
    Misuse("fit, an optimizer as trainer", lambda _: fit(trainer=optax.adam(1e-3)), ValueError,
           ("`trainer`", "primal_dual", "unconstrained(loss, optimizer)", "GradientTransformation")),
    Misuse("fit, an iterator", lambda _: fit(iter([ARRAYS])), ValueError,
           ("`batches`", "function of the step", "iterator", "lambda step: next(iterator)")),
    Misuse("fit, the data itself", lambda _: fit(ARRAYS), ValueError,
           ("`batches`", "Minibatches(arrays, batch_size)", "dict")),
    Misuse("fit, a number of epochs", lambda _: fit(num_steps=1.5), ValueError,
           ("`num_steps`", "whole number of at least 1", "1.5")),
    Misuse("fit, evaluate_every without evaluate", lambda _: fit(evaluate_every=10), ValueError,
           ("`evaluate_every`", "`evaluate`", "evaluator(terms, held_out, key)")),
    Misuse("fit, patience without evaluate", lambda _: fit(patience=3), ValueError,
           ("`patience`", "`evaluate`", "evaluator(terms, held_out, key)")),
    Misuse("fit, an evaluation that is a number", lambda _: fit(evaluate=lambda model: 1.0), ValueError,
           ("`evaluate`", "(loss, {name: violation})", "float")),
    Misuse("fit, a negative tolerance", lambda _: fit(tolerance=-0.1), ValueError,
           ("`tolerance`", "non-negative", "-0.1")),
    Misuse("fit, resume without checkpoints", lambda _: fit(resume=True), ValueError, ("`resume`", "`checkpoints`")),
    Misuse("fit, a folder as checkpoints", lambda folder: fit(checkpoints=folder), ValueError,
           ("`checkpoints`", "Checkpoints(folder)", "Path")),
    Misuse("fit, a folder that holds a run", lambda folder: [
        fit(checkpoints=training.Checkpoints(folder)) for _ in range(2)], FileExistsError,
           ("`checkpoints`", "holds a run, at step 1", "resume=True", "another folder")),
    Misuse("fit, a flag as sharding", lambda _: fit(sharding=True), ValueError,
           ("`sharding`", "data_parallel()", "True")),
    Misuse("fit, one callback", lambda _: fit(callbacks=print), ValueError, ("`callbacks`", "sequence", "[callback]")),
    Misuse("evaluator, no batches", lambda _: training.evaluator(batch_terms, [], KEY), ValueError,
           ("`batches`", "at least one batch", "none")),
    Misuse("evaluator, one batch", lambda _: training.evaluator(batch_terms, ARRAYS, KEY), ValueError,
           ("`batches`", "[batch]", "dict")),
    Misuse("evaluator, Minibatches", lambda _: training.evaluator(
        batch_terms, training.Minibatches(ARRAYS, 2), KEY), ValueError,  # pyright: ignore
           ("`batches`", "Minibatches", "for step in range(")),
    Misuse("Minibatches, arrays of other lengths", lambda _: training.Minibatches({"x": XS, "y": YS[1:]}, 2),
           ValueError, ("`arrays`", "leading axis of examples", f"({BATCH},)", f"({BATCH - 1},)")),
    Misuse("Minibatches, a batch of more than all", lambda _: training.Minibatches(ARRAYS, BATCH + 1), ValueError,
           ("`batch_size`", f"at most the number of examples, {BATCH}", f"got {BATCH + 1}")),
    Misuse("data_parallel, a platform's name", lambda _: training.data_parallel("cpu"), ValueError,
           ("`devices`", "jax.devices()", "Leave it out")),
    Misuse("data_parallel, a batch without a batch axis", lambda _: training.data_parallel().place_batches(
        {"x": np.float32(1)}), ValueError, ("`batches`", "leading batch axis", "['x']", "()")),
    Misuse("Checkpoints, a configuration that is not JSON", lambda folder: training.Checkpoints(
        folder, config={"data": folder}), ValueError, ("`config`", "JSON", "PosixPath", "Turn paths into texts")),
    Misuse("Checkpoints, those of another model", lambda folder: resave(folder, {"x": XS}, {"x": YS}),
           training.CheckpointError, ("another model", str([BATCH, N]), str([BATCH, M]), "Build the model")),
    Misuse("json_lines, a file of something else", lambda folder: training.json_lines(write(
        folder / "notes.txt", "dear diary\n"))({"event": "start", "step": 0}), ValueError,
           ("`path`", "notes.txt", "dear diary", "another file")),
    # --- export ---
    Misuse("save, a batch as the example", lambda folder: export.save(
        network(), YS, folder / "a.zip", apply=lambda model, y: model(problem(y)).x), ValueError,
           ("`example_problem`", "one problem", f"({BATCH}, {M})")),
    Misuse("save, a platform that is none", lambda folder: export.save(
        network(), YS[0], folder / "a.zip", platforms=["gpu"]), ValueError, ("`platforms`", "cuda", "gpu")),
    Misuse("save, metadata that is no text", lambda folder: export.save(
        network(), YS[0], folder / "a.zip", metadata={"date": object()}), ValueError,
           ("`metadata['date']`", "text, a number", "object", "Make it text")),
    Misuse("Solver, one problem", lambda folder: saved_solver(folder)(YS[0]), ValueError,
           ("`problems`", f"(batch, {M})", f"({M},)", "leaf[None]")),
    Misuse("Solver, another dtype", lambda folder: saved_solver(folder)(YS.astype(np.float16)), ValueError,
           ("`problems`", "float32", "float16", "Cast it")),
    Misuse("Solver, another structure", lambda folder: saved_solver(folder)({"y": YS}), ValueError,
           ("`problems`", f"float32[batch, {M}]", "'y'")),
    Misuse("load, a file of something else", lambda folder: export.load(write(folder / "a.zip", "x")), ValueError,
           ("`path`", "a.zip", "no solver written by unroll_jax.export.save", "load_params")),
    Misuse("save_params, no suffix", lambda folder: export.save_params(folder / "params", XS), ValueError,
           ("`path`", ".npz", ".safetensors", "params")),
    Misuse("save_params, bfloat16 as .npz", lambda folder: export.save_params(
        folder / "params.npz", jnp.ones(N, jnp.bfloat16)), ValueError, ("`tree`", ".safetensors", "bfloat16")),
    Misuse("load_params, another structure", lambda folder: [
        export.save_params(folder / "a.npz", {"x": XS}), export.load_params(folder / "a.npz", {"y": XS})], ValueError,
           ("`path`", "`like`", "['y']", "['x']")),
    # --- the command line: 1 for what the user can mend, 2 for options that do not exist ---
    Misuse("cli, no command", [], 2, ("sparse-coding", "report")),
    Misuse("cli, a command that is none", ["sparse"], 2, ("sparse", "sparse-coding")),
    Misuse("cli, an option that is none", ["sparse-coding", "--num-step", "5"], 2, ("--num-step", "--num-steps")),
    Misuse("cli, a value that is none", ["sparse-coding", "--preset", "tiny"], 2,
           ("--preset", "quick", "paper", "tiny")),
    Misuse("cli, a number that is none", ["sparse-coding", "--num-steps", "many"], 2, ("--num-steps", "many")),
    Misuse("cli, a negative seed", ["sparse-coding", "--seed", "-1"], 1, ("`--seed`", "non-negative", "-1")),
    Misuse("cli, no steps", ["sparse-coding", "--num-steps", "0"], 1, ("`--num-steps`", "positive", "0")),
    Misuse("cli, a learning rate that is none", ["sparse-coding", "--learning-rate", "nan"], 1,
           ("`--learning-rate`", "positive", "nan")),
    Misuse("cli, less data than a batch", ["sparse-coding", "--num-train", "3"], 1,
           ("`--num-train`", "at least the batch size", "got 3")),
    Misuse("cli, data that is missing", ["sparse-coding", "--data", "photos"], 1,
           ("`--data`", "folder or a zip of images", "photos", "leave --data out")),
    Misuse("cli, a folder that is taken", ["sparse-coding", "--out", "finished"], 1,
           ("`--out`", "finished", "not an empty folder", "Choose another")),
    Misuse("cli, a configuration that is missing", ["sparse-coding", "--config", "mine.toml"], 1,
           ("`--config`", "mine.toml", "does not exist")),
    Misuse("cli, a configuration with a slip", ["sparse-coding", "--config", "slip.toml"], 1,
           ("`--config`", "slip.toml", "'sede'", "It knows:", "seed")),
    Misuse("cli, resume beside other options", ["sparse-coding", "--resume", "unfinished", "--seed", "1"], 1,
           ("`--resume`", "--seed", "Leave them out")),
    Misuse("cli, resume of what is missing", ["sparse-coding", "--resume", "no"], 1,
           ("`--resume`", "no", "Give the folder of a run")),
    Misuse("cli, resume of a finished run", ["sparse-coding", "--resume", "finished"], 1,
           ("`--resume`", "finished run", "report.md")),
    Misuse("cli, a report of no run", ["report"], 1, ("`RUN`", "at least one run folder", "such as")),
    Misuse("cli, a report of what is missing", ["report", "no"], 1, ("`RUN`", "nothing lies at no")),
    Misuse("cli, a report of an unfinished run", ["report", "unfinished"], 1,
           ("`RUN`", "unfinished", "--resume unfinished")),
    Misuse("cli, a report of a run twice", ["report", "finished", "./finished"], 1,
           ("`RUN`", "each run once", "got finished and finished")),
    Misuse("cli, a report into a run's file", ["report", "finished", "--out", "finished/metrics.json"], 1,
           ("`--out`", ".html", "metrics.json")),
    # --- flows ---
    Misuse("Glow, a side not divisible by 2^levels", lambda _: glow().forward(jnp.ones((8, 6, 3))), ValueError,
           ("`x`", "divisible by 2^num_levels = 4", "(8, 6, 3)", "Crop or pad")),
    Misuse("Glow, a batch", lambda _: glow().forward(jnp.ones((BATCH, 8, 8, 3))), ValueError,
           ("`x`", "(height, width, 3)", f"({BATCH}, 8, 8, 3)", IN_VMAP)),
    Misuse("Glow, latents of too few levels", lambda _: glow().inverse((jnp.ones((4, 4, 6)),)), ValueError,
           ("`latents`", "tuple of 2 arrays", "tuple")),
    Misuse("Glow, a context it was not made for", lambda _: glow().log_prob(jnp.ones((8, 8, 3)), jnp.ones((8, 8, 1))),
           ValueError, ("`context`", "None", "context_channels=0")),
    Misuse("Glow, an unknown preset", lambda _: flows.glow_preset("huge", KEY), ValueError,  # pyright: ignore
           ("`preset`", "small, paper", "'huge'")),
    Misuse("inpainting, a mask of another shape", lambda _: flows.inpainting(jnp.ones((8, 8, 3)), jnp.ones((8, 6))),
           ValueError, ("`mask`", "(8, 8)", "(8, 6)")),
    Misuse("inpainting, a mask of all zeros", lambda _: flows.inpainting(jnp.ones((8, 8, 3)), jnp.zeros((8, 8))),
           ValueError, ("`mask`", "at least one pixel", "1 stands for known")),
    Misuse("inpainting, 8-bit intensities", lambda _: flows.inpainting(jnp.full((8, 8, 3), 99.0), jnp.ones((8, 8))),
           UserWarning, ("`measurement`", "[0, 1]", "divide 8-bit intensities by 255")),
    Misuse("GLOW-Prox, the measurement alone", lambda _: flows.glow_prox().init(jnp.ones((8, 8, 3))), ValueError,
           ("`problem`", "`.gradient`", "inpainting(measurement, mask)")),
    Misuse("GLOW-Prox, a step that does not descend", lambda _: flows.glow_prox_params(glow(), step_size=2.0),
           ValueError, ("`step_size`", "between 0.0 and 2.0", "2.0")),
    Misuse("GLOW-Prox, a strength for each layer", lambda _: flows.glow_prox_params(
        glow(), strength=jnp.ones((LAYERS, 2))), ValueError,
           ("`strength`", "(num_levels,)", f"({LAYERS}, 2)", "`unroll`")),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """In place of conftest's: users have no such setting, and it must not be what finds their mistakes."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a finished and an unfinished run, in which the command line is called."""
    config = {"experiment": "sparse-coding", "command": {"seed": 0}}
    for name in ("finished", "unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "finished" / "metrics.json").write_text(json.dumps({"tables": []}))
    (tmp_path / "slip.toml").write_text("sede = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_many_and_each_has_its_own_name():
    assert len({row.name for row in MISUSES}) == len(MISUSES) >= 40


@pytest.mark.parametrize("row", MISUSES, ids=lambda row: row.name)
def test_a_mistake_is_told_with_its_remedy(row, tmp_path, request, capsys):
    if callable(row.act):
        with pytest.raises(BaseException) as raised:  # noqa: PT011
            row.act(tmp_path)
        assert type(raised.value) is row.outcome, repr(raised.value)
        told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    else:
        told = told_on_the_command_line(row.act, row.outcome, request.getfixturevalue("runs"), capsys)
    missing = [text for text in row.says if text not in told]
    assert not missing, f"{missing} not in: {told}"


USES = {
    "traced values": lambda: jax.jit(lambda a: (
        uj.augmented_weight(a)(a, a), prox.box(XS[0], lower=-a, upper=a), prox.soft_threshold(XS[0], a),
        algorithms.lista_params(DENSE, a), constraints.descent(DISTANCE, a)(jnp.zeros((LAYERS + 1, N)), EXAMPLE),
        objectives.Lasso(DENSE, YS[0], a).value(XS[0]), solve(tolerance=a)))(0.1),
    "batches by vmap": lambda: jax.vmap(lambda y: (network()(problem(y)), solve(one=problem(y))))(YS),
    "a batch of operators that are composed": lambda: operators.compose(
        jax.vmap(operators.Dense)(jnp.ones((BATCH, M, N))), operators.adjoint(DENSE)),
    "layers' keys by vmap": lambda: jax.vmap(lambda key: algorithms.random_lista_params(key, M, N))(
        jax.random.split(KEY, LAYERS)),
    "a key of the old kind": lambda: algorithms.random_lista_params(jax.random.PRNGKey(0), M, N),
    "one threshold for all layers and entries": lambda: uj.unroll(LISTA, LAYERS, LISTA_PARAMS._replace(
        log_threshold=jnp.zeros(())), layer_axes=LISTA_PARAMS._replace(recurrent=0, encoder=0, log_threshold=None))(
        problem()),
    "thresholds by column": lambda: prox.soft_threshold(XS, jnp.ones(N)),
    "a start of Python numbers": lambda: solve(uj.Algorithm(lambda p: 0, lambda params, x, p: x + 0.5)),
    "a target that is zero": lambda: DISTANCE(XS[0], {"x": 0.0}),
    "whole measurements of a real operator": lambda: network()(problem(jnp.ones(M, int))),
    "batches of arrays as one array": lambda: training.evaluator(batch_terms, YS, KEY),
}  # fmt: skip


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_is_no_mistake_passes(use):
    use()


def told_on_the_command_line(arguments: list[str], status: int, folder: Path, capsys: Any) -> str:
    before = sorted(folder.rglob("*"))
    try:
        found = cli.main(arguments)
    except SystemExit as stop:
        found = stop.code
    printed = capsys.readouterr()
    assert found == status
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert sorted(folder.rglob("*")) == before
    return " ".join(printed.err.replace("│", " ").split())
