"""Learned activations with fewer kinks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.spline_fit.networks import (
    Examples,
    Trained,
    each_spline,
    mean_squared,
    predictions_of,
    spline_layers,
)
from experiments.spline_fit.settings import Settings
from unroll_jax import splines


class Pruned(NamedTuple):
    """What pruning does to the learned splines, `(num_targets,)` each.

    Attributes:
        tv2: of one activation, the mean.
        num_kinks: of one activation, the mean; as trained.
        num_pruned_kinks: the same after pruning.
        error: held-out error after pruning, the median over the seeds.
        networks: the pruned ones.
    """

    tv2: np.ndarray
    num_kinks: np.ndarray
    num_pruned_kinks: np.ndarray
    error: np.ndarray
    networks: nnx.Sequential


def prune(found: Trained, train_set: Examples, held_out: Examples, settings: Settings) -> Pruned:
    """The spline networks without the kinks that the training error does not need.

    All kinks up to a size go, the largest size for which the median of the training error rises by at most the share
    `network_pruning_cost`, for each target on its own.
    """
    shape = found.train_error.shape
    limits = (1 + settings.network_pruning_cost) * np.median(found.train_error, axis=1)
    best, error = found.networks, np.median(found.error, axis=1)
    for threshold in np.geomspace(1e-3, 1, 25):
        candidate = _without_kinks(found.networks, float(threshold))
        seen, unseen = predictions_of(candidate, train_set, held_out, shape)
        is_good = np.median(mean_squared(seen, train_set), axis=1) <= limits
        best = _merge(jnp.asarray(np.repeat(is_good, shape[1])), candidate, best)
        error = np.where(is_good, np.median(mean_squared(unseen, held_out), axis=1), error)
    tv2, num_kinks = _statistics(found.networks)
    _, num_pruned_kinks = _statistics(best)
    return Pruned(
        tv2=np.mean(np.reshape(tv2, shape), axis=1),
        num_kinks=np.mean(np.reshape(num_kinks, shape), axis=1),
        num_pruned_kinks=np.mean(np.reshape(num_pruned_kinks, shape), axis=1),
        error=error,
        networks=best,
    )


@jax.jit
def _merge(is_first: jax.Array, first: nnx.Sequential, second: nnx.Sequential) -> nnx.Sequential:
    return jax.tree.map(lambda a, b: jax.vmap(jnp.where)(is_first, a, b), first, second)


@jax.jit
def _without_kinks(networks: nnx.Sequential, threshold: float) -> nnx.Sequential:
    pruned = jax.tree.map(lambda leaf: leaf, networks)  # a copy
    for layer in spline_layers(pruned):
        coefficients = each_spline(layer, lambda spline: spline.feasible_coefficients)
        coefficients = splines.prune(coefficients, layer.grid, threshold, box=layer.box)
        layer.coefficients = splines.SplineCoefficients(coefficients)
    return pruned


@jax.jit
def _statistics(networks: nnx.Sequential) -> tuple[jax.Array, jax.Array]:
    """TV2 and the number of kinks above 1e-3, the mean over a network's activations: `(num_networks,)` each."""
    sizes = [
        each_spline(layer, lambda spline: jnp.abs(splines.kinks(spline.feasible_coefficients, spline.grid)))
        for layer in spline_layers(networks)
    ]
    sizes = jnp.concatenate(sizes, axis=1)
    return jnp.mean(jnp.sum(sizes, axis=2), axis=1), jnp.mean(jnp.sum(sizes > 1e-3, axis=2, dtype=float), axis=1)
