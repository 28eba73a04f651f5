"""Bijections and Glow: inverses, log-determinants against Jacobians, and what an initialization by data gives."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from helpers import TraceCounter, draw

from unroll_jax import splines
from unroll_jax.flows import Glow, bijections, glow_preset
from unroll_jax.flows._shifts import convolve

RNG = np.random.default_rng(7)
ROUND_TRIP = {"float32": 1e-4, "float64": 1e-9}


def conditioner_of(rng, num_in, num_out, dtype):
    """A network with values of order 1, as a pytree that can be called."""
    return jax.tree_util.Partial(lambda w, a: jnp.tanh(a @ w), draw(rng, (num_in, num_out), dtype))


def make_bijections(dtype):
    """One of each with random parameters, for 5 channels."""
    rng = np.random.default_rng(0)
    grid = splines.UniformGrid(-2.0, 2.0, 7)
    convolution = bijections.random_convolution(jax.random.key(0), 5, dtype)
    moved = {name: getattr(convolution, name) + 0.3 * draw(rng, getattr(convolution, name).shape, dtype)
             for name in ("lower", "upper", "log_diagonal")}  # fmt: skip
    fixed = {"signs": convolution.signs, "permutation": convolution.permutation}
    return {
        "actnorm": bijections.ActNorm(draw(rng, (5,), dtype), draw(rng, (5,), dtype)),
        "convolution": bijections.InvertibleConvolution(**moved, **fixed),
        "affine": bijections.AffineCoupling(conditioner_of(rng, 2, 6, dtype), 0.1),
        "spline": bijections.SplineCoupling(conditioner_of(rng, 2, 6, dtype), draw(rng, (3, 7), dtype), grid),
        "split": bijections.Split(conditioner_of(rng, 2, 6, dtype)),
    }


@pytest.mark.parametrize("name", ["actnorm", "convolution", "affine", "spline", "split"])
def test_bijections_are_inverted_and_know_their_determinant(name, precision):
    bijection = make_bijections(precision)[name]
    x = 2 * draw(RNG, (2, 3, 5), precision)

    @jax.jit
    def check(bijection, x):
        y, log_det = bijection.forward(x)

        def flat(x):
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(bijection.forward(x)[0])])

        jacobian = jax.jacfwd(flat)(x).reshape(x.size, x.size)
        return y, bijection.inverse(y), log_det, jacobian

    y, back, log_det, jacobian = check(bijection, x)
    np.testing.assert_allclose(back, x, rtol=0, atol=ROUND_TRIP[precision])
    expected = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-3 if precision == "float32" else 1e-9)
    assert all(leaf.dtype == precision for leaf in jax.tree.leaves((y, log_det)))


def test_convolution_is_the_product_of_its_factors():
    convolution = make_bijections("float32")["convolution"]
    lower = np.tril(convolution.lower, -1) + np.eye(5)
    upper = np.triu(convolution.upper, 1) + np.diag(convolution.signs * np.exp(convolution.log_diagonal))
    matrix = np.zeros((5, 5))
    matrix[np.arange(5)] = (lower @ upper)[np.asarray(convolution.permutation)]
    x = draw(RNG, (4, 5))
    np.testing.assert_allclose(convolution.forward(x)[0], x @ matrix.T, atol=1e-5)


def test_random_convolution_is_orthogonal():
    convolution = bijections.random_convolution(jax.random.key(3), 6)
    matrix = np.asarray(convolution.forward(jnp.eye(6))[0]).T
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(convolution.forward(jnp.eye(6))[1], 0, atol=1e-5)


def test_actnorm_starts_with_the_statistics_of_the_data(precision):
    rng = np.random.default_rng(31)  # for which the mean of the batch by itself rounds too much
    batch = jnp.asarray(5 + np.array([0.3, 0.6, 0.9]) * rng.standard_normal((16, 4, 4, 3)), precision)
    norm = bijections.fit_actnorm(batch)
    out = np.asarray(jax.vmap(lambda x: norm.forward(x)[0])(batch), np.float64)
    np.testing.assert_allclose(np.mean(out, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(out, axis=(0, 1, 2)), 1, atol=1e-5)


def test_actnorm_of_a_constant_channel_is_finite():
    norm = bijections.fit_actnorm(jnp.ones((4, 3)))
    np.testing.assert_allclose(norm.forward(jnp.ones((4, 3)))[0], 0, atol=1e-6)


def test_couplings_keep_the_first_half_and_bound_the_second():
    rng = np.random.default_rng(1)
    coupling = bijections.AffineCoupling(conditioner_of(rng, 2, 6, "float32"), smallest_scale=0.2)
    x = draw(RNG, (40, 5))
    y = coupling.forward(x)[0]
    np.testing.assert_array_equal(y[:, :2], x[:, :2])
    scales = np.asarray(jax.vmap(jax.jacfwd(lambda x: coupling.forward(x)[0]))(x))[:, np.arange(2, 5), np.arange(2, 5)]
    assert np.min(scales) > 0.2 and np.max(scales) < 1


def test_spline_coupling_keeps_slopes_in_its_box():
    grid = splines.UniformGrid(-2.0, 2.0, 7)
    still = jax.tree_util.Partial(lambda a: jnp.zeros((*a.shape[:-1], 2)))
    coupling = bijections.SplineCoupling(still, 9 * draw(RNG, (1, 7)), grid, smallest_slope=0.5)
    x = jnp.stack([jnp.zeros(400), jnp.linspace(-4, 4, 400)], axis=-1)
    slopes = np.diff(np.asarray(coupling.forward(x)[0])[:, 1]) / np.diff(np.asarray(x)[:, 1])
    # times the scale sigmoid(2) of the affine part
    assert np.min(slopes) >= 0.5 * 0.8807 and np.max(slopes) <= 2 * 0.8809


def test_squeezing_keeps_blocks_together():
    x = jnp.arange(96.0).reshape(4, 8, 3)
    y = bijections.squeeze(x)
    assert y.shape == (2, 4, 12)
    np.testing.assert_array_equal(np.sort(y[1, 2]), np.sort(np.asarray(x[2:4, 4:6]).ravel()))
    np.testing.assert_array_equal(bijections.unsqueeze(y), x)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: bijections.squeeze(jnp.zeros((4, 5, 3))), "even height and width, got (4, 5, 3)"),
        (lambda: bijections.unsqueeze(jnp.zeros((4, 4, 3))), "a multiple of 4 channels, got (4, 4, 3)"),
        (lambda: bijections.fit_actnorm(jnp.zeros(3)), "`batch` must have shape (..., channels)"),
        (lambda: bijections.fit_actnorm(jnp.zeros((4, 3), int)), "`batch` must be an array of a floating-point"),
        (lambda: bijections.ActNorm(jnp.zeros(3), jnp.zeros(3)).forward(jnp.zeros((2, 4))), "must have 3 channels"),
        (lambda: bijections.random_convolution(jax.random.key(0), 0), "`num_channels`"),
        (lambda: bijections.AffineCoupling(lambda a: a).forward(jnp.zeros((2, 4))), "`conditioner` must return"),
        (lambda: bijections.AffineCoupling(lambda a: a).forward(jnp.zeros((2, 1))), "at least 2 channels"),
    ],
)
def test_misuse_of_bijections_is_named(act, says):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        act()
    assert says in str(raised.value)


# --- Glow ---

VARIANTS = {
    "plain": {},
    "all options": {"spline_knots": 5, "context_channels": 1, "smallest_scale": 0.2, "remat": True},
}


def make_glow(dtype="float32", num_levels=2, spread=0.1, **options):
    """A Glow for tiny images whose parameters are all random: no convolution at zero, no prior standard normal."""
    flow = Glow(num_levels=num_levels, num_steps=2, width=4, key=jax.random.key(1), dtype=dtype, **options)
    rng = np.random.default_rng(2)
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    moved = jax.tree.map(lambda leaf: leaf + jnp.asarray(spread * rng.standard_normal(leaf.shape), leaf.dtype), params)
    return nnx.merge(graph, moved, rest)


def flat(latents):
    return jnp.concatenate([z.ravel() for z in latents])


@pytest.mark.parametrize("name", VARIANTS)
def test_glow_is_inverted_and_knows_its_density(name, precision):
    flow = make_glow(precision, **VARIANTS[name])
    x = RNG.random((4, 4, 3))
    # central differences, in double precision only
    width, is_wide = 1e-5, precision == "float64"
    moves = width * np.eye(48).reshape(48, 4, 4, 3)
    batch = jnp.asarray(np.concatenate([x[None], x + moves, x - moves]) if is_wide else x[None], precision)
    context = jnp.asarray(RNG.random((4, 4, 1)), precision) if flow.context_channels else None

    @jax.jit
    def check(flow, batch):
        def each(x):
            latents, log_det = flow.forward(x, context)
            return latents, flow.inverse(latents, context), log_det, flow.log_prob(x, context)

        return jax.vmap(each)(batch)

    latents, back, log_det, log_prob = check(flow, batch)
    assert [z.shape[1:] for z in latents] == [(2, 2, 6), (1, 1, 24)]
    np.testing.assert_allclose(back, batch, rtol=0, atol=ROUND_TRIP[precision])
    z = np.concatenate([np.asarray(z, np.float64).reshape(len(batch), -1) for z in latents], axis=1)
    expected = np.sum(scipy.stats.norm.logpdf(z), axis=1) + log_det
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-3)
    if is_wide:
        jacobian = (z[1:49] - z[49:]) / (2 * width)
        np.testing.assert_allclose(log_det[0], np.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-6)
    assert all(leaf.dtype == precision for leaf in (*latents, back, log_prob))


def test_a_fitted_glow_has_unit_statistics_behind_every_scale():
    batch = jnp.asarray(0.3 + 0.1 * RNG.random((8, 4, 4, 3)), jnp.float32)

    @jax.jit
    def statistics(flow, batch):
        flow, found = flow.fitted(batch), []
        x = jax.vmap(bijections.squeeze)(batch)
        for index in range(flow.num_steps):
            norm, convolution, coupling = jax.tree.map(lambda a, i=index: a[i], flow.levels[0]).parts(None)
            normed = jax.vmap(lambda x, norm=norm: norm.forward(x)[0])(x)
            found.append((jnp.mean(normed, axis=(0, 1, 2)), jnp.std(normed, axis=(0, 1, 2))))
            both = lambda x, a=convolution, b=coupling: b.forward(a.forward(x)[0])[0]
            x = jax.vmap(both)(normed)
        return found

    for mean, std in statistics(make_glow(), batch):
        np.testing.assert_allclose(mean, 0, atol=1e-5)
        np.testing.assert_allclose(std, 1, atol=1e-5)


def test_samples_are_images_of_standard_normal_latents():
    flow = make_glow(spread=0.02)

    @jax.jit
    def draw_and_return(flow, key, temperature):
        image = flow.sample(key, (4, 8), temperature=temperature)
        return image, flat(flow.forward(image)[0])

    image, latents = draw_and_return(flow, jax.random.key(0), 1.0)
    assert image.shape == (4, 8, 3)
    # 96 standard normal numbers: a sum of squares between the quantiles of 1e-4 and 1 - 1e-4
    assert 50 < jnp.sum(latents**2) < 158
    cold, latents = draw_and_return(flow, jax.random.key(0), 0.0)
    np.testing.assert_allclose(latents, 0, atol=1e-4)
    assert jnp.max(jnp.abs(cold - image)) > 0.1


def test_the_paper_preset_has_the_published_number_of_parameters():
    flow = jax.eval_shape(lambda key: glow_preset("paper", key), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(flow, nnx.Param))) == 41_979_864


def lowered(num_steps):
    key = jax.random.key(0)
    flow = jax.eval_shape(lambda key: Glow(num_levels=2, num_steps=num_steps, width=4, key=key), key)
    image = jax.ShapeDtypeStruct((4, 4, 3), jnp.float32)

    def round_trip(flow, x):
        return jnp.sum(flow.inverse(flow.forward(x)[0]))

    return jax.jit(jax.grad(round_trip, argnums=1)).lower(flow, image)


def test_the_program_does_not_grow_with_the_number_of_steps():
    sizes = [len(lowered(num_steps).as_text().splitlines()) for num_steps in (4, 18)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_18_steps_compile_in_the_time_of_4():
    seconds = {}
    for num_steps in (4, 18):
        program = lowered(num_steps)
        started = time.process_time()
        program.compile()
        seconds[num_steps] = time.process_time() - started
    assert seconds[18] <= 1.5 * seconds[4]


def test_the_second_call_does_not_recompile():
    flow = make_glow(num_levels=1)
    counter = TraceCounter(lambda flow, x: flow.log_prob(x))
    call = jax.jit(counter)
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    params = jax.tree.map(lambda leaf: leaf - 0.1 * leaf, params)
    call(flow, jnp.ones((4, 4, 3)))
    call(nnx.merge(graph, params, rest), jnp.zeros((4, 4, 3)))
    assert counter.count == 1


def test_convolutions_as_products_are_convolutions():
    for num_in, num_out, border in ((2, 5, 0.0), (6, 2, 1.0)):
        x, kernel = RNG.standard_normal((4, 6, num_in)), RNG.standard_normal((3, 3, num_in, num_out))
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=border)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        expected = np.einsum("hwcij,ijco->hwo", windows, kernel)
        found = convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), border)
        np.testing.assert_allclose(found, expected, atol=1e-4)
