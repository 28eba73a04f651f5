"""The resolvent (I + strength A* A)^-1 and the proximal operator of least squares, against dense solves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import OPERATORS, imaging_operators, name_of
from helpers import assert_close, draw, draw_like, to_numpy
from test_operators import matrix_of

from unroll_jax.objectives import LeastSquares
from unroll_jax.operators import (
    CircularBlur,
    Dense,
    Diagonal,
    Downsampling,
    FiniteDifferences,
    Identity,
    adjoint,
    compose,
    factored,
    from_function,
    gram_resolvent,
    scale,
    stack,
)

STRENGTH = 0.7

every_operator = pytest.mark.parametrize("row", OPERATORS, ids=name_of)


def flat(tree):
    return np.concatenate([leaf.ravel() for leaf in to_numpy(tree)])


def dense_resolvent(operator, x, strength):
    """By the matrix of x -> A* A x and NumPy."""
    gram = matrix_of(lambda x: operator.adjoint(operator(x)), x)
    return np.linalg.solve(np.eye(len(gram)) + strength * gram, flat(x))


# --- every operator ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("row", "dtype"),
    [pytest.param(row, "float64", id=row.name) for row in OPERATORS]
    + [pytest.param(row, "complex128", id=f"{row.name} complex") for row in imaging_operators.OPERATORS],
)
def test_the_resolvent_is_that_of_a_dense_solve(row, dtype):
    rng = np.random.default_rng(0)
    size = row.sizes[1] if dtype == "float64" else row.sizes[0]
    operator = row.make(rng, size, dtype)
    x = draw_like(rng, row.takes(size, dtype))
    resolvent = jax.jit(lambda *a: gram_resolvent(*a, tolerance=1e-13))(operator, x, STRENGTH)
    np.testing.assert_allclose(flat(resolvent), dense_resolvent(operator, x, STRENGTH), rtol=0, atol=1e-11)
    assert jax.tree.map(jnp.shape, resolvent) == jax.tree.map(jnp.shape, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_a_factored_matrix_is_not_factored_again(shape):
    rng = np.random.default_rng(0)
    operator, x = factored(draw(rng, shape, "float64")), draw(rng, shape[1:], "float64")
    program = jax.jit(lambda operator, x, strength: gram_resolvent(operator, x, strength))
    assert "cholesky" not in program.lower(operator, x, 0.5).as_text()
    assert "cholesky" in program.lower(Dense(operator.matrix), x, 0.5).as_text()
    for strength in (0.0, 0.5, 1e6):
        np.testing.assert_allclose(
            program(operator, x, strength), dense_resolvent(operator, x, strength), rtol=0, atol=1e-9
        )
    by_batch = jax.vmap(factored)(draw(rng, (3, *shape), "float64"))
    found = jax.vmap(program, in_axes=(0, None, None))(by_batch, x, 0.5)
    expected = [dense_resolvent(Dense(matrix), x, 0.5) for matrix in by_batch.matrix]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "shape"), [(CircularBlur, (3, 5)), (Diagonal, (4, 6))], ids=["CircularBlur", "Diagonal"]
)
def test_closed_forms_of_multiples_and_adjoints_come_from_the_operator(make, shape):
    rng = np.random.default_rng(0)
    whole = adjoint(scale(make(draw(rng, shape, "float64")), -2.0))
    x = draw(rng, (4, 6), "float64")
    resolvent = jax.jit(lambda operator, x: gram_resolvent(operator, x, 3.0))
    assert "while" not in resolvent.lower(whole, x).as_text()
    np.testing.assert_allclose(flat(resolvent(whole, x)), dense_resolvent(whole, x, 3.0), rtol=0, atol=1e-12)


# --- conjugate gradients ---


def ill_conditioned(num=30):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((num, num)))[0] for _ in range(2))
    return compose(Dense(jnp.asarray(left * np.geomspace(1, 30, num))), Dense(jnp.asarray(right)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_the_tolerance_bounds_the_distance_from_the_exact_resolvent(tolerance):
    operator = ill_conditioned()
    x = draw(np.random.default_rng(1), (30,), "float64")
    error = np.linalg.norm(gram_resolvent(operator, x, 1.0, tolerance=tolerance) - dense_resolvent(operator, x, 1.0))
    assert 1e-3 * tolerance * np.linalg.norm(x) < error <= tolerance * np.linalg.norm(x)


@pytest.mark.usefixtures("x64")
def test_steps_are_bounded_and_each_brings_the_minimum_nearer():
    operator = ill_conditioned()
    x = draw(np.random.default_rng(1), (30,), "float64")

    def objective(z):
        return float(jnp.sum(operator(z) ** 2) + jnp.sum((z - x) ** 2)) / 2

    values = [objective(gram_resolvent(operator, x, 1.0, tolerance=0.0, max_steps=n)) for n in (1, 2, 10)]
    assert np.all(np.diff(values) < 0)


def test_zero_stays_zero_and_strength_zero_changes_nothing():
    operator = compose(Dense(jnp.ones((2, 3))), Diagonal(jnp.arange(3.0)))
    assert_close(gram_resolvent(operator, jnp.zeros(3), 1.0), jnp.zeros(3), 0)
    x = jnp.arange(3.0)
    assert_close(gram_resolvent(operator, x, 0.0), x, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_image_decides_on_the_precision(dtype):
    operators = [Dense(jnp.ones((2, 3))), compose(Dense(jnp.ones((2, 3))), Identity()), Diagonal(jnp.ones(3))]
    with jax.enable_x64(True):
        for operator in operators:
            for strength in (0.5, jnp.asarray(0.5), np.float64(0.5)):
                x = jnp.ones(3, dtype)
                resolvent = jax.eval_shape(gram_resolvent, operator, x, strength)
                moved = jax.eval_shape(LeastSquares(operator, operator(x)).prox, x, strength)
                assert resolvent.dtype == moved.dtype == dtype
                assert not resolvent.weak_type and not moved.weak_type


def test_a_complex_operator_makes_real_images_complex_on_every_path():
    matrix = draw(np.random.default_rng(0), (2, 3), "complex64")
    x = jnp.arange(3.0)
    direct, iterated = (gram_resolvent(each, x, 0.5) for each in (Dense(matrix), compose(Dense(matrix), Identity())))
    assert direct.dtype == iterated.dtype == jnp.complex64
    assert_close(iterated, direct, 1e-5)


# --- derivatives ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("closed form", (3, 5), "complex128"),
        ("factored", (3, 5), "complex128"),
        ("factored", (5, 3), "float64"),
        ("conjugate gradients", (3, 5), "float64"),
        ("conjugate gradients", (3, 5), "complex128"),
    ],
)
def test_derivatives_are_those_of_a_dense_solve(kind, shape, dtype):
    rng = np.random.default_rng(0)
    matrix, x = draw(rng, shape, dtype), draw(rng, shape[1:], dtype)
    steps = draw(rng, shape, dtype), draw(rng, shape[1:], dtype)
    goal = draw(rng, shape[1:], dtype)

    def ours(matrix, x, strength):
        make = {"closed form": Dense, "factored": factored}.get(kind, lambda a: compose(Dense(a), Identity()))
        operator = make(matrix)
        return gram_resolvent(operator, x, strength, tolerance=1e-14)

    def dense(matrix, x, strength):
        return jnp.linalg.solve(jnp.eye(shape[1]) + strength * (matrix.conj().T @ matrix), x)

    def derivatives(resolvent):
        def loss(matrix, x, strength):
            return jnp.sum(jnp.abs(resolvent(matrix, x, strength) - goal) ** 2)

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        arguments, tangents = (matrix, x, jnp.asarray(STRENGTH)), (*steps, jnp.asarray(1.0))
        at = functools.partial(gradient, matrix, x)
        _, forward = jax.jvp(resolvent, arguments, tangents)
        # forward over reverse, and reverse over reverse
        values, second = jax.jvp(gradient, arguments, tangents)
        again = jax.grad(lambda strength: at(strength)[2])(jnp.asarray(STRENGTH))
        mapped = jax.vmap(gradient, in_axes=(None, 0, 0))(matrix, jnp.stack([x, 2 * x]), jnp.array([STRENGTH, 0.1]))
        return forward, values, second, again, mapped

    found, expected = (jax.jit(derivatives, static_argnums=0)(each) for each in (ours, dense))
    assert_close(found, expected, 1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "make",
    [
        lambda kernel: Downsampling(2, kernel),
        lambda kernel: stack(CircularBlur(kernel), FiniteDifferences()),
    ],
    ids=["Downsampling", "stacked"],
)
def test_derivatives_in_a_kernel_are_differences(make):
    rng = np.random.default_rng(0)
    kernel, step, x = draw(rng, (3, 3), "float64"), draw(rng, (3, 3), "float64"), draw(rng, (4, 4), "float64")

    @jax.jit
    def power(t):
        return jnp.sum(gram_resolvent(make(kernel + t * step), x, STRENGTH, tolerance=1e-14) ** 4)

    expected = (power(1e-5) - power(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(power))(0.0), expected, rtol=1e-7)


# --- least squares ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("strength", [0.1, 100.0])
def test_prox_of_least_squares_is_that_of_numpy(strength, dtype):
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (5, 3)):
        matrix, measurement, x = (draw(rng, size, dtype) for size in (shape, shape[:1], shape[1:]))
        # one least-squares problem for both terms
        rows = np.concatenate([np.sqrt(strength) * np.asarray(matrix), np.eye(shape[1])])
        expected = np.linalg.lstsq(rows, np.concatenate([np.sqrt(strength) * measurement, x]))[0]
        for operator in (Dense(matrix), compose(Dense(matrix), Identity())):
            prox = jax.jit(lambda problem, x: problem.prox(x, strength, tolerance=1e-13))
            assert_close(prox(LeastSquares(operator, measurement), x), jnp.asarray(expected), 1e-10)


def test_a_minimizer_of_the_data_term_stays_whatever_the_tolerance():
    rng = np.random.default_rng(0)
    operator = compose(Diagonal(draw(rng, (5,))), Identity())
    x = draw(rng, (5,))
    assert_close(LeastSquares(operator, operator(x)).prox(x, 1e3, tolerance=0.5), x, 0)


# --- misuse ---


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wrong:
    """An operator whose adjoint forgets the second half."""

    matrix: jax.Array

    def __call__(self, x):
        return self.matrix @ x

    def adjoint(self, y):
        return (self.matrix.T @ y)[:2]


def test_an_adjoint_of_the_wrong_shape_is_found_where_it_first_meets():
    operator, x = Wrong(jnp.ones((3, 4))), jnp.ones(4)
    message = r"`operator\.adjoint` must return the shape of what the operator takes, \(4,\), got \(2,\)"
    for call in (
        lambda: gram_resolvent(operator, x, 1.0),
        lambda: LeastSquares(operator, jnp.ones(3)).gradient(x),
        lambda: LeastSquares(operator, jnp.ones(3)).prox(x, 1.0),
        lambda: jax.eval_shape(gram_resolvent, operator, x, 1.0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: gram_resolvent(a.matrix, jnp.ones(2), 1.0), "`operator` must be a linear operator"),
        (lambda a: gram_resolvent(a, jnp.ones(2, int), 1.0), "`x` must be an array of a floating-point"),
        (lambda a: gram_resolvent(a, jnp.ones(2), -1.0), "`strength` must be non-negative"),
        (lambda a: gram_resolvent(a, jnp.ones(2), jnp.ones(2)), r"`strength` must have shape \(\), got \(2,\)"),
        (lambda a: gram_resolvent(a, jnp.ones(2), 1.0, max_steps=0), "`max_steps` must be a whole number"),
        (lambda a: gram_resolvent(a, jnp.ones(3), 1.0), r"`x` must have shape \(2,\)"),
        (lambda a: gram_resolvent(from_function(jnp.cumsum, jnp.ones(2)), jnp.ones(3), 1.0), r"`x` must have the sha"),
        (lambda a: LeastSquares(a, jnp.ones(3)).prox(jnp.ones(2), 1.0), "`measurement` must have the shape"),
        (lambda a: LeastSquares(a, jnp.ones(2)).prox(jnp.ones(2), -1.0), "`strength` must be non-negative"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(Dense(jnp.eye(2)))
