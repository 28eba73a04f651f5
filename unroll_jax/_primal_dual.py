"""`primal_dual`: training under constraints, with the multipliers as cotangents.

The problem: minimize loss(model) over the model's parameters subject to violation(model) <= 0. One step computes
(loss, violation) once, moves the multipliers up along the violation, and pulls the cotangent (1, multipliers) back
to the parameters: one forward and one backward pass, whatever the number of constraints.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from unroll_jax._checks import check_key, check_non_negative
from unroll_jax._tree import strong_type, tree_is_finite, tree_largest, tree_norm
from unroll_jax._types import Array

Terms: TypeAlias = Callable[[Any, Any, Array], tuple[Array, dict[str, Array]]]
"""`(model, batch, key) -> (loss (), {name: violation (num_layers,)})`."""

Weight: TypeAlias = Callable[[Array, Array], Array]
"""`(multiplier, violation) -> ` the constraint's weight in the gradient, of the same shape."""


class Optimizer(Protocol):
    """What optax's optimizers have in common, `optax.MultiSteps` included."""

    @property
    def init(self) -> Callable[..., Any]:
        """`params -> state`."""
        ...

    @property
    def update(self) -> Callable[..., Any]:
        """`(gradient, state, params) -> (updates, state)`."""
        ...


class PrimalDualState(NamedTuple):
    """Everything a training run carries from step to step.

    Attributes:
        model: the network in its present state.
        multipliers: by the names that `terms` gave, `(num_layers,)`, non-negative, at least float32.
        primal_state: state of the primal optimizer.
        dual_state: state of the dual optimizer.
        key: the randomness left.
        step: `()`, the steps made.
    """

    model: Any
    multipliers: dict[str, Array]
    primal_state: optax.OptState
    dual_state: optax.OptState
    key: Array
    step: Array


class Report(NamedTuple):
    """What one step saw, before its update (the multipliers: after it).

    Attributes:
        loss: `()`.
        violation: by name, `(num_layers,)`; `<= 0` is satisfied.
        multipliers: by name, `(num_layers,)`.
        gradient_norm: `()`, of the Lagrangian in the trained parameters.
        is_finite: `()`, whether the loss, the violations, the gradient and the new parameters are.
    """

    loss: Array
    violation: dict[str, Array]
    multipliers: dict[str, Array]
    gradient_norm: Array
    is_finite: Array


class PrimalDual(NamedTuple):
    """A trainer as pure functions; compile them by `jax.jit(trainer.step, donate_argnums=0)`.

    Attributes:
        init: `(model, batch, key) -> state`. The state holds copies, so donating it leaves `model` alone.
        step: `(state, batch) -> (state, report)`.
        steps: `(state, batches) -> (state, reports)`, one step per entry of the leading axis of every leaf of
            `batches`, in one `jax.lax.scan`: one dispatch for many small steps.
    """

    init: Callable[[Any, Any, Array], PrimalDualState]
    step: Callable[[PrimalDualState, Any], tuple[PrimalDualState, Report]]
    steps: Callable[[PrimalDualState, Any], tuple[PrimalDualState, Report]]


def linear_weight(multiplier: Array, violation: Array) -> Array:
    """The weight of the plain Lagrangian, loss + <multiplier, violation>: the multiplier itself."""
    del violation
    return multiplier


def augmented_weight(penalty: Array | float) -> Weight:
    """The weight of the augmented Lagrangian: max(multiplier + penalty * violation, 0).

    The derivative in the violation g of  [max(multiplier + penalty * g, 0)^2 - multiplier^2] / (2 penalty), the
    Powell-Hestenes-Rockafellar form (Bertsekas 1982). At penalty 0 it is `linear_weight`.

    Args:
        penalty: non-negative; `()`, or the shape of the multipliers.

    Raises:
        ValueError: for a negative penalty.

    >>> augmented_weight(2.0)(jnp.array([1.0, 0.0]), jnp.array([0.5, -1.0]))
    Array([2., 0.], dtype=float32)
    """
    check_non_negative("penalty", penalty)
    return lambda multiplier, violation: jnp.maximum(multiplier + penalty * violation, 0)


def primal_dual(
    terms: Terms,
    primal_optimizer: Optimizer,
    dual_optimizer: Optimizer,
    *,
    weight: Weight = linear_weight,
) -> PrimalDual:
    """A trainer that minimizes a loss under constraints by primal-dual steps (arXiv 2312.15788).

    Each step first moves the multipliers by the dual optimizer along the violations and projects them on >= 0, then
    moves the parameters by the primal optimizer along the gradient of the Lagrangian that `weight` stands for. Only
    `nnx.Param` leaves of the model are trained.

    Args:
        terms: `(model, batch, key) -> (loss (), {name: violation (num_layers,)})`, `violation <= 0` is satisfied.
            An empty dictionary makes it plain training.
        primal_optimizer: any optax optimizer that needs no more than the gradient, the parameters (an `nnx.State`)
            and the loss (as `value`); one with a line search, such as `optax.lbfgs`, needs more.
        dual_optimizer: any optax optimizer, for the multipliers, which it moves against the gradient -violation:
            `optax.sgd(rate)` adds rate * violation. `optax.MultiSteps` moves them once in several steps.
        weight: `linear_weight` (the plain Lagrangian) or `augmented_weight(penalty)`.

    Returns:
        `PrimalDual(init, step, steps)`.

    Raises:
        ValueError: for what is no optimizer or no weight; from `init`, if the terms have another shape, the model has
            no `nnx.Param`, or one twice, or `key` is no random key.

    >>> import unroll_jax as uj
    >>> model = uj.unroll(uj.Algorithm(lambda p: p, lambda params, x, p: params * x), 1, jnp.array(0.5))
    >>> def terms(model, batch, key):  # the factor nearest to 3 that is at most 1
    ...     factor = model(jnp.ones(()))
    ...     return (factor - 3) ** 2, {"at_most_one": jnp.array([factor - 1])}
    >>> trainer = primal_dual(terms, optax.sgd(0.1), optax.sgd(0.1))
    >>> state = trainer.init(model, None, jax.random.key(0))
    >>> state, _ = jax.jit(trainer.steps)(state, jnp.zeros(500))
    >>> state.model(jnp.ones(())).round(3), state.multipliers["at_most_one"].round(3)
    (Array(1., dtype=float32), Array([4.], dtype=float32))
    """
    _check_optimizer("primal_optimizer", primal_optimizer, "optax.adam(1e-3)")
    _check_optimizer("dual_optimizer", dual_optimizer, "optax.sgd(1e-3)")
    if not callable(weight) or weight is augmented_weight:
        raise ValueError(f"`weight` must be linear_weight or augmented_weight(penalty), got {weight!r}.")

    def init(model: Any, batch: Any, key: Array) -> PrimalDualState:
        check_key("key", key)
        _check_untied(model)
        model = jax.tree.map(strong_type, model)
        _, params, _ = _split(model)
        if not jax.tree.leaves(params):
            raise ValueError(
                "`model` has no nnx.Param to train. `unroll` makes them of floating-point params; "
                "wrap the arrays of an nnx module of your own in nnx.Param."
            )
        loss, violation = jax.eval_shape(lambda: _checked(_called(terms, model, batch, key)))
        del loss
        multipliers = {
            name: jnp.zeros(v.shape, jnp.promote_types(v.dtype, jnp.float32)) for name, v in violation.items()
        }
        state = PrimalDualState(
            model=model,
            multipliers=multipliers,
            primal_state=primal_optimizer.init(params),
            dual_state=dual_optimizer.init(multipliers),
            key=key,
            step=jnp.zeros((), jnp.int32),
        )
        # a donated state must share no buffer with the caller, nor twice within itself: some optimizers keep params
        return jax.tree.map(lambda leaf: jnp.copy(strong_type(leaf)), state)

    def step(state: PrimalDualState, batch: Any) -> tuple[PrimalDualState, Report]:
        key, terms_key = jax.random.split(state.key)
        graph, params, rest = _split(state.model)

        def terms_of(params: nnx.State) -> tuple[Array, dict[str, Array]]:
            return _checked(terms(nnx.merge(graph, params, rest), batch, terms_key))

        (loss, violation), pullback = jax.vjp(terms_of, params)
        multipliers, dual_state = _ascend(dual_optimizer, state.multipliers, violation, state.dual_state)
        weights = jax.tree.map(lambda m, v: weight(m, v.astype(m.dtype)).astype(v.dtype), multipliers, violation)
        (gradient,) = pullback((jnp.ones_like(loss), weights))
        # for complex parameters the direction of ascent is the conjugate of what the pullback returns
        gradient = jax.tree.map(jnp.conj, gradient)
        # some optimizers take the loss too, such as optax.contrib.reduce_on_plateau
        optimizer = optax.with_extra_args_support(primal_optimizer)  # pyright: ignore[reportArgumentType]
        updates, primal_state = optimizer.update(gradient, state.primal_state, params, value=loss)
        params = optax.apply_updates(params, updates)

        # of a copy in name only: else the compiler keeps the squares, which Adam takes too, in arrays of their own
        gradient_norm = tree_norm(jax.lax.optimization_barrier(gradient))
        report = Report(
            loss=loss,
            violation=violation,
            multipliers=multipliers,
            gradient_norm=gradient_norm,
            # of the parameters, as the updates are nowhere kept whole
            is_finite=tree_is_finite((loss, violation, gradient_norm, tree_largest(params))),
        )
        model = nnx.merge(graph, params, rest)
        return PrimalDualState(model, multipliers, primal_state, dual_state, key, state.step + 1), report

    def steps(state: PrimalDualState, batches: Any) -> tuple[PrimalDualState, Report]:
        return jax.lax.scan(step, state, batches)

    return PrimalDual(init, step, steps)


def _split(model: Any) -> tuple[Any, Any, Any]:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return graph, params, rest


def _check_untied(model: Any) -> None:
    variables = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, nnx.Variable))
    seen = [id(variable) for variable in variables if isinstance(variable, nnx.Variable)]
    if len(set(seen)) < len(seen):
        raise ValueError(
            "`model` holds one nnx.Variable at two places, but as a pytree it is copied and its copies drift apart. "
            "Keep it once and read it where it is needed; layers share parameters by the layer axis None."
        )


def _ascend(
    optimizer: Optimizer,
    multipliers: dict[str, Array],
    violation: dict[str, Array],
    state: optax.OptState,
) -> tuple[dict[str, Array], optax.OptState]:
    descent = jax.tree.map(lambda m, v: -v.astype(m.dtype), multipliers, violation)
    updates, state = optimizer.update(descent, state, multipliers)
    moved = optax.apply_updates(multipliers, updates)
    return optax.projections.projection_non_negative(moved), state


def _check_optimizer(name: str, optimizer: Any, example: str) -> None:
    if not all(callable(getattr(optimizer, method, None)) for method in ("init", "update")):
        raise ValueError(f"`{name}` must be an optimizer of optax such as {example}, got {optimizer!r}.")


def _called(terms: Terms, model: Any, batch: Any, key: Array) -> Any:
    try:
        return terms(model, batch, key)
    except (TypeError, ValueError) as error:
        error.add_note("This came up in `terms`, called as terms(model, batch, key).")
        raise


def _checked(result: Any) -> tuple[Array, dict[str, Array]]:
    """What `terms` returned, if it has the form it must have."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise ValueError(
            f"`terms` must return (loss, {{name: violation}}), got "
            f"{'Array' if isinstance(result, jax.Array) else type(result).__name__}: "
            "for training without constraints return an empty dictionary."
        )
    loss, violation = result
    if jnp.shape(loss) != ():
        raise ValueError(
            f"`terms` must return a loss of shape (), got {jnp.shape(loss)}: take its mean over the batch."
        )
    for name, value in violation.items():
        if jnp.ndim(value) != 1:
            hint = "take the mean (or another statistic of `constraints`) over the batch"
            raise ValueError(
                f"`terms` must return violations of shape (num_layers,), got {jnp.shape(value)} for {name!r}: "
                f"{hint if jnp.ndim(value) else 'a single constraint is value[None]'}."
            )
    return loss, violation
