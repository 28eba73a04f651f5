"""Noise models as pytrees: `sample(key, clean)` and `negative_log_likelihood(measurement, clean)`, for one example.

`clean` is what would be measured without noise. The likelihood is that of all entries together, with its constants, so
that models can be compared; minimizing it over `clean` is maximum likelihood. Parameters are arrays, so they can be
estimated by gradients too; they broadcast to `clean`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_count, check_key, check_non_negative, check_positive, check_probability
from unroll_jax._special import wright_omega
from unroll_jax._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """Additive white Gaussian noise: measurement = clean + sigma n, n standard normal.

    Complex numbers get independent noise in their real and imaginary parts, `sigma` in each.

    Attributes:
        sigma: `()` or broadcastable to the clean array, its standard deviation; same unit, positive.

    >>> Gaussian(0.5).negative_log_likelihood(jnp.array([1.0, 2.0]), jnp.array([1.0, 1.5]))
    Array(0.9515..., dtype=float32)
    """

    sigma: Array | float

    def sample(self, key: Array, clean: Array) -> Array:
        """`clean` with noise: the same shape and type.

        Raises:
            ValueError: for what is no key, or a known negative sigma.
        """
        clean = _checked(key, clean, allow_complex=True)
        sigma = _parameter("sigma", self.sigma, clean, check_non_negative)
        if jnp.iscomplexobj(clean):
            # JAX's complex normal numbers have variance 1 / 2 in each part
            sigma = sigma * math.sqrt(2)
        return clean + sigma * jax.random.normal(key, clean.shape, clean.dtype)

    def negative_log_likelihood(self, measurement: Array, clean: Array) -> Array:
        """Sum of |measurement - clean|^2 / (2 sigma^2) + log(sigma sqrt(2 pi)), the logarithm twice if complex: `()`.

        Raises:
            ValueError: if the shapes differ, or for a known sigma that is not positive.
        """
        measurement, clean = _pair(measurement, clean, allow_complex=True)
        residual = measurement - clean
        sigma = _parameter("sigma", self.sigma, clean, check_positive)
        num_parts = 2 if jnp.iscomplexobj(residual) else 1
        square = jnp.real(residual * jnp.conj(residual))
        return jnp.sum(square / (2 * sigma**2) + num_parts * (jnp.log(sigma) + math.log(2 * math.pi) / 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Poisson:
    """Counts of photons: measurement = gain * k, k Poisson with mean clean / gain.

    Mean `clean`, variance gain * clean.

    Attributes:
        gain: `()` or broadcastable to the clean array, what one count is; same unit, positive. An image in [0, 1] with
            at most 100 photons a pixel has gain 0.01.

    >>> Poisson(1.0).negative_log_likelihood(jnp.array([2.0]), jnp.array([1.0]))  # 1 + log 2!
    Array(1.6931..., dtype=float32)
    """

    gain: Array | float = 1.0

    def sample(self, key: Array, clean: Array) -> Array:
        """Counts times gain: the shape and type of `clean`; NaN where `clean` is negative.

        Raises:
            ValueError: for what is no key, complex numbers, or a known gain that is not positive.
        """
        clean = _checked(key, clean)
        gain = _parameter("gain", self.gain, clean, check_positive)
        counts = jax.random.poisson(key, jnp.maximum(clean, 0) / gain, clean.shape)
        return jnp.where(clean >= 0, gain * counts.astype(clean.dtype), jnp.nan)

    def negative_log_likelihood(self, measurement: Array, clean: Array) -> Array:
        """Sum of r - k log r + log k! with rate r = clean / gain and count k = measurement / gain: `()`.

        Infinite for a negative rate or count, and for a positive count at rate zero. Between whole counts, k! is the
        gamma function of k + 1. Its proximal operator is `prox.poisson`.

        Raises:
            ValueError: if the shapes differ, for complex numbers, or a known gain that is not positive.
        """
        measurement, clean = _pair(measurement, clean)
        gain = _parameter("gain", self.gain, clean, check_positive)
        rate, count = clean / gain, measurement / gain
        log_rate, is_possible = _log_rate(rate, count)
        value = rate - count * log_rate + jax.lax.lgamma(jnp.maximum(count, 0) + 1)
        return jnp.sum(jnp.where(is_possible & (count >= 0), value, jnp.inf))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PoissonGaussian:
    """Counts of photons and noise of the readout: measurement = gain * k + sigma n, as cameras have it.

    k Poisson with mean clean / gain, n standard normal. The variance is gain * clean + sigma^2 (Foi et al. 2008).

    Attributes:
        gain: `()` or broadcastable to the clean array; same unit, positive.
        sigma: `()` or broadcastable to the clean array, the standard deviation of the readout; same unit, positive.
        num_terms: how many counts around the most likely one the likelihood sums over.

    >>> PoissonGaussian(1.0, 0.1).negative_log_likelihood(jnp.array([2.0]), jnp.array([1.0]))
    Array(0.3095..., dtype=float32)
    """

    gain: Array | float
    sigma: Array | float
    num_terms: int = dataclasses.field(default=64, metadata={"static": True})

    def sample(self, key: Array, clean: Array) -> Array:
        """Counts times gain with noise: the shape and type of `clean`; NaN where `clean` is negative.

        Raises:
            ValueError: for what is no key, complex numbers, or known parameters that are negative.
        """
        check_key("key", key)
        count_key, noise_key = jax.random.split(key)
        return Gaussian(self.sigma).sample(noise_key, Poisson(self.gain).sample(count_key, clean))

    def negative_log_likelihood(self, measurement: Array, clean: Array) -> Array:
        """Minus the sum over entries of log sum_k Poisson(k; clean / gain) Normal(measurement; gain k, sigma^2): `()`.

        The infinite sum is cut to `num_terms` counts around its largest term (Chouzenoux et al. 2015), which loses
        nothing that rounding would keep while min(sqrt(clean / gain), sigma / gain) is below about num_terms / 12.
        Beyond that the value is too large. It takes `num_terms` times the memory of `clean`.

        Raises:
            ValueError: if the shapes differ, for complex numbers, or known parameters that are not positive.
        """
        measurement, clean = _pair(measurement, clean)
        check_count("num_terms", self.num_terms)
        gain = _parameter("gain", self.gain, clean, check_positive)
        sigma = _parameter("sigma", self.sigma, clean, check_positive)
        rate = clean / gain
        start = jax.lax.stop_gradient(_likeliest_count(rate, measurement / gain, (sigma / gain) ** 2))

        def log_term(offset: Array) -> Array:
            count = start + offset
            log_rate, is_possible = _log_rate(rate, count)
            known = jnp.maximum(count, 0)
            log_count = known * log_rate - rate - jax.lax.lgamma(known + 1)
            log_noise = -(((measurement - gain * known) / sigma) ** 2) / 2
            return jnp.where(is_possible & (count >= 0), log_count + log_noise, -jnp.inf)

        offsets = jnp.arange(self.num_terms, dtype=clean.dtype) - self.num_terms // 2
        log_sum = jax.nn.logsumexp(jax.vmap(log_term)(offsets), axis=0)
        return jnp.sum(jnp.log(sigma) + math.log(2 * math.pi) / 2 - log_sum)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SaltAndPepper:
    """Impulses: each entry is lost with a probability, and then `low` or `high` with the same chance.

    Attributes:
        probability: `()` or broadcastable to the clean array, in [0, 1].
        low: `()`, what pepper measures.
        high: `()`, what salt measures.

    >>> SaltAndPepper(0.5).negative_log_likelihood(jnp.array([0.3, 1.0]), jnp.array([0.3, 0.3]))  # -log 0.5 - log 0.25
    Array(2.0794..., dtype=float32)
    """

    probability: Array | float
    low: Array | float = 0.0
    high: Array | float = 1.0

    def sample(self, key: Array, clean: Array) -> Array:
        """`clean` with impulses: the same shape and type.

        Raises:
            ValueError: for what is no key, complex numbers, or a known probability outside [0, 1].
        """
        clean = _checked(key, clean)
        probability, low, high = self._parameters(clean)
        chance = jax.random.uniform(key, clean.shape, clean.dtype)
        return jnp.where(chance < probability / 2, low, jnp.where(chance < probability, high, clean))

    def negative_log_likelihood(self, measurement: Array, clean: Array) -> Array:
        """Minus the sum of log((1 - p) [m = clean] + p / 2 [m = low] + p / 2 [m = high]), [.] being 1 or 0: `()`.

        The measurement has three possible values, so this is a probability and no density: infinite for any other
        value, and flat, without a gradient in `clean`. To restore images, minimize the l1 norm of the difference.

        Raises:
            ValueError: if the shapes differ, for complex numbers, or a known probability outside [0, 1].
        """
        measurement, clean = _pair(measurement, clean)
        probability, low, high = self._parameters(clean)
        likelihood = (
            jnp.where(measurement == clean, 1 - probability, 0)
            + jnp.where(measurement == low, probability / 2, 0)
            + jnp.where(measurement == high, probability / 2, 0)
        )
        is_possible = likelihood > 0
        return jnp.sum(jnp.where(is_possible, -jnp.log(jnp.where(is_possible, likelihood, 1)), jnp.inf))

    def _parameters(self, clean: Array) -> tuple[Array, Array, Array]:
        probability = _parameter("probability", self.probability, clean, check_probability)
        return probability, _parameter("low", self.low, clean), _parameter("high", self.high, clean)


def _likeliest_count(rate: Array, count: Array, variance: Array) -> Array:
    """The k that about maximizes k log(rate) - log k! - (count - k)^2 / (2 variance).

    With log(k + 1/2) for the derivative of log k!, u = (k + 1/2) / variance solves u + log u = c.
    """
    floor = float(jnp.finfo(rate.dtype).tiny)
    c = jnp.log(jnp.maximum(rate, floor)) + (count + 0.5) / variance - jnp.log(variance)
    return jnp.maximum(jnp.round(variance * wright_omega(c) - 0.5), 0)


def _log_rate(rate: Array, count: Array) -> tuple[Array, Array]:
    """log(rate), or 0 where the rate is not positive; and whether `count` can be measured at this rate."""
    is_positive = rate > 0
    return jnp.log(jnp.where(is_positive, rate, 1)), is_positive | ((rate == 0) & (count == 0))


def _checked(key: Array, clean: Any, *, allow_complex: bool = False) -> Array:
    check_key("key", key)
    return _inexact("clean", clean, allow_complex)


def _pair(measurement: Any, clean: Any, *, allow_complex: bool = False) -> tuple[Array, Array]:
    measurement = _inexact("measurement", measurement, allow_complex)
    clean = _inexact("clean", clean, allow_complex)
    if measurement.shape != clean.shape:
        raise ValueError(
            f"`measurement` must have the shape of `clean`, {clean.shape}, got {measurement.shape}. "
            "Pass one example per call and take batches by jax.vmap."
        )
    return measurement, clean


def _inexact(name: str, value: Any, allow_complex: bool) -> Array:
    if jnp.iscomplexobj(value) and not allow_complex:
        raise ValueError(f"`{name}` must be real, got {jnp.result_type(value)}: only Gaussian noise has complex kinds.")
    return jnp.asarray(value, jnp.result_type(value, float))


def _parameter(name: str, value: Any, clean: Array, check: Callable[[str, Any], None] | None = None) -> Array:
    try:
        fits = jnp.broadcast_shapes(jnp.shape(value), clean.shape) == clean.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`{name}` must have shape () or one that broadcasts to {clean.shape}, got {jnp.shape(value)}."
        )
    if check is not None and not isinstance(value, jax.Array):  # an array would make eager code wait for it
        check(name, value)
    array = jnp.asarray(value, jnp.finfo(clean.dtype).dtype)
    return array if array.ndim == 0 else jnp.broadcast_to(array, clean.shape)
