"""Linear operators: registered pytrees with `operator(x)` and `operator.adjoint(y)`, for one example."""

from unroll_jax.operators.algebra import Adjoint as Adjoint
from unroll_jax.operators.algebra import Composed as Composed
from unroll_jax.operators.algebra import adjoint as adjoint
from unroll_jax.operators.algebra import compose as compose
from unroll_jax.operators.matrix import Dense as Dense
from unroll_jax.operators.matrix import Diagonal as Diagonal
from unroll_jax.operators.norms import operator_norm as operator_norm
