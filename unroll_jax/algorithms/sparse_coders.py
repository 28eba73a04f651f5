"""Coupled sparse coders: layers that encode what the code does not explain yet, x+ = shrink(x + W (b - A x))."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._types import Algorithm, Array, Problem
from unroll_jax.algorithms._encoders import (
    Start,
    check_layer,
    first_layer,
    ista_step_and_threshold,
    log_of_positive,
    real_dtype_of,
    residual,
)
from unroll_jax.algorithms.analytic_weights import analytic_encoder
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.algorithms.support_selection import SupportSelection, check_support, thresholded
from unroll_jax.operators import Dense


class SparseCoderState(NamedTuple):
    """State of `lista_cp`, `tilista` and `alista`.

    Attributes:
        x: `(n,)`, the code.
        num_layers: `()`, the layers so far, by which support selection goes.
    """

    x: Array
    num_layers: Array


class LISTACPParams(NamedTuple):
    """Parameters of one layer of `lista_cp`.

    Attributes:
        encoder: `(n, m)`, applied to the residual; classically step_size * A*.
        log_threshold: `()` or `(n,)`, the logarithm of the threshold; classically log(step_size * l1_weight).
    """

    encoder: Array
    log_threshold: Array


class TiLISTAParams(NamedTuple):
    """Parameters of one layer of `tilista` and `alista`; with layer axes `TiLISTAParams(None, 0, 0)` the paper's.

    Attributes:
        encoder: `(n, m)`, applied to the residual; shared by all layers.
        log_step_size: `()`, the logarithm of how far the code moves along the encoded residual.
        log_threshold: `()` or `(n,)`, the logarithm of the threshold.
    """

    encoder: Array
    log_step_size: Array
    log_threshold: Array


def lista_cp(start: Start = zero_start, *, support: SupportSelection | None = None) -> Algorithm:
    """LISTA with coupled weights (LISTA-CP, Chen et al. 2018), x+ = soft_threshold(x + encoder (b - A x), threshold).

    `lista` with recurrent = 1 - encoder A, without which its errors cannot go to zero with depth (theorem 1 there).
    With support selection it is LISTA-CPSS: the largest entries are not shrunk, see `SupportSelection`.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.
        support: which entries pass unshrunk; None shrinks all.

    Returns:
        An algorithm with `LISTACPParams` and `SparseCoderState`, on problems with `.operator` A and `.measurement` b.

    Raises:
        ValueError: for another `support`; from a layer, for params that do not fit the problem.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = lista_cp_params(operator, l1_weight=1.0)
    >>> uj.unroll(lista_cp(), 3, params)(problem).x.round(3)
    Array([2., 0.], dtype=float32)
    >>> selective = lista_cp(support=SupportSelection(growth=0.5, limit=0.5))
    >>> uj.unroll(selective, 3, params)(problem).x.round()
    Array([3., 0.], dtype=float32)
    """
    check_support(support)

    def init(problem: Problem) -> SparseCoderState:
        return SparseCoderState(start(problem), first_layer())

    def step(params: LISTACPParams, state: SparseCoderState, problem: Problem) -> SparseCoderState:
        check_layer(params, LISTACPParams._fields, "lista_cp_params", state.x, problem.measurement)
        layer = state.num_layers + 1
        moved = state.x + residual(state.x, problem) @ params.encoder.T
        return SparseCoderState(thresholded(moved, jnp.exp(params.log_threshold), support, layer), layer)

    return Algorithm(init, step)


def lista_cp_params(operator: Dense, l1_weight: Array | float) -> LISTACPParams:
    """The classical parameters of one layer, at which `lista_cp` is ISTA with step size 1 / ||operator||^2.

    Args:
        operator: `Dense`, the dictionary, `(m, n)`.
        l1_weight: the Lasso problem's weight, positive.

    Raises:
        ValueError: for a weight that is not positive, or an operator without a matrix.

    >>> lista_cp_params(Dense(2 * jnp.eye(2)), l1_weight=1.0).encoder.round(3)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    step_size, threshold = ista_step_and_threshold(operator, l1_weight)
    return LISTACPParams(encoder=step_size * operator.matrix.T.conj(), log_threshold=jnp.log(threshold))


def tilista(start: Start = zero_start, *, support: SupportSelection | None = None) -> Algorithm:
    """LISTA with one matrix for all layers (TiLISTA, Liu et al. 2019).

    x+ = soft_threshold(x + step_size * encoder (b - A x), threshold),  with a step size and a threshold per layer. The
    encoder is tied by the layer axes: `unroll(tilista(), 16, params, layer_axes=TiLISTAParams(None, 0, 0))`.

    Args:
        start: as in `lista_cp`.
        support: as in `lista_cp`.

    Returns:
        An algorithm with `TiLISTAParams` and `SparseCoderState`.

    Raises:
        ValueError: as `lista_cp`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = tilista_params(operator, l1_weight=1.0)
    >>> network = uj.unroll(tilista(), 3, params, layer_axes=TiLISTAParams(None, 0, 0))
    >>> network(problem).x.round(3)
    Array([2., 0.], dtype=float32)
    """
    check_support(support)

    def init(problem: Problem) -> SparseCoderState:
        return SparseCoderState(start(problem), first_layer())

    def step(params: TiLISTAParams, state: SparseCoderState, problem: Problem) -> SparseCoderState:
        made_by = "tilista_params or alista_params"
        check_layer(params, TiLISTAParams._fields, made_by, state.x, problem.measurement)
        layer = state.num_layers + 1
        moved = state.x + jnp.exp(params.log_step_size) * (residual(state.x, problem) @ params.encoder.T)
        return SparseCoderState(thresholded(moved, jnp.exp(params.log_threshold), support, layer), layer)

    return Algorithm(init, step)


def tilista_params(operator: Dense, l1_weight: Array | float) -> TiLISTAParams:
    """The classical parameters of one layer, at which `tilista` is ISTA: encoder A*, step size 1 / ||operator||^2.

    Args:
        operator: `Dense`, the dictionary, `(m, n)`.
        l1_weight: the Lasso problem's weight, positive.

    Raises:
        ValueError: for a weight that is not positive, or an operator without a matrix.

    >>> jnp.exp(tilista_params(Dense(2 * jnp.eye(2)), l1_weight=1.0).log_step_size).round(3)
    Array(0.25, dtype=float32)
    """
    step_size, threshold = ista_step_and_threshold(operator, l1_weight)
    return TiLISTAParams(operator.matrix.T.conj(), jnp.log(step_size), jnp.log(threshold))


def alista(start: Start = zero_start, *, support: SupportSelection | None = None) -> Algorithm:
    """Analytic LISTA (ALISTA, Liu et al. 2019): `tilista` whose encoder is computed, not trained.

    x+ = soft_threshold(x + step_size * encoder (b - A x), threshold):  two numbers per layer are all there is to train.
    No gradient reaches the encoder. An optimizer with weight decay would still move it: there, wrap it in an
    `nnx.Variable`, or leave it out of the decay.

    Args:
        start: as in `lista_cp`.
        support: as in `lista_cp`; the paper has it.

    Returns:
        An algorithm with `TiLISTAParams` and `SparseCoderState`.

    Raises:
        ValueError: as `lista_cp`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = alista_params(operator, threshold=1.0)
    >>> network = uj.unroll(alista(), 3, params, layer_axes=TiLISTAParams(None, 0, 0))
    >>> network(problem).x.round(3)
    Array([2., 0.], dtype=float32)
    """
    tied = tilista(start, support=support)

    def step(params: TiLISTAParams, state: SparseCoderState, problem: Problem) -> SparseCoderState:
        if hasattr(params, "encoder"):  # else `tilista` tells what is missing
            params = params._replace(encoder=jax.lax.stop_gradient(params.encoder))
        return tied.step(params, state, problem)

    return Algorithm(tied.init, step)


def alista_params(operator: Dense, threshold: Array | float, step_size: Array | float = 1.0) -> TiLISTAParams:
    """The parameters of one layer of `alista` before training, with the encoder of `analytic_encoder`.

    Args:
        operator: `Dense`, the dictionary, `(m, n)`, without a column of zeros.
        threshold: `()` or `(n,)`, positive; the unit of the code.
        step_size: `()`, positive; at 1 the encoder gives back the one entry of a code that has one.

    Raises:
        ValueError: for a threshold or step size that is not positive, or an operator without a matrix.

    >>> alista_params(Dense(jnp.array([[2.0, 0.0], [0.0, 0.5]])), threshold=0.1).encoder
    Array([[0.5, 0. ],
           [0. , 2. ]], dtype=float32)
    """
    encoder = analytic_encoder(operator)
    dtype = real_dtype_of(operator)
    return TiLISTAParams(
        encoder,
        log_step_size=log_of_positive("step_size", step_size, dtype),
        log_threshold=log_of_positive("threshold", threshold, dtype),
    )
