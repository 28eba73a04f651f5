"""What single proximal operators promise beyond the catalogue: parameters per entry, extremes, exactness."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from catalogue import minimizers
from helpers import assert_finite, draw, enabled, searched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax import prox

X: Any = 2 * np.random.default_rng(3).standard_normal(6)


def ones(*shape: Any) -> Any:
    return np.ones(*shape)


def drawn(*shapes: tuple[int, ...], dtype: str = "float64") -> Any:
    """A NumPy array of each shape, the same numbers every time."""
    rng = np.random.default_rng(0)
    with enabled(dtype):
        return [np.asarray(draw(rng, shape, dtype)) for shape in shapes]


# --- parameters of every entry ---


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (prox.l1, {"weights": np.abs(X) / 2}),
        (prox.elastic_net, {"ratio": np.abs(X) / 2}),
        (prox.huber, {"width": np.abs(X) / 2}),
        (prox.mcp, {"width": np.abs(X)}),
        (prox.scad, {"knee": np.abs(X) / 3, "width": np.abs(X)}),
        (prox.log_sum, {"width": np.abs(X)}),
        (prox.poisson, {"counts": np.arange(6.0)}),
        (prox.logistic, {"labels": np.sign(X)}),
        (prox.hinge, {"labels": np.sign(X)}),
        (prox.quantile, {"level": np.linspace(0.1, 0.9, 6)}),
        (prox.quadratic, {"matrix": np.abs(X), "linear": X**2}),
    ],
)
@pytest.mark.usefixtures("x64")
def test_strength_and_parameters_may_differ_from_entry_to_entry(function, parameters):
    x, strength = X[::-1].copy(), jnp.linspace(0.1, 1.2, 6)
    value = getattr(prox, f"{function.__name__}_value")
    z = function(x, strength, **parameters)
    singles = [
        [f(x[i : i + 1], strength[i], **{k: v[i] for k, v in parameters.items()}) for i in range(6)]
        for f in (function, value)
    ]
    np.testing.assert_allclose(z, np.concatenate(singles[0]), rtol=1e-12)
    np.testing.assert_allclose(value(x, strength, **parameters), np.sum(singles[1]), rtol=1e-12)


def test_groups_have_strengths_of_their_own_and_any_axes():
    x = draw(np.random.default_rng(0), (2, 3, 4))
    z = np.asarray(prox.group_l21(x, jnp.array([0.5, 1.0]).reshape(2, 1, 1), axis=(1, 2)))
    for group, old, strength in zip(z, np.asarray(x), (0.5, 1.0), strict=True):
        np.testing.assert_allclose(group, old * max(1 - strength / np.linalg.norm(old), 0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"`strength` must have shape \(\) or one entry for each group, \(2, 3, 1\)"):
        prox.group_l21(x, jnp.ones((2, 3, 4)))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: prox.box(X, lower=1.0, upper=0.0), "`lower` must be nowhere above `upper`"),
        (lambda: prox.scad(X, 1.0, knee=2.0, width=1.0), "`knee` must be nowhere above `width`"),
        (lambda: prox.huber(X, 1.0, width=0.0), "`width` must be positive"),
        (lambda: prox.mcp(X, 1.0, width=ones(3)), r"`width` must have shape \(\) or that of `x`"),
        (lambda: prox.logistic(X, 1.0, labels=0.5), "`labels` must be -1 or 1"),
        (lambda: prox.quantile(X, 1.0, level=1.5), "`level` must lie strictly between 0 and 1"),
        (lambda: prox.poisson(X, 1.0, counts=-1.0), "`counts` must be non-negative"),
        (lambda: prox.l1_ball(X, radius=-1.0), "`radius` must be non-negative"),
        (lambda: prox.simplex(X, total=-1.0), "`total` must be non-negative"),
        (lambda: prox.l2(X, ones(6)), r"`strength` must have shape \(\)"),
        (lambda: prox.half_space(X, normal=ones(5)), r"`normal` must have the shape of `x`"),
        (lambda: prox.affine(X, matrix=ones((2, 5)), measurement=ones(2)), r"`matrix` must have shape \(m, n\)"),
        (lambda: prox.affine(X, matrix=ones((7, 6)), measurement=ones(7)), "linearly independent rows"),
        (lambda: prox.quadratic(X, 1.0, matrix=ones((5, 6))), r"`matrix` must have shape \(\), that of `x`"),
        (lambda: prox.quadratic(X, 1.0, matrix=1.0, linear=ones(5)), "`linear` must have shape"),
        (lambda: prox.nuclear(X, 1.0), "`x` must be a matrix"),
        (lambda: prox.positive_semidefinite(ones((2, 3))), "`x` must be a square matrix"),
        (lambda: prox.second_order_cone(ones((2, 3))), "`x` must be a vector, the height first"),
        (lambda: prox.second_order_cone(X, slope=0.0), "`slope` must be positive"),
        (lambda: prox.total_variation(X, 1.0), r"`axes` must be axes of `x`, each once, got \(0, 1\) for shape \(6,\)"),
        (lambda: prox.total_variation(X, 1.0, axes=(0, -1)), "`axes` must be axes of `x`, each once"),
        (lambda: prox.total_variation(X, 1.0, axes=(0,), num_steps=0), "`num_steps` must be a whole number"),
        (lambda: prox.total_variation_1d(ones((2, 3)), 1.0), "`x` must be a vector"),
    ],
)
def test_what_does_not_fit_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()


# --- projections on balls ---


@jax.jit
def _both_projections(x, radius):
    theirs = optax.projections
    return (
        (
            prox.l1_ball(x, radius=radius),
            prox.l2_ball(x, radius=radius),
            prox.linf_ball(x, radius=radius),
            prox.simplex(x, total=radius),
        ),
        (
            theirs.projection_l1_ball(x, radius),
            theirs.projection_l2_ball(x, radius),
            theirs.projection_linf_ball(x, radius),
            theirs.projection_simplex(x, radius),
        ),
    )


@searched
@given(x=arrays(np.float64, 6, elements=st.floats(-1e3, 1e3)), radius=st.floats(1e-3, 1e3))
def test_balls_and_simplex_equal_those_of_optax(x, radius):
    with enabled("float64"):
        for own, theirs in zip(*_both_projections(x, radius), strict=True):
            np.testing.assert_allclose(own, theirs, atol=1e-9)


def test_a_large_simplex_in_single_precision_still_sums_to_one():
    z = prox.simplex(draw(np.random.default_rng(0), (300, 300)))
    np.testing.assert_allclose(np.sum(np.asarray(z, float)), 1, atol=1e-4)


# --- entropies and losses ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_entropy_equals_lamberts_function_over_all_magnitudes(dtype):
    x, strength = np.meshgrid([-1e4, -30, -1, -1e-3, 0, 1e-3, 1, 30, 1e4], [1e-30, 1e-6, 1e-2, 1, 50, 1e6])
    with enabled(dtype):
        z = np.asarray(prox.entropy(jnp.asarray(x, dtype), jnp.asarray(strength, dtype)), float)
    expected = strength * scipy.special.wrightomega(x / strength - 1 - np.log(strength))
    # x / strength carries a rounding error of its own, which the exponential magnifies
    is_small = np.abs(x / strength) < 50
    rounding = np.finfo(dtype).eps
    np.testing.assert_allclose(z[is_small], expected[is_small], rtol=200 * rounding)
    np.testing.assert_allclose(z, expected, rtol=200 * rounding, atol=rounding * np.max(strength))


def test_derivatives_of_entropy_and_likelihoods_stay_finite_at_the_extremes():
    x = jnp.array([-1e30, -1e3, 0.0, 1e-30, 1.0, 1e30])

    def total(x, strength):
        functions = prox.entropy, prox.log_barrier, prox.logistic, functools.partial(prox.poisson, counts=0.0)
        return jnp.stack([jnp.sum(function(x, strength)) for function in functions])

    derivatives = jax.jit(jax.jacrev(total, argnums=(0, 1)))
    for strength in (0.0, 1e-38, 1e-10, 1.0, 1e10):
        assert_finite(derivatives(x, jnp.full(6, strength)))


@searched
@given(x=st.floats(-1e4, 1e4), strength=st.floats(1e-3, 1e6))
def test_logistic_solves_its_equation(x, strength):
    with enabled("float64"):
        z = float(_logistic(jnp.asarray(x), jnp.asarray(strength)))
    np.testing.assert_allclose(z - strength * scipy.special.expit(-z), x, atol=1e-11 * (abs(x) + strength + 1))


_logistic = jax.jit(prox.logistic)


# --- weakly convex penalties ---


@pytest.mark.parametrize("name", ["mcp", "scad", "log_sum"])
@pytest.mark.usefixtures("x64")
def test_below_the_largest_strength_there_is_no_jump_and_from_there_on_there_is(name):
    parameters = {"scad": {"knee": 0.5, "width": 1.5}}.get(name, {"width": 1.0})
    function = jax.jit(functools.partial(getattr(prox, name), **parameters))
    x = np.linspace(0, 4, 40001)
    for strength, is_continuous in ((0.3, True), (0.95, True), (1.1, False), (3.0, False)):
        steps = np.diff(function(x, strength))
        slope = np.max(steps) / 1e-4
        # 1 / (1 - strength) is the Lipschitz constant where the penalty is 1-weakly convex; log_sum touches it
        assert np.all(steps >= -1e-12) and (slope <= 1 / (1 - strength) * 1.01 if is_continuous else slope > 100)


# --- singular values ---


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("values", [(2.0, 2.0, 2.0), (2.0, 2.0, 0.3), (1.0, 0.0, 0.0), (3.0, 0.2, 0.2)])
def test_derivatives_are_right_where_singular_values_repeat(values, dtype):
    draws = drawn((4, 3), (3, 3), (4, 3), dtype="complex128")
    left, right, direction = (d if dtype == "complex128" else d.real for d in draws)
    x = np.linalg.qr(left)[0] @ np.diag(values) @ np.linalg.qr(right)[0].conj().T
    with enabled(dtype):
        for name in ("nuclear", "spectral_ball"):
            function = jax.jit(
                {
                    "nuclear": lambda x: prox.nuclear(x, 0.5),
                    "spectral_ball": lambda x: prox.spectral_ball(x, radius=0.5),
                }[name]
            )
            h = 1e-6
            expected = (np.asarray(function(x + h * direction)) - np.asarray(function(x - h * direction))) / (2 * h)
            found = jax.jvp(function, (jnp.asarray(x),), (jnp.asarray(direction),))[1]
            np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_singular_values_turn_with_the_matrix():
    (x,) = drawn((3, 4))
    left, right = (np.linalg.qr(square)[0] for square in drawn((3, 3), (4, 4), dtype="complex128"))
    for function in (
        lambda x: prox.nuclear(x, 0.4),
        lambda x: prox.spectral_norm(x, 0.4),
        prox.nuclear_ball,
        prox.spectral_ball,
    ):
        np.testing.assert_allclose(function(left @ x @ right), left @ np.asarray(function(x)) @ right, atol=1e-12)


def test_the_backward_pass_of_a_soft_threshold_keeps_a_byte_per_entry():
    x = jnp.linspace(-2, 2, 64, dtype=jnp.float32)
    _, pullback = jax.vjp(lambda x: prox.soft_threshold(x, 0.5), x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pullback)) < 2 * x.size
    np.testing.assert_array_equal(pullback(jnp.ones_like(x))[0], np.abs(x) > 0.5)
    strength_slope = jax.grad(lambda strength: jnp.sum(prox.soft_threshold(x, strength) ** 2))(0.5)
    kept = np.asarray(x)[np.abs(x) > 0.5]
    np.testing.assert_allclose(strength_slope, -2 * np.sum(np.abs(kept) - 0.5), rtol=1e-5)


def test_without_a_threshold_the_derivative_is_the_identity():
    direction = draw(np.random.default_rng(0), (3, 2))
    derivative = jax.jit(lambda x: jax.jvp(lambda x: prox.nuclear(x, 0.0), (x,), (direction,))[1])
    for x in (jnp.zeros((3, 2)), jnp.ones((3, 2))):
        found = derivative(x)
        np.testing.assert_allclose(found, direction, atol=1e-6)


# --- total variation ---


@searched
@given(x=arrays(np.float64, 12, elements=st.integers(-5, 5).map(float) | st.floats(-10, 10)), strength=st.floats(0, 20))
def test_total_variation_of_signals_is_exact_with_ties(x, strength):
    with enabled("float64"):
        z = np.asarray(_variation_1d(x, strength))
    # optimality: z - x is -strength times the divergence of signs of the differences
    dual = np.cumsum(x - z)
    np.testing.assert_allclose(dual[-1], 0, atol=1e-9)
    assert np.all(np.abs(dual) <= strength + 1e-9)
    rises = np.diff(z)
    jumps = np.abs(rises) > 1e-7
    np.testing.assert_allclose(dual[:-1][jumps], -strength * np.sign(rises[jumps]), atol=1e-8)


_variation_1d = jax.jit(prox.total_variation_1d)


def test_total_variation_of_a_long_signal_in_single_precision():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal(20), 100) + 0.1 * rng.standard_normal(2000)
    z = np.asarray(_variation_1d(x.astype("float32"), 1.0))
    with enabled("float64"):
        np.testing.assert_allclose(z, _variation_1d(x, 1.0), atol=1e-4)
    assert len(np.unique(z)) < 100


def test_total_variation_of_signals_equals_that_of_images_of_one_column():
    x = draw(np.random.default_rng(0), (20,))
    expected = _variation_1d(x, 0.4)
    image = jax.jit(functools.partial(prox.total_variation, num_steps=400))(x[:, None], 0.4)
    np.testing.assert_allclose(image[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.usefixtures("x64")
def test_the_gap_bounds_the_distance_to_the_minimizer(isotropic):
    (x,) = drawn((4, 4))
    minimizer = minimizers.of_isotropic_variation if isotropic else minimizers.of_anisotropic_variation
    counts = (1, 5, 20)
    options = [{"isotropic": isotropic, "num_steps": count} for count in counts]
    zs = jax.jit(lambda x: [prox.total_variation(x, 0.4, **each) for each in options])(x)
    gaps = jax.jit(lambda x: [prox.total_variation_gap(x, 0.4, **each) for each in options])(x)
    for z, gap in zip(zs, gaps, strict=True):
        assert np.sum((np.asarray(z) - minimizer(x, 0.4)) ** 2) <= 2 * gap + 1e-9
    assert gaps[-1] < 1e-2


def test_each_channel_has_its_own_variation():
    x = draw(np.random.default_rng(0), (5, 6, 2))
    function = jax.jit(functools.partial(prox.total_variation, num_steps=200))
    apart = [function(x[..., channel], 0.3) for channel in range(2)]
    np.testing.assert_allclose(function(x, 0.3), np.stack(apart, -1), atol=1e-5)


# --- linear systems ---


@pytest.mark.usefixtures("x64")
def test_complex_equations():
    matrix, measurement, x = drawn((2, 4), (2,), (4,), dtype="complex128")
    gram, linear = matrix.conj().T @ matrix, measurement[0] * x
    nearest, least, quadratic, below = jax.jit(
        lambda x: (
            prox.affine(x, matrix=matrix, measurement=measurement),
            prox.least_squares(x, 0.7, matrix=matrix, measurement=measurement),
            prox.quadratic(x, 0.7, matrix=gram, linear=linear),
            prox.half_space(x, normal=matrix[0], offset=-9.0),
        )
    )(x)
    np.testing.assert_allclose(nearest, x + np.linalg.lstsq(matrix, measurement - matrix @ x)[0], atol=1e-12)
    np.testing.assert_allclose(least - x + 0.7 * matrix.conj().T @ (matrix @ least - measurement), 0, atol=1e-12)
    np.testing.assert_allclose(quadratic - x + 0.7 * (gram @ quadratic + linear), 0, atol=1e-12)
    np.testing.assert_allclose(np.vdot(matrix[0], below).real, -9.0)
    # real data with complex equations become complex
    shape = jax.eval_shape(functools.partial(prox.affine, matrix=matrix, measurement=measurement), x.real)
    assert shape.dtype == "complex128"
