"""The sparse coders under comparison: how each starts, and what of it is trained."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.sparse_recovery.problem import Task
from experiments.sparse_recovery.settings import Settings
from unroll_jax import algorithms

_TiedAxes: Any = algorithms.TiLISTAParams  # as trees of layer axes
_TISTAAxes: Any = algorithms.TISTAParams
# Thresholds start from these, layer by layer: too small ones learn, but an entry below its threshold has no gradient.
# The least one is in standard deviations of the noise.
_FIRST_THRESHOLD, _DECAY, _LEAST_THRESHOLD = 0.5, 0.75, 1.5


class Coder(NamedTuple):
    """One coder of the comparison.

    Attributes:
        name: how tables, files and the command line call it.
        make: `(task, settings) -> network`, before training.
        fixed: the fields of its parameters that are not trained.
    """

    name: str
    make: Callable[[Task, Settings], uj.Unrolled]
    fixed: tuple[str, ...] = ()

    def num_trained(self, network: uj.Unrolled) -> int:
        """How many numbers of the network are trained."""
        fields = network.params._asdict()
        return sum(
            leaf.size for name, tree in fields.items() if name not in self.fixed for leaf in jax.tree.leaves(tree)
        )


@functools.cache
def _algorithm(make: Callable[..., uj.Algorithm], support: Any = None) -> uj.Algorithm:
    """One object each, so that networks of one coder share their compiled programs."""
    return make() if support is None else make(support=support)


def _support(settings: Settings) -> algorithms.SupportSelection:
    return algorithms.SupportSelection(settings.support_growth, settings.support_limit)


def _log_thresholds(task: Task, settings: Settings) -> jax.Array:
    thresholds = _FIRST_THRESHOLD * _DECAY ** np.arange(settings.num_layers)
    return jnp.log(jnp.asarray(np.maximum(thresholds, _LEAST_THRESHOLD * task.noise_level), jnp.float32))


def _in_every_layer(matrix: jax.Array, settings: Settings) -> jax.Array:
    return jnp.repeat(matrix[None], settings.num_layers, axis=0)


def _lista(task: Task, settings: Settings) -> uj.Unrolled:
    encoder = algorithms.analytic_encoder(task.dictionary)
    recurrent = jnp.eye(len(encoder)) - encoder @ task.dictionary.matrix
    log_thresholds = jnp.repeat(_log_thresholds(task, settings)[:, None], len(encoder), axis=1)
    matrices = _in_every_layer(recurrent, settings), _in_every_layer(encoder, settings)
    return uj.Unrolled(
        _algorithm(algorithms.lista), settings.num_layers, algorithms.LISTAParams(*matrices, log_thresholds)
    )


def _coupled(task: Task, settings: Settings) -> algorithms.LISTACPParams:
    encoder = algorithms.analytic_encoder(task.dictionary)
    return algorithms.LISTACPParams(_in_every_layer(encoder, settings), _log_thresholds(task, settings))


def _lista_cp(task: Task, settings: Settings) -> uj.Unrolled:
    return uj.Unrolled(_algorithm(algorithms.lista_cp), settings.num_layers, _coupled(task, settings))


def _lista_cpss(task: Task, settings: Settings) -> uj.Unrolled:
    algorithm = _algorithm(algorithms.lista_cp, _support(settings))
    return uj.Unrolled(algorithm, settings.num_layers, _coupled(task, settings))


def _tied(algorithm: uj.Algorithm, task: Task, settings: Settings) -> uj.Unrolled:
    encoder, log_thresholds = algorithms.analytic_encoder(task.dictionary), _log_thresholds(task, settings)
    params = algorithms.TiLISTAParams(encoder, jnp.zeros_like(log_thresholds), log_thresholds)
    return uj.Unrolled(algorithm, settings.num_layers, params, layer_axes=_TiedAxes(None, 0, 0))


def _tilista(task: Task, settings: Settings) -> uj.Unrolled:
    return _tied(_algorithm(algorithms.tilista, _support(settings)), task, settings)


def _alista(task: Task, settings: Settings) -> uj.Unrolled:
    return _tied(_algorithm(algorithms.alista, _support(settings)), task, settings)


def _glista(task: Task, settings: Settings) -> uj.Unrolled:
    encoder, log_thresholds = _coupled(task, settings)
    closed = jnp.zeros_like(log_thresholds)
    layers = algorithms.GLISTAParams(encoder, log_thresholds, closed, closed, log_width=log_thresholds)
    return uj.Unrolled(_algorithm(algorithms.glista, _support(settings)), settings.num_layers, layers)


def _lamp(task: Task, settings: Settings) -> uj.Unrolled:
    return uj.unroll(_algorithm(algorithms.lamp), settings.num_layers, algorithms.lamp_params(task.dictionary))


def _slista(task: Task, settings: Settings) -> uj.Unrolled:
    return uj.unroll(_algorithm(algorithms.slista), settings.num_layers, algorithms.slista_params(task.dictionary))


def _tista(task: Task, settings: Settings) -> uj.Unrolled:
    params = algorithms.tista_params(task.dictionary, task.share, noise_variance=task.noise_level**2)
    return uj.unroll(
        _algorithm(algorithms.tista), settings.num_layers, params, layer_axes=_TISTAAxes(None, 0, None, None, None)
    )


# the coders of Open-L2O, under its names
CODERS = {
    coder.name: coder
    for coder in (
        Coder("lista", _lista),
        Coder("lista-cp", _lista_cp),
        Coder("lista-cpss", _lista_cpss),
        Coder("tilista", _tilista),
        Coder("alista", _alista, fixed=("encoder",)),
        Coder("glista", _glista),
        Coder("lamp", _lamp),
        Coder("slista", _slista),
        Coder("tista", _tista, fixed=("encoder", "noise_variance")),
    )
}


def codes(network: uj.Unrolled, dictionary: uj.operators.Dense, measurement: Any, l1_weight: Any) -> jax.Array:
    """The codes after every layer, the start first, for a batch of measurements: `(batch, num_layers + 1, atoms)`."""

    def run(measurement: jax.Array) -> jax.Array:
        problem = uj.objectives.Lasso(dictionary, measurement, l1_weight)
        return network.trajectory(problem, record=lambda state: state.x)

    return jax.vmap(run)(measurement)


def distances(codes: jax.Array, code: jax.Array) -> jax.Array:
    """||x_l - code|| of every example and layer: `(batch, num_layers + 1)`."""
    measure = uj.constraints.distance_to(lambda code: code)
    return jax.vmap(lambda xs, code: uj.constraints.measure_layers(measure, xs, code))(codes, code)


def nmse(distances: Any, code: Any) -> np.ndarray:
    """E||x_l - code||^2 / E||code||^2 of every layer: `(num_layers + 1,)`."""
    return np.mean(np.asarray(distances, np.float64) ** 2, axis=0) / np.mean(np.sum(np.asarray(code) ** 2, axis=-1))
