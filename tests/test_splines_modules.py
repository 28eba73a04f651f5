# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false
"""Learned splines as nnx modules: slopes in their box, shapes, scales, labels, freezing, transformations of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import unroll_jax as uj
from tests.helpers import draw, enabled, searched
from unroll_jax.splines import (
    FixedSpline,
    LinearSpline,
    NonuniformGrid,
    SlopeBox,
    UniformGrid,
    flat_ends,
    initial_coefficients,
    keep_splines_feasible,
    linear_spline,
    spline_labels,
    with_feasible_splines,
)

GRID = UniformGrid(-1.0, 1.0, 9)
POINTS = jnp.linspace(-2.0, 2.0, 33)


def wild(spline, seed=0, size=3.0):
    """The same module with parameters anywhere."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + size * draw(rng, leaf.shape, str(leaf.dtype)), spline)


# --- slopes ---


@searched
@given(
    bounds=st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(sorted),
    keep=st.sampled_from(["mean", "anchor", "odd"]),
    dtype=st.sampled_from(["float32", "float64"]),
    num_splines=st.sampled_from([None, 3]),
    size=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_slopes_are_in_the_box_whatever_the_parameters(bounds, keep, dtype, num_splines, size, seed):
    with enabled(dtype):
        start = jnp.zeros(9 if num_splines is None else (num_splines, 9))
        spline = wild(
            LinearSpline(GRID, init=start, box=SlopeBox(*bounds), keep=keep, learn_scale=False), seed, 10**size
        )
        rounding = (1e-5 if dtype == "float32" else 1e-13) * max(1, 10**size)
        for slopes in (spline.slopes(), spline.slope(jnp.ones((4, 3)) * 0.3)):
            assert np.all(slopes >= bounds[0] - rounding) and np.all(slopes <= bounds[1] + rounding)


def test_the_scale_changes_neither_slopes_nor_tv2(x64):
    spline = wild(LinearSpline(GRID, 3), 1)
    plain = FixedSpline(spline.feasible_coefficients, GRID)
    scale, x = jnp.exp(spline.log_scale[...]), draw(np.random.default_rng(0), (50, 3), "float64")
    assert np.all(np.asarray(scale) != 1)
    ax = x * scale[None]
    np.testing.assert_allclose(spline(x), plain(ax) / scale[None], rtol=1e-12)
    np.testing.assert_allclose(spline.slope(x), plain.slope(ax), rtol=1e-12)
    np.testing.assert_allclose(spline.second_order_variation(), plain.second_order_variation(), rtol=1e-12)
    pointwise = jax.grad(lambda x: jnp.sum(spline.potential(x)))(x)
    np.testing.assert_allclose(pointwise, spline(x), atol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(spline(x)))(x), spline.slope(x), atol=1e-12)


def test_inverse_and_prox_of_a_scaled_spline(x64):
    spline = wild(LinearSpline(GRID, 3, box=SlopeBox.invertible(0.2)), 2, 1.0)
    x = 2 * draw(np.random.default_rng(0), (50, 3), "float64")
    np.testing.assert_allclose(spline.inverse(spline(x)), x, atol=1e-12)
    np.testing.assert_allclose(spline(spline.inverse(x)), x, atol=1e-12)
    p = spline.prox(x, 0.7)
    np.testing.assert_allclose(p + 0.7 * spline(p), x, atol=1e-12)


# --- initial shapes ---

SHAPES = {
    "identity": lambda x: x,
    "zero": lambda x: 0 * x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "absolute": np.abs,
    "soft_threshold": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.0, 0),
}


@pytest.mark.parametrize("num_splines", [None, 33])
@pytest.mark.parametrize("name", SHAPES)
def test_initial_shapes_have_their_values(name, num_splines, precision):
    spline = LinearSpline(GRID, num_splines, init=name)
    np.testing.assert_allclose(spline(POINTS), SHAPES[name](np.asarray(POINTS)), atol=1e-6)
    assert spline.coefficients.dtype == precision


def test_initial_shapes_with_numbers_and_halves():
    soft = initial_coefficients("soft_threshold", GRID, 2, threshold=jnp.array([0.25, 0.5]))
    value = LinearSpline(GRID, init=soft)(jnp.array([[0.75, 0.75], [-0.25, -2.0]]))
    np.testing.assert_allclose(value, [[0.5, 0.25], [0.0, -1.5]], atol=1e-6)
    leaky = LinearSpline(GRID, init=initial_coefficients("leaky_relu", GRID, slope=0.2))
    np.testing.assert_allclose(leaky(POINTS), np.where(POINTS > 0, POINTS, 0.2 * POINTS), atol=1e-6)
    x = jnp.array([-1.5, -0.5, -1.0, -0.25, -2.0])
    np.testing.assert_allclose(LinearSpline(GRID, 5, init="max_min")(x), [1.5, 0.5, 1.0, -0.25, -2.0], atol=1e-6)
    even_odd = LinearSpline(GRID, init=initial_coefficients("even_odd", GRID, 2, threshold=0.5))
    np.testing.assert_allclose(even_odd(x[3:]), [0.25, -1.5], atol=1e-6)


# --- training ---


class Net(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
        self.splines = nnx.List([LinearSpline(GRID, 3), LinearSpline(UniformGrid(-2.0, 2.0, 5), keep="anchor")])

    def __call__(self, x):
        for spline in self.splines:
            x = spline(self.linear(x))
        return x


def test_labels_train_at_different_rates():
    rates = {"coefficients": 1e-3, "scales": 1e-2, "weights": 1e-1}
    optimizer = optax.multi_transform({name: optax.sgd(rate) for name, rate in rates.items()}, spline_labels)
    params = nnx.state(Net(), nnx.Param)
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    seen = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        text = jax.tree_util.keystr(path)
        name = "coefficients" if "coefficients" in text else "scales" if "log_scale" in text else "weights"
        np.testing.assert_allclose(leaf, -rates[name])
        seen.add(name)
    assert seen == set(rates)


@pytest.mark.parametrize("as_state", [True, False])
def test_an_optimizer_that_keeps_splines_feasible(as_state):
    model = Net()
    optimizer = optax.chain(optax.sgd(1e2), keep_splines_feasible(model))
    params = nnx.state(model, nnx.Param) if as_state else model
    update = jax.jit(optimizer.update)
    for seed in range(3):
        gradient = wild(jax.tree.map(jnp.zeros_like, params), seed)
        params = optax.apply_updates(params, update(gradient, optimizer.init(params), params)[0])
    trained = nnx.merge(nnx.graphdef(model), params) if as_state else params
    for spline in trained.splines:
        steps = spline.grid.steps
        slopes = np.diff(spline.coefficients[...]) / np.broadcast_to(steps, np.diff(spline.coefficients[...]).shape)
        assert np.max(np.abs(slopes)) <= 1 + 1e-5 and np.max(np.abs(slopes)) > 0.99


def test_write_back_changes_no_value_and_wakes_slopes():
    model = wild(Net(), 3)
    written, x = with_feasible_splines(model), draw(np.random.default_rng(0), (20, 3))
    np.testing.assert_allclose(written(x), model(x), atol=1e-5)
    assert np.max(np.abs(model.splines[0].coefficients[...] - written.splines[0].coefficients[...])) > 1
    # a slope on its bound learns, one beyond it does not
    loss = lambda spline: jnp.sum(spline(jnp.linspace(-0.9, 0.9, 30)) ** 3)
    steep = LinearSpline(GRID, init=3 * GRID.knots, keep="anchor")  # clipped when made: on the bound
    assert np.any(np.asarray(jax.grad(loss)(steep).coefficients[...]) != 0)
    steep.coefficients[...] = 3 * GRID.knots
    assert np.all(np.asarray(jax.grad(loss)(steep).coefficients[...]) == 0)
    assert np.any(np.asarray(jax.grad(loss)(with_feasible_splines(steep)).coefficients[...]) != 0)


def test_primal_dual_trains_splines():
    x = jnp.linspace(-1.0, 1.0, 50)

    def terms(model, batch, key):
        return jnp.mean((model(batch) - jnp.abs(batch)) ** 2), {}

    model = LinearSpline(GRID, init="zero", keep="anchor")
    trainer = uj.primal_dual(terms, optax.chain(optax.adam(3e-2), keep_splines_feasible(model)), optax.sgd(1.0))
    state = trainer.init(model, x, jax.random.key(0))
    step = jax.jit(trainer.step)
    for _ in range(200):
        state, report = step(state, x)
    assert report.loss < 1e-4
    assert np.max(np.abs(state.model.slopes())) <= 1 + 1e-5


# --- transformations ---


@pytest.mark.parametrize("grid", [GRID, NonuniformGrid(jnp.array([-1.0, -0.3, 0.1, 2.0]))])
@pytest.mark.parametrize("box", [SlopeBox.lipschitz(), "per cell", "per channel"])
def test_only_parameters_are_leaves(grid, box):
    if box == "per cell":
        box = flat_ends(SlopeBox.lipschitz(), grid)
    elif box == "per channel":
        box = SlopeBox.lipschitz(jnp.array([[0.5], [1.0]]))
    spline = LinearSpline(grid, 2, init="zero", box=box)
    assert [leaf.shape for leaf in jax.tree.leaves(spline)] == [(2, grid.num_knots), (2,)]
    again = LinearSpline(grid, 2, init="zero", box=box)
    assert jax.tree.structure(spline) == jax.tree.structure(again)  # no second compilation
    np.testing.assert_allclose(spline.grid.knots, grid.knots)
    assert len(jax.tree.leaves(LinearSpline(GRID, learn_scale=False))) == 1


def test_jit_vmap_scan_and_unroll():
    x = draw(np.random.default_rng(0), (6, 3))
    spline = wild(LinearSpline(GRID, 3))
    expected = spline(x)
    np.testing.assert_allclose(jax.jit(lambda spline, x: spline(x))(spline, x), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(spline)(x), expected, atol=1e-6)
    layers = jax.vmap(lambda key: LinearSpline(GRID, init=jax.random.normal(key, (3, 9))))(
        jax.random.split(jax.random.key(0), 4)
    )
    assert layers.coefficients.shape == (4, 3, 9)
    looped = x
    for n in range(4):
        looped = jax.tree.map(lambda leaf, n=n: leaf[n], layers)(looped)
    scanned, _ = jax.lax.scan(lambda x, layer: (layer(x), None), x, layers)
    np.testing.assert_allclose(scanned, looped, atol=1e-6)
    written = with_feasible_splines(wild(layers))
    assert written.coefficients.shape == (4, 3, 9)
    algorithm = uj.Algorithm(lambda problem: problem, lambda params, state, problem: params(state))
    model = uj.unroll(algorithm, 3, spline)
    np.testing.assert_allclose(model(x), spline(spline(spline(x))), rtol=1e-5)


# --- freezing ---


@pytest.mark.parametrize("num_splines", [None, 3])
@pytest.mark.parametrize("extrapolation", ["linear", "constant"])
def test_a_frozen_spline_is_its_parent_with_fewer_knots(num_splines, extrapolation):
    grid = UniformGrid(-1.0, 1.0, 101)
    spline = LinearSpline(grid, num_splines, init="relu", extrapolation=extrapolation)
    spline.log_scale[...] = spline.log_scale[...] + 0.3
    x = draw(np.random.default_rng(0), (500, 3))
    frozen = spline.frozen()
    assert frozen.grid.num_knots == 3
    np.testing.assert_allclose(frozen(x), spline(x), atol=1e-6)
    assert not jax.tree.leaves(nnx.state(frozen, nnx.Param))
    noise = 1e-4 * draw(np.random.default_rng(1), spline.coefficients.shape)
    spline.coefficients[...] = spline.coefficients[...] + noise
    # more knots than pay off stay even, where they are found without a search
    noisy = spline.frozen()
    assert noisy.grid == grid
    np.testing.assert_allclose(noisy(x), spline(x), atol=1e-6)
    pruned = spline.frozen(threshold=0.1)
    assert pruned.grid.num_knots == 3
    inside = jnp.clip(x, -0.7, 0.7)
    np.testing.assert_allclose(pruned(inside), spline(inside), atol=1e-3)
    np.testing.assert_allclose(jax.jit(lambda spline, x: spline(x))(pruned, x), pruned(x), atol=1e-6)


def test_a_fixed_spline_is_the_kernel():
    coefficients = draw(np.random.default_rng(0), (9,))
    np.testing.assert_allclose(
        FixedSpline(coefficients, GRID)(POINTS), linear_spline(POINTS, coefficients, GRID), atol=1e-5
    )


# --- misuse ---


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LinearSpline(GRID, 3)(jnp.ones(4)), r"`x` must have the 3 channels .* \(4,\)"),
        (lambda: LinearSpline(GRID, init="sine"), "`shape` must be one of .* got 'sine'"),
        (lambda: LinearSpline(GRID, init="max_min"), "`num_splines` must be at least 2 for the shape 'max_min'"),
        (lambda: LinearSpline(GRID, 0), "`num_splines` must be a whole number"),
        (lambda: LinearSpline(GRID, init=jnp.ones(4)), r"`init` must be .* \(9,\), got \(4,\)"),
        (lambda: LinearSpline(GRID, 2, init=jnp.ones((3, 9))), r"`init` must be .* \(2, 9\), got \(3, 9\)"),
        (lambda: LinearSpline(GRID, box=SlopeBox(1.0, 0.5)), "`box` is empty"),
        (lambda: LinearSpline(GRID, init="absolute", box=SlopeBox.monotone()), "'absolute' is not"),
        (lambda: LinearSpline(GRID, init="relu", keep="odd"), "what `keep='odd'` keeps"),
        (lambda: LinearSpline(GRID, keep="middle"), "`keep` must be one of"),
        (lambda: LinearSpline(GRID, extrapolation="none"), "`extrapolation` must be one of"),
        (lambda: LinearSpline(jnp.arange(3.0)), "`grid` must be a UniformGrid or a NonuniformGrid"),
        (lambda: LinearSpline(GRID).inverse(jnp.ones(3)), "`box` must have a positive lower slope"),
        (
            lambda: LinearSpline(GRID, box=SlopeBox.invertible(0.5), extrapolation="constant").inverse(jnp.ones(3)),
            "`extrapolation` must be 'linear'",
        ),
        (lambda: jax.jit(lambda spline: spline.frozen()(1.0))(LinearSpline(GRID)), "call it outside jax.jit"),
        (
            lambda: jax.jit(lambda bound: LinearSpline(GRID, box=SlopeBox.lipschitz(bound))(1.0))(1.0),
            "`box` must be of known values",
        ),
        (lambda: keep_splines_feasible({"a": jnp.ones(3)}), "`model` has no LinearSpline"),
        (lambda: initial_coefficients("soft_threshold", GRID, threshold=-1.0), "`threshold` must be non-negative"),
        (lambda: FixedSpline(jnp.ones(9), GRID, jnp.ones(2)), r"`scale` must have shape \(\)"),
    ],
)
def test_misuse_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_updates_without_parameters_are_named():
    optimizer = keep_splines_feasible(LinearSpline(GRID))
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(nnx.state(LinearSpline(GRID)), optimizer.init(None))
