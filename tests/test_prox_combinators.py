from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import draw, enabled

from unroll_jax import prox
from unroll_jax.operators import Dense, Diagonal, compose

pytestmark = pytest.mark.usefixtures("x64")

# norms and the unit balls of their dual norms, cones and their polars, and functions with known conjugates
CONJUGATES = [
    ("l1", prox.l1, prox.linf_ball, (6,)),
    ("l2", prox.l2, prox.l2_ball, (6,)),
    ("linf", prox.linf, prox.l1_ball, (6,)),
    ("nuclear", prox.nuclear, prox.spectral_ball, (3, 4)),
    ("spectral norm", prox.spectral_norm, prox.nuclear_ball, (3, 4)),
    ("half the squared norm", prox.squared_l2, prox.squared_l2, (6,)),
    ("group", prox.group_l21, lambda x, s: jnp.stack([prox.l2_ball(row) for row in x]), (2, 3)),
    ("non-negative", prox.non_negative, lambda x, s: jnp.minimum(x, 0), (6,)),
    ("cone", prox.second_order_cone, lambda x, s: -prox.second_order_cone(-x), (4,)),
    ("semidefinite", prox.positive_semidefinite, lambda x, s: x - prox.positive_semidefinite(x), (3, 3)),
    ("affine", lambda x, s: prox.half_space(x, normal=jnp.ones(6)), lambda x, s: jnp.full(6, _mean(x)), (6,)),
    # the conjugate of z log z is exp(y - 1), of the hinge y in [-1, 0], of the Huber function the box and a square
    ("entropy", prox.entropy, lambda x, s: _solve(lambda z: z + s * jnp.exp(z - 1) - x, -50.0, 50.0), (6,)),
    ("hinge", prox.hinge, lambda x, s: jnp.clip(x - s, -1, 0), (6,)),
    ("huber", prox.huber, lambda x, s: jnp.clip(x / (1 + s), -1, 1), (6,)),
    ("quantile", prox.quantile, lambda x, s: jnp.clip(x, -0.5, 0.5), (6,)),
]


def _mean(x: Any) -> Any:
    return jnp.maximum(jnp.mean(x), 0)


def _solve(function: Any, start: float, end: float) -> Any:
    low, high = jnp.full(6, start), jnp.full(6, end)
    for _ in range(80):
        middle = (low + high) / 2
        is_above = function(middle) > 0
        low, high = jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)
    return low


def drawn(*shape: int) -> Any:
    return 2 * np.asarray(draw(np.random.default_rng(0), shape, "float64"))


# --- Moreau's identity ---


@pytest.mark.parametrize(("name", "one", "other", "shape"), CONJUGATES, ids=[row[0] for row in CONJUGATES])
def test_moreaus_identity_with_the_known_conjugate(name, one, other, shape):
    x = drawn(*shape)
    for strength in (0.3, 2.0):
        both = jax.jit(lambda x, s: one(x, s) + s * other(x / s, 1 / s))(x, strength)
        np.testing.assert_allclose(both, x, atol=1e-6)
        np.testing.assert_allclose(jax.jit(prox.conjugate(one))(x, strength), other(x, strength), atol=1e-6)


def test_the_conjugate_of_the_conjugate_is_the_function():
    x = drawn(6)
    twice = jax.jit(prox.conjugate(prox.conjugate(prox.linf)))
    np.testing.assert_allclose(twice(x, 0.4), prox.linf(x, 0.4), atol=1e-12)


# --- what combinators minimize ---


def minimized(penalty, x, strength):
    """The minimizer of strength * penalty(z) + ||z - x||^2 / 2 for a smooth penalty, from a fixed start."""
    objective = lambda z: strength * penalty(z) + np.sum((z - x) ** 2) / 2
    found: Any = scipy.optimize.minimize(objective, np.full(x.shape, 0.1), method="BFGS", options={"gtol": 1e-7})
    return found.x


def smooth(z: Any) -> Any:
    """What `huber` belongs to."""
    return np.sum(np.where(np.abs(z) <= 1, z**2 / 2, np.abs(z) - 0.5))


SHIFT: Any = np.linspace(-1, 1, 4)
LINEAR: Any = np.linspace(0.5, -0.2, 4)
ROWS = np.array([[1.0, 2.0, 0.0, 2.0], [2.0, -1.0, 2.0, 0.0]])  # orthogonal, of squared length 9
COMBINED = [
    ("scaled", prox.scaled(prox.huber, -2.0), lambda z: smooth(-2 * z)),
    ("scaled by entry", prox.scaled(prox.huber, SHIFT + 3), lambda z: smooth((SHIFT + 3) * z)),
    ("translated", prox.translated(prox.huber, SHIFT), lambda z: smooth(z - SHIFT)),
    (
        "with_quadratic",
        prox.with_quadratic(prox.huber, curvature=0.6, linear=LINEAR),
        lambda z: smooth(z) + 0.3 * np.sum(z**2) + LINEAR @ z,
    ),
    ("through", prox.through(Dense(jnp.asarray(ROWS)), prox.huber, gram=9.0), lambda z: smooth(ROWS @ z)),
    (
        "all of them",
        prox.with_quadratic(prox.translated(prox.scaled(prox.huber, 3.0), 0.5), curvature=1.0),
        lambda z: smooth(3 * (z - 0.5)) + np.sum(z**2) / 2,
    ),
]


@pytest.mark.parametrize(("name", "combined", "penalty"), COMBINED, ids=[row[0] for row in COMBINED])
def test_equals_the_minimizer_that_a_solver_finds(name, combined, penalty):
    x = drawn(4)
    function = jax.jit(combined)
    for strength in (0.0, 0.4, 2.0):
        np.testing.assert_allclose(function(x, strength), minimized(penalty, x, strength), atol=1e-5)


def test_elastic_net_is_l1_with_a_quadratic():
    x = drawn(6)
    combined = prox.with_quadratic(prox.l1, curvature=0.5)
    np.testing.assert_allclose(combined(x, 0.4), prox.elastic_net(x, 0.4, ratio=0.5), atol=1e-12)


def test_through_an_orthonormal_operator_and_its_complex_kind():
    rng = np.random.default_rng(0)
    unitary = np.linalg.qr(rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5)))[0]
    x = drawn(5) + 1j
    z = prox.through(Dense(jnp.asarray(unitary)), prox.l1)(x, 0.4)
    np.testing.assert_allclose(z, unitary.conj().T @ np.asarray(prox.l1(unitary @ x, 0.4)), atol=1e-12)


def test_through_a_mask_moves_only_what_is_seen():
    mask = jnp.array([0, 1, 1, 0, 1])
    sampled = compose(Dense(jnp.eye(5)[jnp.array([1, 2, 4])]), Diagonal(mask.astype(float)))
    x = jnp.arange(5.0)
    found = prox.through(sampled, prox.squared_l2)(x, 1.0)
    np.testing.assert_allclose(found, [0, 0.5, 1, 3, 2])


def test_a_sum_over_leaves_takes_one_strength_or_one_for_each():
    proxes = (prox.l1, {"a": prox.squared_l2, "b": [prox.non_negative]})
    x = (drawn(3), {"a": drawn(2, 2), "b": [drawn(4)]})
    both = jax.jit(prox.separable_sum(proxes))
    one = both(x, 0.5)
    jax.tree.map(np.testing.assert_array_equal, one, both(x, (0.5, {"a": 0.5, "b": [0.5]})))
    np.testing.assert_array_equal(one[0], prox.l1(x[0], 0.5))
    np.testing.assert_array_equal(one[1]["a"], x[1]["a"] / 1.5)
    np.testing.assert_array_equal(one[1]["b"][0], np.maximum(x[1]["b"][0], 0))
    other = both(x, (0.0, {"a": 1.0, "b": [0.5]}))
    np.testing.assert_array_equal(other[0], x[0])
    np.testing.assert_array_equal(other[1]["a"], x[1]["a"] / 2)


# --- envelopes ---


@pytest.mark.parametrize(
    ("one", "value", "shape"),
    [
        (prox.l1, prox.l1_value, (6,)),
        (prox.linf, prox.linf_value, (6,)),
        (prox.nuclear, prox.nuclear_value, (3, 2)),
        (prox.l1_ball, prox.l1_ball_value, (6,)),
        (prox.logistic, prox.logistic_value, (6,)),
    ],
)
def test_the_gradient_of_the_envelope_is_the_residual_of_the_prox(one, value, shape):
    x, strength = drawn(*shape), 0.4
    found, (gradient, slope) = jax.jit(jax.value_and_grad(prox.envelope(one, value), argnums=(0, 1)))(x, strength)
    z = np.asarray(one(x, strength))
    np.testing.assert_allclose(found, value(z) + np.sum((x - z) ** 2) / (2 * strength), rtol=1e-12)
    np.testing.assert_allclose(gradient, prox.envelope_gradient(one)(x, strength), atol=1e-9)
    np.testing.assert_allclose(slope, -np.sum((x - z) ** 2) / (2 * strength**2), atol=1e-9)


def test_the_envelope_of_l1_is_the_huber_function():
    x = drawn(6)
    np.testing.assert_allclose(prox.envelope(prox.l1, prox.l1_value)(x, 0.7), prox.huber_value(x, width=0.7))


# --- types, batches, misuse ---


def test_the_type_is_that_of_the_data():
    combined = [row[1] for row in COMBINED] + [prox.conjugate(prox.l1), prox.envelope_gradient(prox.l1)]
    for dtype in ("float32", "float64"):
        with enabled("float64"):
            for function in combined:
                found = jax.eval_shape(function, jax.ShapeDtypeStruct((4,), dtype), jnp.asarray(0.5))
                # the matrix of `through` is in double precision
                assert found.dtype == dtype or function is COMBINED[4][1]
                assert not found.weak_type


def test_combinators_map_over_batches():
    xs, strengths = drawn(3, 4), jnp.array([0.2, 0.5, 1.0])
    functions = [row[1] for row in COMBINED]
    together = jax.jit(jax.vmap(lambda x, strength: [function(x, strength) for function in functions]))
    one = jax.jit(lambda x, strength: [function(x, strength) for function in functions])
    for mapped, alone in zip(together(xs, strengths), one(xs[1], strengths[1]), strict=True):
        np.testing.assert_allclose(mapped[1], alone, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: prox.conjugate(3), r"`prox` must be a function such as `prox\(x, strength\)`, got int 3"),  # pyright: ignore
        (lambda: prox.conjugate(prox.l1)(drawn(3), 0.0), "`strength` must be positive, got 0.0"),
        (lambda: prox.envelope_gradient(prox.l1)(drawn(3), -1.0), "`strength` must be positive, got -1.0"),
        (lambda: prox.envelope(prox.l1, 3), r"`value` must be a function"),  # pyright: ignore
        (lambda: prox.scaled(prox.l1, 2.0)(drawn(3), -1.0), "`strength` must be non-negative, got -1.0"),
        (lambda: prox.with_quadratic(prox.l1, curvature=-1.0), "`curvature` must be non-negative, got -1.0"),
        (lambda: prox.through(ROWS, prox.l1), "`operator` must be a linear operator"),  # pyright: ignore
        (lambda: prox.through(Dense(jnp.eye(2)), prox.l1, gram=0.0), "`gram` must be positive, got 0.0"),
        (lambda: prox.translated(prox.l1, jnp.ones(2))(drawn(3), 1.0), r"`shift` must have shape \(\) or that of `x`"),
        (lambda: prox.separable_sum({"a": 1}), "`proxes` must be a function"),
        (lambda: prox.separable_sum({"a": prox.l1})({"b": 1}, 1.0), "`x` must have the structure of `proxes`"),
        (lambda: prox.separable_sum((prox.l1,))((1.0,), [1.0]), "`strength` must have the structure of `proxes`"),
    ],
)
def test_misuse_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()
