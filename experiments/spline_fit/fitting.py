"""Splines under slope constraints trained in three ways, all fits at once, and pruned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import unroll_jax as uj
from experiments.files import WORK
from experiments.spline_fit.convex import Optimum, count_kinks
from experiments.spline_fit.problem import Task
from experiments.spline_fit.settings import Settings
from unroll_jax import splines

# how splines are trained, the best way first
METHODS = ("proximal gradient", "Adam on slopes", "Adam on values")


class Fits(NamedTuple):
    """All fits of one method.

    Attributes:
        coefficients: `(num_fits, num_sites)`, the values at the sites.
        excess: `(num_fits,)`, the objective above the optimum's, relative to it.
        violation: `(num_fits,)`, by how much the worst slope lies outside of its box.
        num_kinks: `(num_fits,)`, before pruning.
        num_knots: `(num_fits,)`, inside, after pruning.
        pruned: for each fit the knots that are left, the ends included, and the values there.
        pruned_excess: `(num_fits,)`, as `excess`, after pruning.
        iterations: `(num_fits,)`.
    """

    coefficients: np.ndarray
    excess: np.ndarray
    violation: np.ndarray
    num_kinks: np.ndarray
    num_knots: np.ndarray
    pruned: list[tuple[np.ndarray, np.ndarray]]
    pruned_excess: np.ndarray
    iterations: np.ndarray


def fit_all(task: Task, optimum: Optimum, settings: Settings, run: Path) -> dict[str, Fits]:
    """All fits of `task` by every method of `METHODS`.

    Args:
        task: what to fit.
        optimum: the exact solutions, to compare with.
        settings: of the run.
        run: the run's folder; checkpoints go to `work/` in it.
    """
    by_steps = np.full(len(task.weights), settings.num_steps)
    coefficients, iterations = proximal_fits(task, settings.tolerance, settings.max_iterations)
    found = {
        METHODS[0]: (coefficients, iterations),
        METHODS[1]: (_train_slopes(task, settings, run), by_steps),
        METHODS[2]: (_train_values(task, settings, run), by_steps),
    }
    return {name: _finish(task, optimum, settings, *each) for name, each in found.items()}


def proximal_fits(task: Task, tolerance: float, max_iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Splines by proximal gradient descent on their slopes: `(num_fits, num_sites)` and the iterations, `(num_fits,)`.

    In the slopes s, with the mean of the samples as the mean of f, the fit is least squares plus the total variation of
    s, in a box. The proximal operator of the latter two together is that of the total variation, clipped to the box:
    clipping keeps the order of the slopes, on which alone the subgradients of the total variation depend (Yu 2013).
    So FISTA needs nothing else, and slopes that are joined are equal to the last digit.
    """
    num_sites = len(task.sites)
    columns = np.tril(np.ones((num_sites, num_sites - 1)), -1) * np.diff(task.sites)
    # a spline's values, less their mean
    operator = uj.operators.Dense(jnp.asarray(columns - np.mean(columns, axis=0), jnp.float32))

    @jax.jit
    @jax.vmap
    def solve(values: jax.Array, weight: jax.Array, lower: jax.Array, upper: jax.Array) -> uj.Solution:
        def prox(slopes: jax.Array, strength: jax.Array) -> jax.Array:
            return jnp.clip(uj.prox.total_variation_1d(slopes, strength), lower, upper)

        problem = uj.objectives.LeastSquares(operator, values - jnp.mean(values))
        params = uj.algorithms.proximal_gradient_params(operator, num_sites * weight)
        algorithm = uj.algorithms.fista(prox=prox)
        return uj.solve(algorithm, params, problem, tolerance=tolerance, max_steps=max_iterations, check_every=10)

    arrays = (task.values, task.weights, task.lower[:, 0], task.upper[:, 0])
    solution = solve(*(jnp.asarray(array, jnp.float32) for array in arrays))
    return task.best_coefficients(np.asarray(solution.state.x)), np.asarray(solution.num_steps)


class _SlopeSplines(nnx.Module):
    """Splines given by their slopes, `(num_splines, num_knots - 1)`: a box for slopes then is a box for parameters."""

    def __init__(self, slopes: jax.Array):
        self.slopes = nnx.Param(slopes)


def _train_slopes(task: Task, settings: Settings, run: Path) -> np.ndarray:
    grid, lower, upper = _grid(task), *(jnp.asarray(bound, jnp.float32) for bound in (task.lower, task.upper))
    values = jnp.asarray(task.values, jnp.float32)

    def coefficients(model: _SlopeSplines) -> jax.Array:
        integrated = splines.coefficients_from_slopes(model.slopes[...], grid)
        return integrated + jnp.mean(values - integrated, axis=1, keepdims=True)

    def keep_in_box(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, p: jnp.clip(p + u, lower, upper) - p, updates, params), state

    start = _SlopeSplines(jnp.clip(jnp.zeros((len(values), grid.num_knots - 1)), lower, upper))
    in_box = optax.GradientTransformation(lambda params: optax.EmptyState(), keep_in_box)
    model = _train(task, coefficients, start, in_box, settings, run, METHODS[1])
    return task.best_coefficients(np.clip(np.asarray(model.slopes[...], float), task.lower, task.upper))


def _train_values(task: Task, settings: Settings, run: Path) -> np.ndarray:
    """As published: Adam on the values at the knots, clipped in the forward pass and after every step."""
    box = splines.SlopeBox(jnp.asarray(task.lower, jnp.float32), jnp.asarray(task.upper, jnp.float32))
    start = splines.LinearSpline(_grid(task), len(task.weights), init="zero", box=box, learn_scale=False)
    in_box = splines.keep_splines_feasible(start)
    model = _train(task, lambda model: model.feasible_coefficients, start, in_box, settings, run, METHODS[2])
    return np.asarray(model.feasible_coefficients, float)


def _grid(task: Task) -> splines.NonuniformGrid:
    return splines.NonuniformGrid(jnp.asarray(task.sites, jnp.float32))


def _train(
    task: Task,
    coefficients: Callable[[Any], jax.Array],
    start: nnx.Module,
    in_box: optax.GradientTransformation,
    settings: Settings,
    run: Path,
    name: str,
) -> Any:
    """`start` after Adam on the sum of all objectives, each step followed by `in_box`."""
    grid, values, weights = _grid(task), jnp.asarray(task.values, jnp.float32), jnp.asarray(task.weights, jnp.float32)

    def loss(model: Any, batch: np.ndarray, key: jax.Array) -> jax.Array:
        del batch, key
        fitted = coefficients(model)
        tv2 = splines.second_order_variation(fitted, grid)
        return jnp.sum(jnp.mean((fitted - values) ** 2, axis=1) / 2 + weights * tv2)

    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps, alpha=1e-5)
    fitted = uj.training.fit(
        uj.training.unconstrained(loss, optax.chain(optax.adam(rate), in_box)),
        start,
        lambda step: np.zeros(()),  # all data is in the loss
        num_steps=settings.num_steps,
        key=jax.random.key(0),
        steps_per_dispatch=500,
        checkpoints=uj.training.Checkpoints(run / WORK / name.replace(" ", "-"), every=settings.num_steps, keep=1),
        resume=True,
        callbacks=[uj.training.progress_bar(name)],
    )
    return fitted.model


def _finish(task: Task, optimum: Optimum, settings: Settings, coefficients: np.ndarray, iterations: np.ndarray) -> Fits:
    slopes, objective = task.slopes(coefficients), task.objectives(coefficients)
    pruned = prune(task, coefficients, settings.pruning_cost)
    is_kept = [_stays(task, row) for row in pruned]
    return Fits(
        coefficients=coefficients,
        excess=objective / optimum.objective - 1,
        violation=np.max(np.maximum(np.maximum(slopes - task.upper, task.lower - slopes), 0), axis=1),
        num_kinks=count_kinks(task, coefficients),
        num_knots=np.array([np.sum(kept) - 2 for kept in is_kept]),
        pruned=[(task.sites[kept], row[kept]) for kept, row in zip(is_kept, pruned, strict=True)],
        pruned_excess=task.objectives(pruned) / optimum.objective - 1,
        iterations=iterations,
    )


def prune(task: Task, coefficients: np.ndarray, cost: float) -> np.ndarray:
    """The splines without the kinks up to a size, each the largest that costs at most this share of its objective."""
    limits = (1 + cost) * task.objectives(coefficients)
    best = coefficients
    # slopes are differences of values at close sites: in double precision
    with jax.enable_x64(True):
        grid, without_kinks = splines.NonuniformGrid(jnp.asarray(task.sites)), jax.jit(splines.prune)
        for threshold in np.geomspace(1e-5, 3, 56):
            pruned = np.asarray(without_kinks(jnp.asarray(coefficients), grid, float(threshold)))
            best = np.where((task.objectives(pruned) <= limits)[:, None], pruned, best)
    return best


def _stays(task: Task, coefficients: np.ndarray) -> np.ndarray:
    """Which knots a spline needs: `(num_sites,)`, both ends among them."""
    with jax.enable_x64(True):
        grid = splines.NonuniformGrid(jnp.asarray(task.sites))
        _, fewer = splines.remove_knots(jnp.asarray(coefficients), grid, tolerance=1e-12)
        return np.isin(task.sites, np.asarray(fewer.knots))
