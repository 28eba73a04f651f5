"""Operators on images, and linear functions as operators, against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from catalogue import imaging_operators, name_of, operators
from helpers import TraceCounter, assert_close, draw, draw_like, inexact_leaves, norm, vdot
from numpy.polynomial import chebyshev

from unroll_jax.operators import (
    CircularBlur,
    Convolution,
    Downsampling,
    FiniteDifferences,
    Identity,
    add,
    adjoint,
    compose,
    from_function,
    gaussian_kernel,
    gram_resolvent,
    mask,
    scale,
    stack,
)
from unroll_jax.operators import Dense as Matrix

ROWS = (*operators.OPERATORS, *imaging_operators.OPERATORS)
SCIPY_MODES = {"circular": "wrap", "zero": "constant", "reflect": "mirror"}


# --- derivatives ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_operators_and_adjoints_are_twice_differentiable(row):
    rng = np.random.default_rng(0)
    size = row.sizes[0]
    leaves, rebuild = inexact_leaves((row.make(rng, size, "float64"), draw_like(rng, row.takes(size, "float64"))))
    steps = draw_like(rng, leaves)

    def power(t):
        operator, x = rebuild([leaf + t * step for leaf, step in zip(leaves, steps, strict=True)])
        back = operator.adjoint(operator(x))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(back))

    # a polynomial in t, of degree 14 where three operators are composed, is known from its values
    nodes = chebyshev.chebpts1(16)
    values, second = jax.jit(lambda t: (jax.vmap(power)(t), jax.grad(jax.grad(power))(0.0)))(nodes)
    expected = chebyshev.chebval(0.0, chebyshev.chebder(chebyshev.chebfit(nodes, values, 15), 2))
    np.testing.assert_allclose(second, expected, rtol=0, atol=1e-11 * np.max(np.abs(values)))


# --- convolution ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("boundary", SCIPY_MODES)
@pytest.mark.parametrize("kernel_size", [(3, 5), (1, 1), (7, 3)])
def test_a_convolution_is_that_of_scipy(boundary, stride, kernel_size):
    rng = np.random.default_rng(0)
    x, kernel = draw(rng, (4, 6, 2), "complex128"), draw(rng, (*kernel_size, 2, 3), "float64")
    expected = np.zeros((4, 6, 3), complex)
    for i, o in np.ndindex(2, 3):
        expected[..., o] += scipy.ndimage.correlate(
            np.asarray(x)[..., i], np.asarray(kernel)[..., i, o], mode=SCIPY_MODES[boundary]
        )
    image = jax.jit(Convolution(kernel, boundary, stride))(x)
    assert_close(image, jnp.asarray(expected[::stride, ::stride]), 1e-13)


@pytest.mark.usefixtures("x64")
def test_a_circular_convolution_wraps_kernels_larger_than_the_image():
    rng = np.random.default_rng(0)
    x, kernel = draw(rng, (3, 2, 1), "float64"), draw(rng, (9, 7, 1, 1), "float64")
    expected = scipy.ndimage.correlate(np.asarray(x)[..., 0], np.asarray(kernel)[..., 0, 0], mode="wrap")
    assert_close(Convolution(kernel)(x)[..., 0], jnp.asarray(expected), 1e-13)


# --- blur and downsampling ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    ("shape", "kernel_size"), [((6, 8), (3, 5)), ((5, 7, 2), (5, 1)), ((4, 2, 1), (9, 7)), ((1, 6), (1, 3))]
)
def test_blur_and_downsampling_are_those_of_scipy(shape, kernel_size, dtype):
    rng = np.random.default_rng(0)
    x, kernel = draw(rng, shape, dtype), draw(rng, kernel_size, "float64")
    weights = np.asarray(kernel).reshape(*kernel_size, *[1] * (len(shape) - 2))
    expected = scipy.ndimage.convolve(np.asarray(x), weights, mode="wrap")
    assert_close(jax.jit(CircularBlur(kernel))(x), jnp.asarray(expected), 1e-13)
    if shape[0] % 2 == 0 and shape[1] % 2 == 0:
        assert_close(jax.jit(Downsampling(2, kernel))(x), jnp.asarray(expected[::2, ::2]), 1e-13)


def test_a_bright_pixel_becomes_the_kernel():
    kernel = draw(np.random.default_rng(0), (3, 5))
    image = CircularBlur(kernel)(jnp.zeros((7, 9)).at[3, 4].set(1))
    assert_close(image[2:5, 2:7], kernel, 1e-6)
    assert float(jnp.max(jnp.abs(image.at[2:5, 2:7].set(0)))) < 1e-6


@pytest.mark.usefixtures("x64")
def test_a_blur_is_the_convolution_with_the_turned_kernel_and_its_adjoint_with_the_kernel():
    rng = np.random.default_rng(0)
    x, kernel = draw(rng, (6, 5, 1), "float64"), draw(rng, (3, 5), "float64")
    assert_close(CircularBlur(kernel).adjoint(x), Convolution(kernel[..., None, None])(x), 1e-13)
    assert_close(CircularBlur(kernel)(x), Convolution(kernel[::-1, ::-1, None, None])(x), 1e-13)


def test_a_gaussian_kernel_has_its_sum_symmetry_and_width():
    kernel = np.asarray(gaussian_kernel(31, jnp.asarray(2.5)), float)
    assert kernel.shape == (31, 31)
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    positions = np.arange(31) - 15
    np.testing.assert_allclose(kernel.sum(0) @ positions**2, 2.5**2, rtol=1e-5)
    np.testing.assert_allclose(kernel[15, 18] / kernel[15, 15], np.exp(-9 / (2 * 2.5**2)), rtol=1e-5)


# --- differences ---


@pytest.mark.parametrize("boundary", ["neumann", "circular"])
@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3), (1, 3), (2, 2, 2, 2)])
def test_finite_differences_are_those_of_numpy(boundary, shape):
    x = np.asarray(draw(np.random.default_rng(0), shape))
    beyond = 0 if boundary == "circular" else -1
    down = np.concatenate([x[1:], x[[beyond]]]) - x
    right = np.concatenate([x[:, 1:], x[:, [beyond]]], axis=1) - x
    differences = FiniteDifferences(boundary)(jnp.asarray(x))
    assert differences.shape == (*shape, 2)
    np.testing.assert_array_equal(differences, np.stack([down, right], axis=-1))
    assert float(jnp.max(jnp.abs(FiniteDifferences(boundary)(jnp.ones(shape))))) == 0


# --- types ---


@pytest.mark.parametrize("row", imaging_operators.OPERATORS, ids=name_of)
def test_images_keep_their_precision_whatever_that_of_the_kernel(row):
    size = row.sizes[0]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        operator = row.make(rng, size, "float64")
        for dtype in ("float32", "complex64", "bfloat16"):
            x = jnp.ones(size, dtype)

            def all_of(x, operator=operator):
                y = operator(x)
                return y, operator.adjoint(y), gram_resolvent(operator, x, 0.5) if x.dtype != "bfloat16" else y

            for leaf in jax.tree.leaves(jax.eval_shape(all_of, x)):
                assert leaf.dtype == dtype
                assert not leaf.weak_type


def test_a_mask_keeps_the_type_of_wider_images():
    keep = np.array([[True, False], [False, True]])
    with jax.enable_x64(True):
        for dtype in ("float32", "float64", "complex128"):
            image = mask(keep)(jnp.full((2, 2), 3, dtype))
            assert image.dtype == dtype
            np.testing.assert_array_equal(image, 3 * keep)
    assert mask(np.array([0, 1]), jnp.bfloat16)(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


# --- linear functions ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_adjoint_of_a_function_is_conjugate_and_real_for_real_images(dtype):
    rng = np.random.default_rng(0)
    weights = draw(rng, (4, 3), "complex128")
    operator = from_function(lambda weights, x: jnp.fft.fft2(weights * x), jnp.zeros((4, 3), dtype), weights)
    x, y = draw(rng, (4, 3), dtype), draw(rng, (4, 3), "complex128")
    back = operator.adjoint(y)
    assert back.dtype == dtype
    difference = vdot(operator(x), y) - vdot(x, back)
    assert abs(difference.real if dtype == "float64" else difference) <= 1e-13 * norm(x) * norm(y) * 12
    expected = np.conj(weights) * np.fft.ifft2(np.asarray(y)) * 12
    assert_close(back, jnp.asarray(expected.real if dtype == "float64" else expected), 1e-13)


def test_equal_functions_trace_once_and_closed_over_arrays_are_differentiated():
    counter = TraceCounter(lambda operator, x: operator(x))
    function = jax.jit(counter)
    for value in (1.0, 2.0):
        function(from_function(jnp.cumsum, jnp.zeros(3)), jnp.full(3, value))
    assert counter.count == 1

    def power(factor):
        operator = from_function(lambda x: factor * x, jnp.zeros(2))
        return jnp.sum(operator.adjoint(operator(jnp.ones(2))))

    np.testing.assert_allclose(jax.jit(jax.grad(power))(3.0), 12)


# --- algebra ---


def test_sums_stacks_and_multiples_are_those_of_their_matrices():
    rng = np.random.default_rng(0)
    a, b, x = (draw(rng, shape, "complex64") for shape in ((3, 4), (3, 4), (4,)))
    assert_close(add(Matrix(a), Matrix(b))(x), (a + b) @ x, 1e-6)
    assert_close(jnp.concatenate(stack(Matrix(a), Matrix(b))(x)), jnp.concatenate([a, b]) @ x, 1e-6)
    assert_close(scale(Matrix(a), 2 - 3j)(x), (2 - 3j) * (a @ x), 1e-6)
    assert_close(scale(Matrix(a.real), 2j)(x.real), 2j * (a.real @ x.real), 1e-6)
    assert_close(Identity()(x), x, 0)
    single = Matrix(a)
    assert add(single) is single
    assert isinstance(stack(single)(x), tuple)


def test_a_factor_takes_the_type_of_the_image():
    with jax.enable_x64(True):
        for factor in (2.0, jnp.asarray(2.0), jnp.asarray(2.0, "float32")):
            operator = scale(Identity(), factor)
            assert operator(jnp.ones(2, "float32")).dtype == jnp.float32
            assert not operator.factor.weak_type
        assert scale(Identity(), 2j)(jnp.ones(2, "float32")).dtype == jnp.complex64


# --- misuse ---

EVEN = jnp.ones((2, 3))
ODD = jnp.ones((3, 3))
COLOR = jnp.ones((3, 3, 2, 4))


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [
        (
            Convolution(COLOR),
            (5, 6),
            r"`x` must be an image \(height, width, 2\), .*x\[\.\.\., None\]",
        ),
        (Convolution(COLOR), (5, 6, 3), r"`x` must be an image \(height, width, 2\), got shape \(5, 6, 3\)"),
        (Convolution(COLOR), (8, 5, 6, 2), r"got shape \(8, 5, 6, 2\).*jax\.vmap"),
        (adjoint(Convolution(COLOR)), (5, 6, 2), r"`y` must be an image \(height, width, 4\)"),
        (Convolution(ODD), (5, 6, 1), r"`kernel` must be real and have shape \(height, width, in_channels, out_ch"),
        (Convolution(COLOR * 1j), (5, 6, 2), r"`kernel` must be real"),
        (Convolution(COLOR[:2]), (5, 6, 2), r"`kernel` must have odd sides.*got shape \(2, 3, 2, 4\)"),
        (Convolution(COLOR, "same"), (5, 6, 2), r"`boundary` must be one of .*'reflect'.*got 'same'"),  # pyright: ignore
        (Convolution(COLOR, stride=0), (5, 6, 2), r"`stride` must be a whole number"),
        (Convolution(COLOR, stride=2), (5, 6, 2), r"`x` must have sides that the stride 2 divides, got"),
        (
            Convolution(COLOR, "reflect"),
            (1, 6, 2),
            r"`x` must belong to images with sides above \(1, 1\).*got",
        ),
        (CircularBlur(EVEN), (5, 6), r"`kernel` must have odd sides"),
        (CircularBlur(COLOR), (5, 6), r"`kernel` must be real and have shape \(height, width\)"),
        (CircularBlur(ODD), (6,), r"`x` must be an image \(height, width\) or \(height, width, channels\)"),
        (Downsampling(2, ODD), (5, 6), r"`x` must have sides that the factor 2 divides"),
        (Downsampling(0, ODD), (6, 6), r"`factor` must be a whole number"),
        (FiniteDifferences(), (6,), r"`x` must have shape \(height, width, \.\.\.\), got \(6,\)"),
        (FiniteDifferences("zero"), (6, 6), r"`boundary` must be one of \('neumann', 'circular'\), got 'zero'"),  # pyright: ignore
        (adjoint(FiniteDifferences()), (6, 6), r"`y` must have shape \(height, width, \.\.\., 2\), got \(6, 6\)"),
        (adjoint(FiniteDifferences()), (6, 6, 3), r"`y` must have 2 entries on its last axis"),
        (add(Matrix(jnp.ones((2, 3))), Matrix(jnp.ones((4, 3)))), (3,), r"`operators` can be added where .*one shape"),
        (adjoint(add(Matrix(jnp.ones((3, 2))), Matrix(jnp.ones((3, 4))))), (3,), r"number 1 of the adjoints"),
        (adjoint(stack(Identity(), Identity())), (3,), r"`y` must be a tuple of 2, .*got"),
        (from_function(jnp.cumsum, jnp.zeros(3)), (4,), r"`x` must have the shape \(3,\) of the `like`"),
        (
            adjoint(from_function(jnp.cumsum, jnp.zeros(3))),
            (4,),
            r"`y` must have the shape \(3,\) of what the function",
        ),
    ],
)
def test_misuse_where_an_operator_is_called(operator, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, "float32"))


def affine(x):
    return 2 * x + 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CircularBlur(ODD)(jnp.ones((4, 4), int)), r"`x` must be an image of a floating-point .*got int"),
        (lambda: FiniteDifferences()(jnp.ones((4, 4), int)), r"`x` must be .*floating-point"),
        (lambda: gaussian_kernel(4, 1.0), "`size` must be odd"),
        (lambda: gaussian_kernel(5, 0.0), "`std` must be positive"),
        (lambda: gaussian_kernel(5, jnp.ones(2)), r"`std` must have shape \(\)"),
        (lambda: mask(jnp.array([0.0, 0.5])), "`keep` must consist of truth values"),
        (lambda: add(), "`operators` needs at least one operator to add, got none"),
        (lambda: stack(), "`operators` needs at least one operator to stack, got none"),
        (lambda: stack(Identity(), ODD), r"`operators\[1\]` must be a linear operator"),  # pyright: ignore
        (lambda: scale(ODD, 2.0), "`operator` must be a linear operator"),  # pyright: ignore
        (lambda: scale(Identity(), jnp.ones(2)), r"`factor` must have shape \(\), got \(2,\)"),
        (lambda: from_function(3, jnp.zeros(2)), "`function` must be a function such as"),  # pyright: ignore
        (
            lambda: from_function(jnp.cumsum, jnp.zeros(2, int)),
            "`like` must be an array or jax.ShapeDtypeStruct of a floating-point",
        ),
        (
            lambda: from_function(jnp.sin, jnp.zeros(2)),
            "`function` must be linear in `x`, so that JAX",
        ),
        (lambda: from_function(affine, jnp.zeros(2)), r"`function\(zero\)` must be zero"),
        (lambda: from_function(jnp.cumsum, jnp.zeros(2)).adjoint(1j * jnp.ones(2)), "`y` must be real.*complex `like`"),
        (lambda: adjoint(stack(Identity(), Identity()))((jnp.ones(2),)), "`y` must be a tuple of 2, .*got 1 of them"),
        (lambda: compose(Convolution(COLOR), Identity())(ODD), r"operators\[0\]|`x` must be an image"),
    ],
)
def test_misuse_with_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()
