# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false
"""Lipschitz layers: bounds from above, orthonormal weights, invertible residual blocks, whole networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import draw, enabled, searched
from unroll_jax.splines import (
    LinearSpline,
    LipschitzConv,
    LipschitzLinear,
    OrthonormalLinear,
    ResidualBlock,
    SlopeBox,
    UniformGrid,
    conv_spectral_bound,
    lipschitz_bound,
    orthonormalized,
    spectral_bound,
)

COMPILED = jax.jit(lambda matrix: orthonormalized(matrix, num_iterations=60))
GRID = UniformGrid(-2.0, 2.0, 21)


def true_norm(matrix):
    return np.linalg.norm(np.asarray(matrix).astype(complex), ord=2)


def conv_matrix(layer, size):
    """The matrix of the convolution on images of `size`, in double precision: by its responses to unit images."""
    units = jnp.eye(size[0] * size[1] * layer.in_channels).reshape(-1, *size, layer.in_channels)
    return np.asarray(layer(units), float).reshape(len(units), -1)


def scaled(layer, name, factor):
    variable = getattr(layer, name)
    variable[...] = factor * variable[...]
    return layer


# --- bounds of matrices ---


@searched
@given(
    shape=st.sampled_from([(1, 7), (6, 6), (12, 5)]),
    dtype=st.sampled_from(["float32", "float64", "complex64"]),
    size=st.integers(-12, 12),
    rank=st.sampled_from([1, 4]),
    seed=st.integers(0, 999),
)
def test_the_bound_of_a_matrix_is_above_its_norm_and_near(shape, dtype, size, rank, seed):
    rng = np.random.default_rng(seed)
    with enabled(dtype):
        matrix = draw(rng, (shape[0], rank), dtype) @ draw(rng, (rank, shape[1]), dtype) * 10.0**size
        bound, norm = float(jax.jit(spectral_bound)(matrix)), true_norm(matrix)
    assert norm <= bound <= 1.006 * norm  # 12^(1 / 512) and rounding


@pytest.mark.parametrize("num", [64, 300])
def test_the_worst_matrix_for_the_bound_is_an_orthonormal_one(num):
    matrix = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((num, num)))[0], jnp.float32)
    assert true_norm(matrix) <= float(spectral_bound(matrix)) <= 1.02 * num ** (1 / 512)  # room for rounding


def test_the_derivative_of_the_bound_is_that_of_the_norm(x64):
    rng = np.random.default_rng(1)
    matrix = draw(rng, (5, 3), "float64")
    u, _, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(jax.grad(spectral_bound)(matrix), np.outer(u[:, 0], vt[0]), atol=1e-3)
    zero = jax.value_and_grad(spectral_bound)(jnp.zeros((3, 2)))
    assert float(zero[0]) == 0 and np.all(np.asarray(zero[1]) == 0)


@searched
@given(
    shape=st.sampled_from([(1, 4), (5, 5), (7, 3)]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 999),
)
def test_orthonormalized_is_the_polar_factor_with_a_norm_of_at_most_1(shape, dtype, seed):
    with enabled(dtype):
        matrix = draw(np.random.default_rng(seed), shape, dtype)
        found = np.asarray(COMPILED(matrix), float)
        u, singular, vt = np.linalg.svd(np.asarray(matrix, float), full_matrices=False)
    assert np.linalg.norm(found, 2) <= 1
    if singular[-1] > 1e-3 * singular[0]:
        np.testing.assert_allclose(found, u @ vt, atol=2e-3 if dtype == "float32" else 1e-8)


def test_orthonormalized_stays_in_the_ball_where_it_has_not_arrived():
    matrix = jnp.diag(jnp.array([1.0, 1e-6, 0.0]))
    assert true_norm(orthonormalized(matrix, num_iterations=3)) <= 1
    assert np.all(np.asarray(orthonormalized(jnp.zeros((2, 3)))) == 0)


# --- bounds of convolutions ---


@pytest.mark.parametrize("padding", ["zero", "circular"])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3), (2, 4), (5, 3)])
def test_the_bound_of_a_convolution_is_above_the_norm_of_its_matrix(padding, kernel_size):
    rngs = nnx.Rngs(0)
    layer = LipschitzConv(2, 3, kernel_size, padding=padding, use_bias=False, rngs=rngs)
    layer.kernel[...] = draw(np.random.default_rng(2), layer.kernel.shape) * 5
    for size in [(6, 6), (3, 9)]:
        norm = true_norm(conv_matrix(layer, size))
        assert norm <= 1
        if padding == "circular":  # smaller images miss frequencies
            assert norm >= 0.7
    bound = conv_spectral_bound(layer.kernel[...], size=(32, 32))
    assert bound <= conv_spectral_bound(layer.kernel[...]) <= 1.12 * bound


@pytest.mark.parametrize("kernel_size", [(3, 3), (2, 4), (5, 3)])
def test_with_a_known_size_the_bound_of_a_circular_convolution_is_exact(kernel_size):
    layer = LipschitzConv(2, 3, kernel_size, padding="circular", lipschitz=1e3, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = draw(np.random.default_rng(2), layer.kernel.shape)
    for size in [(6, 6), (7, 4), (2, 3)]:
        norm = true_norm(conv_matrix(layer, size))
        assert norm <= float(conv_spectral_bound(layer.kernel[...], size=size)) <= 1.01 * norm


def test_the_factor_between_the_frequencies_is_needed_and_enough():
    # its largest frequency lies in the middle between two of 3 samples, at 60 degrees
    kernel = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
    sampled = max(abs(1 - np.exp(-2j * np.pi * n / 3)) for n in range(3))
    bound = float(conv_spectral_bound(kernel, num_frequencies=3))
    np.testing.assert_allclose(bound, sampled / np.cos(np.pi / 6), rtol=1e-4)
    assert sampled < 1.8 and bound >= 2.0


def test_a_convolution_is_that_of_an_explicit_sum():
    rng = np.random.default_rng(3)
    x, kernel = draw(rng, (4, 5, 2)), draw(rng, (2, 3, 2, 3))
    for padding in ("zero", "circular"):
        layer = LipschitzConv(2, 3, (2, 3), padding=padding, lipschitz=1e3, rngs=nnx.Rngs(0))
        layer.kernel[...] = kernel
        layer.bias[...] = jnp.arange(3.0)
        expected = np.zeros((4, 5, 3)) + np.arange(3.0)
        for i, j, p, q in np.ndindex(4, 5, 2, 3):
            a, b = i + p, j + q - 1
            if padding == "circular" or (0 <= a < 4 and 0 <= b < 5):
                expected[i, j] += np.asarray(x[a % 4, b % 5]) @ np.asarray(kernel[p, q])
        np.testing.assert_allclose(layer(x), expected, atol=1e-4)
        np.testing.assert_allclose(layer(jnp.stack([x, 2 * x]))[0], expected, atol=1e-4)


# --- layers ---


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("lipschitz", [0.3, 2.0])
@pytest.mark.parametrize("kind", [LipschitzLinear, OrthonormalLinear])
def test_linear_layers_keep_their_bound_whatever_the_weight(kind, lipschitz, factor):
    layer = kind(7, 5, lipschitz=lipschitz, rngs=nnx.Rngs(0))
    layer.weight[...] = factor * draw(np.random.default_rng(4), (7, 5))
    norm = true_norm(layer.bounded_weight)
    assert norm <= lipschitz * (1 + 1e-7)
    if kind is OrthonormalLinear or factor > 0.1:
        assert norm >= 0.99 * lipschitz
    if kind is LipschitzLinear and factor < 0.1:  # inside of the ball as it is
        np.testing.assert_array_equal(layer.bounded_weight, layer.weight[...])


def test_orthonormal_layers_keep_norms():
    layer = OrthonormalLinear(4, 9, use_bias=False, rngs=nnx.Rngs(0))
    layer.weight[...] = draw(np.random.default_rng(5), (4, 9))
    x = draw(np.random.default_rng(6), (20, 4))
    np.testing.assert_allclose(jnp.linalg.norm(layer(x), axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-3)


def network(seed):
    """Dense layers and splines, all with wild parameters."""
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(
        LipschitzLinear(3, 8, rngs=rngs),
        LinearSpline(GRID, 8, init="max_min"),
        OrthonormalLinear(8, 8, rngs=rngs),
        LinearSpline(GRID, init="absolute", keep="anchor"),
        ResidualBlock(nnx.Sequential(LipschitzLinear(8, 8, rngs=rngs), LinearSpline(GRID, 8)), 0.8),
        LipschitzLinear(8, 2, rngs=rngs),
    )
    return wild(model, seed)


def image_network(seed):
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(
        LipschitzConv(1, 4, (3, 3), rngs=rngs),
        LinearSpline(GRID, 4),
        LipschitzConv(4, 1, (3, 3), padding="circular", rngs=rngs),
    )
    return wild(model, seed)


def wild(model, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 2 * draw(rng, leaf.shape), model)


@pytest.mark.parametrize(("make", "shape"), [(network, (3,)), (image_network, (6, 5, 1))])
@pytest.mark.parametrize("seed", [0, 1])
def test_whole_networks_are_1_lipschitz(make, shape, seed):
    model = make(seed)
    assert lipschitz_bound(model) == 1
    rng = np.random.default_rng(seed + 100)
    x = 3 * draw(rng, (200, *shape))
    distance = 10.0 ** rng.uniform(-2, 1, (200, *[1] * len(shape)))
    y = x + jnp.asarray(distance, x.dtype) * draw(rng, x.shape)
    fx, fy = (np.asarray(jax.jit(jax.vmap(model))(z), float).reshape(200, -1) for z in (x, y))
    ratio = np.linalg.norm(fx - fy, axis=1) / np.linalg.norm(np.asarray(x - y, float).reshape(200, -1), axis=1)
    assert np.max(ratio) <= 1 + 1e-4  # values near 10 are rounded, in differences near 0.01
    jacobians = jax.jit(jax.vmap(jax.jacobian(lambda z: model(z).ravel())))(x[:20])
    assert (
        np.max(np.linalg.norm(np.asarray(jacobians, float).reshape(20, -1, np.prod(shape)), ord=2, axis=(1, 2)))
        <= 1 + 1e-6
    )


def test_gradients_of_a_network_are_finite_and_reach_every_parameter():
    model, x = network(0), draw(np.random.default_rng(7), (50, 3))
    gradient = jax.jit(jax.grad(lambda model: jnp.sum(jax.vmap(model)(x) ** 2)))(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(np.asarray(leaf) != 0), path


def test_layers_stacked_for_a_scan_are_those_of_a_loop():
    make = lambda key: nnx.Sequential(
        OrthonormalLinear(4, 4, rngs=nnx.Rngs(key)), LinearSpline(GRID, 4, init="max_min")
    )
    layers = jax.vmap(make)(jax.random.split(jax.random.key(0), 3))
    x = draw(np.random.default_rng(8), (4,))
    scanned, _ = jax.jit(lambda layers, x: jax.lax.scan(lambda x, layer: (layer(x), None), x, layers))(layers, x)
    looped = x
    for n in range(3):
        looped = jax.tree.map(lambda leaf, n=n: leaf[n], layers)(looped)
    np.testing.assert_allclose(scanned, looped, atol=1e-6)


# --- invertible residual blocks ---


def block(contraction, *, seed=0, **options):
    rngs = nnx.Rngs(seed)
    branch = nnx.Sequential(
        LipschitzLinear(5, 5, rngs=rngs),
        LinearSpline(GRID, 5, init="max_min", box=SlopeBox.lipschitz(2.0)),
        LipschitzLinear(5, 5, rngs=rngs),
    )
    return wild(ResidualBlock(branch, contraction, **options), seed)


@pytest.mark.parametrize("is_nonexpansive", [True, False])
@pytest.mark.parametrize("contraction", [0.1, 0.5, 0.95])
def test_the_inverse_of_a_block_is_its_inverse(contraction, is_nonexpansive, precision):
    model = block(contraction, is_nonexpansive=is_nonexpansive)
    x = 3 * draw(np.random.default_rng(9), (40, 5), precision)
    tolerance = 1e-4 if precision == "float32" else 1e-11
    found = jax.jit(jax.vmap(lambda y: model.inverse(y, tolerance=tolerance)))(model(x))
    error = np.linalg.norm(found.x - x, axis=1)
    assert np.all(error <= 1.01 * found.error + (1e-5 if precision == "float32" else 1e-13))
    assert np.all(found.error <= tolerance * np.linalg.norm(found.x, axis=1))
    assert np.all(found.num_steps < 1000)
    np.testing.assert_allclose(model(found.x), model(x), atol=10 * tolerance)


def test_a_block_is_bilipschitz_as_claimed(x64):
    model, rng = block(0.7), np.random.default_rng(10)
    x, y = (3 * draw(rng, (300, 5), "float64") for _ in range(2))
    ratio = np.linalg.norm(model(x) - model(y), axis=1) / np.linalg.norm(x - y, axis=1)
    assert np.max(ratio) <= 1 and np.min(ratio) >= 0.3 / 1.7
    assert model.lipschitz == 1 and block(0.7, is_nonexpansive=False).lipschitz == 1.7


def test_the_inverse_has_the_derivatives_of_an_inverse(x64):
    model, x = block(0.6), draw(np.random.default_rng(11), (5,), "float64")
    y = model(x)
    inverse = lambda model, y: model.inverse(y, tolerance=1e-13).x
    expected = np.linalg.inv(jax.jacobian(model)(x))
    np.testing.assert_allclose(jax.jacrev(inverse, argnums=1)(model, y), expected, atol=1e-9)
    np.testing.assert_allclose(jax.jacfwd(inverse, argnums=1)(model, y), expected, atol=1e-9)
    # in the parameters: inverse(model, model(x)) = x whatever they are
    direction = jax.tree.map(lambda leaf: draw(np.random.default_rng(12), leaf.shape, "float64"), model)
    _, change = jax.jvp(lambda model: inverse(model, model(x)), (model,), (direction,))
    np.testing.assert_allclose(change, 0, atol=1e-9)
    gradient = jax.jit(jax.grad(lambda model: jnp.sum(inverse(model, y))))(model)
    _, along = jax.jvp(lambda model: jnp.sum(inverse(model, y)), (model,), (direction,))
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    np.testing.assert_allclose(sum(jnp.vdot(a, b) for a, b in pairs), along, rtol=1e-8)


def test_an_inverse_that_is_stopped_early_says_how_far_it_is():
    model, x = block(0.9), draw(np.random.default_rng(13), (5,))
    found = model.inverse(model(x), max_steps=3)
    assert int(found.num_steps) == 3
    assert np.linalg.norm(found.x - x) <= float(found.error)


# --- misuse ---


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ResidualBlock(LipschitzLinear(2, 2, rngs=nnx.Rngs(0)), 1.0), r"`contraction` must lie in \(0, 1\)"),
        (lambda: ResidualBlock(LipschitzLinear(2, 2, rngs=nnx.Rngs(0)), 0.0), r"`contraction` must lie in \(0, 1\)"),
        (lambda: ResidualBlock(LipschitzLinear(2, 3, rngs=nnx.Rngs(0)))(jnp.ones(2)), "`branch` must keep the shape"),
        (lambda: ResidualBlock(nnx.Linear(2, 2, rngs=nnx.Rngs(0))), "No Lipschitz constant of Linear is known"),
        (lambda: ResidualBlock(LinearSpline(GRID, box=SlopeBox.monotone())), "positive and finite, got inf"),
        (lambda: ResidualBlock(jax.nn.relu).inverse(jnp.ones(2), tolerance=0.0), "`tolerance` must be positive"),
        (lambda: LipschitzLinear(2, 3, lipschitz=0.0, rngs=nnx.Rngs(0)), "`lipschitz` must be positive"),
        (lambda: LipschitzLinear(0, 3, rngs=nnx.Rngs(0)), "`in_features` must be a whole number"),
        (lambda: LipschitzLinear(2, 3, rngs=nnx.Rngs(0))(jnp.ones(3)), r"`x` must have 2 channels .* \(3,\)"),
        (lambda: OrthonormalLinear(2, 3, rngs=nnx.Rngs(0))(jnp.ones(3)), r"`x` must have 2 channels .* \(3,\)"),
        (lambda: LipschitzConv(1, 2, 3, rngs=nnx.Rngs(0)), "`kernel_size` must be a pair"),
        (lambda: LipschitzConv(1, 2, (3, 3), padding="same", rngs=nnx.Rngs(0)), "`padding` must be one of"),
        (lambda: LipschitzConv(1, 2, (3, 3), num_frequencies=2, rngs=nnx.Rngs(0)), "`num_frequencies` must be at"),
        (lambda: LipschitzConv(1, 2, (3, 3), rngs=nnx.Rngs(0))(jnp.ones((4, 1))), "`x` must be an image"),
        (lambda: spectral_bound(jnp.ones(3)), r"`matrix` must have shape \(m, n\)"),
        (lambda: conv_spectral_bound(jnp.ones((3, 3))), "`kernel` must be real and have shape"),
        (lambda: orthonormalized(jnp.ones((3, 3)), num_iterations=0), "`num_iterations` must be a whole number"),
    ],
)
def test_misuse_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
