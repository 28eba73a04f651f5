import dataclasses
import inspect

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import OPERATORS, name_of
from helpers import (
    DTYPES,
    ROUNDING,
    TraceCounter,
    assert_close,
    draw,
    draw_like,
    enabled,
    in_turn,
    norm,
    pick,
    stack,
    to_numpy,
    vdot,
)

from unroll_jax import operators
from unroll_jax.operators import Adjoint, Composed, Dense, Diagonal, adjoint, compose, operator_norm

COMPOSED = next(row for row in OPERATORS if row.name == "Composed of two")

# public, but no operators: what makes them of others, masks and kernels for them, and what is computed with them
MAKERS = {"add", "adjoint", "compose", "factored", "from_function", "mask", "scale", "stack"}
FUNCTIONS = MAKERS | {
    "cartesian_mask",
    "coil_sensitivities",
    "filtered_backprojection",
    "gaussian_kernel",
    "gram_resolvent",
    "norm_bound",
    "operator_norm",
    "scattered_mask",
}
REAL_AND_COMPLEX = ("float32", "float64", "complex64", "complex128")

every_operator = pytest.mark.parametrize("row", OPERATORS, ids=name_of)
every_size_and_dtype = pytest.mark.parametrize(
    ("row", "size", "dtype"),
    in_turn([(row, size, dtype) for row in OPERATORS for size in row.sizes for dtype in REAL_AND_COMPLEX]),
)


def instance(row, dtype="float32", seed=0, size=None):
    rng = np.random.default_rng(seed)
    size = row.sizes[0] if size is None else size
    return row.make(rng, size, dtype), draw_like(rng, row.takes(size, dtype))


@jax.jit
def forth_and_back(operator, x, y):
    """One program for both directions: eager operations would each be compiled."""
    return operator(x), operator.adjoint(y)


def matrix_of(operator, like):
    """The operator's matrix, column by column; of several arrays, one after the other."""
    flat, unflatten = jax.flatten_util.ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))

    def column(x):
        return jax.flatten_util.ravel_pytree(operator(unflatten(x)))[0]

    return np.asarray(jax.jit(jax.vmap(column))(jnp.eye(flat.size, dtype=flat.dtype))).T


def test_every_public_operator_is_in_the_catalogue():
    public = {name for name, value in vars(operators).items() if inspect.isclass(value)}
    assert public == {row.name.split()[0] for row in OPERATORS}
    assert {name for name, value in vars(operators).items() if inspect.isfunction(value)} == FUNCTIONS


# --- every operator ---


@every_size_and_dtype
def test_adjoint_identity(row, size, dtype):
    rng = np.random.default_rng(1)
    with enabled(dtype):
        operator, x = instance(row, dtype, size=size)
        y = draw_like(rng, jax.eval_shape(operator, x))
        image, back = forth_and_back(operator, x, y)
    difference = vdot(image, y) - vdot(x, back)
    # from real to complex arrays an operator is linear over the real numbers only, and so is its adjoint
    is_over_reals = not any(np.iscomplexobj(leaf) for leaf in to_numpy(x))
    assert abs(difference.real if is_over_reals else difference) <= ROUNDING[dtype] * norm(image) * norm(y)
    assert_same_shapes(back, x)
    assert_same_types(back, x)
    assert all(np.finfo(leaf.dtype).bits == np.finfo(dtype).bits for leaf in to_numpy((image, back)))


def assert_same_shapes(tree, other):
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, other)


def assert_same_types(tree, other):
    assert [leaf.dtype for leaf in to_numpy(tree)] == [leaf.dtype for leaf in to_numpy(other)]


@every_operator
def test_jit_and_vmap_over_inputs(row):
    operator, x = instance(row)
    shape = jax.eval_shape(operator, x)
    rng = np.random.default_rng(1)
    several = [(draw_like(rng, x), draw_like(rng, shape)) for _ in range(3)]
    xs, ys = stack(several)
    images, back = jax.jit(jax.vmap(forth_and_back, in_axes=(None, 0, 0)))(operator, xs, ys)
    for index, (x, y) in enumerate(several):
        expected = forth_and_back(operator, x, y)
        assert_close((pick(images, index), pick(back, index)), expected, 1e-6)


@every_operator
def test_vmap_over_operators_is_a_loop(row):
    several = [instance(row, seed=seed) for seed in range(3)]
    rng = np.random.default_rng(1)
    several = [(operator, x, draw_like(rng, jax.eval_shape(operator, x))) for operator, x in several]
    images, back = jax.jit(jax.vmap(forth_and_back))(*stack(several))
    for index, one in enumerate(several):
        assert_close((pick(images, index), pick(back, index)), forth_and_back(*one), 1e-6)


@every_operator
def test_pytree_round_trip(row):
    operator, x = instance(row)
    leaves, structure = jax.tree.flatten(operator)
    again = structure.unflatten(leaves)
    assert type(again) is type(operator)
    assert jax.tree.structure(again) == structure
    assert all(a is b for a, b in zip(jax.tree.leaves(again), leaves, strict=True))
    apply = jax.jit(lambda operator, x: operator(x))
    assert_close(apply(again, x), apply(operator, x), 0)
    # transformations put things that are no arrays in place of the leaves
    structure.unflatten([object()] * len(leaves))


@every_operator
def test_new_values_retrace_nothing(row):
    counter = TraceCounter(lambda operator, x: operator.adjoint(operator(x)))
    function = jax.jit(counter)
    for seed in range(3):
        function(*instance(row, seed=seed))
    assert counter.count == 1


@every_operator
def test_operators_are_immutable(row):
    operator, _ = instance(row)
    name = next((field.name for field in dataclasses.fields(operator)), "anything")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(operator, name, None)


# --- algebra ---


def test_a_batch_of_dense_operators_is_a_vmap_of_the_class():
    rng = np.random.default_rng(0)
    matrices, xs = draw(rng, (3, 2, 4)), draw(rng, (3, 4))
    images = jax.vmap(lambda operator, x: operator(x))(jax.vmap(Dense)(matrices), xs)
    assert_close(images, jnp.stack([Dense(m)(x) for m, x in zip(matrices, xs, strict=True)]), 1e-6)


def test_dense_and_diagonal_are_their_matrices():
    rng = np.random.default_rng(0)
    matrix, x, y = (draw(rng, shape, "complex64") for shape in ((3, 4), (4,), (3,)))
    assert_close(Dense(matrix)(x), jnp.asarray(np.asarray(matrix) @ np.asarray(x)), 1e-6)
    assert_close(Dense(matrix).adjoint(y), jnp.asarray(np.asarray(matrix).conj().T @ np.asarray(y)), 1e-6)
    assert_close(Diagonal(x)(x), jnp.asarray(np.asarray(x) ** 2), 1e-6)
    assert_close(Diagonal(x).adjoint(x), jnp.asarray(np.abs(np.asarray(x)) ** 2 + 0j, "complex64"), 1e-6)


def test_compose_applies_the_last_operator_first():
    scale, shift = Diagonal(jnp.array([2.0, 3.0])), Dense(jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    x = jnp.array([5.0, 7.0])
    np.testing.assert_array_equal(compose(scale, shift)(x), [14, 0])
    np.testing.assert_array_equal(compose(shift, scale)(x), [21, 0])
    np.testing.assert_array_equal(compose(scale, shift).adjoint(x), [0, 10])
    assert compose(scale) is scale


def test_compose_is_associative():
    rng = np.random.default_rng(0)
    a, b, c, x = (
        Dense(draw(rng, (2, 3))),
        Diagonal(draw(rng, (3,))),
        Dense(draw(rng, (3, 4))),
        draw(rng, (4,)),
    )
    assert_close(compose(a, compose(b, c))(x), compose(compose(a, b), c)(x), 1e-6)
    assert_close(compose(a, b, c)(x), a(b(c(x))), 1e-6)


def test_the_adjoint_of_an_adjoint_is_the_operator():
    operator = Dense(jnp.ones((2, 3)))
    assert isinstance(adjoint(operator), Adjoint)
    assert adjoint(adjoint(operator)) is operator
    np.testing.assert_array_equal(adjoint(operator).adjoint(jnp.ones(3)), operator(jnp.ones(3)))


# --- norms ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(3, 5), (5, 3), (1, 4)])
def test_operator_norm_of_dense_and_diagonal_is_exact(size, dtype):
    rng = np.random.default_rng(0)
    with enabled(dtype):
        matrix = draw(rng, size, dtype)
        norms = [operator_norm(Dense(matrix)), operator_norm(adjoint(Dense(matrix)))]
        diagonal = operator_norm(Diagonal(matrix))
    expected = np.linalg.svd(np.asarray(matrix), compute_uv=False)[0]
    for value in norms:
        assert value.shape == ()
        assert value.dtype == np.finfo(dtype).dtype
        np.testing.assert_allclose(value, expected, rtol=ROUNDING[dtype])
    np.testing.assert_allclose(diagonal, np.max(np.abs(matrix)), rtol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("row", [row for row in OPERATORS if "Composed" in row.name], ids=name_of)
def test_operator_norm_by_power_iteration_equals_the_largest_singular_value(row, dtype):
    with enabled(dtype):
        operator, x = instance(row, dtype)
        value = operator_norm(operator, row.takes(row.sizes[0], dtype), num_steps=300)
        matrix = matrix_of(operator, x)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert value.shape == ()
    assert value.dtype == np.finfo(dtype).dtype
    np.testing.assert_allclose(value, expected, rtol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_operator_norm_keeps_single_precision_where_double_is_enabled(dtype):
    with jax.enable_x64(True):
        operator, x = instance(COMPOSED, dtype)
        assert isinstance(operator, Composed)
        assert operator_norm(operator, x).dtype == jnp.float32


def test_power_iteration_closes_in_from_below_from_every_start():
    operator, x = instance(COMPOSED)
    exact = np.linalg.norm(matrix_of(operator, x), ord=2)
    keys = jax.random.split(jax.random.key(0), 4)
    norms = np.stack(
        [jax.vmap(lambda key, n=n: operator_norm(operator, x, num_steps=n, key=key))(keys) for n in (1, 3, 100)]
    )
    assert np.all(np.diff(norms, axis=0) >= -1e-6)
    assert np.all(norms <= exact * (1 + 1e-6))
    assert len(set(norms[0])) == 4
    np.testing.assert_allclose(norms[-1], exact, rtol=1e-5)


def test_power_iteration_over_an_estimate_of_several_arrays():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Sum:
        first: Dense
        second: Dense

        def __call__(self, x):
            return self.first(x["first"]) + self.second(x["second"])

        def adjoint(self, y):
            return {"first": self.first.adjoint(y), "second": self.second.adjoint(y)}

    rng = np.random.default_rng(0)
    operator = Sum(Dense(draw(rng, (3, 2))), Dense(draw(rng, (3, 4))))
    like = {"first": jnp.zeros(2), "second": jnp.zeros(4)}
    matrix = np.concatenate([operator.first.matrix, operator.second.matrix], axis=1)
    np.testing.assert_allclose(operator_norm(operator, like), np.linalg.norm(matrix, ord=2), rtol=1e-5)


def test_the_norm_of_zero_is_zero():
    zero = Dense(jnp.zeros((2, 3)))
    assert operator_norm(zero) == 0
    assert operator_norm(compose(Diagonal(jnp.ones(2)), zero), jnp.zeros(3)) == 0


# --- misuse ---


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [
        (Dense(jnp.ones((2, 3))), (5, 3), r"`x` must have shape \(3,\) .*got \(5, 3\).*jax\.vmap"),
        (Dense(jnp.ones((2, 3))), (2,), r"`x` must have shape \(3,\) .*got \(2,\)"),
        (adjoint(Dense(jnp.ones((2, 3)))), (3,), r"`y` must have shape \(2,\) .*got \(3,\)"),
        (
            Dense(jnp.ones((4, 2, 3))),
            (3,),
            r"`matrix` .*must have shape \(m, n\), got \(4, 2, 3\).*jax\.vmap",
        ),
        (Diagonal(jnp.ones(3)), (5, 3), r"`x` must have the shape \(3,\) .*got \(5, 3\).*jax\.vmap"),
        (Diagonal(jnp.ones(3)), (), r"`x` must have the shape \(3,\) .*got \(\)"),
        (adjoint(Diagonal(jnp.ones(3))), (1,), r"`y` must have the shape \(3,\) .*got \(1,\)"),
        (
            compose(Diagonal(jnp.ones(3)), Dense(jnp.ones((2, 3)))),
            (3,),
            r"\(3,\) of the operator's diagonal, got \(2,\)",
        ),
    ],
)
def test_misuse_of_operators(operator, shape, message):
    with pytest.raises(ValueError, match=message):
        operator(jnp.ones(shape))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(operator, jnp.ones(shape))


def test_misuse_of_compose_and_operator_norm():
    with pytest.raises(ValueError, match="`operators` needs at least one operator to compose, got none"):
        compose()
    composed = compose(Diagonal(jnp.ones(2)), Dense(jnp.ones((2, 3))))
    with pytest.raises(ValueError, match="`like` must show what the operator Composed takes"):
        operator_norm(composed)
    with pytest.raises(ValueError, match=r"`num_steps` must be .*at least 1, got 0"):
        operator_norm(composed, jnp.ones(3), num_steps=0)
