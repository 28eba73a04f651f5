from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import assert_finite, enabled

from unroll_jax import noise, prox
from unroll_jax._special import wright_omega

KEY = jax.random.key(0)
CLEAN: Any = np.linspace(0.5, 4.0, 8)
MODELS = [
    ("Gaussian", noise.Gaussian(0.3)),
    ("Poisson", noise.Poisson(0.5)),
    ("PoissonGaussian", noise.PoissonGaussian(0.5, 0.3)),
    ("SaltAndPepper", noise.SaltAndPepper(0.4, -1.0, 9.0)),
]
every_model = pytest.mark.parametrize("model", [model for _, model in MODELS], ids=[name for name, _ in MODELS])


def test_every_public_model_is_tested():
    public = {
        name for name, value in vars(noise).items() if isinstance(value, type) and value.__module__.endswith("noise")
    }
    assert public == {name for name, _ in MODELS}


# --- samples ---


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_have_the_shape_and_type_of_the_data_and_follow_the_key(model, dtype):
    with enabled(dtype):
        sample = jax.jit(model.sample)
        clean = jnp.asarray(CLEAN, dtype)
        one = sample(KEY, clean)
        assert one.shape == clean.shape and one.dtype == dtype and not one.weak_type
        np.testing.assert_array_equal(one, sample(KEY, clean))
        assert np.any(np.asarray(one) != np.asarray(sample(jax.random.key(1), clean)))
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model)
        assert jax.eval_shape(wide.sample, KEY, clean).dtype == dtype


def many(model, clean, dtype="float32", count=50_000):
    with enabled(dtype):
        return np.asarray(jax.jit(model.sample)(KEY, jnp.full(count, clean, dtype)), np.result_type(dtype, float))


def test_the_moments_of_gaussian_and_counting_noise():
    for model, clean, variance in (
        (noise.Gaussian(0.3), 2.0, 0.09),
        (noise.Poisson(0.5), 2.0, 1.0),
        (noise.PoissonGaussian(0.5, 0.3), 2.0, 1.09),
    ):
        values = many(model, clean)
        np.testing.assert_allclose(values.mean(), clean, atol=5 * (variance / values.size) ** 0.5)
        np.testing.assert_allclose(values.var(), variance, rtol=0.04)


def test_counts_follow_the_poisson_distribution():
    values = many(noise.Poisson(0.25), 0.75)
    counts, frequencies = np.unique(values / 0.25, return_counts=True)
    np.testing.assert_array_equal(counts, np.round(counts))
    np.testing.assert_allclose(frequencies / values.size, scipy.stats.poisson.pmf(counts, 3.0), atol=0.01)


def test_complex_noise_has_sigma_in_each_part():
    values = many(noise.Gaussian(0.3), 1 + 2j, "complex64") - (1 + 2j)
    np.testing.assert_allclose([values.real.std(), values.imag.std()], 0.3, rtol=0.04)
    np.testing.assert_allclose(np.mean(values.real * values.imag), 0, atol=0.004)


def test_impulses_are_as_frequent_as_told():
    values = many(noise.SaltAndPepper(0.4, -1.0, 9.0), 2.0)
    frequencies = [np.mean(values == value) for value in (-1, 2, 9)]
    np.testing.assert_allclose(frequencies, [0.2, 0.6, 0.2], atol=0.01)


def test_negative_rates_give_nan():
    for model in (noise.Poisson(0.5), noise.PoissonGaussian(0.5, 0.1)):
        found = model.sample(KEY, jnp.array([-1.0, 0.0, 1.0]))
        np.testing.assert_array_equal(np.isnan(found), [True, False, False])


# --- likelihoods ---


def likelihood(model, measurement, clean):
    with enabled("float64"):
        return float(jax.jit(model.negative_log_likelihood)(measurement, clean))


def test_the_gaussian_likelihood_equals_scipys():
    measurement = CLEAN + 0.1
    expected = -np.sum(scipy.stats.norm.logpdf(measurement, CLEAN, 0.3))
    np.testing.assert_allclose(likelihood(noise.Gaussian(0.3), measurement, CLEAN), expected, rtol=1e-12)
    sigma = CLEAN / 3
    expected = -np.sum(scipy.stats.norm.logpdf(measurement, CLEAN, sigma))
    np.testing.assert_allclose(likelihood(noise.Gaussian(sigma), measurement, CLEAN), expected, rtol=1e-12)
    # the parts of a complex number are two real ones
    expected = 2 * likelihood(noise.Gaussian(0.3), measurement, CLEAN)
    found = likelihood(noise.Gaussian(0.3), (1 + 1j) * measurement, (1 + 1j) * CLEAN)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_poisson_likelihood_equals_scipys():
    counts = np.arange(8.0)
    expected = -np.sum(scipy.stats.poisson.logpmf(counts, CLEAN / 0.5))
    np.testing.assert_allclose(likelihood(noise.Poisson(0.5), 0.5 * counts, CLEAN), expected, rtol=1e-12)
    model = noise.Poisson(1.0)
    assert likelihood(model, np.zeros(2), np.zeros(2)) == 0
    assert likelihood(model, np.ones(1), np.zeros(1)) == np.inf
    assert likelihood(model, np.zeros(1), -np.ones(1)) == np.inf
    assert likelihood(model, -np.ones(1), np.ones(1)) == np.inf


@pytest.mark.parametrize(("gain", "sigma"), [(1.0, 0.1), (1.0, 2.0), (0.01, 0.05), (0.5, 0.02), (0.2, 0.7)])
def test_the_mixed_likelihood_equals_the_whole_sum(gain, sigma):
    clean, measurement = (grid.ravel() for grid in np.meshgrid([0.001, 0.05, 0.5, 3.0], [-0.2, 0.0, 0.31, 2.5, 6.0]))
    counts = np.arange(5000.0)[:, None]
    log_terms = scipy.stats.poisson.logpmf(counts, clean / gain) + scipy.stats.norm.logpdf(
        measurement, gain * counts, sigma
    )
    expected = -np.sum(scipy.special.logsumexp(log_terms, axis=0))
    found = likelihood(noise.PoissonGaussian(gain, sigma, num_terms=128), measurement, clean)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # fewer terms make the value larger, never smaller
    assert likelihood(noise.PoissonGaussian(gain, sigma, num_terms=4), measurement, clean) >= expected * (1 - 1e-9)


def test_the_mixed_likelihood_tends_to_its_parts():
    clean = np.array([1.0, 2.5])
    # little noise at a count: the count's probability times the peak of the normal density
    mixed = likelihood(noise.PoissonGaussian(1.0, 1e-3), np.array([2.0, 3.0]), clean)
    poisson = likelihood(noise.Poisson(1.0), np.array([2.0, 3.0]), clean)
    np.testing.assert_allclose(mixed, poisson + 2 * np.log(1e-3 * np.sqrt(2 * np.pi)), rtol=1e-9)
    # many photons: a normal density with the variances added
    mixed = likelihood(noise.PoissonGaussian(1e-4, 1e-3), np.array([1.01, 2.48]), clean)
    sigma: Any = np.sqrt(1e-4 * clean + 1e-6)
    gaussian = likelihood(noise.Gaussian(sigma), np.array([1.01, 2.48]), clean)
    np.testing.assert_allclose(mixed, gaussian, rtol=2e-2)


def test_the_likelihood_of_impulses_is_a_probability():
    model = noise.SaltAndPepper(0.4)
    clean = np.array([0.3])
    total = sum(np.exp(-likelihood(model, np.array([value]), clean)) for value in (0.0, 0.3, 1.0))
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    assert likelihood(model, np.array([0.5]), clean) == np.inf
    # a clean pixel of that color may be lost and look the same
    np.testing.assert_allclose(np.exp(-likelihood(model, np.array([1.0]), np.array([1.0]))), 0.8, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "estimate"),
    [
        (noise.Gaussian(0.3), lambda mean: mean),
        (noise.Poisson(0.5), lambda mean: mean),
    ],
    ids=["Gaussian", "Poisson"],
)
def test_the_mean_is_the_most_likely_clean_value(model, estimate):
    """The gradient of the likelihood of many samples is zero at their mean, and its mean is zero at the truth."""
    values = many(model, 2.0, count=1000)
    gradient = jax.jit(
        jax.grad(lambda clean: model.negative_log_likelihood(jnp.asarray(values), jnp.full(1000, clean)))
    )
    np.testing.assert_allclose(gradient(float(values.mean())), 0, atol=0.05)
    assert gradient(1.5) < -100 and gradient(2.5) > 100


def test_the_mean_slope_of_the_mixed_likelihood_is_zero_at_the_truth():
    model = noise.PoissonGaussian(0.5, 0.3)
    values = many(model, 2.0, count=20000)
    gradient = jax.jit(
        jax.grad(lambda clean: model.negative_log_likelihood(jnp.asarray(values), jnp.full(20000, clean)))
    )
    assert abs(gradient(2.0)) < 600 < min(-gradient(1.8), gradient(2.2))


def test_the_prox_of_the_poisson_likelihood_lowers_it():
    counts, rates = jnp.arange(6.0), jnp.full(6, 2.0)
    objective = lambda z: noise.Poisson().negative_log_likelihood(counts, z) + jnp.sum((z - rates) ** 2) / 2
    z = prox.poisson(rates, 1.0, counts=counts)
    np.testing.assert_allclose(jax.grad(objective)(z)[1:], 0, atol=1e-5)


# --- derivatives, batches ---


@every_model
def test_derivatives_are_finite_in_data_and_parameters(model):
    arrays = jax.tree.map(jnp.asarray, model)
    clean = jnp.array([0.0, 0.5, 1.0, 4.0])
    measurement = clean if isinstance(model, noise.SaltAndPepper) else jnp.array([0.0, 0.5, 2.0, 1.5])
    value = lambda model, clean: model.negative_log_likelihood(measurement, clean)
    assert_finite(jax.jit(jax.grad(value, argnums=(0, 1)))(arrays, clean))


@every_model
def test_a_batch_of_models_maps(model):
    models = jax.tree.map(lambda leaf: jnp.array([leaf, 0.9 * leaf]), model)
    clean = jnp.asarray(np.stack([CLEAN, CLEAN]), "float32")

    def both(model, key, clean):
        return model.sample(key, clean), model.negative_log_likelihood(clean, clean)

    mapped = jax.jit(jax.vmap(both))(models, jax.random.split(KEY, 2), clean)
    alone = jax.jit(both)(jax.tree.map(lambda leaf: leaf[1], models), jax.random.split(KEY, 2)[1], clean[1])
    for batch, one in zip(mapped, alone, strict=True):
        np.testing.assert_allclose(batch[1], one, rtol=1e-5)


# --- misuse ---


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: noise.Gaussian(-0.1).sample(KEY, CLEAN), "`sigma` must be non-negative, got -0.1"),
        (lambda: noise.Gaussian(0.0).negative_log_likelihood(CLEAN, CLEAN), "`sigma` must be positive, got 0.0"),
        (lambda: noise.Gaussian(np.ones(3)).sample(KEY, CLEAN), r"`sigma` must have shape \(\) or one that broad"),  # pyright: ignore
        (lambda: noise.Gaussian(0.1).sample(3, CLEAN), "`key` must be a random key"),  # pyright: ignore
        (lambda: noise.Gaussian(0.1).negative_log_likelihood(CLEAN[:3], CLEAN), "`measurement` must have the shape"),
        (lambda: noise.Poisson(0.0).sample(KEY, CLEAN), "`gain` must be positive, got 0.0"),
        (lambda: noise.Poisson().sample(KEY, CLEAN + 1j), "`clean` must be real, got complex64"),
        (lambda: noise.PoissonGaussian(1.0, 0.1).sample(3, CLEAN), "`key` must be a random key"),  # pyright: ignore
        (
            lambda: noise.PoissonGaussian(1.0, 0.1, num_terms=0).negative_log_likelihood(CLEAN, CLEAN),
            "`num_terms` must be a whole number",
        ),
        (lambda: noise.SaltAndPepper(1.5).sample(KEY, CLEAN), r"`probability` must lie in \[0, 1\], got 1.5"),
        (lambda: noise.SaltAndPepper(0.5, np.ones(2)).sample(KEY, CLEAN), "`low` must have shape"),  # pyright: ignore
    ],
)
def test_misuse_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_wright_omega_equals_scipys():
    c = np.concatenate([np.linspace(-700, 700, 2001), np.logspace(3, 300, 50)])
    with enabled("float64"):
        np.testing.assert_allclose(jax.jit(wright_omega)(c), scipy.special.wrightomega(c), rtol=1e-13)
