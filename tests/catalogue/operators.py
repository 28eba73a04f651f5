"""Matrices, diagonals, and operators made of operators."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import draw

from catalogue.rows import OperatorRow, Size
from unroll_jax import operators
from unroll_jax._types import LinearOperator

MATRIX_SIZES = ((3, 5), (5, 3), (1, 4))
ARRAY_SIZES = ((4,), (3, 5), (2, 3, 2))


def _dense(rng: np.random.Generator, size: Size, dtype: str) -> operators.Dense:
    return operators.Dense(draw(rng, size, dtype))


def _factored(rng: np.random.Generator, size: Size, dtype: str) -> operators.Dense:
    return operators.factored(draw(rng, size, dtype))


def _diagonal(rng: np.random.Generator, size: Size, dtype: str) -> operators.Diagonal:
    return operators.Diagonal(draw(rng, size, dtype))


def _mask(rng: np.random.Generator, size: Size, dtype: str) -> operators.Diagonal:
    # a mask is real, whatever it is applied to
    return operators.Diagonal(jnp.asarray(rng.random(size) < 0.5, np.finfo(dtype).dtype))


def _masked_dense(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.compose(_diagonal(rng, size[:1], dtype), _dense(rng, size, dtype))


def _gram_like(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    left = operators.adjoint(_dense(rng, size, dtype))
    return operators.compose(left, _diagonal(rng, size[:1], dtype), _dense(rng, size, dtype))


def _sum(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.add(_dense(rng, size, dtype), _masked_dense(rng, size, dtype))


def _stacked(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.stack(_dense(rng, size, dtype), operators.Diagonal(draw(rng, size[1:], dtype)))


def _scaled(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.scale(_dense(rng, size, dtype), draw(rng, (), dtype))


def _of_a_function(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    return operators.from_function(_two_parts, _takes_two(size, dtype), {"matrix": draw(rng, size, dtype)})


def _two_parts(params: Any, x: Any) -> Any:
    product = params["matrix"] @ x["vector"]
    return product + x["number"], jnp.cumsum(product)


def _of_a_function_alone(rng: np.random.Generator, size: Size, dtype: str) -> LinearOperator:
    del rng
    return operators.from_function(jnp.flip, _takes_all(size, dtype))


def _takes_two(size: Size, dtype: str) -> Any:
    return {"vector": _takes_last(size, dtype), "number": jax.ShapeDtypeStruct((), jnp.dtype(dtype))}


def _takes_last(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size[1:], jnp.dtype(dtype))


def _takes_first(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size[:1], jnp.dtype(dtype))


def _takes_all(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size, jnp.dtype(dtype))


OPERATORS = (
    OperatorRow("Dense", MATRIX_SIZES, _dense, _takes_last),
    OperatorRow("FactoredDense", MATRIX_SIZES, _factored, _takes_last),
    OperatorRow("Diagonal", ARRAY_SIZES, _diagonal, _takes_all),
    OperatorRow("Diagonal as a mask", ARRAY_SIZES, _mask, _takes_all),
    OperatorRow("Composed of two", MATRIX_SIZES, _masked_dense, _takes_last),
    OperatorRow("Composed of three", MATRIX_SIZES, _gram_like, _takes_last),
    OperatorRow("Sum", MATRIX_SIZES, _sum, _takes_last),
    OperatorRow("Stacked", MATRIX_SIZES, _stacked, _takes_last),
    OperatorRow("Scaled", MATRIX_SIZES, _scaled, _takes_last),
    OperatorRow("Identity", ARRAY_SIZES, lambda *_: operators.Identity(), _takes_all),
    OperatorRow("Function with params", MATRIX_SIZES, _of_a_function, _takes_two),
    OperatorRow("Function without params", ARRAY_SIZES, _of_a_function_alone, _takes_all),
    OperatorRow("Adjoint of Dense", MATRIX_SIZES, lambda *a: operators.adjoint(_dense(*a)), _takes_first),
    OperatorRow("Adjoint of FactoredDense", MATRIX_SIZES, lambda *a: operators.adjoint(_factored(*a)), _takes_first),
    OperatorRow("Adjoint of Composed", MATRIX_SIZES, lambda *a: operators.adjoint(_masked_dense(*a)), _takes_first),
    OperatorRow("Adjoint of Scaled", MATRIX_SIZES, lambda *a: operators.adjoint(_scaled(*a)), _takes_first),
)
