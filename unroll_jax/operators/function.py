"""Operators given by a linear function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_function, check_inexact, check_vanishes
from unroll_jax._types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A linear function as an operator; `from_function` makes it.

    Attributes:
        function: `(params, x) -> y`, linear in `x`.
        params: the arrays of the function, a pytree: leaves of the operator.
        takes: what `x` is: the structure of the pytree, and the `(shape, dtype)` of its leaves.
    """

    function: Callable[[PyTree, PyTree], PyTree] = dataclasses.field(metadata={"static": True})
    params: PyTree
    takes: tuple[Any, tuple[tuple[tuple[int, ...], Any], ...]] = dataclasses.field(metadata={"static": True})

    def __call__(self, x: PyTree) -> PyTree:
        """The function of `x`."""
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (x, self._like)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`x` must have the shape {shapes[1]} of the `like` that the operator was made for, got {shapes[0]}. "
                "Take batches by jax.vmap."
            )
        return self.function(self.params, x)

    def adjoint(self, y: PyTree) -> PyTree:
        """The conjugate transpose applied to `y`: the shape and the types of `like`."""
        apply, like = (lambda x: self.function(self.params, x)), self._like
        returns = jax.eval_shape(apply, like)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (y, returns)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"`y` must have the shape {shapes[1]} of what the function returns, got {shapes[0]}.")
        # the plain transpose between two conjugations; of a real `x` it is the real part
        cotangent = jax.tree.map(_conjugate_of_type, y, returns)
        (x,) = jax.linear_transpose(apply, like)(cotangent)
        return jax.tree.map(jnp.conj, x)

    @property
    def _like(self) -> PyTree:
        structure, leaves = self.takes
        return structure.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])


def from_function(function: Callable[..., PyTree], like: PyTree, params: PyTree = None) -> Function:
    """The operator of a linear function, with the adjoint that JAX derives from it.

    Derivatives, `jax.vmap` and new values reach the arrays in `params`, which are leaves of the operator. Arrays that
    the function closes over are constants of it. An operator with another function is traced anew: define a function
    once, not in a loop.

    Args:
        function: `(params, x) -> y`, or `x -> y` without `params`; linear in `x`, made of operations of JAX.
        like: what the operator takes, as arrays or `jax.ShapeDtypeStruct`. The adjoint returns its types: for real
            ones the real part, which is the adjoint for real images.
        params: a pytree of arrays.

    Raises:
        ValueError: for what is no function, a `like` of integers, or a function that is not linear in `x` as far as JAX
            can tell, or not zero at zero.

    >>> blur = from_function(lambda kernel, x: jnp.convolve(x, kernel), jnp.zeros(3), jnp.array([1.0, 2.0]))
    >>> blur(jnp.array([1.0, 0.0, 0.0])), blur.adjoint(jnp.array([1.0, 1.0, 0.0, 0.0]))
    (Array([1., 2., 0., 0.], dtype=float32), Array([3., 1., 0.], dtype=float32))
    """
    check_function("function", function, "lambda params, x: params * x")
    check_inexact("like", like, "an array or jax.ShapeDtypeStruct")
    leaves, structure = jax.tree.flatten(like)
    takes = (structure, tuple((tuple(leaf.shape), jnp.dtype(leaf.dtype)) for leaf in leaves))
    operator = Function(_without_params(function) if params is None else function, params, takes)
    _check_linear(operator)
    return operator


@dataclasses.dataclass(frozen=True)
class _without_params:  # noqa: N801
    """`function` with parameters that it does not take; equal for equal functions, so that nothing is traced anew."""

    function: Callable[[PyTree], PyTree]

    def __call__(self, params: PyTree, x: PyTree) -> PyTree:
        return self.function(x)


def _check_linear(operator: Function) -> None:
    def there_and_back(x: PyTree) -> PyTree:
        y = operator(x)
        return y, operator.adjoint(y)

    try:
        jax.eval_shape(there_and_back, operator._like)
    except NotImplementedError as error:
        raise ValueError(
            f"`function` must be linear in `x`, so that JAX can transpose it, which failed: {error} "
            "Write an operator with `__call__` and `adjoint` where the function is linear all the same."
        ) from error
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), operator._like)
    check_vanishes("function(zero)", lambda: operator(zero))


def _conjugate_of_type(y: Any, returns: jax.ShapeDtypeStruct) -> Any:
    if jnp.iscomplexobj(y) and not jnp.issubdtype(returns.dtype, jnp.complexfloating):
        raise ValueError(
            f"`y` must be real, of type {returns.dtype} as the function returns, got {y.dtype}. "
            "Give a complex `like` to `from_function` for complex images."
        )
    return jnp.conj(jnp.asarray(y, returns.dtype))
