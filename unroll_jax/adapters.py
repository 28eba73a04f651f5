"""Linear operators of other libraries as operators here, and back.

Only `to_lineax` and `to_scico` import the other library, when they are called; this library needs neither.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_inexact, check_operator
from unroll_jax._types import Array, LinearOperator, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FromLineax:
    """An operator of lineax as one here; `from_lineax` makes it. Its arrays are leaves.

    Attributes:
        operator: the operator of lineax.
    """

    operator: Any

    def __call__(self, x: PyTree) -> PyTree:
        """The operator applied to `x`."""
        return self.operator.mv(x)

    def adjoint(self, y: PyTree) -> PyTree:
        """The conjugate transpose applied to `y`."""
        return jax.tree.map(jnp.conj, self.operator.T.mv(jax.tree.map(jnp.conj, y)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FromScico:
    """An operator of scico as one here; `from_scico` makes it. Its arrays are constants.

    Attributes:
        operator: the operator of scico.
    """

    operator: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        """The operator applied to `x`."""
        return self.operator(x)

    def adjoint(self, y: Array) -> Array:
        """The conjugate transpose applied to `y`."""
        return self.operator.adj(y)


def to_lineax(operator: LinearOperator, like: PyTree) -> Any:
    """`operator` as a `lineax.FunctionLinearOperator`, for the solvers of lineax; its arrays are leaves there too.

    lineax takes its transpose from JAX, which is the adjoint here up to conjugation.

    Args:
        operator: a linear operator.
        like: what it takes, arrays or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: for what is no operator, or a `like` of integers.
        ModuleNotFoundError: if lineax is missing.
    """
    check_operator("operator", operator)
    check_inexact("like", like)
    try:
        import lineax  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("`to_lineax` needs lineax: pip install lineax.") from error
    return lineax.FunctionLinearOperator(operator, _structure(like))


def from_lineax(operator: Any) -> FromLineax:
    """An operator of lineax as one here, whose arrays are leaves: mapped, differentiated and replaced as any others.

    Raises:
        ValueError: for what has no `mv` and `T`.
    """
    check_attributes("operator", operator, ("mv", "T"), "an operator of lineax, such as MatrixLinearOperator")
    return FromLineax(operator)


def to_scico(operator: LinearOperator, like: Array | jax.ShapeDtypeStruct) -> Any:
    """`operator` as a `scico.linop.LinearOperator`, for the functionals and solvers of scico.

    scico 0.0.7 asks for JAX up to 0.8.1, older than this library needs; installed without its dependencies
    (`pip install --no-deps scico`), it works with JAX 0.10.2 here, and warns once when it is imported.

    Args:
        operator: a linear operator from one array to one array.
        like: what it takes, an array or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: for what is no operator, and for a `like` of integers or of several arrays.
        ModuleNotFoundError: if scico is missing.
    """
    check_operator("operator", operator)
    check_inexact("like", like)
    try:
        from scico.linop import LinearOperator as ScicoOperator  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("`to_scico` needs scico: pip install scico.") from error
    output = jax.eval_shape(operator, like)
    if len(jax.tree.leaves((like, output))) != 2:
        raise ValueError(
            "`operator` must go from one array to one array for scico, got one from "
            f"{jax.tree.map(jnp.shape, like)} to {jax.tree.map(jnp.shape, output)}."
        )
    return ScicoOperator(
        input_shape=like.shape,
        output_shape=output.shape,
        eval_fn=operator,
        adj_fn=operator.adjoint,
        input_dtype=like.dtype,
        output_dtype=output.dtype,
    )


def from_scico(operator: Any) -> FromScico:
    """An operator of scico as one here. Its arrays are constants: another operator is traced anew.

    Raises:
        ValueError: for what has no `adj` and cannot be called.
    """
    check_attributes("operator", operator, ("adj", "__call__"), "an operator of scico, such as scico.linop.FFT")
    return FromScico(operator)


def _structure(like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
