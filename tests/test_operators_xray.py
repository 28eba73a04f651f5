from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw, enabled
from skimage.data import shepp_logan_phantom
from skimage.transform import iradon, radon, rescale

from unroll_jax.operators import ParallelBeamCT, filtered_backprojection, norm_bound

# eighths of a turn, where steep and flat rays meet, and others
ANGLES = [0.0, np.pi / 4, np.pi / 2, np.pi, -np.pi / 4, 0.3, 1.2, 2.0, 2.9, 4.4, 6.0, -1.4]


def joseph(angles, shape, num_detectors, spacing):
    """The matrix of Joseph's method, ray by ray: `(num_angles, num_detectors, height, width)`."""
    height, width = shape
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    rays = (np.arange(num_detectors) - (num_detectors - 1) / 2) * spacing
    matrix = np.zeros((len(angles), num_detectors, height, width))
    for a, angle in enumerate(angles):
        cos, sin = np.cos(angle), np.sin(angle)
        for d, t in enumerate(rays):
            if abs(cos) >= abs(sin):
                for i, y in enumerate(-rows):
                    matrix[a, d, i] = np.maximum(1 - abs(columns - (t - y * sin) / cos), 0) / abs(cos)
            else:
                for j, x in enumerate(columns):
                    matrix[a, d, :, j] = np.maximum(1 - abs(-rows - (t - x * cos) / sin), 0) / abs(sin)
    return matrix


GEOMETRIES = [((5, 8), 9, 1.0), ((8, 5, 1), 12, 0.45), ((6, 6), 4, 2.3)]


@pytest.mark.parametrize(("shape", "num_detectors", "spacing"), GEOMETRIES)
def test_the_transform_its_adjoint_and_its_bound_are_those_of_the_matrix(shape, num_detectors, spacing):
    rng = np.random.default_rng(0)
    matrix = joseph(ANGLES, shape[:2], num_detectors, spacing)
    with enabled("float64"):
        operator = ParallelBeamCT(jnp.array(ANGLES), shape, num_detectors, spacing)
        x, y = draw(rng, shape, "float64"), draw(rng, matrix.shape[:2], "float64")

        @jax.jit
        def run(operator, x, y):
            bounds = [operator.norm_bound(1), operator.norm_bound(3), operator.norm_bound(20)]
            return operator(x), operator.adjoint(y), jnp.stack(bounds)

        sinogram, image, bounds = run(operator, x, y)
    np.testing.assert_allclose(sinogram, np.einsum("adhw,hw->ad", matrix, np.reshape(x, shape[:2])), atol=1e-12)
    assert image.shape == shape
    np.testing.assert_allclose(image.reshape(shape[:2]), np.einsum("adhw,ad->hw", matrix, y), atol=1e-12)
    norm, bounds = np.linalg.norm(matrix.reshape(y.size, -1), ord=2), np.asarray(bounds)
    assert np.all(np.diff(bounds) < 0)
    assert norm <= bounds[-1] <= norm * (1 + 1e-6)
    np.testing.assert_allclose(bounds[0], norm, rtol=0.3)


def test_the_bound_without_steps_given_holds_in_single_precision():
    operator = ParallelBeamCT(jnp.array(ANGLES), (6, 7), 9)
    norm = np.linalg.norm(joseph(ANGLES, (6, 7), 9, 1.0).reshape(12 * 9, -1), ord=2)
    assert norm <= jax.jit(norm_bound)(operator) <= 1.001 * norm


def test_complex_images_and_precision():
    operator = ParallelBeamCT(jnp.array([0.3, 2.0]), (4, 4), 5)
    x = draw(np.random.default_rng(0), (4, 4), "complex64")
    sinogram, expected = jax.jit(lambda x: (operator(x), operator(x.real) + 1j * operator(x.imag)))(x)
    np.testing.assert_allclose(sinogram, expected, atol=1e-5)
    with enabled("float64"):
        double = ParallelBeamCT(jnp.array([0.3, 2.0], "float64"), (4, 4), 5)
        assert jax.eval_shape(double, x).dtype == jnp.complex64
        assert jax.eval_shape(double.adjoint, x[:2, :1].repeat(5, 1)).dtype == jnp.complex64


# --- derivatives ---


def test_derivatives_in_the_image_and_in_the_angles():
    rng = np.random.default_rng(0)
    with enabled("float64"):
        angles, direction = jnp.array([0.3, 1.2, 2.0]), draw(rng, (3,), "float64")
        x, y = draw(rng, (5, 6), "float64"), draw(rng, (3, 8), "float64")

        def loss(angles, x):
            operator = ParallelBeamCT(angles, (5, 6), 8)
            return jnp.sum((operator(x) - y) ** 2) / 2 + jnp.sum(operator.adjoint(y) ** 2) / 2

        @jax.jit
        def run(angles, x):
            operator = ParallelBeamCT(angles, (5, 6), 8)
            slope, gradient = jax.grad(loss, argnums=(0, 1))(angles, x)
            hvp = jax.jvp(lambda x: jax.grad(loss, argnums=1)(angles, x), (x,), (x,))[1]
            ahead, behind = (loss(angles + step * direction, x) for step in (1e-6, -1e-6))
            return (gradient, hvp, slope @ direction), (
                operator.adjoint(operator(x) - y),
                operator.adjoint(operator(x)),
                (ahead - behind) / 2e-6,
            )

        (gradient, hvp, slope), (expected, expected_hvp, expected_slope) = run(angles, x)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    np.testing.assert_allclose(hvp, expected_hvp, atol=1e-12)
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-7)


def test_nothing_scatters_in_reverse_either():
    operator = ParallelBeamCT(jnp.array([0.3, 2.0]), (6, 6), 8)

    def loss(x):
        return jnp.sum(operator.adjoint(operator(x)) ** 3)

    text = jax.jit(jax.grad(loss)).lower(jnp.ones((6, 6))).as_text()
    assert "gather" in text
    assert "scatter" not in text


# --- against scikit-image ---

DEGREES = np.arange(60) * 3.0


@pytest.fixture(scope="module")
def scan():
    """The phantom, with an odd side as scikit-image turns it about a pixel, its sinogram there, and the operator."""
    phantom = np.pad(rescale(shepp_logan_phantom(), 0.2, anti_aliasing=True), ((0, 1), (0, 1)))
    sinogram = radon(phantom, DEGREES, circle=True).T
    return phantom, sinogram, ParallelBeamCT(jnp.asarray(np.deg2rad(DEGREES), "float32"), phantom.shape, len(phantom))


def test_the_sinogram_is_that_of_scikit_image(scan):
    phantom, expected, operator = scan
    sinogram = jax.jit(operator)(jnp.asarray(phantom, "float32"))
    # they turn the image with bilinear interpolation and sum
    assert np.linalg.norm(sinogram - expected) <= 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("filter", ["ramp", "shepp-logan", "cosine", "hamming", "hann"])
def test_filtered_backprojection_is_that_of_scikit_image(scan, filter):
    phantom, sinogram, operator = scan
    place = np.arange(len(phantom)) - (len(phantom) - 1) / 2
    is_inside = np.hypot(place[:, None], place[None]) <= place[-1]
    expected = iradon(sinogram.T, DEGREES, filter_name=filter, circle=True)
    image = jax.jit(lambda operator, y: filtered_backprojection(operator, y, filter=filter))(
        operator, jnp.asarray(sinogram, "float32")
    )
    # their windows of Hann and Hamming end one frequency later
    tolerance = 3e-3 if filter in ("hann", "hamming") else 3e-5
    np.testing.assert_allclose(np.asarray(image)[is_inside], expected[is_inside], atol=tolerance)


def test_filtered_backprojection_on_another_spacing_is_that_image(scan):
    phantom, _, _ = scan
    image = jnp.asarray(phantom, "float32")

    @jax.jit
    def reconstruct(angles, image):
        errors = []
        for num_detectors, spacing in ((81, 1.0), (162, 0.5)):
            operator = ParallelBeamCT(angles, image.shape, num_detectors, spacing)
            back = filtered_backprojection(operator, operator(image), filter="hann")
            errors.append(jnp.sqrt(jnp.mean((back - image) ** 2)))
        return errors

    coarse, fine = reconstruct(jnp.pi * jnp.arange(60) / 60, image)
    assert fine < coarse < 0.08


# --- misuse ---

NO_FILTER: Any = "box"
NO_OPERATOR: Any = jnp.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _scan()(jnp.ones((4, 4))), r"`x` must have the shape \(4, 5\) for this operator, got \(4, 4\).*vmap"),
        (
            lambda: _scan().adjoint(jnp.ones((6, 3))),
            r"`y` must have the shape \(3, 6\) for this operator, got \(6, 3\)",
        ),
        (lambda: _scan(angles=jnp.ones((2, 3)))(jnp.ones((4, 5))), r"`angles` must have shape .*got \(2, 3\).*vmap"),
        (lambda: _scan(image_shape=(4, 5, 3))(jnp.ones((4, 5, 3))), r"`image_shape` must be .*got \(4, 5, 3\)"),
        (lambda: _scan(num_detectors=0)(jnp.ones((4, 5))), "`num_detectors` must be a whole number"),
        (lambda: _scan(detector_spacing=0.0)(jnp.ones((4, 5))), "`detector_spacing` must be positive.*got 0.0"),
        (lambda: _scan().norm_bound(0), "`num_steps` must be a whole number"),
        (lambda: filtered_backprojection(_scan(), jnp.ones((4, 5))), r"`sinogram` must have the shape \(3, 6\)"),
        (
            lambda: filtered_backprojection(_scan(), jnp.ones((3, 6)), filter=NO_FILTER),
            "`filter` must be one of .*'box'",
        ),
        (lambda: filtered_backprojection(NO_OPERATOR, jnp.ones((3, 6))), "`operator` must be a ParallelBeamCT"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _scan(**changed):
    settings = {"angles": jnp.ones(3), "image_shape": (4, 5), "num_detectors": 6, **changed}
    return ParallelBeamCT(**settings)
