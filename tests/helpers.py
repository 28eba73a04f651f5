"""What the tests share: draws, precisions, comparisons, and oracles in NumPy that do not know the library."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

REAL = ("float32", "float64")
DTYPES = (*REAL, "complex64", "complex128")
ROUNDING = {"float32": 1e-5, "complex64": 1e-5, "float64": 1e-12, "complex128": 1e-12}

# hypothesis with fixed draws, on a machine whose speed varies; MAX_EXAMPLES=500 searches longer
searched = hypothesis.settings(derandomize=True, deadline=None, max_examples=int(os.environ.get("MAX_EXAMPLES", "20")))


def in_turn(cases: list[tuple[Any, ...]]) -> list[Any]:
    """`(row, variant)` as parameters of a test: one variant of each row runs by default, in turn, the others as slow.

    So every row and every variant is met in a few minutes; `pytest -m "slow or not slow"` meets all pairs.
    """
    names = list(dict.fromkeys(case[0].name for case in cases))
    params = []
    for number, name in enumerate(names):
        own = [case for case in cases if case[0].name == name]
        for index, (row, *variant) in enumerate(own):
            marks = () if index == number % len(own) else (pytest.mark.slow,)
            params.append(pytest.param(row, *variant, marks=marks, id=" ".join(map(str, (row.name, *variant)))))
    return params


def enabled(dtype: str) -> Any:
    """The context in which arrays of `dtype` exist."""
    return jax.enable_x64(np.finfo(dtype).bits == 64)


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    """Normal entries; the same numbers in single and in double precision."""
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return jnp.asarray(values, dtype)


def draw_like(rng: np.random.Generator, like: Any) -> Any:
    """A draw for every leaf of `like`, arrays or `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda leaf: draw(rng, leaf.shape, str(leaf.dtype)), like)


def stack(trees: list[Any]) -> Any:
    """Pytrees of the same structure as one, with a leading axis on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: Any, index: int) -> Any:
    """One entry of the leading axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def inexact_leaves(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The leaves of `tree` that can be differentiated, and the function that puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    is_inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def rebuild(replaced: list[jax.Array]) -> Any:
        own = iter(replaced)
        return structure.unflatten(
            [next(own) if inexact else leaf for inexact, leaf in zip(is_inexact, leaves, strict=True)]
        )

    return [leaf for inexact, leaf in zip(is_inexact, leaves, strict=True) if inexact], rebuild


def to_numpy(tree: Any) -> list[np.ndarray]:
    """The leaves of `tree`, random keys as their bits."""

    def convert(leaf: Any) -> np.ndarray:
        leaf = jnp.asarray(leaf)
        return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return [convert(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """The same structure, and entries that differ by at most `tolerance` times the leaf's largest one."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(to_numpy(actual), to_numpy(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b), initial=0))


def assert_finite(tree: Any) -> None:
    for leaf in to_numpy(tree):
        assert np.all(np.isfinite(leaf))


def vdot(x: Any, y: Any) -> complex:
    """The inner product over all leaves, in double precision, conjugate in `x`."""
    return sum(
        complex(np.vdot(a.astype(complex), b.astype(complex))) for a, b in zip(to_numpy(x), to_numpy(y), strict=True)
    )


def norm(x: Any) -> float:
    return abs(vdot(x, x)) ** 0.5


class TraceCounter:
    """A function that counts how often JAX traces it."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.count = 0

    def __call__(self, *args: Any) -> Any:
        self.count += 1
        return self.function(*args)


def estimates(algorithm: Any, params: Any, problem: Any, num_steps: int) -> jax.Array:
    """The estimates along `num_steps` steps, the start first: `(num_steps + 1, ...)`."""

    def body(state: Any, _: None) -> tuple[Any, Any]:
        state = algorithm.step(params, state, problem)
        return state, state.x

    start = algorithm.init(problem)
    _, xs = jax.jit(lambda state: jax.lax.scan(body, state, length=num_steps))(start)
    return jnp.concatenate([start.x[None], xs])


# --- oracles ---


def data_of(problem: Any) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and the measurement of a problem with a `Dense` operator."""
    return np.asarray(problem.operator.matrix), np.asarray(problem.measurement)


def numpy_soft_threshold(x: np.ndarray, threshold: Any) -> np.ndarray:
    modulus = np.abs(x)
    return x * np.maximum(1 - threshold / np.where(modulus == 0, 1, modulus), 0)


def lasso_value(x: np.ndarray, matrix: np.ndarray, measurement: np.ndarray, l1_weight: Any) -> float:
    return float(np.sum(np.abs(matrix @ x - measurement) ** 2) / 2 + l1_weight * np.sum(np.abs(x)))


def numpy_fista(
    matrix: np.ndarray, measurement: np.ndarray, l1_weight: Any, *, restart: bool = True
) -> Iterator[np.ndarray]:
    """The estimates of FISTA from zero, the start first, without end (Beck and Teboulle 2009).

    The restart is the gradient scheme of O'Donoghue and Candes (2015), after which the momentum is that of the start.
    """
    step_size = 1 / np.linalg.norm(matrix, ord=2) ** 2
    x = np.zeros(matrix.shape[1], np.result_type(matrix, measurement))
    extrapolated, t = x, 1.0
    while True:
        yield x
        gradient = matrix.conj().T @ (matrix @ extrapolated - measurement)
        x_next = numpy_soft_threshold(extrapolated - step_size * gradient, step_size * l1_weight)
        if restart and np.vdot(extrapolated - x_next, x_next - x).real > 0:
            extrapolated, t = x_next, 1.0
        else:
            t_next = (1 + np.sqrt(1 + 4 * t**2)) / 2
            extrapolated, t = x_next + (t - 1) / t_next * (x_next - x), t_next
        x = x_next


def lasso_minimizer(matrix: np.ndarray, measurement: np.ndarray, l1_weight: Any) -> np.ndarray:
    """The minimizer of ||matrix x - measurement||^2 / 2 + l1_weight ||x||_1, in double precision.

    FISTA until a step changes nothing any more; its optimality conditions are checked here.
    """
    kind = np.result_type(matrix, measurement, float)
    matrix, measurement = matrix.astype(kind), measurement.astype(kind)
    steps = itertools.islice(numpy_fista(matrix, measurement, l1_weight), 1, 20_000)
    x = np.zeros(matrix.shape[1], kind)
    for x_next in steps:
        change, x = np.max(np.abs(x_next - x)), x_next
        if change <= 1e-16 * np.max(np.abs(x)):
            break
    correlation = matrix.conj().T @ (measurement - matrix @ x)
    assert np.max(np.abs(correlation)) <= l1_weight * (1 + 1e-9)
    support = x != 0
    np.testing.assert_allclose(correlation[support], l1_weight * x[support] / np.abs(x[support]), rtol=1e-9)
    return x
