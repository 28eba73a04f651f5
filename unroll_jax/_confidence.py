"""One-sided confidence bounds of means and probabilities, on the host in NumPy's float64."""

import numpy as np
from jax.typing import ArrayLike

_CAP = 0.75  # the largest share of the capital that one bet can lose; the paper advises 1/2 or 3/4


def clopper_pearson_lower(num_successes: ArrayLike, num_trials: ArrayLike, confidence: float) -> np.ndarray:
    """The exact lower confidence bound of a probability (Clopper and Pearson 1934); 0 without a success.

    The p at which `num_successes` or more in `num_trials` independent trials have probability 1 - confidence.

    Args:
        num_successes: any shape, from 0 to `num_trials`.
        num_trials: `()` or broadcastable to `num_successes`, at least 1.
        confidence: in (0, 1).

    Raises:
        ValueError: for an argument out of its range.

    >>> clopper_pearson_lower([0, 58, 59], 59, 0.95).round(4)  # 59 of 59 show 95 %
    array([0. , 0.9221, 0.9505])
    """
    from scipy.special import betaincinv  # scipy always comes with jax

    check_confidence(confidence)
    successes, trials = np.asarray(num_successes, np.float64), np.asarray(num_trials, np.float64)
    if not np.all((successes >= 0) & (successes <= trials) & (trials >= 1)):
        raise ValueError(
            "`num_successes` must lie between 0 and `num_trials`, which is at least 1, "
            f"got {num_successes} of {num_trials}."
        )
    bound = betaincinv(np.maximum(successes, 1), trials - successes + 1, 1 - confidence)
    return np.where(successes == 0, 0.0, bound)


def student_upper(samples: np.ndarray, confidence: float) -> np.ndarray:
    """Student's upper bound of the mean of every column: `(n, columns) -> (columns,)`."""
    from scipy.special import stdtrit  # scipy always comes with jax

    num_samples = samples.shape[0]
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(num_samples)
    return np.mean(samples, axis=0) + stdtrit(num_samples - 1, confidence) * error


def betting_upper(unit: np.ndarray, confidence: float) -> np.ndarray:
    """The upper bound by betting of every column's mean, entries in [0, 1]: `(n, columns) -> (columns,)`.

    The largest candidate m at which the capital stays below 1 / (1 - confidence). At the true mean the
    capital is a non-negative martingale that starts at 1, so it reaches this level with probability at most
    1 - confidence.
    """
    bets, level = plug_in_bets(unit, confidence), -np.log1p(-confidence)
    low, high = np.zeros(unit.shape[1]), np.ones(unit.shape[1])
    for _ in range(50):  # exact to 2^-50 of the range
        middle = (low + high) / 2
        is_below = log_capital(unit, bets, middle) < level
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return high


def plug_in_bets(unit: np.ndarray, confidence: float) -> np.ndarray:
    """The bet on every sample: sqrt(2 log(1 / (1 - confidence)) / (n variance)), from those before it."""
    num_samples = unit.shape[0]
    count = np.arange(2, num_samples + 2)[:, None]
    # running estimates that start as one sample at 1/2 with variance 1/4, the largest there is
    mean = (0.5 + np.cumsum(unit, axis=0)) / count
    variance = (0.25 + np.cumsum((unit - mean) ** 2, axis=0)) / count
    past_variance = np.concatenate([np.full((1, unit.shape[1]), 0.25), variance[:-1]])
    return np.sqrt(-2 * np.log1p(-confidence) / (num_samples * past_variance))


def log_capital(unit: np.ndarray, bets: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """The logarithm of prod(1 + min(bet, cap / (1 - m)) (m - x)), at a candidate mean m in [0, 1) per column.

    Every factor is at least 1 - cap. It grows with m, although the cap moves with m too: a capped factor is
    1 + cap (m - x) / (1 - m), which increases since x <= 1. So bisection finds the bound.
    """
    return np.sum(np.log1p(np.minimum(bets, _CAP / (1 - candidate)) * (candidate - unit)), axis=0)


def check_confidence(confidence: float) -> None:
    """Raise unless `confidence` lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), got {confidence}: 0.95 is 95 %.")
