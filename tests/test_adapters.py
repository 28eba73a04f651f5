import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROUNDING, assert_close, draw, enabled, norm, vdot

from unroll_jax import adapters
from unroll_jax.operators import Dense, Fourier, SubsampledFourier, adjoint, operator_norm, stack

MATRIX: Any = jnp.eye(2)  # no operator


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adapters.from_lineax(Dense(jnp.eye(2))), r"`operator` must have `.mv` and `.T`, got Dense"),
        (lambda: adapters.from_scico(Dense(jnp.eye(2))), r"`operator` must have `.adj` and `.__call__`, got Dense"),
        (lambda: adapters.to_lineax(MATRIX, jnp.ones(2)), "`operator` must be a linear operator"),
        (lambda: adapters.to_scico(Dense(jnp.eye(2)), jnp.ones(2, int)), "`like` must be an array of a floating"),
    ],
)
def test_misuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_the_other_library_its_name_is_said(monkeypatch):
    for name, convert in (("lineax", adapters.to_lineax), ("scico", adapters.to_scico)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match=f"`to_{name}` needs {name}: pip install {name}"):
            convert(Dense(jnp.eye(2)), jnp.ones(2))


# --- lineax ---


def test_an_operator_as_one_of_lineax():
    lx = pytest.importorskip("lineax")
    rng = np.random.default_rng(0)
    matrix, x, y = draw(rng, (3, 4)), draw(rng, (4,)), draw(rng, (3,))
    other = adapters.to_lineax(Dense(matrix), x)
    assert_close(other.mv(x), matrix @ x, 1e-6)
    assert_close(other.T.mv(y), matrix.T @ y, 1e-6)
    assert other.out_structure() == jax.ShapeDtypeStruct((3,), jnp.float32)
    # a solver of lineax, against the dense solution
    solution = lx.linear_solve(adapters.to_lineax(adjoint(Dense(matrix)), y), matrix.T @ y, lx.AutoLinearSolver(None))
    np.testing.assert_allclose(solution.value, y, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
def test_an_operator_of_lineax_here(dtype):
    lx = pytest.importorskip("lineax")
    rng = np.random.default_rng(0)
    with enabled(dtype):
        matrix, x, y = draw(rng, (3, 4), dtype), draw(rng, (4,), dtype), draw(rng, (3,), dtype)
        operator = adapters.from_lineax(lx.MatrixLinearOperator(matrix))
        assert_close(operator(x), Dense(matrix)(x), ROUNDING[dtype])
        assert_close(operator.adjoint(y), Dense(matrix).adjoint(y), ROUNDING[dtype])
        again = adapters.from_lineax(adapters.to_lineax(operator, x))
        assert_close(again.adjoint(y), operator.adjoint(y), ROUNDING[dtype])
        assert jax.jit(operator_norm)(operator, x).shape == ()


def test_the_arrays_of_an_operator_of_lineax_are_leaves():
    lx = pytest.importorskip("lineax")
    matrices, x = jnp.arange(12.0).reshape(2, 2, 3), jnp.ones(3)
    batch = jax.vmap(lambda matrix: adapters.from_lineax(lx.MatrixLinearOperator(matrix)))(matrices)
    assert_close(jax.vmap(lambda operator: operator(x))(batch), jnp.sum(matrices, axis=-1), 1e-6)


# --- scico ---


@pytest.fixture
def linop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses names that a newer NumPy has no more
        return pytest.importorskip("scico.linop")


@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (lambda: Dense(jnp.arange(6.0).reshape(2, 3)), (3,), "float32"),
        (lambda: SubsampledFourier(jnp.ones((4, 5)).at[1].set(0)), (4, 5), "complex64"),
        (lambda: Fourier(is_real=True), (4, 5), "float32"),
    ],
    ids=["matrix", "resonance", "real Fourier"],
)
@pytest.mark.usefixtures("linop")
def test_an_operator_to_scico_and_back(make, shape, dtype):
    rng = np.random.default_rng(0)
    operator, x = make(), draw(rng, shape, dtype)
    other = adapters.to_scico(operator, jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)))
    image = other(x)
    y = draw(rng, image.shape, str(image.dtype))
    assert other.input_shape == shape
    assert_close(image, operator(x), 1e-6)
    assert_close(other.adj(y), operator.adjoint(y), 1e-6)
    assert_close(other.gram(x), operator.adjoint(operator(x)), 1e-6)
    back = adapters.from_scico(other)
    assert_close(jax.jit(lambda operator, y: operator.adjoint(y))(back, y), operator.adjoint(y), 1e-6)
    assert abs((vdot(back(x), y) - vdot(x, back.adjoint(y))).real) <= 1e-5 * norm(x) * norm(y)


def test_an_operator_from_scico(linop):
    matrix = draw(np.random.default_rng(0), (3, 4))
    operator = adapters.from_scico(linop.MatrixOperator(matrix))
    np.testing.assert_allclose(operator(jnp.ones(4)), np.sum(matrix, axis=1), rtol=1e-6)
    np.testing.assert_allclose(operator.adjoint(jnp.ones(3)), np.sum(matrix, axis=0), rtol=1e-6)


@pytest.mark.usefixtures("linop")
def test_scico_takes_one_array():
    two = stack(Dense(jnp.eye(2)), Dense(jnp.eye(2)))
    with pytest.raises(ValueError, match="`operator` must go from one array to one array for scico"):
        adapters.to_scico(two, jnp.ones(2))
