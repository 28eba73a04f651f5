import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import ALGORITHMS, OPERATORS, PROXES
from helpers import enabled
from jax.core import Tracer

import unroll_jax as uj
from unroll_jax import prox
from unroll_jax.testing import check_adjoint, check_algorithm, check_prox

RNG = np.random.default_rng(0)
MATRIX: Any = RNG.standard_normal((3, 4)) + 1j * RNG.standard_normal((3, 4))
X = jnp.array([-2.0, 0.5, 0.0, 3.0, 0.9, -1.1])


# --- operators ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Faulty:
    """A matrix whose map and adjoint are given, so that they can be wrong."""

    forward: Any = dataclasses.field(metadata={"static": True})
    backward: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Any) -> Any:
        return self.forward(x)

    def adjoint(self, y: Any) -> Any:
        return self.backward(y)


def test_right_operators_pass():
    for row, dtype in zip(OPERATORS, ("complex64", "float32", "complex128"), strict=False):
        with enabled(dtype):
            check_adjoint(row.make(np.random.default_rng(0), row.sizes[0], dtype), row.takes(row.sizes[0], dtype))


def test_a_transform_of_real_images_passes():
    real_adjoint = lambda y: 8 * jnp.fft.ifft(y).real
    check_adjoint(Faulty(jnp.fft.fft, real_adjoint), jnp.zeros(8))
    tree = Faulty(lambda x: x["a"] + x["b"], lambda y: {"a": y, "b": y})
    check_adjoint(tree, {"a": jnp.zeros(2), "b": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("forward", "backward", "told"),
    [
        (lambda x: MATRIX @ x, lambda y: MATRIX.T @ y, "seems to be the transpose, without the complex conjugate"),
        (lambda x: MATRIX @ x, lambda y: 2 * (MATRIX.conj().T @ y), "differ by the factor 0.5"),
        (lambda x: MATRIX @ x, lambda y: jnp.flip(MATRIX.conj().T @ y), "`adjoint` is not the adjoint: <A x, y> is"),
        (lambda x: MATRIX @ x, lambda y: jnp.full(4, jnp.nan + 0j), "`adjoint` is not the adjoint"),
        (lambda x: MATRIX @ x, lambda y: (MATRIX.conj().T @ y)[:3], "must have the shape and type of what"),
        (lambda x: MATRIX @ x, lambda y: (MATRIX.conj().T @ y).real, "must have the shape and type of what"),
        (lambda x: MATRIX[:, :3] @ x[:3] * 0, lambda y: jnp.ones(4, "complex64"), "`adjoint` is not the adjoint"),
    ],
)
def test_a_wrong_adjoint_is_found(forward, backward, told):
    with pytest.raises(AssertionError, match=told):
        check_adjoint(Faulty(forward, backward), jax.ShapeDtypeStruct((4,), "complex64"))


def test_maps_that_are_not_linear_are_found():
    for forward, like in ((lambda x: x + 1, jnp.zeros(4)), (jnp.conj, jnp.zeros(4, "complex64"))):
        with pytest.raises(AssertionError, match=r"`adjoint` is not the adjoint|`operator` is not linear"):
            check_adjoint(Faulty(forward, forward), like)
    # the adjoint fits the one draw, and the map is not linear all the same
    with pytest.raises(AssertionError, match="`operator` is not linear"):
        check_adjoint(Faulty(jnp.abs, lambda y: jnp.sign(_drawn(4)) * y), jnp.zeros(4))


def _drawn(size):
    return jax.random.normal(jax.random.split(jax.random.split(jax.random.key(0), 3)[0], 1)[0], (size,))


def test_a_small_fault_is_found_in_double_precision_only():
    faulty = Faulty(lambda x: MATRIX.real @ x, lambda y: (1 + 1e-8) * (MATRIX.real.T @ y))
    check_adjoint(faulty, jax.ShapeDtypeStruct((4,), "float32"))
    check_adjoint(faulty, jax.ShapeDtypeStruct((4,), "float32"), key=jax.random.key(1))
    with enabled("float64"), pytest.raises(AssertionError, match="differ by the factor 1"):
        check_adjoint(faulty, jax.ShapeDtypeStruct((4,), "float64"))


# --- proximal operators ---


@pytest.mark.parametrize(
    ("name", "dtype"), [("soft_threshold", "complex64"), ("log_sum", "float32"), ("simplex", "float64")]
)
def test_right_proximal_operators_pass(name, dtype):
    row = next(row for row in PROXES if row.name == name)
    with enabled(dtype):
        x = jnp.resize(X, row.shape).astype(dtype)
        check_prox(row.prox, row.value, x, 0.7, is_convex=row.is_convex, num_neighbours=20)


@pytest.mark.parametrize(
    ("faulty", "value", "told"),
    [
        (lambda x, s: prox.l1(x, 1.1 * s), prox.l1_value, "`prox` does not give the minimizer"),
        (lambda x, s: prox.l1(x, s), lambda z, s: 2 * prox.l1_value(z, s), "`prox` does not give the minimizer"),
        (lambda x, s: 0.99 * prox.l2_ball(x), prox.l2_ball_value, "`prox` does not give the minimizer"),
        (lambda x, s: 1.01 * prox.l2_ball(x), prox.l2_ball_value, "`value` is inf at prox"),
        (lambda x, s: prox.l1(x, s)[:3], prox.l1_value, "must have the shape and type of `x`"),
        (lambda x, s: prox.l1(x, s).astype("float16"), prox.l1_value, "must have the shape and type of `x`"),
        (lambda x, s: x * jnp.nan, prox.l1_value, "`value` is nan at prox"),
        (prox.l0, prox.l0_value, "`prox` does not give the minimizer"),
        (prox.log_barrier, lambda z, s: -s * jnp.sum(jnp.log(z)), "`value` is NaN near"),
        (
            lambda x, s: x * jnp.maximum(1 - s / jnp.sqrt(jnp.sum(x**2)), 0),
            prox.l2_value,
            "the gradient of `prox` at zero is not finite",
        ),
    ],
)
def test_a_wrong_proximal_operator_is_found(faulty, value, told):
    with pytest.raises(AssertionError, match=told):
        check_prox(faulty, value, X, 1.0, num_neighbours=20)


def test_hard_thresholding_passes_as_what_it_is_and_a_wrong_one_does_not():
    check_prox(prox.l0, prox.l0_value, X, 1.0, is_convex=False)
    with pytest.raises(AssertionError, match="the objective is lower by"):
        check_prox(lambda x, s: prox.l0(x, 3 * s), prox.l0_value, X, 1.0, is_convex=False)


def test_an_expansive_map_is_found_where_the_minimizer_is_right():
    # right at X, wrong elsewhere
    faulty = lambda x, s: jnp.where(jnp.all(x == X), prox.l1(x, s), 3 * x)
    with pytest.raises(AssertionError, match="not firmly non-expansive"):
        check_prox(faulty, prox.l1_value, X, 1.0)


# --- algorithms ---


class State(NamedTuple):
    x: Any
    count: Any


class Params(NamedTuple):
    step_size: Any


PARAMS, PROBLEM = Params(jnp.asarray(0.3, jnp.float32)), jnp.array([1.0, -2.0, 0.5])


def make(step=None, init=None):
    """Gradient descent on ||x - problem||^2 / 2, with parts that can be replaced by wrong ones."""

    def right_init(problem):
        return State(jnp.zeros_like(problem), jnp.zeros((), jnp.int32))

    def right_step(params, state, problem):
        return State(state.x - params.step_size * (state.x - problem), state.count + 1)

    return uj.Algorithm(init or right_init, step or right_step)


def stepping(x: Any = None, count: Any = None):
    """A step whose estimate or count comes from these functions of `(params, state, problem)`."""

    def step(params, state, problem):
        right = make().step(params, state, problem)
        return State(
            x(params, state, problem) if x else right.x, count(params, state, problem) if count else right.count
        )

    return make(step)


def test_right_algorithms_pass():
    check_algorithm(make(), PARAMS, PROBLEM)
    row = next(row for row in ALGORITHMS if row.name == "fista")
    with enabled("complex128"):
        problem = row.make_problem(np.random.default_rng(0), "complex128")
        check_algorithm(row.algorithm, row.make_params(problem), problem)


def test_a_random_key_in_the_problem_and_the_state_passes():
    noisy = uj.algorithms.perturbed(uj.algorithms.proximal_gradient(), lambda x, problem: jnp.ones(()))
    problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(3)), PROBLEM)
    params = uj.algorithms.proximal_gradient_params(problem.operator, 0.1)
    check_algorithm(noisy, params, uj.algorithms.NoisyProblem(problem, jax.random.key(0)))


@pytest.mark.parametrize(
    ("algorithm", "params", "told"),
    [
        (
            stepping(x=lambda p, s, b: (s.x + 1).astype("float16")),
            PARAMS,
            r"turned `state.x` from float32\[3\] into float16",
        ),
        (stepping(x=lambda p, s, b: s.x[:2]), PARAMS, r"turned `state.x` from float32\[3\] into float32\[2\]"),
        (make(lambda p, s, b: s.x), PARAMS, "must keep the structure of its state"),
        (make(init=lambda b: State(jnp.zeros_like(b), 0)), PARAMS, "`state.count` is weakly typed"),
        (make(), Params(0.3), "`params.step_size` is weakly typed"),
        (make(), Params(jnp.asarray(0.3)), "`params.step_size` is weakly typed"),
        (
            stepping(x=lambda p, s, b: s.x + jnp.sqrt(s.x * p.step_size)),
            PARAMS,
            r"gradient of \|\|x\|\|\^2 after 3 steps in `params.step_size` is not finite",
        ),
        (
            stepping(x=lambda p, s, b: s.x + (1.0 if isinstance(s.x, Tracer) else 2.0)),
            PARAMS,
            r"the compiled step differs from single steps in `state.x` by up to 1",
        ),
    ],
)
def test_a_wrong_algorithm_is_found(algorithm, params, told):
    with pytest.raises(AssertionError, match=told):
        check_algorithm(algorithm, params, PROBLEM)


def test_a_step_that_sees_the_batch_is_found():
    def step(params, state, problem):
        # a batch's trace is another type than a compiled one's
        total = 1.0 if "Batch" in type(problem).__name__ else 0.0
        return State(state.x + problem + total, state.count)

    with pytest.raises(AssertionError, match=r"a batch by jax.vmap differs from single steps in `state.x`"):
        check_algorithm(make(step), PARAMS, PROBLEM)


# --- misuse ---


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: check_adjoint(MATRIX, X), "`operator` must be a linear operator"),  # pyright: ignore
        (lambda: check_adjoint(uj.operators.Dense(MATRIX), (4,)), "`like` must be an array"),
        (lambda: check_adjoint(uj.operators.Dense(MATRIX), X, key=3), "`key` must be a random key"),  # pyright: ignore
        (lambda: check_prox(prox.l1_value(X), prox.l1_value, X, 1.0), "`prox` must be a function"),  # pyright: ignore
        (lambda: check_prox(prox.l1, prox.l1_value, jnp.arange(3), 1.0), "`x` must be an array"),
        (lambda: check_prox(prox.l1, prox.l1_value, X, 1.0, num_neighbours=0), "`num_neighbours` must be a whole"),
        (lambda: check_algorithm(make, PARAMS, PROBLEM), "`algorithm` must be an Algorithm"),  # pyright: ignore
        (lambda: check_algorithm(make(), PARAMS, PROBLEM, num_steps=0), "`num_steps` must be a whole number"),
    ],
)
def test_misuse_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()
