from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, draw, enabled, norm, stack, to_numpy, vdot

import unroll_jax as uj
from unroll_jax import Algorithm, ImplicitGradient, JacobianFree, algorithms, equilibrium
from unroll_jax.objectives import LeastSquares
from unroll_jax.operators import Dense, operator_norm

PROXIMAL = algorithms.proximal_gradient()
UNKNOWN: Any = "minres"


def least_squares(seed=0, dtype="float64", size=(12, 6)) -> Any:
    rng = np.random.default_rng(seed)
    return LeastSquares(Dense(draw(rng, size, dtype)), draw(rng, size[:1], dtype))


def ista_params(problem) -> Any:
    return algorithms.proximal_gradient_params(problem.operator, 0.5)


def loss_of(x):
    return jnp.sum(jnp.arange(1, x.size + 1, dtype=jnp.finfo(x.dtype).dtype) * jnp.abs(x) ** 2)


def at_equilibrium(algorithm, params, problem, **options):
    options = {"tolerance": 1e-13, "max_steps": 20_000} | options
    return equilibrium(algorithm, params, problem, **options)


def equilibrium_loss(algorithm, **options):
    return lambda params, problem: loss_of(at_equilibrium(algorithm, params, problem, **options).state.x)


def unrolled_loss(algorithm, num_layers=500):
    return lambda params, problem: loss_of(uj.unroll(algorithm, num_layers, params, layer_axes=None)(problem).x)


def closed_form_loss(problem):
    return loss_of(jnp.linalg.lstsq(problem.operator.matrix, problem.measurement)[0])


def gradients(loss, params, problem):
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, problem)


def assert_same_gradients(found, expected, tolerance):
    # parameters that do not move the fixed point have gradients of rounding size
    size = max(float(np.max(np.abs(leaf))) for leaf in to_numpy(expected))
    for a, b in zip(to_numpy(found), to_numpy(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size)


# --- gradients ---


def _pdhg_params(problem):
    return algorithms.chambolle_pock_params(problem.operator, primal_strength=0.5)


METHODS = {
    "gradient_descent": (
        algorithms.gradient_descent,
        lambda problem: algorithms.gradient_descent_params(operator_norm(problem.operator) ** 2),
    ),
    "proximal_gradient": (algorithms.proximal_gradient, ista_params),
    "fista": (algorithms.fista, ista_params),
    "fista without restart": (lambda: algorithms.fista(restart=False), ista_params),
    "half_quadratic_splitting": (
        algorithms.half_quadratic_splitting,
        lambda problem: algorithms.half_quadratic_params(0.5, penalty=4.0),
    ),
    "admm": (algorithms.admm, lambda problem: algorithms.admm_params(0.5, penalty=4.0)),
    "douglas_rachford": (
        algorithms.douglas_rachford,
        lambda problem: algorithms.douglas_rachford_params(0.5, step_size=0.25),
    ),
    "chambolle_pock": (algorithms.chambolle_pock, _pdhg_params),
}
CASES = [*((name, "float64") for name in METHODS), ("proximal_gradient", "complex128"), ("admm", "complex128")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients_equal_those_of_a_long_unroll(name, dtype):
    make, params_of = METHODS[name]
    with enabled(dtype):
        problem = least_squares(dtype=dtype)
        params = params_of(problem)
        # the multipliers of a primal-dual method may move while its x rests
        options = {"residual": uj.stopping.state_change} if name == "chambolle_pock" else {}
        found = gradients(equilibrium_loss(make(), **options), params, problem)
        expected = gradients(unrolled_loss(make()), params, problem)
        if name == "half_quadratic_splitting":  # how a schedule has grown is no property of a fixed point
            expected = (expected[0]._replace(growth=jnp.zeros(())), expected[1])
    assert_same_gradients(found, expected, 1e-4)


def test_gradients_equal_those_of_the_solution_in_closed_form():
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)._replace(strength=jnp.asarray(0.0))
        found = gradients(equilibrium_loss(PROXIMAL), params, problem)[1]
        expected = jax.grad(closed_form_loss)(problem)
    assert_same_gradients(found, expected, 1e-9)


@pytest.mark.parametrize(
    "gradient",
    [
        ImplicitGradient("gmres", 1e-12, 100),
        ImplicitGradient("bicgstab", 1e-12, 100),
        ImplicitGradient("cg", 1e-12, 100),
        ImplicitGradient(lambda matvec, right: jnp.linalg.solve(jax.jacobian(matvec)(right), right)),
    ],
    ids=["gmres", "bicgstab", "cg", "own"],
)
def test_every_linear_solver(gradient):
    # without a threshold the Jacobian 1 - step_size A'A is symmetric
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)._replace(strength=jnp.asarray(0.0))
        found = gradients(equilibrium_loss(PROXIMAL, gradient=gradient), params, problem)
        expected = gradients(unrolled_loss(PROXIMAL, 1000), params, problem)
    assert_same_gradients(found, expected, 1e-8)


def test_forward_mode_and_backward_mode_are_one_linear_map():
    rng = np.random.default_rng(2)
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)
        solution = lambda *args: (
            at_equilibrium(algorithms.fista(), *args, gradient=ImplicitGradient(tolerance=1e-13)).state.x
        )
        tangents = jax.tree.map(lambda leaf: draw(rng, leaf.shape, "float64"), (params, problem))
        cotangent = draw(rng, (6,), "float64")
        tangent = jax.jit(lambda a, t: jax.jvp(solution, a, t)[1])((params, problem), tangents)
        back = jax.jit(lambda a, c: jax.vjp(solution, *a)[1](c))((params, problem), cotangent)
    assert abs(vdot(cotangent, tangent) - vdot(back, tangents)) <= 1e-10 * norm(back) * norm(tangents)
    assert norm(tangent) > 1e-3


def test_second_derivatives_equal_finite_differences():
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)
        options = {"gradient": ImplicitGradient(tolerance=1e-13)}
        value = lambda strength: equilibrium_loss(PROXIMAL, **options)(params._replace(strength=strength), problem)
        slope = jax.jit(jax.grad(value))
        found = jax.jit(jax.hessian(value))(0.5)
        step = 1e-4
        expected = (slope(0.5 + step) - slope(0.5 - step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(float(found)) > 1e-3


def test_the_derivative_of_prepare_counts():
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)
        prepare = lambda params, problem: params._replace(strength=params.strength**2)
        found = gradients(equilibrium_loss(PROXIMAL, prepare=prepare), params, problem)[0]
        squared = params._replace(strength=params.strength**2)
        expected = gradients(equilibrium_loss(PROXIMAL), squared, problem)[0]
    np.testing.assert_allclose(found.strength, 2 * 0.5 * np.asarray(expected.strength), rtol=1e-8)


def test_what_a_step_has_closed_over_is_differentiated_too():
    def loss(target):
        # towards the target from the problem: x = (problem + target) / 2
        own = Algorithm(jnp.zeros_like, lambda rate, x, problem: x - rate * (2 * x - problem - target))
        return jnp.sum(equilibrium(own, 0.3, jnp.ones(3), tolerance=1e-7, max_steps=500).state ** 2)

    target = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(target), (1 + target) / 2, rtol=1e-5)
    batched = jax.jit(jax.grad(lambda targets: jnp.sum(jax.vmap(loss)(targets))))(jnp.stack([target, 2 * target]))
    np.testing.assert_allclose(batched[1], (1 + 2 * target) / 2, rtol=1e-5)


def test_an_estimate_is_no_schedule_though_it_is_one_number_and_sees_no_data():
    def loss(target):
        own = Algorithm(lambda problem: jnp.zeros(()), lambda target, x, problem: x - 0.3 * (x - target))
        return equilibrium(own, target, None, tolerance=1e-6, max_steps=500).state ** 2

    np.testing.assert_allclose(jax.grad(loss)(3.0), 6, rtol=1e-4)


class _Counted(NamedTuple):
    x: jax.Array
    count: jax.Array
    key: jax.Array


def test_counters_and_keys_in_a_state_pass():
    def init(problem):
        return _Counted(jnp.zeros_like(problem), jnp.zeros((), int), jax.random.key(3))

    def step(params, state, problem):
        return _Counted(state.x - params * (state.x - problem), state.count + 1, state.key)

    def run(problem, monitor):
        return equilibrium(Algorithm(init, step), 0.5, problem, tolerance=1e-6, max_steps=100, monitor=monitor)

    solution = run(jnp.ones(2), None)
    assert int(solution.state.count) == int(solution.num_steps) > 5
    for monitor in (None, 0.0):
        slope = jax.grad(lambda problem, monitor=monitor: jnp.sum(run(problem, monitor).state.x ** 2))(jnp.ones(2))
        np.testing.assert_allclose(slope, 2, rtol=1e-5)


# --- what it reports, and what it costs ---


def test_the_forward_pass_is_that_of_solve():
    problem = least_squares(dtype="float32")
    params = ista_params(problem)
    found = equilibrium(PROXIMAL, params, problem, tolerance=1e-4, max_steps=500, check_every=3)
    expected = uj.solve(PROXIMAL, params, problem, tolerance=1e-4, max_steps=500, check_every=3)
    assert_close(found, expected, 1e-6)
    assert bool(found.converged)
    capped = equilibrium(PROXIMAL, params, problem, tolerance=1e-6, max_steps=3)
    assert not bool(capped.converged)


@pytest.mark.parametrize("max_steps", [2, 100])
def test_the_monitor_receives_the_residual_of_the_adjoint(max_steps):
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)._replace(strength=jnp.asarray(0.0))
        gradient = ImplicitGradient("gmres", 1e-10, max_steps)

        def loss(problem, monitor):
            return equilibrium_loss(PROXIMAL, gradient=gradient, monitor=monitor)(params, problem)

        found, residual = jax.jit(jax.grad(loss, argnums=(0, 1)))(problem, jnp.zeros(()))
        x = at_equilibrium(PROXIMAL, params, problem).state.x
    matrix, cotangent = np.asarray(problem.operator.matrix), 2 * np.arange(1, 7) * np.asarray(x)
    system = float(params.step_size) * matrix.T @ matrix  # I - J
    # the smallest residual in the Krylov space, which GMRES finds
    krylov = np.stack([cotangent, system @ cotangent], axis=1)
    smallest = np.linalg.norm(cotangent - system @ krylov @ np.linalg.lstsq(system @ krylov, cotangent)[0])
    expected = smallest / np.linalg.norm(cotangent)
    if max_steps == 2:
        assert expected > 0.1
        np.testing.assert_allclose(residual, expected, rtol=1e-6)
    else:
        assert 0 < float(residual) < 1e-9
        with enabled("float64"):
            exact = jax.grad(closed_form_loss)(problem)
        assert_same_gradients(found, exact, 1e-6)


def test_a_monitor_changes_no_gradient_and_maps_over_a_batch():
    with enabled("float64"):
        problems = stack([least_squares(seed) for seed in range(3)])
        params = ista_params(least_squares())

        def loss(params, problems, monitors):
            one = lambda problem, monitor: equilibrium_loss(PROXIMAL, monitor=monitor)(params, problem)
            return jnp.sum(jax.vmap(one)(problems, monitors))

        *found, residuals = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, problems, jnp.zeros(3))
        expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, problems, None)
    assert_same_gradients(found, expected, 1e-8)
    assert residuals.shape == (3,)
    assert np.all(np.asarray(residuals) < 1e-5)
    assert np.any(np.asarray(residuals) > 0)


def test_every_example_of_a_batch_has_its_own_steps_and_gradient():
    with enabled("float64"):
        problems = [least_squares(seed) for seed in range(3)]
        params = ista_params(problems[0])
        value = lambda problem: equilibrium_loss(PROXIMAL)(params, problem)
        batched = jax.jit(jax.vmap(jax.grad(value)))(stack(problems))
        one = jax.jit(jax.grad(value))
        assert_close(batched, stack([one(problem) for problem in problems]), 1e-6)


def test_memory_does_not_grow_with_the_iterations():
    problem = least_squares(dtype="float32", size=(40, 200))
    params = ista_params(problem)

    def memory(max_steps):
        value = lambda params: equilibrium_loss(algorithms.fista(), tolerance=1e-6, max_steps=max_steps)(
            params, problem
        )
        compiled = jax.jit(jax.grad(value)).lower(params).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(10) == memory(100_000)


# --- Jacobian-free ---


def test_jacobian_free_is_the_derivative_of_the_last_steps():
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)
        found = gradients(equilibrium_loss(PROXIMAL, gradient=JacobianFree(2)), params, problem)
        x = at_equilibrium(PROXIMAL, params, problem).state.x

        def two_steps(params, problem):
            state = algorithms.ProximalGradientState(x)
            for _ in range(2):
                state = PROXIMAL.step(params, state, problem)
            return loss_of(state.x)

        assert_same_gradients(found, gradients(two_steps, params, problem), 1e-9)


def test_more_steps_bring_jacobian_free_gradients_to_the_exact_ones():
    with enabled("float64"):
        problem = least_squares()
        params = ista_params(problem)
        exact = gradients(equilibrium_loss(PROXIMAL), params, problem)[1]
        errors = []
        for num_steps in (1, 10, 100):
            found = gradients(equilibrium_loss(PROXIMAL, gradient=JacobianFree(num_steps)), params, problem)[1]
            errors.append(norm(jax.tree.map(jnp.subtract, found, exact)) / norm(exact))
            assert vdot(found, exact).real > 0
    assert errors[0] > 2 * errors[1] > 100 * errors[2]


# --- misuse ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "implicit"}, r"`gradient` must be an ImplicitGradient\(...\) or a JacobianFree\(...\), got str"),
        ({"gradient": ImplicitGradient(UNKNOWN)}, r"`gradient.solver` must be one of \('gmres', 'bicgstab', 'cg'\)"),
        ({"gradient": ImplicitGradient(tolerance=-1.0)}, "`gradient.tolerance` must be non-negative, got -1.0"),
        ({"gradient": ImplicitGradient(max_steps=0)}, "`gradient.max_steps` must be a whole number of at least 1"),
        ({"gradient": JacobianFree(0)}, "`gradient.num_steps` must be a whole number of at least 1, got 0"),
        ({"gradient": JacobianFree(), "monitor": 0.0}, "`monitor` needs an ImplicitGradient"),
        ({"monitor": jnp.zeros(3)}, r"`monitor` must be a real number of shape \(\), .* got shape \(3,\)"),
        ({"monitor": 1}, "`monitor` must be a real number"),
        ({"max_steps": 0}, "`max_steps` must be a whole number of at least 1, got 0"),
        ({"tolerance": -1.0}, "`tolerance` must be non-negative"),
    ],
)
def test_misuse(options, message):
    problem = least_squares(dtype="float32")
    with pytest.raises(ValueError, match=message):
        equilibrium(PROXIMAL, ista_params(problem), problem, **({"tolerance": 1e-3, "max_steps": 10} | options))
