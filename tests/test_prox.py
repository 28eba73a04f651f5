import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import PROXES, name_of
from helpers import DTYPES, ROUNDING, TraceCounter, assert_close, assert_finite, draw, enabled, searched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax import prox
from unroll_jax.prox import box, non_negative, soft_threshold

every_prox = pytest.mark.parametrize("row", PROXES, ids=name_of)


def every_prox_in(*dtypes):
    cases = [(row, dtype) for row in PROXES for dtype in dtypes if dtype in row.dtypes]
    return pytest.mark.parametrize(("row", "dtype"), cases, ids=[f"{row.name} {dtype}" for row, dtype in cases])


vectors = arrays(np.float64, 6, elements=st.floats(-1e3, 1e3))


def objective(row, z, x, strength):
    """What a proximal operator minimizes, entry by entry; a set stays one at strength 0."""
    return max(strength, 1e-300) * row.penalty(z) + np.abs(z - x) ** 2 / 2


def grid_minimizer(row, x, strength):
    """The minimizer over a grid around zero, refined around its best point: it never sees the answer."""
    axis = np.linspace(-1, 1, 161)
    grid = axis[:, None] + 1j * axis if isinstance(x, complex) else axis
    center, radius = 0.0, 6.0
    for _ in range(8):
        z = center + radius * grid
        center = z.ravel()[np.argmin(objective(row, z, x, strength))]
        radius /= 8
    return center


def test_every_public_prox_is_in_the_catalogue():
    public = {name for name, value in vars(prox).items() if inspect.isfunction(value)}
    assert public <= {row.name.split()[0] for row in PROXES}


# --- every proximal operator ---


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.5])
@every_prox_in(*DTYPES)
def test_equals_the_minimizer_over_a_grid(row, dtype, strength):
    with enabled(dtype):
        x = 2 * draw(np.random.default_rng(0), (5,), dtype)
        z = row.prox(x, strength)
    assert z.dtype == dtype
    expected = [grid_minimizer(row, entry, strength) for entry in np.asarray(x).tolist()]
    # a minimizer is known to the square root of what its objective is known to
    np.testing.assert_allclose(z, expected, atol=1e-5 if ROUNDING[dtype] > 1e-6 else 1e-6)


@every_prox_in("float64", "complex128")
def test_beats_every_random_neighbour(row, dtype):
    rng, strength = np.random.default_rng(0), 0.7
    with enabled(dtype):
        x = 2 * draw(rng, (20,), dtype)
        z = np.asarray(row.prox(x, strength))
        step = np.asarray(draw(rng, (1000, 20), dtype))
    best = objective(row, z, np.asarray(x), strength)
    assert np.all(np.isfinite(best))
    for scale in (1e-3, 1e-1, 1.0):
        assert np.all(objective(row, z + scale * step, np.asarray(x), strength) >= best - ROUNDING[dtype])


@every_prox
@searched
@given(x=vectors, y=vectors, strength=st.floats(0, 100))
def test_firmly_non_expansive(row, x, y, strength):
    with enabled("float64"):
        px, py = (np.asarray(row.prox(jnp.asarray(v), strength)) for v in (x, y))
    moved = px - py
    assert moved @ moved <= moved @ (x - y) + 1e-9 * (1 + x @ x + y @ y)


def test_soft_threshold_of_complex_numbers_is_firmly_non_expansive():
    x, y = draw(np.random.default_rng(0), (2, 1000), "complex64")
    moved = np.asarray(soft_threshold(x, 0.8) - soft_threshold(y, 0.8))
    assert np.all(np.abs(moved) ** 2 <= np.real(moved.conj() * np.asarray(x - y)) + 1e-5)


@every_prox_in("float32", "complex64")
def test_jit_and_vmap_are_a_loop_and_new_values_retrace_nothing(row, dtype):
    with enabled(dtype):
        xs = draw(np.random.default_rng(0), (3, 2, 4), dtype)
        strengths = jnp.array([0.0, 0.5, 1.0], np.finfo(dtype).dtype)
        looped = jnp.stack([row.prox(x, strength) for x, strength in zip(xs, strengths, strict=True)])
        assert_close(jax.vmap(row.prox)(xs, strengths), looped, 1e-6)
        counter = TraceCounter(row.prox)
        compiled = jax.jit(counter)
        for x, strength, expected in zip(xs, strengths, looped, strict=True):
            assert_close(compiled(x, strength), expected, 1e-6)
    assert counter.count == 1


@every_prox_in("float32", "complex64")
def test_gradients_are_finite_at_zero_and_on_every_kink(row, dtype):
    with enabled(dtype):
        # zero, the kinks of all rows at strength 1, and what touches none
        x = jnp.array([0.0, 1.0, -1.0, -0.5, 2.0, 0.3, -7.0], dtype)

        def loss(x, strength):
            return jnp.sum(jnp.abs(row.prox(x, strength) - 0.1) ** 2)

        gradients = jax.grad(loss, argnums=(0, 1))(x, jnp.ones((), np.finfo(dtype).dtype))
        _, tangent = jax.jvp(lambda x: row.prox(x, 1.0), (x,), (jnp.ones_like(x),))
        assert_finite((gradients, tangent))


# --- soft thresholding ---


def test_soft_threshold_by_hand():
    x = jnp.array([-2.0, -0.5, 0.0, 0.5, 3.0])
    np.testing.assert_array_equal(soft_threshold(x, 1.0), [-1, 0, 0, 0, 2])
    np.testing.assert_array_equal(soft_threshold(x, jnp.array([0.0, 0.0, 1.0, 0.25, 4.0])), [-2, -0.5, 0, 0.25, 0])


@searched
@given(x=arrays(np.complex128, 5, elements=st.complex_numbers(max_magnitude=1e3)), strength=st.floats(0, 100))
def test_soft_threshold_of_complex_numbers_shrinks_the_modulus_and_keeps_the_phase(x, strength):
    with enabled("float64"):
        z = np.asarray(soft_threshold(jnp.asarray(x), strength))
    np.testing.assert_allclose(np.abs(z), np.maximum(np.abs(x) - strength, 0), rtol=1e-12, atol=1e-12)
    # a product with the conjugate that is real and non-negative: the same phase
    np.testing.assert_allclose(z * x.conj(), np.abs(z) * np.abs(x), rtol=1e-12, atol=1e-9)


def test_soft_threshold_of_real_numbers_is_that_of_complex_ones():
    x = draw(np.random.default_rng(0), (100,))
    assert_close(soft_threshold(x + 0j, 0.5), soft_threshold(x, 0.5) + 0j, 1e-6)


# --- projections ---


@searched
@given(x=vectors)
def test_projections_equal_those_of_optax(x):
    with enabled("float64"):
        x = jnp.asarray(x)
        np.testing.assert_array_equal(non_negative(x), optax.projections.projection_non_negative(x))
        np.testing.assert_array_equal(box(x), optax.projections.projection_box(x, 0.0, 1.0))
        np.testing.assert_array_equal(box(x, lower=-3.0, upper=0.25), optax.projections.projection_box(x, -3.0, 0.25))


@pytest.mark.parametrize("row", [row for row in PROXES if row.penalty(np.array(-9.0)) == np.inf], ids=name_of)
def test_projections_ignore_the_strength_and_change_nothing_the_second_time(row):
    x = 3 * draw(np.random.default_rng(0), (50,))
    once = row.prox(x)
    np.testing.assert_array_equal(row.prox(x, 100.0), once)
    np.testing.assert_array_equal(row.prox(once), once)


def test_box_takes_bounds_of_every_entry():
    x, lower, upper = jnp.array([-1.0, 0.0, 5.0]), jnp.array([0.0, -1.0, 2.0]), jnp.array([1.0, 1.0, 3.0])
    np.testing.assert_array_equal(box(x, lower=lower, upper=upper), [0, 0, 3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_estimate_stays_empty(dtype):
    with enabled(dtype):
        assert soft_threshold(jnp.zeros((0,), dtype), 1.0).shape == (0,)
