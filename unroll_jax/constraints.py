"""Descent constraints: what every layer must achieve, per example, and how a batch of examples is judged.

A *measure* says how far one estimate is from where it should be. `descent` turns it into a *constraint*: one
violation per layer for one example, `<= 0` where satisfied. A statistic then turns the violations of a batch into
one number per layer, which `primal_dual` takes: the mean (the paper's), or the tail.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_function, check_non_negative, check_positive, check_rate
from unroll_jax._tree import tree_add_scaled, tree_norm, tree_sub
from unroll_jax._types import Array, Constraint, Estimate, Example, Measure, Trajectory

_TINY = 1e-12  # keeps a ratio finite where the measure has reached zero


def distance_to(target: Callable[[Example], Estimate]) -> Measure:
    """The measure ||x - target(example)||_2, supervised by a known solution.

    >>> measure = distance_to(lambda example: example["x"])
    >>> measure(jnp.array([3.0, 4.0]), {"x": jnp.zeros(2)})
    Array(5., dtype=float32)
    """
    check_function("target", target, 'lambda example: example["x"]')

    def measure(estimate: Estimate, example: Example) -> Array:
        wanted = target(example)
        _check_alike("target", wanted, estimate)
        return tree_norm(tree_sub(estimate, wanted))

    return measure


def gradient_norm(gradient: Callable[[Estimate, Example], Estimate]) -> Measure:
    """The measure ||gradient(x, example)||_2, for smooth objectives; no known solution is needed.

    >>> measure = gradient_norm(lambda x, problem: problem.gradient(x))  # of a LeastSquares, say
    """
    check_function("gradient", gradient, "lambda x, example: example.gradient(x)")
    return lambda estimate, example: tree_norm(gradient(estimate, example))


def prox_gradient_residual(
    gradient: Callable[[Estimate, Example], Estimate],
    prox: Callable[[Estimate, Array | float], Estimate],
    *,
    step_size: Array | float,
    strength: Array | float,
) -> Measure:
    """The measure ||x - prox(x - step_size * gradient(x), step_size * strength)|| / step_size.

    The norm of the gradient mapping: zero exactly at the minimizers of f + strength * g, where `gradient` is f's and
    `prox` is g's (Beck 2017, section 10.3). It takes the gradient norm's place where the objective has a kink.

    >>> from unroll_jax.prox import soft_threshold
    >>> measure = prox_gradient_residual(lambda x, y: x - y, soft_threshold, step_size=0.5, strength=1.0)
    >>> measure(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.5]))  # the minimizer of ||x - y||^2 / 2 + ||x||_1
    Array(0., dtype=float32)
    """
    check_function("gradient", gradient, "lambda x, example: example.gradient(x)")
    check_function("prox", prox, "prox.soft_threshold")
    check_positive("step_size", step_size)
    check_non_negative("strength", strength)

    def measure(estimate: Estimate, example: Example) -> Array:
        slope = gradient(estimate, example)
        _check_alike("gradient", slope, estimate)
        forward = tree_add_scaled(estimate, -step_size, slope)
        return tree_norm(tree_sub(estimate, prox(forward, step_size * strength))) / step_size

    return measure


def objective(value: Callable[[Estimate, Example], Array]) -> Measure:
    """The measure value(x, example): pass the objective minus its minimum, or a bound of it such as a duality gap.

    `descent` asks for a decrease in proportion to the measure itself, which means something only where 0 is best.

    >>> measure = objective(lambda x, lasso: lasso.duality_gap(x))  # an upper bound, of a Lasso
    """
    check_function("value", value, "lambda x, example: example.duality_gap(x)")
    return lambda estimate, example: value(estimate, example)


def measure_layers(measure: Measure, trajectory: Trajectory, example: Example) -> Array:
    """`measure` at every estimate of one trajectory: `(num_layers + 1,)`, the start first.

    >>> measure = distance_to(lambda example: example)
    >>> measure_layers(measure, jnp.array([[4.0], [2.0], [1.0]]), jnp.zeros(1))
    Array([4., 2., 1.], dtype=float32)
    """
    return jax.vmap(measure, in_axes=(0, None))(trajectory, example)


def descent(
    measure: Measure,
    rate: float,
    *,
    form: Literal["difference", "ratio"] = "difference",
    stop_gradient_previous: bool = False,
) -> Constraint:
    """The constraint that every layer lowers `measure` by the factor 1 - rate.

    With m[l] the measure after layer l, the violation of layer l + 1 is (arXiv 2312.15788)

    - "difference": m[l + 1] - (1 - rate) * m[l]; well behaved everywhere, its mean over a batch is the paper's;
    - "ratio": m[l + 1] / m[l] - (1 - rate); scale free, as the published code has it, and unbounded near a
      solution, where m[l] vanishes.

    For the ratio of the means over a batch, see `ratio_of_means`; for a measure taken while the layers run, which
    trains faster, `descent_violation`.

    Args:
        measure: `(estimate, example) -> ()`, non-negative.
        rate: the share by which each layer must lower the measure, in [0, 1).
        form: as above.
        stop_gradient_previous: take m[l] as a constant. Else a layer can also be satisfied by making the
            layer before it worse.

    Returns:
        `(trajectory (num_layers + 1, ...), example) -> violation (num_layers,)`, `<= 0` is satisfied.

    Raises:
        ValueError: for a rate outside [0, 1) or an unknown form.

    >>> constraint = descent(distance_to(lambda example: 0.0 * example), rate=0.5)
    >>> constraint(jnp.array([[4.0], [1.0], [1.0]]), jnp.zeros(1))
    Array([-1. ,  0.5], dtype=float32)
    """
    check_function("measure", measure, 'distance_to(lambda example: example["x"])')
    check_rate(rate)
    _check_form(form)

    def constraint(trajectory: Trajectory, example: Example) -> Array:
        values = measure_layers(measure, trajectory, example)
        if values.ndim != 1:
            raise ValueError(f"`measure` must return one number per estimate, got shape {values.shape[1:]}.")
        return descent_violation(values, rate, form=form, stop_gradient_previous=stop_gradient_previous)

    return constraint


def descent_violation(
    values: Array,
    rate: float,
    *,
    form: Literal["difference", "ratio"] = "difference",
    stop_gradient_previous: bool = False,
) -> Array:
    """The violation of `descent`, of a measure that was taken while the layers ran.

    On a CPU a step of LISTA under a constraint takes up to a third less time like this:
    `state, values = network.run(problem, lambda state: measure(state.x, example))`, as no estimates are stored.

    Args:
        values: `(num_layers + 1,)`, the measure along one example's trajectory.
        rate: as in `descent`.
        form: as in `descent`.
        stop_gradient_previous: as in `descent`.

    Returns:
        `(num_layers,)`, `<= 0` is satisfied.

    Raises:
        ValueError: for values of another shape, a rate outside [0, 1) or an unknown form.

    >>> descent_violation(jnp.array([4.0, 1.0, 1.0]), rate=0.5)
    Array([-1. ,  0.5], dtype=float32)
    """
    check_rate(rate)
    _check_form(form)
    if jnp.ndim(values) != 1:
        raise ValueError(
            f"`values` must be one example's, of shape (num_layers + 1,), got {jnp.shape(values)}. Take batches by "
            "jax.vmap."
        )
    previous, current = _pair(values, stop_gradient_previous)
    if form == "difference":
        return current - (1 - rate) * previous
    return current / jnp.maximum(previous, _TINY) - (1 - rate)


def ratio_of_means(values: Array, rate: float, *, stop_gradient_previous: bool = False) -> Array:
    """The batch's violation mean(m[l + 1]) / mean(m[l]) - (1 - rate): scale free, with the mean constraint's zero set.

    Args:
        values: `(batch, num_layers + 1)`, a measure along each example's trajectory (`measure_layers`).
        rate: as in `descent`.
        stop_gradient_previous: as in `descent`.

    Returns:
        `(num_layers,)`.

    >>> ratio_of_means(jnp.array([[4.0, 1.0], [2.0, 2.0]]), rate=0.25)
    Array([-0.25], dtype=float32)
    """
    check_rate(rate)
    _check_batch("values", values)
    previous, current = _pair(jnp.mean(values, axis=0), stop_gradient_previous)
    return current / jnp.maximum(previous, _TINY) - (1 - rate)


def expected_hinge(violation: Array, allowance: float = 0.0) -> Array:
    """The batch's mean of max(violation, 0), minus `allowance`: `(num_layers,)`.

    Satisfied where examples that ascend do so rarely and little; examples that descend do not make up for them, as
    they do in a mean.

    Args:
        violation: `(batch, num_layers)`, per example.
        allowance: the mean excess to be tolerated, non-negative; same unit as `violation`. At 0 every example must
            satisfy its constraint, which no multiplier settles on: leave some room.

    >>> expected_hinge(jnp.array([[-1.0], [0.5]]), allowance=0.125)
    Array([0.125], dtype=float32)
    """
    _check_batch("violation", violation)
    check_non_negative("allowance", allowance)
    return jnp.mean(jnp.maximum(violation, 0), axis=0) - allowance


def conditional_value_at_risk(violation: Array, level: float) -> Array:
    """The batch's mean over the worst share 1 - level of examples, layer by layer: `(num_layers,)`.

    Satisfied (`<= 0`) only if more than a share `level` of the batch satisfies its constraint: the conditional value at
    risk is never below the quantile (Rockafellar and Uryasev 2000). At level 0 it is the mean.

    Args:
        violation: `(batch, num_layers)`, per example.
        level: in [0, 1).

    >>> conditional_value_at_risk(jnp.array([[-4.0], [-1.0], [0.0], [1.0]]), level=0.5)
    Array([0.5], dtype=float32)
    """
    _check_batch("violation", violation)
    if not 0 <= level < 1:
        raise ValueError(f"`level` must lie in [0, 1), got {level}: 0.95 takes the worst 5 %.")
    batch_size = violation.shape[0]
    # the whole examples of the tail count fully, the one on its edge in part
    weights = jnp.clip((1 - level) * batch_size - jnp.arange(batch_size), 0, 1).astype(violation.dtype)
    worst_first = -jnp.sort(-violation, axis=0)
    return weights @ worst_first / jnp.sum(weights)


def _pair(values: Array, stop_gradient_previous: bool) -> tuple[Array, Array]:
    previous = jax.lax.stop_gradient(values[:-1]) if stop_gradient_previous else values[:-1]
    return previous, values[1:]


def _check_alike(name: str, found: Estimate, estimate: Estimate) -> None:
    """Raise unless a function of this name returned the structure and shape of an estimate, or a number per leaf."""
    wanted = jax.tree.structure(estimate)
    if jax.tree.structure(found) != wanted:
        raise ValueError(
            f"`{name}` must return the structure of an estimate, {wanted}, got {jax.tree.structure(found)}. "
            "If states were recorded, record their estimates: trajectory(problem, lambda state: state.x)."
        )
    for leaf, like in zip(jax.tree.leaves(found), jax.tree.leaves(estimate), strict=True):
        if jnp.shape(leaf) not in ((), jnp.shape(like)):
            raise ValueError(
                f"`{name}` must return the shape of an estimate, {jnp.shape(like)}, got {jnp.shape(leaf)}. Give one "
                "example and its trajectory, the layers in front, and take batches by jax.vmap."
            )


def _check_form(form: str) -> None:
    if form not in ("difference", "ratio"):
        raise ValueError(f'`form` must be "difference" or "ratio", got {form!r}.')


def _check_batch(name: str, values: Array) -> None:
    if jnp.ndim(values) != 2:
        raise ValueError(
            f"`{name}` must have shape (batch, layers), got {jnp.shape(values)}. "
            "Map the constraint over the batch by jax.vmap first."
        )
