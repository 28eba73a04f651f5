"""Learned algorithms: iterations whose matrices are themselves the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_count, check_key, check_positive
from unroll_jax._types import Algorithm, Array, Problem
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import Dense, operator_norm
from unroll_jax.prox import soft_threshold


class LISTAParams(NamedTuple):
    """Parameters of one layer of `lista`.

    Attributes:
        recurrent: `(n, n)`, applied to the code; classically 1 - step_size * A* A.
        encoder: `(n, m)`, applied to the measurement; classically step_size * A*.
        log_threshold: `(n,)`, the logarithm of each entry's threshold, which keeps thresholds positive whatever the
            optimizer does, and makes its steps relative; classically log(step_size * l1_weight).
    """

    recurrent: Array
    encoder: Array
    log_threshold: Array


class LISTAState(NamedTuple):
    """State of `lista`: the code `x`, `(n,)`."""

    x: Array


def lista(start: Callable[[Problem], Array] = zero_start) -> Algorithm:
    """Learned ISTA (Gregor and LeCun 2010), x+ = soft_threshold(recurrent x + encoder b, threshold).

    The general form, with both matrices and all thresholds free. A problem is a `LeastSquares` (or anything with
    `.operator` and `.measurement`), whose measurement b has shape `(m,)`.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.

    Returns:
        An algorithm with `LISTAParams` and `LISTAState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> network = uj.unroll(lista(), 3, lista_params(operator, l1_weight=1.0))
    >>> network(uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))).x.round(3)
    Array([2., 0.], dtype=float32)
    """

    def init(problem: Problem) -> LISTAState:
        return LISTAState(start(problem))

    def step(params: LISTAParams, state: LISTAState, problem: Problem) -> LISTAState:
        _check_layer(params, state.x, problem.measurement)
        # matrices on the right, so that under vmap every product comes out with the batch in front, as it is kept
        mixed = state.x @ params.recurrent.T + problem.measurement @ params.encoder.T
        return LISTAState(soft_threshold(mixed, jnp.exp(params.log_threshold)))

    return Algorithm(init, step)


def lista_params(operator: Dense, l1_weight: Array | float) -> LISTAParams:
    """The classical parameters of one layer, at which `lista` is ISTA with step size 1 / ||operator||^2.

    Args:
        operator: `Dense`, the dictionary of the Lasso problem, `(m, n)`.
        l1_weight: the Lasso problem's weight, positive.

    Raises:
        ValueError: for a weight that is not positive, or an operator without a matrix.

    >>> params = lista_params(Dense(2 * jnp.eye(2)), l1_weight=1.0)
    >>> params.encoder.round(3), jnp.exp(params.log_threshold).round(3)
    (Array([[0.5, 0. ], [0. , 0.5]], dtype=float32), Array([0.25, 0.25], dtype=float32))
    """
    if not isinstance(operator, Dense):
        raise ValueError(
            f"`operator` must be a Dense operator, got {type(operator).__name__}: "
            "the layers' matrices start from its own."
        )
    check_positive("l1_weight", l1_weight)
    matrix = operator.matrix
    num_atoms = matrix.shape[1]
    step_size = 1 / operator_norm(operator) ** 2
    encoder = step_size * matrix.T.conj()
    return LISTAParams(
        recurrent=jnp.eye(num_atoms, dtype=matrix.dtype) - encoder @ matrix,
        encoder=encoder,
        log_threshold=jnp.full(num_atoms, jnp.log(step_size * l1_weight)),
    )


def random_lista_params(
    key: Array, num_measurements: int, num_atoms: int, *, gain: float = 1.0, threshold: float = 0.01
) -> LISTAParams:
    """Random parameters of one layer: Gaussian matrices that know nothing of the problem.

    Their entries have the variance gain^2 / fan-in (LeCun et al. 1998).

    Map over keys to fill a network: `Unrolled(lista(), 10, jax.vmap(lambda k: random_lista_params(k, m, n))(keys))`.

    Args:
        key: a random key.
        num_measurements: m, the size of a measurement.
        num_atoms: n, the size of a code.
        gain: the size of the matrices relative to those that keep the scale of what they are applied to.
        threshold: the initial threshold of every entry, positive; the unit of the code.

    Raises:
        ValueError: for a threshold that is not positive, sizes below 1, or what is no random key.
    """
    check_key("key", key)
    check_count("num_measurements", num_measurements)
    check_count("num_atoms", num_atoms)
    check_positive("threshold", threshold)
    recurrent_key, encoder_key = jax.random.split(key)
    return LISTAParams(
        recurrent=gain / num_atoms**0.5 * jax.random.normal(recurrent_key, (num_atoms, num_atoms)),
        encoder=gain / num_measurements**0.5 * jax.random.normal(encoder_key, (num_atoms, num_measurements)),
        log_threshold=jnp.full(num_atoms, jnp.log(threshold), float),  # not weakly typed
    )


def _check_layer(params: LISTAParams, x: Array, measurement: Array) -> None:
    check_attributes(
        "params", params, LISTAParams._fields, "LISTAParams, as lista_params or random_lista_params makes them"
    )
    num_atoms, num_measurements = jnp.shape(x)[0], jnp.shape(measurement)[0]
    for name, num_columns in (("recurrent", num_atoms), ("encoder", num_measurements)):
        shape = jnp.shape(getattr(params, name))
        if shape != (num_atoms, num_columns):
            raise ValueError(
                f"`{name}` must have shape {(num_atoms, num_columns)} for a code of size {num_atoms} and a measurement "
                f"of size {num_measurements}, got {shape}. Make the params of one layer, for this problem's operator."
            )
