"""Bounds of norms against singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import OPERATORS, name_of
from helpers import ROUNDING, draw
from test_operators import matrix_of

from unroll_jax.operators import (
    CircularBlur,
    Convolution,
    Dense,
    Diagonal,
    Downsampling,
    FiniteDifferences,
    Identity,
    add,
    adjoint,
    compose,
    from_function,
    gaussian_kernel,
    mask,
    norm_bound,
    operator_norm,
    scale,
    stack,
)

# the norm itself, but for rounding
TIGHT = ("Dense", "Diagonal", "Identity", "CircularBlur", "Downsampling", "FiniteDifferences", "Convolution circular")


def true_norm(operator, like):
    return np.linalg.norm(matrix_of(operator, like), ord=2)


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype)


# --- every operator ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", [row for row in OPERATORS if "Function" not in row.name], ids=name_of)
def test_the_bound_is_never_below_the_norm_and_tight_where_it_is_said_to_be(row):
    size = row.sizes[0]
    like = row.takes(size, "float64")
    operator = row.make(np.random.default_rng(0), size, "float64")
    bounds = jax.jit(lambda operator: (norm_bound(operator, like), norm_bound(operator)))(operator)
    norm = true_norm(operator, like)
    for bound in bounds:
        assert bound.shape == ()
        assert norm <= float(bound) * (1 + 1e-14)  # a bound of 1 is in single precision
    if row.name.startswith(TIGHT):
        # the channels of a convolution are bounded by Gram iteration
        assert bounds[0] <= (1.01 if "Convolution" in row.name else 1 + 1e-6) * norm
    single = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32"), operator)
    assert jax.eval_shape(norm_bound, single).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_bounds_of_matrices_and_diagonals_hold_in_floating_point(dtype):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for num in (1, 4):
            # a matrix of rank one, whose norm is a rounded number
            left, right = draw(rng, (num,), dtype), draw(rng, (9 - num,), dtype)
            matrix = jnp.outer(left, right)
            exact = np.linalg.norm(np.asarray(matrix, "complex128"), ord=2)
            bound = norm_bound(Dense(matrix))
            assert exact <= float(bound) <= exact * (1 + 10 * ROUNDING[dtype])
            assert bound.dtype == np.finfo(dtype).dtype
            largest = np.max(np.abs(np.asarray(matrix, "complex128")))
            assert largest <= float(norm_bound(Diagonal(matrix))) <= largest * (1 + ROUNDING[dtype])


# --- images ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("boundary", ["circular", "zero", "reflect"])
def test_one_bound_holds_for_images_of_all_sizes(boundary, stride):
    kernel = draw(np.random.default_rng(1), (5, 3, 2, 2), "float64")
    operator = Convolution(kernel, boundary, stride)
    bound = float(jax.jit(norm_bound)(operator))
    norms = [true_norm(operator, image(*size, 2)) for size in ((4, 4), (8, 12))]
    assert max(norms) <= bound <= (4 if boundary == "reflect" else 1.35) * norms[-1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (2, 5), (7, 4)])
def test_mirrored_pixels_count_as_often_as_they_are_seen(size):
    # a sum over mirrored neighbors: the worst case for the bound
    operator, like = Convolution(jnp.ones((3, 3, 1, 1)), "reflect"), image(*size, 1)
    norm = true_norm(operator, like)
    assert norm <= jax.jit(lambda operator: norm_bound(operator, like))(operator) <= 3.1 * norm


@pytest.mark.usefixtures("x64")
def test_the_norm_of_the_merged_kernel_is_no_bound_for_a_chain_with_zeros_outside():
    # the pitfall of ridge regularizers, whose filters are such chains; here an image at the border becomes 12 % larger
    # than the merged kernel allows
    kernels = [jnp.array(each).reshape(1, 3, 1, 1) for each in ([-2.0, 2.0, -1.0], [-1.0, -2.0, -2.0])]
    chain = compose(*(Convolution(kernel, "zero") for kernel in kernels))
    like = image(1, 24, 1)
    merged = jnp.convolve(kernels[0].ravel(), kernels[1].ravel())
    by_fourier = np.max(np.abs(np.fft.fft(np.asarray(merged), 256)))
    norm = true_norm(chain, like)
    assert norm > 1.1 * by_fourier
    assert norm <= jax.jit(norm_bound)(chain)
    # one convolution with the merged kernel keeps to it
    assert true_norm(Convolution(merged.reshape(1, 5, 1, 1), "zero"), like) <= by_fourier


def test_a_blur_without_negative_weights_keeps_the_brightness_and_no_more():
    @jax.jit
    def bounds(kernel):
        blur, like = CircularBlur(kernel), image(16, 16)
        return norm_bound(blur), norm_bound(blur, like), norm_bound(Downsampling(2, kernel), like)

    # of a quarter of the pixels half the norm is left
    np.testing.assert_allclose(bounds(gaussian_kernel(9, 1.5)), [1, 1, 0.5], rtol=1e-4)


def test_bounds_are_differentiable():
    kernel = draw(np.random.default_rng(0), (3, 3))

    def bound(kernel):
        return norm_bound(compose(CircularBlur(kernel), mask(jnp.ones((4, 4)))), image(4, 4))

    value, gradient = jax.jit(jax.value_and_grad(bound))(kernel)
    # of degree one in the kernel
    np.testing.assert_allclose(jnp.sum(gradient * kernel), value, rtol=1e-4)


# --- operators made of others ---


def test_bounds_follow_the_rules():
    a, b = Diagonal(jnp.array([1.0, 3.0])), Dense(jnp.array([[0.0, 4.0], [0.0, 0.0]]))
    for operator, expected in (
        (compose(a, b), 12),
        (add(a, b), 7),
        (stack(a, b), 5),
        (scale(a, -2.0), 6),
        (scale(a, 3.0 + 4.0j), 15),
        (adjoint(compose(a, b)), 12),
        (stack(compose(a, b), Identity()), 145**0.5),
    ):
        bound = norm_bound(operator)
        assert expected <= bound * (1 + 1e-7)
        np.testing.assert_allclose(bound, expected, rtol=1e-5)
    assert norm_bound(stack(scale(a, 0.0), scale(b, 0.0))) == 0


def test_sizes_pass_through_products_and_adjoints():
    differences, like = FiniteDifferences(), image(2, 2)
    np.testing.assert_allclose(norm_bound(differences, like), 2, rtol=1e-6)
    np.testing.assert_allclose(norm_bound(compose(differences, mask(jnp.ones((2, 2)))), like), 2, rtol=1e-6)
    np.testing.assert_allclose(norm_bound(adjoint(differences), image(2, 2, 2)), 2, rtol=1e-6)
    np.testing.assert_allclose(norm_bound(compose(adjoint(differences), differences), like), 4, rtol=1e-6)


# --- exact norms ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("operator", "like"),
    [
        (CircularBlur(jnp.arange(9.0).reshape(3, 3)), image(3, 4)),
        (Downsampling(2, jnp.arange(-4.0, 5.0).reshape(3, 3)), image(6, 4)),
        (FiniteDifferences(), image(3, 4)),
        (FiniteDifferences("circular"), image(3, 5)),
        (adjoint(FiniteDifferences()), image(3, 4, 2)),
        (scale(FiniteDifferences(), -3.0), image(3, 4)),
        (Identity(), image(3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_norms_known_in_closed_form_are_exact(operator, like):
    operator = jax.tree.map(lambda leaf: leaf.astype("float64"), operator)
    norm = jax.jit(lambda operator: operator_norm(operator, like))(operator)
    np.testing.assert_allclose(norm, true_norm(operator, like), rtol=1e-6)


# --- misuse ---


def test_misuse():
    unknown = from_function(jnp.cumsum, jnp.zeros(3))
    message = r"`operator` must have a known bound of its norm, got Function, .*`operator_norm`, which comes from below"
    for operator in (unknown, compose(Identity(), unknown), stack(unknown), scale(unknown, 2.0), adjoint(unknown)):
        with pytest.raises(ValueError, match=message):
            norm_bound(operator)
    with pytest.raises(ValueError, match="`operator` must be a linear operator"):
        norm_bound(jnp.ones((2, 2)))  # pyright: ignore
    with pytest.raises(ValueError, match="`like` must show what the operator FiniteDifferences takes"):
        operator_norm(FiniteDifferences())
    with pytest.raises(ValueError, match=r"`stride` must divide the `size` of the images, got 2 and \(3, 4\)"):
        norm_bound(Downsampling(2, jnp.ones((1, 1))), image(3, 4))
