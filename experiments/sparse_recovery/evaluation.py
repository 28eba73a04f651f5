"""What the coders, and the classical methods beside them, do on codes that nothing has seen."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.sparse_recovery.coders import codes, distances, nmse
from experiments.sparse_recovery.problem import TEST, TRAINING, VALIDATION, Examples, Task
from experiments.sparse_recovery.settings import Settings
from unroll_jax.algorithms import fista, proximal_gradient, proximal_gradient_params

_CHUNK = 256  # examples evaluated at once

# one object each, so that they are compiled once
_ISTA, _FISTA = proximal_gradient(), fista()


class Baseline(NamedTuple):
    """A classical method with the l1 weight that validation chose for it.

    Attributes:
        name: how tables call it.
        l1_weight: of the Lasso problem.
        nmse: `(num_steps + 1,)` on the test codes, the start first.
    """

    name: str
    l1_weight: float
    nmse: np.ndarray


class Evaluation(NamedTuple):
    """A network on the test codes.

    Attributes:
        nmse: `(num_layers + 1,)`, E||x_l - code||^2 / E||code||^2, the start first.
        certificate: of descent in the distance to the code.
    """

    nmse: np.ndarray
    certificate: uj.Certificate


def evaluate(network: uj.Unrolled, task: Task, settings: Settings, l1_weight: float) -> Evaluation:
    """The network on the test codes, layer by layer."""

    def run(examples: Examples) -> np.ndarray:
        return _chunked(lambda chunk: _network_distances(network, task.dictionary, chunk, l1_weight), examples)

    test = task.draw(settings.num_test, TEST)
    values = run(test)
    # where the certificate saturates may depend on what is not in the test only
    seen = run(task.draw(settings.num_test, TRAINING))
    certificate = uj.certify(
        values, rate=settings.rate, confidence=settings.confidence, value_bound=float(np.max(seen))
    )
    return Evaluation(nmse(values, test.code), certificate)


def baselines(task: Task, settings: Settings) -> list[Baseline]:
    """ISTA and FISTA after as many steps as there are layers, and FISTA until it has converged."""
    found = []
    for name, algorithm, num_steps in (
        ("ISTA", _ISTA, settings.num_layers),
        ("FISTA", _FISTA, settings.num_layers),
        ("Lasso", _FISTA, settings.num_converged),
    ):

        def run(num: int, kind: int, l1_weight: float, algorithm=algorithm, num_steps=num_steps) -> np.ndarray:
            params = proximal_gradient_params(task.dictionary, l1_weight)
            examples = task.draw(num, kind)
            values = _chunked(
                lambda chunk: _solver_distances(algorithm, num_steps, params, task.dictionary, chunk), examples
            )
            return nmse(values, examples.code)

        errors = [run(settings.num_validation, VALIDATION, weight)[-1] for weight in settings.l1_weights]
        best = settings.l1_weights[int(np.argmin(errors))]
        found.append(Baseline(name, best, run(settings.num_test, TEST, best)))
    return found


@jax.jit
def _network_distances(
    network: uj.Unrolled, dictionary: uj.operators.Dense, examples: Examples, l1_weight: float
) -> jax.Array:
    return distances(codes(network, dictionary, examples.measurement, l1_weight), examples.code)


@jax.jit(static_argnums=(0, 1))
def _solver_distances(
    algorithm: uj.Algorithm,
    num_steps: int,
    params: uj.algorithms.ProximalGradientParams,
    dictionary: uj.operators.Dense,
    examples: Examples,
) -> jax.Array:
    def run(measurement: jax.Array, code: jax.Array) -> jax.Array:
        problem = uj.objectives.LeastSquares(dictionary, measurement)
        start = algorithm.init(problem)
        _, found = uj.scan_layers(
            algorithm.step,
            params,
            start,
            problem,
            num_layers=num_steps,
            layer_axes=None,
            record=lambda state: jnp.linalg.norm(state.x - code),
        )
        return jnp.concatenate([jnp.linalg.norm(start.x - code)[None], found])

    return jax.vmap(run)(examples.measurement, examples.code)


def _chunked(function: Callable[[Examples], jax.Array], examples: Examples) -> np.ndarray:
    starts = range(0, len(examples.code), _CHUNK)
    return np.concatenate([np.asarray(function(Examples(*(a[i : i + _CHUNK] for a in examples)))) for i in starts])
