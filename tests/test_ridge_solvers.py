import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, enabled, norm, vdot
from test_regularizers import image, random_params

import unroll_jax as uj
from unroll_jax.regularizers import (
    RidgeRegularizer,
    load_ridge,
    prepare_ridge,
    ridge_denoise,
    ridge_gradient,
    ridge_hvp,
    ridge_params,
    ridge_prox,
    ridge_reconstruct,
    ridge_value,
    save_ridge,
)
from unroll_jax.regularizers.filters import norm_bound
from unroll_jax.splines import NonuniformGrid, SlopeBox, clip_slopes, flat_ends

SIGMA = 15 / 255
CONVERGED = uj.ImplicitGradient("cg", 1e-12, 300)
EXACT = {"tolerance": 1e-13, "max_steps": 3_000}
pytestmark = pytest.mark.usefixtures("x64")


def objective(ridge, z, x, strength):
    return jnp.sum((z - x) ** 2) / 2 + strength * ridge_value(ridge, z)


@functools.partial(jax.jit, static_argnames="gradient")
def denoised(params, noisy, strength, gradient=CONVERGED):
    return ridge_prox(prepare_ridge(params, SIGMA), noisy, strength, gradient=gradient, **EXACT).state.x


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_denoised_image_is_the_minimizer(rho):
    noisy, strength = image((11, 9)), 0.9
    ridge = prepare_ridge(random_params(rho), SIGMA)
    found = denoised(random_params(rho), noisy, strength)
    slope = found - noisy + strength * ridge_gradient(ridge, found)
    assert norm(slope) < 1e-10 * norm(noisy)
    others = found[None] + 1e-3 * jnp.asarray(np.random.default_rng(0).standard_normal((5, *found.shape)))
    values = jax.vmap(lambda z: objective(ridge, z, noisy, strength))(others)
    assert np.all(values > objective(ridge, found, noisy, strength))


@pytest.mark.parametrize(("rho", "strength"), [(0.0, 1.0), (1.0, 0.5)])
def test_the_denoiser_is_lipschitz_continuous(rho, strength):
    rng = np.random.default_rng(0)
    first = image((9, 8))
    for size in (1e-3, 0.1):
        second = first + size * jnp.asarray(rng.standard_normal(first.shape))
        change = norm(denoised(random_params(rho), first, strength) - denoised(random_params(rho), second, strength))
        assert change <= (1 + 1e-9) / (1 - strength * rho) * norm(first - second)


def test_a_batch_is_its_images_each_with_its_own_steps():
    params = random_params()
    images = jnp.stack([image((8, 10), seed=seed) for seed in range(3)])
    sigmas = jnp.array([2.0, 10.0, 28.0]) / 255
    solve = functools.partial(ridge_denoise, tolerance=1e-6, max_steps=400)
    batch = jax.jit(jax.vmap(solve, (None, 0, 0)))(params, images, sigmas)
    single = jax.jit(solve)
    for index in range(3):
        alone = single(params, images[index], sigmas[index])
        assert_close(batch.state.x[index], alone.state.x, 1e-12)
        assert int(batch.num_steps[index]) == int(alone.num_steps)
    assert len(set(np.asarray(batch.num_steps).tolist())) > 1


def test_accelerated_steps_keep_their_bound_on_a_convex_regularizer():
    ridge, noisy = prepare_ridge(random_params(0.0), SIGMA), image((9, 8))
    lipschitz = 1 + ridge.mu
    best = denoised(random_params(0.0), noisy, 1.0)
    params = uj.algorithms.accelerated_gradient_params(lipschitz)
    for restart in (False, True):
        algorithm = uj.algorithms.accelerated_gradient(
            lambda z, x: z - x + ridge_gradient(ridge, z), start=lambda x: jnp.zeros_like(x), restart=restart
        )
        error = jax.jit(
            lambda x, algorithm=algorithm: (
                uj.solve(
                    algorithm,
                    params,
                    x,
                    tolerance=0.0,
                    max_steps=60,
                    record=lambda state: objective(ridge, state.x, x, 1.0) - objective(ridge, best, x, 1.0),
                ).records
            )
        )(noisy)
        bound = 2 * lipschitz * norm(best) ** 2 / (1 + np.arange(61)) ** 2
        if not restart:
            assert np.all(error <= bound + 1e-12)
        else:
            assert error[-1] <= bound[-1]


# --- derivatives ---


def loss(params, noisy, gradient=CONVERGED):
    found = denoised(params, noisy, 0.9, gradient)
    weights = jnp.asarray(np.random.default_rng(5).standard_normal(found.shape))
    return jnp.sum(weights * found) + jnp.sum(found**2)


def unrolled_loss(params, noisy):
    ridge = prepare_ridge(params, SIGMA)

    def step(x, _):
        return x - (x - noisy + 0.9 * ridge_gradient(ridge, x)) / (1 + 0.9 * ridge.mu), None

    found, _ = jax.lax.scan(step, noisy, length=500)
    weights = jnp.asarray(np.random.default_rng(5).standard_normal(found.shape))
    return jnp.sum(weights * found) + jnp.sum(found**2)


@functools.cache
def gradients(kind="shared"):
    noisy = image((8, 9))
    with enabled("float64"):
        return jax.grad(loss, argnums=(0, 1))(random_params(kind=kind), noisy)


@pytest.mark.parametrize("kind", ["shared", "mixture"])
def test_the_implicit_gradient_is_that_of_a_long_unroll_for_every_group(kind):
    unrolled = jax.jit(jax.grad(unrolled_loss, argnums=(0, 1)))(random_params(kind=kind), image((8, 9)))
    for found, expected in zip(jax.tree.leaves(gradients(kind)), jax.tree.leaves(unrolled), strict=True):
        assert norm(found - expected) <= 1e-4 * norm(expected)


def test_the_implicit_gradient_is_that_of_finite_differences_for_every_group():
    params, noisy = random_params(kind="mixture"), image((8, 9))
    rng = np.random.default_rng(1)
    found, _ = gradients("mixture")
    for name in ("kernels", "convex", "concave", "log_mu", "scaling", "mixture"):
        part = getattr(params, name)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), part)
        moved = [
            dataclasses.replace(params, **{name: jax.tree.map(lambda a, b, s=sign: a + s * b, part, direction)})
            for sign in (-1e-6, 1e-6)
        ]
        difference = (loss(moved[1], noisy) - loss(moved[0], noisy)) / 2e-6
        slope = vdot(getattr(found, name), direction).real
        assert abs(slope - difference) <= 1e-3 * abs(difference), name


def test_the_jacobian_free_gradient_points_the_same_way():
    cheap, _ = jax.grad(loss, argnums=(0, 1))(random_params(), image((8, 9)), uj.JacobianFree())
    exact, _ = gradients()
    for name in ("kernels", "log_mu", "scaling"):
        assert vdot(getattr(cheap, name), getattr(exact, name)).real > 0, name


def test_the_hessian_is_symmetric():
    ridge = prepare_ridge(random_params(), SIGMA)
    x, first, second = (image((9, 8), seed=seed) for seed in range(3))
    assert_close(vdot(first, ridge_hvp(ridge, x, second)), vdot(second, ridge_hvp(ridge, x, first)), 1e-12)


def test_the_adjoint_residual_can_be_watched():
    ridge = prepare_ridge(random_params(), SIGMA)

    def watched(noisy, monitor, steps):
        gradient = uj.ImplicitGradient("cg", 1e-10, steps)
        return jnp.sum(ridge_prox(ridge, noisy, 0.9, gradient=gradient, monitor=monitor, **EXACT).state.x ** 2)

    residual = [float(jax.grad(watched, 1)(image((8, 9)), jnp.zeros(()), steps)) for steps in (1, 100)]
    assert residual[0] > 1e-3
    assert residual[1] < 1e-9


# --- inverse problems ---


def test_reconstruction_falls_to_a_critical_point():
    ridge, truth = prepare_ridge(random_params(), SIGMA), image((12, 10))
    operator = uj.operators.CircularBlur(uj.operators.gaussian_kernel(5, 1.0))
    problem = uj.objectives.LeastSquares(operator, operator(truth) + 0.02 * image((12, 10), seed=3))
    weight = 0.05
    value = lambda x: problem.value(x) + weight * ridge_value(ridge, x)
    solution = jax.jit(
        lambda: ridge_reconstruct(
            ridge,
            problem,
            problem.measurement,
            weight,
            tolerance=1e-12,
            max_steps=3_000,
            record=lambda state: value(state.base),
        )
    )()
    assert np.all(np.diff(solution.records) <= 1e-12)
    found = solution.state.x
    step = found - (problem.gradient(found) + weight * ridge_gradient(ridge, found))
    assert norm(jnp.maximum(step, 0) - found) < 1e-8
    assert np.all(found >= 0)


def test_reconstruction_bounds_an_operator_without_a_known_norm():
    ridge = prepare_ridge(random_params(), SIGMA)
    operator = uj.operators.from_function(lambda x: 2 * x[..., 0], image((6, 7)))
    problem = uj.objectives.LeastSquares(operator, 2 * image((6, 7))[..., 0])
    solution = ridge_reconstruct(ridge, problem, jnp.zeros((6, 7, 1)), 1e-6, tolerance=1e-9)
    assert_close(solution.state.x, image((6, 7)), 1e-4)


# --- modules and files ---


@pytest.mark.parametrize("kind", ["shared", "mixture"])
def test_a_module_holds_the_same_parameters_and_trains_them(kind):
    params = random_params(kind=kind)
    module = RidgeRegularizer(params)
    jax.tree.map(np.testing.assert_array_equal, module.params, params)
    assert module.params.grid == params.grid
    trainer = uj.training.unconstrained(
        lambda model, batch, key: jnp.mean((ridge_denoise(model.params, batch, SIGMA).state.x - 0.5) ** 2),
        uj.regularizers.keep_ridge_feasible(params.grid),
    )
    state = trainer.init(module, image((8, 8)), jax.random.key(0))
    state, report = jax.jit(trainer.step)(state, image((8, 8)))
    assert np.isfinite(report.loss)
    # the splines left the box, and were brought back
    box = flat_ends(SlopeBox.firmly_nonexpansive(), params.grid)
    for name in ("convex", "concave"):
        old, new = (getattr(each, name) for each in (params, state.model.params))
        assert norm(clip_slopes(old, params.grid, box, keep="odd") - old) > 1e-3
        assert norm(clip_slopes(new, params.grid, box, keep="odd") - new) < 1e-12
    labels = uj.regularizers.ridge_labels(nnx.state(module, nnx.Param))
    learned = {"filters", "splines", "curvature", "scaling"} | ({"mixture"} if kind == "mixture" else set())
    assert set(jax.tree.leaves(labels)) == learned


@pytest.mark.parametrize("kind", ["per filter", "mixture", "other grid"])
def test_files_give_back_the_same_regularizer(tmp_path, kind):
    params = random_params(kind="mixture" if kind == "mixture" else "per filter")
    if kind == "other grid":
        params = dataclasses.replace(params, grid=NonuniformGrid(params.grid.knots), norm=jnp.asarray(2.0))
    path = tmp_path / "ridge.npz"
    save_ridge(path, params)
    loaded = load_ridge(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert loaded.rho == params.rho


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no ridge regularizer"):
        load_ridge(tmp_path / "other.npz")


@pytest.mark.parametrize(("name", "rho"), [("crr", 0.0), ("wcrr", 1.0)])
def test_pretrained_regularizers_keep_their_promises(name, rho):
    params = uj.regularizers.pretrained(name)
    assert params.rho == rho
    ridge = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), prepare_ridge(params, 25 / 255))
    assert norm_bound(ridge.kernel) <= 1 + 1e-6
    slopes = np.diff(ridge.coefficients) / np.diff(ridge.grid.knots)
    assert np.all(slopes >= -rho - 1e-4)
    assert np.all(slopes <= float(ridge.mu) * (1 + 1e-4))
    clean = jnp.clip(jnp.add.outer(jnp.linspace(0.2, 0.6, 32), jnp.where(jnp.arange(32) < 16, 0.0, 0.3)), 0, 1)[
        ..., None
    ]
    noisy = clean + 25 / 255 * jax.random.normal(jax.random.key(0), clean.shape)
    found = ridge_denoise(params, noisy, 25 / 255).state.x
    assert jnp.mean((found - clean) ** 2) < 0.1 * jnp.mean((noisy - clean) ** 2)
    assert uj.regularizers.model_card(name).startswith(f"# {name}")


# --- misuse ---


def test_misuse():
    ridge, x = prepare_ridge(random_params(), SIGMA), image((8, 8))
    with pytest.raises(ValueError, match="`strength` must be at most 1 / rho = 1, got 2"):
        ridge_prox(ridge, x, 2.0)
    with pytest.raises(ValueError, match="`noisy` must hold finite numbers"):
        ridge_denoise(random_params(), x.at[0, 0].set(jnp.nan), SIGMA)
    with pytest.raises(ValueError, match="Give each channel of a colour image by itself"):
        ridge_denoise(random_params(), jnp.zeros((8, 8, 3)), SIGMA)
    with pytest.raises(ValueError, match="Divide integers of 8 bits by 255"):
        ridge_denoise(random_params(), jnp.zeros((8, 8, 1), jnp.uint8), SIGMA)
    with pytest.warns(UserWarning, match="beyond the noise levels 0 to 30"):
        ridge_denoise(random_params(), x, 60 / 255)
    problem = uj.objectives.LeastSquares(uj.operators.mask(np.ones((8, 8, 1))), x)
    with pytest.raises(ValueError, match="`strength` must be positive"):
        ridge_reconstruct(ridge, problem, x, 0.0)
    with pytest.raises(ValueError, match=r"`name` must be one of .*got 'drunet'"):
        uj.regularizers.pretrained("drunet")
    with pytest.raises(ValueError, match="odd sides"):
        prepare_ridge(dataclasses.replace(ridge_params(jax.random.key(0)), kernels=(jnp.ones((4, 4, 1, 60)),)), SIGMA)
