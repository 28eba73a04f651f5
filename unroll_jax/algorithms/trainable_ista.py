"""TISTA: a linear estimate, and the posterior mean of a sparse prior given the error that it leaves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_inside, check_non_negative, check_real_array
from unroll_jax._types import Algorithm, Array, Problem
from unroll_jax.algorithms._encoders import Start, check_dense, check_layer, log_of_positive, real_dtype_of, residual
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import Dense

_LEAST_VARIANCE = 1e-9  # of an entry's error; the published one


class TISTAParams(NamedTuple):
    """Parameters of one layer of `tista`; with layer axes `TISTAParams(None, 0, None, None, None)` the paper's.

    Attributes:
        encoder: `(n, m)`, the pseudo-inverse of A; not trained.
        log_step_size: `()`, the logarithm of how far the code moves along the encoded residual.
        log_odds: `()`, log(p / (1 - p)) for the share p of entries that are not zero.
        log_variance: `()`, the logarithm of the variance of those entries.
        noise_variance: `()`, of every entry of the measurement; not trained.
    """

    encoder: Array
    log_step_size: Array
    log_odds: Array
    log_variance: Array
    noise_variance: Array


class TISTAState(NamedTuple):
    """State of `tista`: the code `x`, `(n,)`."""

    x: Array


def bernoulli_gaussian_mean(
    x: Array, noise_variance: Array | float, log_odds: Array | float, variance: Array | float
) -> Array:
    """The mean of a sparse number that was seen as `x` with Gaussian noise: the shape of `x`.

    For z that is 0 with probability 1 - p, else normal with `variance` a, seen as x = z + noise of variance t,

        E[z | x] = a / (a + t) * x * P(z != 0 | x),

    whose odds are p / (1 - p) * sqrt(t / (a + t)) * exp(x^2 a / (2 t (a + t))): the estimate of least mean square error
    (Ito et al. 2019).

    Args:
        x: any shape, real.
        noise_variance: `()`, positive.
        log_odds: `()`, log(p / (1 - p)).
        variance: `()`, positive.

    >>> bernoulli_gaussian_mean(jnp.array([0.1, 1.0]), 0.01, jnp.log(0.1 / 0.9), 1.0).round(1)
    Array([0., 1.], dtype=float32)
    """
    check_real_array("x", x)
    share = variance / (variance + noise_variance)
    # not log1p(-share), since the share rounds to 1
    log_scale = jnp.log(noise_variance / (variance + noise_variance)) / 2
    log_ratio = log_odds + log_scale + x**2 * share / (2 * noise_variance)
    return share * x * jax.nn.sigmoid(log_ratio)


def tista(start: Start = zero_start) -> Algorithm:
    """Trainable ISTA (TISTA, Ito, Takabe and Wadayama 2019): one step size per layer is all there is to train.

        r = x + step_size * encoder (b - A x),  x+ = bernoulli_gaussian_mean(r, t)

    where t, the variance of the errors of r, is estimated from the residual: with the variance of an entry of x

        v = max(||b - A x||^2 - m noise_variance, 0) / ||A||_F^2
        t = v * (1 + (step_size^2 - 2 step_size) * m / n) + step_size^2 * noise_variance * ||encoder||_F^2 / n.

    That holds for the pseudo-inverse as the encoder, of a matrix with at most as many rows as columns. No gradient
    reaches the encoder and the noise variance; the prior's two numbers are trained where the optimizer sees them.

    Args:
        start: `problem -> x`, the code before the first layer; zero by default.

    Returns:
        An algorithm with `TISTAParams` and `TISTAState`, on real problems with a `Dense` `.operator` A and a
        `.measurement` b.

    Raises:
        ValueError: from a layer, for params that do not fit the problem, or a complex code.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.1]))
    >>> params = tista_params(operator, share=0.5, variance=9.0, noise_variance=0.01)
    >>> uj.unroll(tista(), 3, params)(problem).x.round(1)
    Array([3., 0.], dtype=float32)
    """

    def init(problem: Problem) -> TISTAState:
        check_dense(problem.operator)
        return TISTAState(start(problem))

    def step(params: TISTAParams, state: TISTAState, problem: Problem) -> TISTAState:
        check_layer(params, TISTAParams._fields, "tista_params", state.x, problem.measurement)
        check_dense(problem.operator)
        encoder, noise_variance = jax.lax.stop_gradient((params.encoder, params.noise_variance))
        step_size, left = jnp.exp(params.log_step_size), residual(state.x, problem)
        num_atoms, num_measurements = encoder.shape
        energy = jnp.sum(left**2) - num_measurements * noise_variance
        variance = jnp.maximum(energy / jnp.sum(problem.operator.matrix**2), _LEAST_VARIANCE)
        # the encoder removes a share m / n of the error, which a step of another length removes in part
        error = variance * (1 + (step_size**2 - 2 * step_size) * num_measurements / num_atoms)
        error += step_size**2 * noise_variance * jnp.sum(encoder**2) / num_atoms
        seen = state.x + step_size * (left @ encoder.T)
        least = jnp.maximum(error, _LEAST_VARIANCE)
        return TISTAState(bernoulli_gaussian_mean(seen, least, params.log_odds, jnp.exp(params.log_variance)))

    return Algorithm(init, step)


def tista_params(
    operator: Dense, share: Array | float, variance: Array | float = 1.0, noise_variance: Array | float = 0.0
) -> TISTAParams:
    """The parameters of one layer of `tista` before training: the pseudo-inverse, and step size 1.

    Args:
        operator: `Dense`, the dictionary, `(m, n)` with m <= n.
        share: of the entries of a code that are not zero, strictly between 0 and 1.
        variance: of these entries, positive.
        noise_variance: of every entry of the measurement, non-negative.

    Raises:
        ValueError: for numbers out of range, an operator without a matrix, or one with more rows than columns.

    >>> tista_params(Dense(2 * jnp.eye(2)), share=0.1).encoder.round(3)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    check_dense(operator)
    num_measurements, num_atoms = operator.matrix.shape
    if num_measurements > num_atoms:
        raise ValueError(
            f"`operator` must have at most as many rows as columns, got a matrix of shape {operator.matrix.shape}: "
            "the error's variance is estimated for its pseudo-inverse from the right."
        )
    check_inside("share", share, 0, 1)
    check_non_negative("noise_variance", noise_variance)
    dtype = real_dtype_of(operator)
    probability = jnp.asarray(share, dtype)
    return TISTAParams(
        encoder=jnp.linalg.pinv(operator.matrix),
        log_step_size=jnp.zeros((), dtype),
        log_odds=jnp.log(probability) - jnp.log1p(-probability),
        log_variance=log_of_positive("variance", variance, dtype),
        noise_variance=jnp.asarray(noise_variance, dtype),
    )
