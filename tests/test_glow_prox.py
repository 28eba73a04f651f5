"""Shrinkage in latent space, GLOW-Prox and the inpainting problem: what must hold whatever was learned."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from flax import nnx
from helpers import assert_finite, draw

import unroll_jax as uj
from unroll_jax.flows import (
    Glow,
    GlowProxParams,
    bijections,
    flow_prox,
    glow_prox,
    glow_prox_params,
    inpainting,
    shrink,
    smooth_fill,
)

RNG = np.random.default_rng(3)
SHAPE = (4, 4, 3)
NOTHING: Any = None
MASK = np.ones(SHAPE[:2], np.float32)
MASK[1:3, 1:3] = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OneLevel:
    """One bijection as a flow; quick to compile."""

    bijection: Any

    def forward(self, x):
        y, log_det = self.bijection.forward(x)
        return (y,), log_det

    def inverse(self, latents):
        return self.bijection.inverse(latents[0])


def rotation(dtype: Any = jnp.float32, num_channels: int = 3) -> Any:
    return OneLevel(bijections.random_convolution(jax.random.key(0), num_channels, dtype))


@functools.cache
def random_glow():
    flow = Glow(num_levels=1, num_steps=1, width=4, context_channels=1, smallest_scale=0.3, key=jax.random.key(1))
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * draw(np.random.default_rng(2), leaf.shape), params)
    return nnx.merge(graph, moved, rest)


def images(num=6, dtype=np.float32):
    return jnp.asarray(RNG.random((num, *SHAPE)), dtype)


# --- proximal operators ---


def test_shrinking_is_the_proximal_operator_of_half_the_square():
    z, strength = 1.7, 0.6
    found: Any = scipy.optimize.minimize_scalar(lambda y: strength * y**2 / 2 + (y - z) ** 2 / 2)
    np.testing.assert_allclose(shrink((jnp.asarray([z]),), strength)[0], found.x, atol=1e-6)


def test_flow_prox_of_an_isometry_is_a_proximal_operator(precision):
    x = jnp.asarray(RNG.standard_normal(SHAPE), precision)
    flow = rotation(precision)
    np.testing.assert_allclose(flow_prox(flow, x, 0.5), x / 1.5, atol=1e-5 if precision == "float32" else 1e-12)
    np.testing.assert_allclose(flow_prox(flow, x, 0.0), x, atol=1e-5 if precision == "float32" else 1e-12)


class Halved:
    """A flow of two levels: twice the first half of a vector, and the second."""

    def forward(self, x):
        first, second = jnp.split(x, 2)
        return (2 * first, second), jnp.log(2.0) * first.size

    def inverse(self, latents):
        return jnp.concatenate([latents[0] / 2, latents[1]])


def test_strengths_of_levels_shrink_their_own_level():
    found = flow_prox(Halved(), jnp.array([4.0, 8.0, 3.0, 1.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, [2.0, 4.0, 3.0, 1.0])


# --- GLOW-Prox ---


def test_the_data_step_lowers_the_fidelity_whatever_the_step_size():
    x, b = images(200), images(200)
    # no shrinkage to speak of: what is left is the data step, away from the bounds that clip
    params = glow_prox_params(rotation(), strength=1e-9)

    def fidelities(x, b, logit):
        problem = inpainting(0.25 + b / 2, MASK)
        algorithm = glow_prox(start=lambda _: 0.25 + x / 2)
        start = algorithm.init(problem)
        after = algorithm.step(params._replace(step_logit=logit), start, problem)
        return problem.value(start.x), problem.value(after.x)

    logits = jnp.linspace(-6, 6, 200)
    before, after = jax.jit(jax.vmap(fidelities))(x, b, logits)
    assert jnp.all(after < before)
    sizes = jax.vmap(lambda logit: params._replace(step_logit=logit).step_size)(logits)
    assert 0 < jnp.min(sizes) < 0.01 and 1.99 < jnp.max(sizes) < 2


def conditional(**options):
    return glow_prox(start=smooth_fill, flow_of=lambda flow, problem: flow.given(problem.mask), **options)


@pytest.fixture(scope="module")
def network():
    params = glow_prox_params(random_glow(), step_size=0.8, strength=jnp.array([0.5]))
    return uj.unroll(conditional(), 3, params, remat="layer")


def test_hidden_pixels_never_influence_the_output(network):
    image = images()[0]
    hidden = jnp.asarray(MASK)[..., None] == 0
    restore = jax.jit(lambda image: network(inpainting(image, MASK)))
    expected = restore(image)
    for value in (0.0, 1.0, np.nan, np.inf):
        found = restore(jnp.where(hidden, value, image))
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.latents, expected.latents)
    moved = restore(image.at[0, 0, 0].add(0.1))
    assert jnp.max(jnp.abs(jnp.where(hidden, moved.x - expected.x, 0))) > 0


def test_known_pixels_are_reproduced_by_the_projection_on_the_measurement():
    image, x = images(2)
    problem = inpainting(image, MASK)
    restored = problem.with_measured(x)
    is_known = MASK == 1
    np.testing.assert_allclose(restored[is_known], image[is_known], atol=1e-6)
    np.testing.assert_array_equal(restored[~is_known], x[~is_known])


def test_the_network_is_a_loop_of_the_written_steps_and_all_its_parameters_learn(network):
    image = images()[0]

    def by_hand(network):
        problem, flow = inpainting(image, MASK), random_glow().given(jnp.asarray(MASK)[..., None])
        x = smooth_fill(problem)
        for _ in range(3):
            descended = x - 0.8 * MASK[..., None] * (x - jnp.where(MASK[..., None] == 1, image, 0))
            (latent,) = flow.forward(descended)[0]
            x = jnp.clip(flow.inverse((latent / 1.5,)), 0, 1)
        return x

    def loss(network):
        state = network(inpainting(image, MASK))
        return jnp.sum((state.x - image) ** 2), state

    with jax.numpy_rank_promotion("allow"):
        expected = jax.jit(by_hand)(network)
    grad = jax.jit(jax.grad(loss, has_aux=True, allow_int=True))
    gradient, state = grad(network)
    np.testing.assert_allclose(state.x, expected, atol=1e-4)
    assert state.latents.shape == (48,)
    learned = nnx.state(gradient, nnx.Param)
    assert_finite(learned)
    assert all(np.max(np.abs(leaf)) > 0 for leaf in jax.tree.leaves(learned))


def test_all_layers_may_share_one_flow_and_run_to_tolerance():
    params = glow_prox_params(rotation(), strength=0.1)
    axes: Any = (None, 0, 0)
    network = uj.unroll(glow_prox(), 60, params, layer_axes=GlowProxParams(*axes))
    assert network.params.flow.bijection.lower.shape == (3, 3)
    assert network.params.step_logit.shape == (60,)
    problem = inpainting(images()[0], MASK)
    solution = uj.solve(glow_prox(), params, problem, tolerance=1e-6, max_steps=60)
    assert solution.converged
    # the fixed point of x = (x - (x - b)) / 1.1 on known pixels, and of x = x / 1.1 on hidden ones
    np.testing.assert_allclose(solution.state.x, problem.measurement / 1.1, atol=1e-5)
    np.testing.assert_allclose(network(problem).x, solution.state.x, atol=3e-3)


def test_it_trains_under_descent_constraints():
    params = glow_prox_params(rotation(), strength=0.5)
    network = uj.unroll(glow_prox(), 3, params)
    size = uj.constraints.gradient_norm(lambda z, example: z)
    descends = uj.constraints.descent(size, 0.1)

    def terms(network, batch, key):
        record = lambda state: (state.x, state.latents)
        run = lambda image: network.trajectory(inpainting(image, MASK), record)
        xs, latents = jax.vmap(run)(batch)
        # the start has no latents
        violation = jnp.mean(jax.vmap(descends)(latents[:, 1:], batch), axis=0)
        return jnp.mean((xs[:, -1] - batch) ** 2), {"latents": violation}

    trainer = uj.primal_dual(terms, optax.adam(1e-2), optax.sgd(1e-1))
    start = trainer.init(network, images(), jax.random.key(0))
    _, reports = jax.jit(trainer.steps)(start, images(20 * 6).reshape(20, 6, *SHAPE))
    assert reports.violation["latents"].shape == (20, 2)
    assert jnp.all(reports.is_finite) and reports.loss[-1] < reports.loss[0]


# --- the problem ---


def test_it_is_least_squares_with_a_mask():
    image, x = images(2)
    problem = inpainting(image, MASK)
    keep = np.repeat(MASK[..., None], 3, axis=-1)
    least_squares = uj.objectives.LeastSquares(uj.operators.mask(keep), image * keep)
    np.testing.assert_allclose(problem.value(x), least_squares.value(x), rtol=1e-6)
    np.testing.assert_allclose(problem.gradient(x), least_squares.gradient(x), atol=1e-6)


def test_the_smooth_fill_is_harmonic():
    mask = np.ones((14, 12), np.float32)
    mask[2:10, 3:11] = 0
    image = RNG.random((14, 12, 2)).astype(np.float32)
    hidden = [tuple(index) for index in np.argwhere(mask == 0)]
    number = {index: row for row, index in enumerate(hidden)}
    matrix, known = np.eye(len(hidden)), np.zeros((len(hidden), 2))
    for (i, j), row in number.items():
        for neighbour in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if neighbour in number:
                matrix[row, number[neighbour]] = -1 / 4
            else:
                known[row] += image[neighbour] / 4
    expected = np.linalg.solve(matrix, known)
    found = np.asarray(smooth_fill(inpainting(jnp.asarray(image), mask)))
    np.testing.assert_allclose(found[mask == 0], expected, atol=1e-4)
    np.testing.assert_array_equal(found[mask == 1], image[mask == 1])


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: inpainting(images(), MASK), "Batches go through jax.vmap"),
        (lambda: inpainting(images()[0], MASK[:2]), "`mask` must have shape (4, 4) or (4, 4, 1)"),
        (lambda: inpainting(images()[0], 0 * MASK), "`mask` must keep at least one pixel"),
        (lambda: inpainting(images()[0], 0.5 * MASK), "`mask` must consist of truth values"),
        (lambda: inpainting(jnp.ones(SHAPE, int), MASK), "`measurement` must be an array of a floating-point"),
        (lambda: smooth_fill(inpainting(images()[0], MASK), 0), "`num_steps`"),
        (lambda: shrink((jnp.ones(2),), jnp.ones(2)), "`strength` must have shape () or (1,)"),
        (lambda: shrink((jnp.ones(2),), -1.0), "`strength` must be non-negative"),
        (lambda: flow_prox(NOTHING, jnp.ones(2), 1.0), "`flow` must have `.forward` and `.inverse`"),
        (lambda: glow_prox_params(rotation(), step_size=2.0), "`step_size` must lie strictly between 0.0 and 2.0"),
        (lambda: glow_prox_params(rotation(), strength=0.0), "`strength` must be positive"),
        (lambda: glow_prox_params(rotation(), step_size=jnp.ones(3)), "`step_size` must have shape ()"),
        (lambda: glow_prox().init(images()[0]), "`problem` must have `.gradient` and `.measurement`"),
    ],
)
def test_misuse_is_named(act, says):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        act()
    assert says in str(raised.value)


def test_pixels_outside_of_the_unit_interval_are_warned_of_unless_hidden():
    image = images()[0]
    with pytest.warns(UserWarning, match=r"outside of \[0, 1\]"):
        inpainting(255 * image, MASK)
    inpainting(image.at[1, 1].set(255), MASK)


def test_params_are_strongly_typed_and_follow_the_flow(precision):
    params = glow_prox_params(rotation(precision), strength=0.5)
    for leaf in (params.step_logit, params.log_strength):
        assert leaf.dtype == precision and not leaf.weak_type
    np.testing.assert_allclose(params.step_size, 1, rtol=1e-6)
    np.testing.assert_allclose(params.strength, 0.5, rtol=1e-6)
