import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from catalogue import name_of
from catalogue.transforms import OPERATORS
from helpers import ROUNDING, assert_close, draw, draw_like, enabled

from unroll_jax.operators import (
    CosineTransform,
    Fourier,
    MultiCoilMRI,
    SubsampledFourier,
    cartesian_mask,
    coil_sensitivities,
    gram_resolvent,
    norm_bound,
    scattered_mask,
)


def matrix_of(operator, shape, dtype):
    """The operator's matrix, for images of this shape."""
    columns = jnp.eye(np.prod(shape), dtype=dtype).reshape(-1, *shape)
    images = np.asarray(jax.jit(jax.vmap(operator))(columns))
    return images.reshape(len(images), -1).T


# --- every transform ---


@pytest.mark.parametrize("row", OPERATORS, ids=name_of)
def test_adjoints_are_differentiable_twice(row):
    rng = np.random.default_rng(0)
    with enabled("float64"):
        operator = row.make(rng, row.sizes[0], "float64")
        like = jax.ShapeDtypeStruct(*_shape_and_type(row.takes(row.sizes[0], "float64")))
        y = draw_like(rng, jax.eval_shape(operator, like))
        x, direction = draw_like(rng, like), draw_like(rng, like)

        @jax.jit
        def derivatives(operator, y, x, direction):
            def pulled(x):
                return jax.vjp(operator.adjoint, y)[1](x)[0]

            # what JAX pulls back is the plain transpose, not the conjugate one
            return jax.jvp(pulled, (x,), (direction,)), (operator(x.conj()).conj(), operator(direction.conj()).conj())

        actual, expected = derivatives(operator, y, x, direction)
    assert_close(actual, expected, 1e-12)


def _shape_and_type(like):
    return like.shape, like.dtype


# --- Fourier ---


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_fourier_is_that_of_numpy(dtype):
    operator = Fourier(is_real=dtype == "float32")
    with enabled(dtype):
        x = draw(np.random.default_rng(0), (4, 5, 2), dtype)
        spectrum = operator(x)
        back = operator.adjoint(spectrum)
    expected = np.fft.fft2(np.asarray(x), axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(spectrum, expected, atol=ROUNDING[dtype])
    assert_close(back, x, ROUNDING[dtype])


def test_the_adjoint_for_real_images_is_the_real_part():
    y = draw(np.random.default_rng(0), (4, 5), "complex64")
    back = Fourier(is_real=True).adjoint(y)
    assert back.dtype == jnp.float32
    assert_close(back, Fourier().adjoint(y).real, 0)


@pytest.mark.parametrize("is_real", [False, True])
def test_the_closed_forms_of_subsampled_fourier(is_real):
    shape, dtype = (4, 5), "float64" if is_real else "complex128"
    rng = np.random.default_rng(0)
    with enabled(dtype):
        operator = SubsampledFourier(draw(rng, shape, "complex128"), is_real=is_real)
        x = draw(rng, shape, dtype)
        matrix = matrix_of(operator, shape, dtype)
        resolved, bound = gram_resolvent(operator, x, 0.7), norm_bound(operator)
    gram = matrix.conj().T @ matrix
    gram = np.real(gram) if is_real else gram
    expected = np.linalg.solve(np.eye(20) + 0.7 * gram, np.ravel(x))
    assert resolved.dtype == dtype
    np.testing.assert_allclose(np.ravel(resolved), expected, atol=1e-12)
    norm = np.sqrt(np.linalg.eigvalsh(gram)[-1])
    np.testing.assert_allclose(bound, norm, rtol=1e-12)


def test_a_mask_of_another_precision_does_not_decide():
    def there_and_back(operator, dtype):
        image = jax.ShapeDtypeStruct((4, 4), jnp.dtype(dtype))
        return jax.eval_shape(lambda x: operator.adjoint(operator(x)), image).dtype

    with enabled("float64"):
        mask = jnp.ones((4, 4), "float64")
        assert there_and_back(SubsampledFourier(mask), "complex64") == "complex64"
        assert there_and_back(SubsampledFourier(mask, is_real=True), "float32") == "float32"
        assert there_and_back(MultiCoilMRI(mask, jnp.ones((2, 4, 4), "complex128")), "complex64") == "complex64"
        resolvent = jax.eval_shape(SubsampledFourier(mask).gram_resolvent, jnp.ones((4, 4), "complex64"), 1.0)
        assert resolvent.dtype == "complex64"
    whole = SubsampledFourier(jnp.ones((4, 4), bool))
    assert there_and_back(whole, "complex64") == "complex64"
    assert norm_bound(whole) == 1


# --- several coils ---


def test_several_coils_are_several_masked_spectra():
    rng = np.random.default_rng(0)
    mask, coils, x = (
        draw(rng, (4, 6)),
        draw(rng, (3, 4, 6), "complex64"),
        draw(rng, (4, 6), "complex64"),
    )
    expected = np.asarray(mask) * np.fft.fft2(np.asarray(coils) * np.asarray(x), norm="ortho")
    np.testing.assert_allclose(MultiCoilMRI(mask, coils)(x), expected, atol=1e-5)


def test_the_bound_of_several_coils():
    rng = np.random.default_rng(0)
    with enabled("complex128"):
        mask, coils = draw(rng, (4, 5), "float64"), draw(rng, (3, 4, 5), "complex128")
        for weights in (mask, jnp.ones((4, 5))):
            operator = MultiCoilMRI(weights, coils)
            norm = np.linalg.norm(matrix_of(operator, (4, 5), "complex128"), ord=2)
            bound = norm_bound(operator)
            assert norm <= bound
        np.testing.assert_allclose(bound, norm, rtol=1e-12)


def test_real_images_of_several_coils():
    rng = np.random.default_rng(0)
    mask, coils, y = draw(rng, (4, 6)), draw(rng, (3, 4, 6), "complex64"), draw(rng, (3, 4, 6), "complex64")
    back = MultiCoilMRI(mask, coils, is_real=True).adjoint(y)
    assert back.dtype == jnp.float32
    assert_close(back, MultiCoilMRI(mask, coils).adjoint(y).real, 1e-6)


@pytest.mark.parametrize("num_coils", [1, 5])
def test_synthetic_coils_are_smooth_and_keep_the_norm(num_coils):
    coils = np.asarray(jax.jit(lambda: coil_sensitivities((20, 30), num_coils))())
    assert coils.shape == (num_coils, 20, 30)
    assert coils.dtype == np.complex64
    np.testing.assert_allclose(np.sum(np.abs(coils) ** 2, axis=0), 1, atol=1e-5)
    # across the image they change by a few times their size; a coil in a corner would be steeper
    assert np.max(np.abs(np.diff(coils, axis=2))) < 5 / 30
    assert np.max(np.abs(np.diff(coils, axis=1))) < 5 / 20
    if num_coils > 1:
        # each sees the side where it stands best
        assert np.abs(coils[0, 10, -1]) > 2 * np.abs(coils[0, 10, 0])


# --- sampling patterns ---


@pytest.mark.parametrize("mask", [cartesian_mask, scattered_mask])
def test_a_pattern_has_its_share_and_its_center(mask):
    keys = jax.random.split(jax.random.key(0), 300)
    make = functools.partial(mask, shape=(20, 50), acceleration=4.0, center_fraction=0.1)
    masks = np.asarray(jax.jit(jax.vmap(make))(keys))
    assert masks.shape == (300, 20, 50)
    assert set(np.unique(masks)) == {0.0, 1.0}
    # the standard deviation of the mean is 0.0035 for columns
    np.testing.assert_allclose(np.mean(masks), 0.25, atol=0.01)
    centered = np.fft.fftshift(masks, axes=(1, 2))
    always = np.min(centered, axis=0) == 1
    if mask is cartesian_mask:
        assert np.all(masks == masks[:, :1])
        np.testing.assert_array_equal(np.flatnonzero(always[0]), np.arange(23, 28))
    else:
        rows, columns = np.nonzero(always)
        np.testing.assert_array_equal(np.unique(rows), np.arange(7, 13))
        np.testing.assert_array_equal(np.unique(columns), np.arange(17, 33))
        assert always.sum() == 6 * 16
    # independent from key to key
    assert np.mean(masks[0] != masks[1]) > 0.1


def test_without_acceleration_everything_is_measured():
    for mask in (cartesian_mask, scattered_mask):
        make = jax.jit(functools.partial(mask, shape=(4, 6), acceleration=1.0))
        assert np.all(make(jax.random.key(0)) == 1)


# --- cosine ---


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize(("shape", "axes"), [((5, 6, 2), (0, 1)), ((3, 4, 7), (-1,)), ((2, 3, 4), (2, 0, 1))])
def test_cosine_transform_is_that_of_scipy_and_orthonormal(shape, axes, dtype):
    with enabled(dtype):
        operator, x = CosineTransform(axes), draw(np.random.default_rng(0), shape, dtype)
        y, back = jax.jit(lambda x: (operator(x), operator.adjoint(operator(x))))(x)
    parts = np.stack([np.real(x), np.imag(x)])
    kept = [axis % 3 + 1 for axis in axes]
    expected = np.asarray(scipy.fft.dctn(parts.astype(float), axes=kept, norm="ortho"))
    np.testing.assert_allclose(np.stack([np.real(y), np.imag(y)]), expected, atol=ROUNDING[dtype])
    assert_close(back, x, ROUNDING[dtype])


@pytest.mark.parametrize("operator", [Fourier(), Fourier(is_real=True), CosineTransform()])
def test_the_closed_forms_of_isometries(operator):
    x = jnp.arange(6.0).reshape(2, 3)
    assert norm_bound(operator) == 1
    assert_close(gram_resolvent(operator, x, 0.5), x / 1.5, 1e-6)


# --- misuse ---

NO_KEY: Any = 0
NO_IMAGE: Any = (4, 4, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Fourier()(jnp.ones(3)), r"`x` must be an image .*got shape \(3,\)"),
        (lambda: Fourier(is_real=True)(jnp.ones((2, 2)) + 1j), "`x` must be real, got complex64"),
        (
            lambda: SubsampledFourier(jnp.ones((4, 4)))(jnp.ones((3, 4))),
            r"`x` must have the shape \(4, 4\) of the operator's mask, .*got \(3, 4\).*jax\.vmap",
        ),
        (
            lambda: SubsampledFourier(jnp.ones((2, 4, 4)))(jnp.ones((4, 4))),
            r"`mask` must have shape \(height, width\), got \(2, 4, 4\).*jax\.vmap",
        ),
        (
            lambda: SubsampledFourier(jnp.ones((4, 4))).adjoint(jnp.ones((2, 4, 4, 1))),
            r"`y` must have the shape \(4, 4\) .*got \(2, 4, 4, 1\)",
        ),
        (
            lambda: MultiCoilMRI(jnp.ones((4, 4)), jnp.ones((2, 4, 4)))(jnp.ones((2, 4, 4))),
            r"`x` must have shape \(4, 4\) .*got \(2, 4, 4\)",
        ),
        (
            lambda: MultiCoilMRI(jnp.ones((4, 4)), jnp.ones((2, 4, 4))).adjoint(jnp.ones((4, 4))),
            r"`y` must have shape \(2, 4, 4\) .*got \(4, 4\)",
        ),
        (
            lambda: MultiCoilMRI(jnp.ones((4, 4)), jnp.ones((4, 4)))(jnp.ones((4, 4))),
            r"`sensitivities` must have shape \(num_coils, height, width\) .*got \(4, 4\) and \(4, 4\)",
        ),
        (
            lambda: MultiCoilMRI(jnp.ones((4, 4)), jnp.ones((2, 4, 4)), is_real=True)(jnp.ones((4, 4)) * 1j),
            "`x` must be real",
        ),
        (lambda: cartesian_mask(NO_KEY, (4, 4)), "`key` must be a random key"),
        (lambda: cartesian_mask(jax.random.key(0), NO_IMAGE), r"`shape` must be \(height, width\), got \(4, 4, 1\)"),
        (lambda: scattered_mask(jax.random.key(0), (0, 4)), r"`shape\[0\]` must be a whole number"),
        (
            lambda: cartesian_mask(jax.random.key(0), (4, 4), acceleration=0.5),
            "`acceleration` must be at least 1, got 0.5",
        ),
        (
            lambda: scattered_mask(jax.random.key(0), (4, 4), acceleration=8, center_fraction=0.2),
            r"`center_fraction` must lie in \[0, 1 / acceleration\] = \[0, 0.125\], got 0.2",
        ),
        (lambda: coil_sensitivities((4, 4), 0), "`num_coils` must be a whole number of at least 1, got 0"),
        (lambda: coil_sensitivities((4, 4), 2, radius=1.0), r"`radius` must be above sqrt\(2\).*got 1.0"),
        (
            lambda: CosineTransform((0, 2))(jnp.ones((2, 2))),
            r"`x` must have all the axes \(0, 2\) .*got shape \(2, 2\)",
        ),
        (lambda: CosineTransform((0, -2))(jnp.ones((2, 2))), r"`x` must have all the axes \(0, -2\) .*each once"),
        (lambda: CosineTransform()(jnp.ones((2, 2), int)), "`x` must be an array of a floating-point or complex type"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
