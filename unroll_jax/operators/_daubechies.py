"""The filters of Daubechies' orthogonal wavelets, to the rounding of double precision."""

import cmath
import functools
import math

NAMES = ("haar", "db2", "db3", "db4", "db5", "db6", "db7", "db8")


@functools.cache
def scaling_filter(name: str) -> tuple[float, ...]:
    """The low-pass filter of the wavelet `name` with p vanishing moments: 2 p numbers with sum sqrt(2) and norm 1.

    By spectral factorization (Daubechies 1992, section 6.1): |h^|^2 has a p-fold zero at z = -1 and the factor
    P(y) = sum over k < p of binom(p - 1 + k, k) y^k at y = (2 - z - 1/z) / 4. Of each pair of zeros r, 1/r of P, the
    filter takes the one inside of the unit circle, so that its large numbers come first.
    """
    num_moments = NAMES.index(name) + 1
    taps = [1.0 + 0.0j]
    for y in _roots([math.comb(num_moments - 1 + k, k) for k in range(num_moments)]):
        half_sum = 1 - 2 * y  # (z + 1/z) / 2
        offset = cmath.sqrt(half_sum * half_sum - 1)
        taps = _times_linear(taps, min(half_sum + offset, half_sum - offset, key=abs))
    for _ in range(num_moments):
        taps = _times_linear(taps, -1)
    real = [tap.real for tap in taps]
    scale = math.sqrt(2) / math.fsum(real)
    return tuple(scale * tap for tap in real)


def _times_linear(taps: list[complex], root: complex) -> list[complex]:
    """The polynomial with the coefficients `taps`, the highest power first, times (z - root)."""
    return [a - root * b for a, b in zip([*taps, 0], [0, *taps], strict=True)]


def _roots(coefficients: list[int]) -> list[complex]:
    """The zeros of the polynomial with these coefficients, the lowest power first (Durand and Kerner)."""
    degree = len(coefficients) - 1

    def monic(y: complex) -> complex:
        value = 0j
        for coefficient in reversed(coefficients):
            value = value * y + coefficient
        return value / coefficients[-1]

    roots = [(0.4 + 0.9j) ** k for k in range(degree)]
    for _ in range(100):
        for k, root in enumerate(roots):
            others = math.prod(root - other for j, other in enumerate(roots) if j != k)
            roots[k] = root - monic(root) / others
    return roots
