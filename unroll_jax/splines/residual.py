"""Invertible residual blocks, and the Lipschitz constants of what they are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_count, check_function, check_positive
from unroll_jax._types import Array
from unroll_jax.splines._interpolation import wide
from unroll_jax.splines.modules import _static


class Inverse(NamedTuple):
    """What `ResidualBlock.inverse` found.

    Attributes:
        x: the shape of `y`.
        num_steps: `()`, the iterations made.
        error: `()`, an upper bound of the distance of `x` from the inverse, up to rounding (Banach).
    """

    x: Array
    num_steps: Array
    error: Array


class ResidualBlock(nnx.Module):
    """An invertible residual block, y = (x + g(x)) / (1 + c) with Lip(g) <= c < 1, which is 1-Lipschitz too.

    g = c branch / L with L = `lipschitz_bound(branch)`. The inverse solves x = (1 + c) y - g(x) by iteration, whose
    error falls by the factor c in every step; it is (1 + c) / (1 - c) Lipschitz (Behrmann et al. 2019,
    arXiv 1811.00995, who leave out the division by 1 + c: `is_nonexpansive=False`).

    Args:
        branch: a module from arrays to arrays of the same shape, made of the layers here, `LinearSpline` and
            `nnx.Sequential`, or one that has an attribute `lipschitz`.
        contraction: c, in (0, 1).
        is_nonexpansive: whether to divide by 1 + c.

    Raises:
        ValueError: if `contraction` is not in (0, 1), or no bound of `branch` is known, or it is infinite; when called,
            if the branch changes the shape.

    >>> from unroll_jax.splines import OrthonormalLinear
    >>> block = ResidualBlock(OrthonormalLinear(2, 2, rngs=nnx.Rngs(0)), 0.5)
    >>> block.inverse(block(jnp.array([1.0, 2.0]))).x.round(3)
    Array([1., 2.], dtype=float32)
    """

    def __init__(self, branch: Callable[[Array], Array], contraction: float = 0.9, *, is_nonexpansive: bool = True):
        contraction = _static("contraction", contraction)
        if not (isinstance(contraction, float) and 0 < contraction < 1):
            raise ValueError(
                f"`contraction` must lie in (0, 1), got {contraction}: with 1 or more there need not be any inverse."
            )
        check_function("branch", branch, "nnx.Sequential(LipschitzLinear(4, 4, rngs=rngs), LinearSpline(grid, 4))")
        bound = lipschitz_bound(branch)
        if not 0 < bound < float("inf"):
            raise ValueError(f"`branch` must have a Lipschitz constant that is positive and finite, got {bound}.")
        self.branch = branch
        self.contraction: float = contraction
        self.is_nonexpansive = is_nonexpansive

    @property
    def lipschitz(self) -> float:
        """The Lipschitz constant of the block, 1, or 1 + c without the division."""
        return 1.0 if self.is_nonexpansive else 1 + self.contraction

    def __call__(self, x: Array) -> Array:
        """y, of the shape of `x`."""
        return (x + self._contracted(x)) / self._divisor

    def inverse(self, y: Array, *, tolerance: float = 1e-5, max_steps: int = 1000) -> Inverse:
        """The x whose image under the block is `y`.

        Stops where the error is known to be at most `tolerance` times the norm of x. Differentiable in `y` and in the
        parameters, forward and backward, by the implicit function theorem: nothing is kept of the iterations. `y`
        counts as one vector; map over examples by `jax.vmap`, and each stops on its own.

        Args:
            y: as the block takes x.
            tolerance: positive, relative; in single precision not below about 1e-6 / (1 - c).
            max_steps: of the iteration.

        Raises:
            ValueError: if `tolerance` is not positive, or `max_steps` below 1.
        """
        check_positive("tolerance", tolerance)
        check_count("max_steps", max_steps)
        c = self.contraction
        scaled = self._divisor * jnp.asarray(y)

        def solve(apply: Callable[[Array], Array], b: Array) -> tuple[Array, Array, Array]:
            """The x with x + apply(x) = b."""

            def is_open(carry: tuple[Array, Array, Array]) -> Array:
                x, step, error = carry
                return (step < max_steps) & ~(error <= tolerance * _norm(x))

            def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                x, step, _ = carry
                x_next = b - apply(x)
                return x_next, step + 1, c / (1 - c) * _norm(x_next - x)

            start = b, jnp.zeros((), jnp.int32), jnp.full_like(_norm(b), jnp.inf)
            return jax.lax.while_loop(is_open, iterate, start)

        def solve_linear(matvec: Callable[[Array], Array], b: Array) -> Array:
            return solve(lambda x: matvec(x) - x, b)[0]

        def tangent_solve(matvec: Callable[[Array], Array], b: Array) -> Array:
            return jax.lax.custom_linear_solve(matvec, b, solve_linear, transpose_solve=solve_linear)

        def solve_root(_: Any, start: Array) -> tuple[Array, tuple[Array, Array]]:
            x, num_steps, error = solve(self._contracted, start)
            return x, (num_steps.astype(error.dtype), error)

        x, (num_steps, error) = jax.lax.custom_root(
            lambda x: x + self._contracted(x) - scaled, scaled, solve_root, tangent_solve, has_aux=True
        )
        return Inverse(x, num_steps.astype(jnp.int32), error)

    @property
    def _divisor(self) -> float:
        return 1 + self.contraction if self.is_nonexpansive else 1.0

    def _contracted(self, x: Array) -> Array:
        value = self.branch(x)
        if value.shape != x.shape:
            raise ValueError(f"`branch` must keep the shape of its input, {x.shape}, but it returned {value.shape}.")
        return self.contraction / lipschitz_bound(self.branch) * value


def lipschitz_bound(module: Any) -> float:
    """An upper bound of the Lipschitz constant of `module`, known from its structure alone.

    The attribute `lipschitz` where there is one, and the product over the layers of an `nnx.Sequential`.

    Args:
        module: a layer from here, a `LinearSpline`, an `nnx.Sequential` of such, or any other one with `lipschitz`.

    Raises:
        ValueError: for what has no known bound.

    >>> from unroll_jax.splines import LipschitzLinear
    >>> lipschitz_bound(nnx.Sequential(LipschitzLinear(2, 2, lipschitz=3.0, rngs=nnx.Rngs(0)), jax.nn.relu))
    3.0
    """
    if isinstance(module, nnx.Sequential):
        bound = 1.0
        for layer in module.layers:
            bound *= lipschitz_bound(layer)
        return bound
    if any(module is function for function in _NONEXPANSIVE):
        return 1.0
    bound = getattr(module, "lipschitz", None)
    if bound is None:
        raise ValueError(
            f"No Lipschitz constant of {type(module).__name__} is known. Give it an attribute `lipschitz`, or build it "
            "of LipschitzLinear, OrthonormalLinear, LipschitzConv, LinearSpline, ResidualBlock and nnx.Sequential."
        )
    return float(bound)


_NONEXPANSIVE = (jax.nn.relu, jnp.abs, jnp.tanh)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x.astype(wide(x.dtype)) ** 2))
