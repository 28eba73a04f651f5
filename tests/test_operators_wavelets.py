import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROUNDING, assert_close, draw, enabled

from unroll_jax.operators import Wavelets, gram_resolvent, norm_bound
from unroll_jax.operators._daubechies import NAMES, scaling_filter


def there_and_back(operator, x):
    def run(x):
        y = operator(x)
        return y, operator.adjoint(y)

    return jax.jit(run)(x)


# --- filters ---


@pytest.mark.parametrize("name", NAMES)
def test_filters_are_orthonormal_with_vanishing_moments(name):
    low = np.array(scaling_filter(name))
    num_moments = len(low) // 2
    assert num_moments == NAMES.index(name) + 1
    for shift in range(num_moments):
        np.testing.assert_allclose(low[2 * shift :] @ low[: len(low) - 2 * shift], shift == 0, atol=1e-14)
    np.testing.assert_allclose(low.sum(), np.sqrt(2), atol=1e-14)
    high = (-1) ** np.arange(len(low)) * low[::-1]
    place = np.linspace(-1, 1, len(low))
    for power in range(num_moments):
        np.testing.assert_allclose(high @ place**power, 0, atol=1e-13)
    assert abs(high @ place**num_moments) > 1e-6  # no more than these


def test_the_filter_with_two_moments_in_closed_form():
    root = np.sqrt(3)
    expected = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * np.sqrt(2))
    np.testing.assert_allclose(scaling_filter("db2"), expected, rtol=0, atol=1e-15)


# --- the transform ---


@pytest.mark.parametrize(
    ("name", "num_levels", "shape"),
    [("haar", 3, (8, 16, 2)), ("db3", 2, (8, 12)), ("db8", 1, (2, 6, 1))],  # the last ones wrap around several times
)
def test_the_adjoint_is_the_inverse(name, num_levels, shape):
    for dtype in ("float32", "complex128"):
        with enabled(dtype):
            x = draw(np.random.default_rng(0), shape, dtype)
            y, back = there_and_back(Wavelets(name, num_levels), x)
        assert y.dtype == dtype
        assert_close(back, x, ROUNDING[dtype])
        np.testing.assert_allclose(np.linalg.norm(y), np.linalg.norm(x), rtol=ROUNDING[dtype])


def test_smooth_images_have_few_coefficients():
    operator, shape = Wavelets("db2", 2), (16, 16)
    bands = operator.bands(shape)
    with enabled("float64"):
        down, right = jnp.meshgrid(jnp.arange(16.0), jnp.arange(16.0), indexing="ij")
        constant, linear = jax.jit(jax.vmap(operator))(jnp.stack([jnp.full(shape, 3.0), 1 + 2 * down - right]))
    # a mean times the side of a coarse pixel
    np.testing.assert_allclose(constant[bands.approximation], 12, rtol=1e-12)
    assert np.abs(constant).sum() == pytest.approx(12 * 16)
    # two moments vanish, but for where the periodic image jumps
    for level, details in enumerate(bands.details):
        size = 8 >> level
        for band in details:
            inner = np.asarray(linear[band])[1 : size - 1, 1 : size - 1]
            np.testing.assert_allclose(inner, 0, atol=1e-12)


def test_edges_stand_in_the_band_of_their_direction():
    operator, shape = Wavelets("haar", 1), (8, 8)
    image = np.zeros(shape, np.float32)
    image[3:] = 1
    details = operator.bands(shape).details[0]
    coefficients = operator(jnp.asarray(image))
    assert np.max(np.abs(coefficients[details.horizontal])) > 0.5
    assert np.max(np.abs(coefficients[details.vertical])) == 0
    assert np.max(np.abs(coefficients[details.diagonal])) == 0


@pytest.mark.parametrize("shape", [(16, 8), (8, 24, 3)])
def test_bands_tile_the_array(shape):
    bands = Wavelets("db4", 3).bands(shape)
    count = np.zeros(shape[:2])
    for band in (bands.approximation, *(band for details in bands.details for band in details)):
        count[band] += 1
    assert np.all(count == 1)
    assert len(bands.details) == 3
    assert count[bands.details[0].diagonal].shape == (shape[0] // 2, shape[1] // 2)


def test_coefficients_are_those_of_pywavelets():
    pywt = pytest.importorskip("pywt")
    for name, num_levels, shape in (("haar", 3, (16, 24)), ("db5", 2, (40, 40)), ("db2", 1, (8, 12))):
        with enabled("float64"):
            x = draw(np.random.default_rng(0), shape, "float64")
            operator = Wavelets(name, num_levels)
            y, bands = np.asarray(jax.jit(operator)(x)), operator.bands(shape)
        coarse, *details = pywt.wavedec2(np.asarray(x), name, mode="periodization", level=num_levels)
        np.testing.assert_allclose(y[bands.approximation], coarse, atol=1e-12)
        for ours, theirs in zip(bands.details, reversed(details), strict=True):
            for band, expected in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(y[band], expected, atol=1e-12)


def test_closed_forms():
    x = jnp.arange(16.0).reshape(4, 4)
    assert norm_bound(Wavelets("db2", 2)) == 1
    assert_close(gram_resolvent(Wavelets("db2", 2), x, 3.0), x / 4, 1e-6)


# --- misuse ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Wavelets("db1")(jnp.ones((8, 8))), r"`name` of the wavelets must be one of \('haar', .*got 'db1'"),
        (lambda: Wavelets("haar", 0)(jnp.ones((8, 8))), "`num_levels` must be a whole number of at least 1, got 0"),
        (
            lambda: Wavelets("haar", 2)(jnp.ones((6, 8, 1))),
            r"`x` must have sides that are multiples of 4 for num_levels=2, got shape \(6, 8, 1\)",
        ),
        (lambda: Wavelets("haar", 3).adjoint(jnp.ones((8, 4))), r"`y` must have sides that are multiples of 8"),
        (lambda: Wavelets().bands((8, 12)), r"`image_shape` must have sides that are multiples of 8"),
        (lambda: Wavelets().bands((8,)), r"`image_shape` must be of an image"),
        (lambda: Wavelets()(jnp.ones((3, 8, 8, 1))), r"`x` must be an image .*got shape \(3, 8, 8, 1\).*jax\.vmap"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
