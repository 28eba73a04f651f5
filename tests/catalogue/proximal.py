"""Every proximal operator."""

import functools
from collections.abc import Callable

import numpy as np
from helpers import REAL

from catalogue.rows import ProxRow
from unroll_jax import prox


def _indicator(lower: float, upper: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: np.where((z >= lower) & (z <= upper), 0.0, np.inf)


PROXES = (
    ProxRow("soft_threshold", prox.soft_threshold, np.abs),
    ProxRow("non_negative", prox.non_negative, _indicator(0, np.inf), REAL),
    ProxRow("box", prox.box, _indicator(0, 1), REAL),
    ProxRow("box off center", functools.partial(prox.box, lower=-0.5, upper=2.0), _indicator(-0.5, 2), REAL),
)
