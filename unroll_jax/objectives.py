"""Objectives as pytrees that carry one problem's data: value, gradient, and a gap where one is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_adjoint_shape, check_non_negative, check_operator
from unroll_jax._tree import tree_add_scaled, tree_real_vdot, tree_sub
from unroll_jax._types import Array, Estimate, LinearOperator
from unroll_jax.operators import gram_resolvent


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """The data term ||operator(x) - measurement||^2 / 2 of one problem.

    Attributes:
        operator: a linear operator, the measurement's model.
        measurement: what was measured; the shape of `operator(x)`.

    >>> from unroll_jax.operators import Dense
    >>> objective = LeastSquares(Dense(jnp.eye(2)), jnp.array([3.0, 4.0]))
    >>> objective.value(jnp.zeros(2)), objective.gradient(jnp.zeros(2))
    (Array(12.5, dtype=float32), Array([-3., -4.], dtype=float32))
    """

    operator: LinearOperator
    measurement: Any

    def value(self, x: Estimate) -> Array:
        """The objective at `x`: `()`."""
        residual = self.residual(x)
        return tree_real_vdot(residual, residual) / 2

    def gradient(self, x: Estimate) -> Estimate:
        """A*(A x - measurement), the gradient at `x`: the shape of `x`."""
        gradient = self.operator.adjoint(self.residual(x))
        check_adjoint_shape(x, gradient)
        return gradient

    def prox(self, x: Estimate, strength: Array | float, *, tolerance: float = 1e-6, max_steps: int = 1000) -> Estimate:
        """The minimizer over z of  strength * ||A z - measurement||^2 / 2 + ||z - x||^2 / 2: the shape of `x`.

        It is  x - strength (I + strength A* A)^-1 gradient(x), so whatever error `operators.gram_resolvent` makes, by
        conjugate gradients where no closed form is known, is relative to a gradient that vanishes at the minimizer of
        the data term. For a matrix that is met in every iteration take the operator `operators.factored(matrix)`.

        Args:
            x: what the operator takes.
            strength: `()`, non-negative; the unit of 1 / ||A||^2.
            tolerance: see `operators.gram_resolvent`.
            max_steps: see `operators.gram_resolvent`.

        >>> from unroll_jax.operators import Diagonal
        >>> LeastSquares(Diagonal(jnp.ones(2)), jnp.array([3.0, 4.0])).prox(jnp.zeros(2), 1.0)
        Array([1.5, 2. ], dtype=float32)
        """
        step = gram_resolvent(self.operator, self.gradient(x), strength, tolerance=tolerance, max_steps=max_steps)
        return tree_add_scaled(x, -jnp.asarray(strength), step)

    def residual(self, x: Estimate) -> Any:
        """operator(x) - measurement: the shape of the measurement."""
        return tree_sub(_predicted(self.operator, x, self.measurement), self.measurement)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Lasso:
    """The objective ||operator(x) - measurement||^2 / 2 + l1_weight * ||x||_1 of one problem.

    Attributes:
        operator: a linear operator from vectors to vectors, the measurement's model.
        measurement: what was measured; the shape of `operator(x)`.
        l1_weight: `()`, the unit of operator.adjoint(measurement), positive.

    >>> from unroll_jax.operators import Dense
    >>> lasso = Lasso(Dense(jnp.eye(2)), jnp.array([3.0, 0.5]), l1_weight=1.0)
    >>> lasso.value(jnp.array([2.0, 0.0])), lasso.duality_gap(jnp.array([2.0, 0.0]))
    (Array(2.625, dtype=float32), Array(0., dtype=float32))
    """

    operator: LinearOperator
    measurement: Array
    l1_weight: Array | float

    @property
    def least_squares(self) -> LeastSquares:
        """The smooth part, ||operator(x) - measurement||^2 / 2."""
        return LeastSquares(self.operator, self.measurement)

    def value(self, x: Array) -> Array:
        """The objective at `x`: `()`."""
        if jnp.shape(self.l1_weight) != ():
            raise ValueError(
                f"`l1_weight` must have shape (), got {jnp.shape(self.l1_weight)}: one weight for all entries. "
                "Scale the operator's columns for weights of their own."
            )
        check_non_negative("l1_weight", self.l1_weight)
        return self.least_squares.value(x) + self.l1_weight * jnp.sum(jnp.abs(x))

    def gradient(self, x: Array) -> Array:
        """The gradient **of the smooth part** at `x`, as proximal methods take it: the shape of `x`."""
        return self.least_squares.gradient(x)

    def duality_gap(self, x: Array) -> Array:
        """An upper bound of value(x) - minimum, zero at the minimizer: `()`.

        With the residual r = b - A x, the point u = s r, s = min(1, l1_weight / ||A* r||_inf), is feasible for
        the dual problem, whose value there is ||b||^2 / 2 - ||b - u||^2 / 2 (Boyd and Vandenberghe, section 5.2).
        In floating point the gap is not known below about one rounding error of ||b||^2.
        """
        residual = -self.least_squares.residual(x)
        correlation = jnp.max(jnp.abs(self.operator.adjoint(residual)))
        scale = jnp.minimum(1, self.l1_weight / jnp.where(correlation == 0, 1, correlation))
        dual_point = scale.astype(residual.dtype) * residual
        # ||b||^2 / 2 - ||b - u||^2 / 2 = <u, b> - ||u||^2 / 2, without the cancellation
        dual_value = tree_real_vdot(dual_point, tree_add_scaled(self.measurement, -0.5, dual_point))
        return jnp.maximum(self.value(x) - dual_value, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Poisson:
    """The negative log-likelihood of counts b with the mean m = operator(x) + background, up to a constant.

    It is the Kullback-Leibler divergence sum_i (m_i - b_i + b_i log(b_i / m_i)), which is 0 where m = b, and infinite
    where something was counted that cannot be expected. Its gradient is not Lipschitz continuous near m = 0, which a
    positive background keeps away: then its Lipschitz constant is at most ||A||^2 max(b / background^2).

    Attributes:
        operator: a linear operator without negative entries, the measurement's model.
        measurement: the counts, non-negative; the shape of `operator(x)`.
        background: what is expected without a signal, non-negative; the shape of the measurement, or None for nothing.

    >>> from unroll_jax.operators import Dense
    >>> objective = Poisson(Dense(jnp.eye(2)), jnp.array([3.0, 0.0]))
    >>> objective.value(jnp.array([3.0, 1.0])), objective.gradient(jnp.array([1.0, 1.0]))
    (Array(1., dtype=float32), Array([-2.,  1.], dtype=float32))
    """

    operator: LinearOperator
    measurement: Any
    background: Any = None

    def value(self, x: Estimate) -> Array:
        """The objective at `x`: `()`."""

        def divergence(count: Array, mean: Array) -> Array:
            is_counted = count > 0
            # the inner `where` keeps what is infinite out of the gradient
            ratio = jnp.where(is_counted, count, 1) / jnp.where(is_counted & (mean > 0), mean, 1)
            terms = mean - count + jnp.where(is_counted, count * jnp.log(ratio), 0)
            return jnp.sum(jnp.where((mean < 0) | (is_counted & (mean <= 0)), jnp.inf, terms))

        return jax.tree.reduce(jnp.add, jax.tree.map(divergence, self.measurement, self.expected(x)))

    def gradient(self, x: Estimate) -> Estimate:
        """A*(1 - measurement / mean), the gradient at `x`: the shape of `x`."""

        def slope(count: Array, mean: Array) -> Array:
            return 1 - jnp.where(mean > 0, count / jnp.where(mean > 0, mean, 1), 0)

        return self.operator.adjoint(jax.tree.map(slope, self.measurement, self.expected(x)))

    def expected(self, x: Estimate) -> Any:
        """operator(x) + background, the mean of the counts: the shape of the measurement."""
        mean = _predicted(self.operator, x, self.measurement)
        return mean if self.background is None else jax.tree.map(jnp.add, mean, self.background)


def _predicted(operator: LinearOperator, x: Estimate, measurement: Any) -> Any:
    """operator(x), which must have the shape of what was measured."""
    check_operator("operator", operator)
    predicted = operator(x)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (predicted, measurement)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`measurement` must have the shape of operator(x), {shapes[0]}, got {shapes[1]}. "
            "Pass one problem per call and take batches by jax.vmap."
        )
    return predicted
