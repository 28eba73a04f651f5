"""Adam for the coefficients of splines whose slopes are kept in a box."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class SplineAdamState(NamedTuple):
    """State of `scale_by_spline_adam`.

    Attributes:
        count: `()`, the updates made.
        mean: the running mean of the gradients; their shapes.
        square: the running mean of their squares, `(..., 1)`: one for every spline.
    """

    count: jax.Array
    mean: Any
    square: Any


def scale_by_spline_adam(decay: float = 0.9, square_decay: float = 0.999) -> optax.GradientTransformation:
    """Adam with one second moment for every spline, the mean over its knots, in place of one for every knot.

    Followed by the projection onto a slope box, this is a projected gradient method, whose fixed points are those of
    the problem. With a second moment for every knot it is not: where many knots lie on a flat part, its level would
    follow the majority of their signs, most of them of knots far out that hardly any number reaches, and not the sum of
    their gradients. Then training makes splines worse.

    Args:
        decay: of the mean.
        square_decay: of the second moment.

    Leaves have shape `(..., num_knots)`.

    >>> optimizer = scale_by_spline_adam()
    >>> updates, _ = optimizer.update(jnp.array([3.0, 0.0, 4.0, 0.0]), optimizer.init(jnp.zeros(4)))
    >>> [round(float(update), 3) for update in updates]
    [1.2, 0.0, 1.6, 0.0]
    """

    def init(params: Any) -> SplineAdamState:
        square = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[..., :1]), params)
        return SplineAdamState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), square)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, SplineAdamState]:
        del params
        count = state.count + 1

        def averaged(old: jax.Array, new: jax.Array, rate: float) -> jax.Array:
            return rate * old + (1 - rate) * new

        def scaled(mean: jax.Array, square: jax.Array) -> jax.Array:
            mean, square = mean / (1 - decay**count), square / (1 - square_decay**count)
            size = jnp.sqrt(square)
            return mean / jnp.where(size == 0, 1, size)  # no gradient, no update

        mean = jax.tree.map(lambda old, new: averaged(old, new, decay), state.mean, updates)
        square = jax.tree.map(
            lambda old, new: averaged(old, jnp.mean(new**2, axis=-1, keepdims=True), square_decay),
            state.square,
            updates,
        )
        return jax.tree.map(scaled, mean, square), SplineAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)
