"""The sparse recovery problem: a random dictionary, and codes drawn anew for every use."""

from typing import Any, NamedTuple

import jax
import numpy as np

import unroll_jax as uj
from experiments.sparse_recovery.settings import Settings

# what a draw is for; draws of different kinds, seeds or numbers never meet
DICTIONARY, TRAINING, VALIDATION, TEST = range(4)


class Examples(NamedTuple):
    """Codes and what is measured of them.

    Attributes:
        measurement: `(num, num_measurements)`.
        code: `(num, num_atoms)`.
    """

    measurement: Any
    code: Any


class Task(NamedTuple):
    """Measurement = matrix @ code + noise.

    Attributes:
        matrix: `(num_measurements, num_atoms)`, normal entries, then columns of unit norm.
        share: the probability that an entry of a code is not zero; then it is standard normal.
        noise_level: standard deviation of the noise.
        seed: of all draws.
    """

    matrix: np.ndarray
    share: float
    noise_level: float
    seed: int

    @property
    def dictionary(self) -> uj.operators.Dense:
        """The matrix as an operator."""
        return uj.operators.Dense(jax.numpy.asarray(self.matrix))

    def draw(self, num: int, kind: int, index: int = 0) -> Examples:
        """Examples number `index` of a kind; the same codes, and the same noise but for its level, at every SNR."""
        rng = np.random.default_rng([self.seed, kind, index])
        num_measurements, num_atoms = self.matrix.shape
        is_nonzero = rng.random((num, num_atoms)) < self.share
        code = np.where(is_nonzero, rng.standard_normal((num, num_atoms), np.float32), np.float32(0))
        noise = np.float32(self.noise_level) * rng.standard_normal((num, num_measurements), np.float32)
        return Examples(code @ self.matrix.T + noise, code)


def make_task(settings: Settings, snr: str, seed: int) -> Task:
    """The task at a signal-to-noise ratio in dB, E||matrix code||^2 / E||noise||^2."""
    size = settings.num_measurements, settings.num_atoms
    matrix = np.random.default_rng([seed, DICTIONARY]).standard_normal(size, np.float32)
    matrix /= np.linalg.norm(matrix, axis=0)
    # E||matrix code||^2 = num_atoms * share, since columns have unit norm
    signal_level = (settings.share * settings.num_atoms / settings.num_measurements) ** 0.5
    return Task(matrix, settings.share, signal_level * 10 ** (-float(snr) / 20), seed)


def decibels(ratio: np.ndarray | float) -> np.ndarray:
    """10 log10 of a ratio of squares."""
    return 10 * np.log10(np.maximum(ratio, 1e-30))
