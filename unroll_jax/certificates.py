"""Certificates: what samples not seen in training say, with a stated confidence, about every layer's descent.

Training under `constraints.descent` makes the layers descend on the training set. Here the same inequality is
tested on fresh samples: `certify` bounds its expectation, and the probability that a new sample descends.
These functions run on the host, in NumPy's float64; they are not for tracing.
"""

import numbers
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from unroll_jax._checks import check_rate
from unroll_jax._confidence import betting_upper, check_confidence, clopper_pearson_lower, student_upper


class Certificate(NamedTuple):
    """What `certify` found. Every bound is one-sided and holds at `confidence`, for each layer by itself.

    Entry l of a `(num_layers,)` field is about the layer that takes values[l] to values[l + 1]. The fields
    named mean, violation and value speak of the measure saturated at `value_bound`, where one was given; the
    frequencies and their bounds speak of the values as they came.

    Attributes:
        rate: as given.
        confidence: as given.
        value_bound: as given.
        num_samples: how many there were.
        is_rigorous: whether `violation_bound` is valid at every sample size (with a `value_bound`), or only
            as the samples grow in number.
        mean_value: `(num_layers + 1,)`, the mean of the measure.
        saturated_frequency: `(num_layers + 1,)`, the share of samples above `value_bound`.
        mean_violation: `(num_layers,)`, the mean of values[l + 1] - (1 - rate) * values[l].
        violation_bound: `(num_layers,)`, upper bound of that violation's expectation.
        holds: `(num_layers,)`, whether `violation_bound <= 0`: on average the layer descends at `rate`.
        descent_frequency: `(num_layers,)`, the share of samples with values[l + 1] < values[l], or both zero.
        descent_bound: `(num_layers,)`, lower bound of the probability that a new sample does so.
        satisfied_frequency: `(num_layers,)`, the share of samples whose own violation is <= 0: the full rate.
        satisfied_bound: `(num_layers,)`, lower bound of the probability that a new sample does so.
        monotone_frequency: the share of samples that descend at every layer.
        monotone_bound: lower bound of the probability that a new sample does so.
        value_envelope: `(num_layers + 1,)`, `geometric_envelope` from mean_value[0], with the largest
            `violation_bound` as slack (0 if none is positive). Where every layer's bound holds, which has at
            least the probability 1 - num_layers * (1 - confidence), it bounds the expected measure after each
            layer, but for its start: mean_value[0] is measured, not bounded, and its error enters layer l
            times (1 - rate)^l.
        value_limit: the limit of that envelope for infinitely many layers, which speaks of layers nobody
            measured: it is for a solver that goes on, if its further layers keep the same inequality.
    """

    rate: float
    confidence: float
    num_samples: int
    value_bound: float | None
    is_rigorous: bool
    mean_value: np.ndarray
    saturated_frequency: np.ndarray
    mean_violation: np.ndarray
    violation_bound: np.ndarray
    holds: np.ndarray
    descent_frequency: np.ndarray
    descent_bound: np.ndarray
    satisfied_frequency: np.ndarray
    satisfied_bound: np.ndarray
    monotone_frequency: float
    monotone_bound: float
    value_envelope: np.ndarray
    value_limit: float


def certify(
    values: ArrayLike, *, rate: float, confidence: float = 0.95, value_bound: float | None = None
) -> Certificate:
    """The certificate of descent that a measure on unseen samples supports.

    A layer descends on average if E[values[l + 1] - (1 - rate) * values[l]] <= 0. This expectation is bounded

    - with a `value_bound` B: for the measure min(value, B), whose violations lie in [-(1 - rate) B, B], by
      betting (Waudby-Smith and Ramdas 2023), valid at every sample size. A smaller B gives a tighter bound,
      and hides how far the samples above it went; `saturated_frequency` tells how many they are.
    - without: by Student's t, valid as the samples grow in number; rare large values fool it. At a finite
      number no bound is valid unless something is known of the tails (Bahadur and Savage 1956).

    Probabilities are bounded after Clopper and Pearson (1934), valid at every sample size either way.

    The samples must be independent draws from the distribution that the certificate is about, and the
    network, `rate` and `value_bound` chosen without them. The bound by betting depends on the order of the
    samples: they are shuffled, always in the same way, so that a sorted data set does no harm. For one
    statement about all L layers at once pass the confidence 1 - (1 - confidence) / L (Bonferroni).

    Args:
        values: `(num_samples, num_layers + 1)`, a measure (such as the distance to the solution) along each
            sample's trajectory, the start first; non-negative. `jax.vmap` of `constraints.measure_layers`
            makes it.
        rate: the share by which each layer must lower the measure, in [0, 1), as in `constraints.descent`.
        confidence: of each bound, in (0, 1).
        value_bound: where to saturate the measure, positive; say, its largest value on the training set.

    Raises:
        ValueError: for values of another shape, negative or not finite, or an argument out of its range.

    >>> start = np.linspace(1.0, 2.0, 400)
    >>> values = start[:, None] * np.array([1.0, 0.8, 0.75])  # the second layer lowers the measure by 6 %
    >>> certificate = certify(values, rate=0.1, value_bound=2.5)
    >>> certificate.mean_violation.round(3), certificate.violation_bound.round(3), certificate.holds
    (array([-0.15 , 0.045]), array([-0.123, 0.07 ]), array([ True, False]))
    >>> certificate.descent_bound.round(4), certificate.satisfied_bound.round(4)
    (array([0.9925, 0.9925]), array([0.9925, 0. ]))
    """
    values = _checked_values(values)
    check_rate(rate)
    check_confidence(confidence)
    if value_bound is not None and not (0 < value_bound < np.inf):
        raise ValueError(
            f"`value_bound` must be positive and finite, got {value_bound}. Take the measure's largest value "
            "on the training set, or None for a bound that is valid only as the samples grow in number."
        )
    num_samples, num_layers = values.shape[0], values.shape[1] - 1
    saturated = values if value_bound is None else np.minimum(values, value_bound)
    violation = saturated[:, 1:] - (1 - rate) * saturated[:, :-1]
    if value_bound is None:
        violation_bound = student_upper(violation, confidence)
    else:
        lowest, width = -(1 - rate) * value_bound, (2 - rate) * value_bound
        shuffled = np.random.default_rng(0).permutation(violation)
        # rounding may leave the interval
        unit = np.clip((shuffled - lowest) / width, 0, 1)
        violation_bound = lowest + width * betting_upper(unit, confidence)
    slack = max(0.0, float(np.max(violation_bound)))
    mean_value = np.mean(saturated, axis=0)

    previous, current = values[:, :-1], values[:, 1:]
    # a sample that has reached zero stays at its solution
    descends = (current < previous) | ((current == 0) & (previous == 0))
    satisfied = current - (1 - rate) * previous <= 0
    monotone = np.all(descends, axis=1)

    def lower(events: np.ndarray) -> np.ndarray:
        return clopper_pearson_lower(np.sum(events, axis=0), num_samples, confidence)

    return Certificate(
        rate=rate,
        confidence=confidence,
        num_samples=num_samples,
        value_bound=value_bound,
        is_rigorous=value_bound is not None,
        mean_value=mean_value,
        saturated_frequency=np.mean(saturated < values, axis=0),
        mean_violation=np.mean(violation, axis=0),
        violation_bound=violation_bound,
        holds=violation_bound <= 0,
        descent_frequency=np.mean(descends, axis=0),
        descent_bound=lower(descends),
        satisfied_frequency=np.mean(satisfied, axis=0),
        satisfied_bound=lower(satisfied),
        monotone_frequency=float(np.mean(monotone)),
        monotone_bound=float(lower(monotone)),
        value_envelope=geometric_envelope(mean_value[0], rate=rate, slack=slack, num_layers=num_layers),
        value_limit=_envelope_limit(float(mean_value[0]), rate, slack),
    )


def geometric_envelope(
    initial: float,
    *,
    rate: float,
    num_layers: int,
    slack: float = 0.0,
    failure_probability: float = 0.0,
    largest: float | None = None,
) -> np.ndarray:
    """The bound of the expected measure after each layer, where layers descend up to a slack, and may fail.

    Let d[l] be the measure after layer l, whose output is x. On an event of probability at least 1 - delta,
    independent of x, let the next layer keep E[d[l + 1] | x] <= (1 - rate) d[l] + slack; off that event, only
    d[l + 1] <= largest. Then, unrolling the affine recursion (compare arXiv 2312.15788),

        E d[l] <= q^l E d[0] + ((1 - delta) slack + delta largest) (1 + q + ... + q^(l - 1))

    with q = (1 - delta)(1 - rate). At delta = 0 it is enough that E d[l + 1] <= (1 - rate) E d[l] + slack,
    which is what `certify` bounds.

    Args:
        initial: E d[0], non-negative; `slack` and `largest` are in the same unit.
        rate: in [0, 1).
        num_layers: the number of layers.
        slack: non-negative.
        failure_probability: delta, in [0, 1].
        largest: the largest value that the measure can take, for a positive `failure_probability`; it is at
            least `initial`, and (1 - rate) largest + slack <= largest, or failing would be the better case.

    Returns:
        `(num_layers + 1,)`, `initial` first.

    Raises:
        ValueError: for an argument out of its range.

    >>> geometric_envelope(8.0, rate=0.5, slack=1.0, num_layers=3)
    array([8. , 5. , 3.5 , 2.75])
    """
    check_rate(rate)
    if not isinstance(num_layers, numbers.Integral) or num_layers < 0:
        raise ValueError(f"`num_layers` must be non-negative, got {num_layers}: it is a whole number.")
    for name, number in (("initial", initial), ("slack", slack)):
        if not 0 <= number < np.inf:
            raise ValueError(f"`{name}` must be non-negative and finite, got {number}.")
    if not 0 <= failure_probability <= 1:
        raise ValueError(f"`failure_probability` must lie in [0, 1], got {failure_probability}.")
    offset = slack
    if failure_probability > 0:
        if largest is None or not initial <= largest < np.inf or slack > rate * largest:
            raise ValueError(
                f"`largest` must be finite, at least `initial` = {initial} and at least `slack` / `rate` = "
                f"{slack} / {rate}, got {largest}: where a layer fails, nothing else bounds the measure."
            )
        offset = (1 - failure_probability) * slack + failure_probability * largest
    powers = ((1 - failure_probability) * (1 - rate)) ** np.arange(num_layers + 1)
    # partial sums, as the closed form (1 - q^l) / (1 - q) divides by zero at q = 1
    return powers * initial + offset * np.concatenate([[0.0], np.cumsum(powers[:-1])])


def _envelope_limit(initial: float, rate: float, slack: float) -> float:
    """The limit of `geometric_envelope` without failures, for infinitely many layers."""
    if rate > 0:
        return slack / rate
    return initial if slack == 0 else np.inf


def _checked_values(values: ArrayLike) -> np.ndarray:
    try:
        values = np.asarray(values, np.float64)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "`values` must be numbers, got an array that is being traced: call `certify` outside of jax.jit."
        ) from error
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 2:
        raise ValueError(
            "`values` must have shape (num_samples, num_layers + 1) with at least 2 samples and 1 layer, "
            f"got {values.shape}. Map the measure over the layers, then over the samples by jax.vmap."
        )
    num_bad = np.sum(~np.all(np.isfinite(values), axis=1))
    if num_bad:
        raise ValueError(
            f"`values` must be finite, got NaN or infinity in {num_bad} of {values.shape[0]} samples: a "
            "solver that diverges has no certificate. Repair it; the samples left without them prove nothing."
        )
    if np.any(values < 0):
        raise ValueError(
            f"`values` must be non-negative, got {np.min(values)}: a measure is 0 at the solution. "
            "Of an objective take the gap to its minimum."
        )
    return values
