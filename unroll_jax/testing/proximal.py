"""The check of proximal operators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._checks import check_count, check_function, check_inexact
from unroll_jax._types import Array
from unroll_jax.testing._trees import check_same_kind, draw_like, is_finite, key_or_default, norm, tolerance_for, vdot


def check_prox(
    prox: Callable[[Array, Any], Array],
    value: Callable[[Array, Any], Array],
    x: Array,
    strength: Array | float,
    *,
    is_convex: bool = True,
    num_neighbours: int = 100,
    key: Array | None = None,
    tolerance: float | None = None,
) -> None:
    """Raise unless `prox(x, strength)` is where value(z, strength) + ||z - x||^2 / 2 is least, as far as draws show.

    No random neighbour may have a lower objective, nor any point toward `x` or toward the `prox` of other points. For a
    convex function, x - prox(x) must even be a subgradient there, and `prox` firmly non-expansive. Gradients must be
    finite at `x` and at zero. In double precision smaller faults show.

    Args:
        prox: `(x, strength) -> z`.
        value: `(z, strength) -> ()`, strength times the function, infinite off a set; such as `prox.l1_value`.
        x: where to check, better with entries on both sides of every kink.
        strength: as `prox` takes it.
        is_convex: False leaves out what only convex functions promise.
        num_neighbours: how many are drawn, for each of four distances.
        key: for the draws; `jax.random.key(0)` if None.
        tolerance: of objectives, relative to their size; by default 1e-5 in single and 1e-10 in double precision.

    Raises:
        AssertionError: if any of this does not hold, or `prox` changes the shape or the type of `x`.
        ValueError: for what is no function, or no array.

    >>> from unroll_jax.prox import l1, l1_value
    >>> check_prox(l1, l1_value, jnp.array([-2.0, 0.5, 0.0]), 1.0)
    """
    check_function("prox", prox, "prox(x, strength)")
    check_function("value", value, "value(z, strength)")
    check_inexact("x", x)
    check_count("num_neighbours", num_neighbours)
    x = jnp.asarray(x)
    tolerance = tolerance_for(tolerance, x, 1e-5, 1e-10)
    z = prox(x, strength)
    check_same_kind("prox(x, strength)", z, "`x`", x)

    lowest = float(value(z, strength))
    if not np.isfinite(lowest):
        raise AssertionError(
            f"`value` is {lowest} at prox(x, strength): it must be finite there, in the set if it is that of one."
        )

    def excess(step: Array) -> Array:
        # for convex functions x - z is a subgradient at z, which is more than to be the best
        linear = jnp.sum(jnp.real(jnp.conj(x - z) * step))
        square = 0 if is_convex else jnp.sum(jnp.real(step * jnp.conj(step))) / 2
        return value(z + step, strength) - lowest - linear + square

    @jax.jit
    def explore(key: Array) -> tuple[Array, Array, Array, Array]:
        size = 1 + jnp.sqrt(jnp.mean(jnp.abs(x) ** 2))
        draws = jax.vmap(lambda key: size * draw_like(key, x))(jax.random.split(key, 8 + num_neighbours))
        others = x[None] + draws[:8]
        images = jax.vmap(lambda other: prox(other, strength))(others)
        # one entry moved to `x` or to zero: where a function counts entries, all others would cost
        entries = jax.random.randint(key, (num_neighbours,), 0, max(x.size, 1))
        masks = jax.nn.one_hot(entries, x.size, dtype=x.dtype).reshape(num_neighbours, *x.shape)
        several = jnp.stack([x - z, z - x, z, -z])
        directions = jnp.concatenate([draws[8:], images - z[None], several, masks * (x - z)[None], -masks * z[None]])
        values = jax.vmap(lambda d: jax.vmap(lambda step: excess(d * step))(directions))(distances)
        return others, images, directions, values

    distances = jnp.asarray([1e-3, 1e-2, 0.1, 1.0], jnp.finfo(x.dtype).dtype)
    others, images, directions, values = explore(key_or_default(key))
    values = np.asarray(values)
    if np.any(np.isnan(values)):
        raise AssertionError("`value` is NaN near prox(x, strength): where a function is not defined, it is infinite.")
    if np.any(values < -tolerance * (abs(lowest) + norm(x) ** 2 + 1)):
        distance, index = np.unravel_index(np.argmin(values), values.shape)
        away = float(distances[distance]) * norm(directions[index])
        what = "value(y) - <x - prox(x), y>" if is_convex else "the objective"
        raise AssertionError(
            f"`prox` does not give the minimizer for `value`: {away:.3g} from it, {what} is lower by "
            f"{-values[distance, index]:.3g}. Is the strength in both, and is it that of `value`?"
        )
    if is_convex:
        moved, apart = images - z[None], others - x[None]
        numbers = [norm(m) ** 2 - vdot(m, a).real for m, a in zip(moved, apart, strict=True)]
        worst = int(np.argmax(numbers))
        if not numbers[worst] <= tolerance * (1 + norm(apart[worst]) ** 2 + norm(x) ** 2):
            raise AssertionError(
                "`prox` is not firmly non-expansive, which it is for a convex function: for some y the number "
                f"||prox(x) - prox(y)||^2 - <prox(x) - prox(y), x - y> is {numbers[worst]:.3g}, and must be at most 0. "
                "Pass is_convex=False for another function."
            )
    gradient_at = jax.jit(jax.grad(lambda p: jnp.sum(jnp.abs(prox(p, strength) - 0.1) ** 2)))
    for name, point in (("`x`", x), ("zero", jnp.zeros_like(x))):
        gradient = gradient_at(point)
        if not is_finite(gradient):
            raise AssertionError(f"the gradient of `prox` at {name} is not finite: {gradient}.")
