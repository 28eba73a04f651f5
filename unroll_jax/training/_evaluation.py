"""Which model of a run is the best: evaluations, and how they compare."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax._checks import check_key
from unroll_jax._primal_dual import Terms
from unroll_jax._types import Array
from unroll_jax.training.sharding import DataParallel

Evaluate: TypeAlias = Callable[[Any], tuple]
"""`model -> (loss, {name: violation (num_layers,)})`, or with a third entry `{name: number}` to report."""


class Best(NamedTuple):
    """The best model of a run, chosen by its evaluations.

    Attributes:
        model: as it was evaluated.
        step: the steps made by then.
        loss: of its evaluation.
        violation: the worst of its evaluation, over all constraints and layers; -inf without constraints.
        is_feasible: whether that is within the tolerance.
    """

    model: Any
    step: int
    loss: float
    violation: float
    is_feasible: bool


def evaluator(terms: Terms, batches: Iterable[Any], key: Array) -> Evaluate:
    """An `evaluate` for `fit`: the loss and violations of `terms` on held-out batches.

    Means over the batches, weighted by their sizes. For terms that are means over examples (the mean and the expected
    hinge are, the conditional value at risk is not) this is their value on all held-out examples together.

    Args:
        terms: as for `primal_dual`.
        batches: kept; batches of one shape compile once.
        key: for terms that draw noise: every evaluation draws the same.

    Raises:
        ValueError: if there are no batches, or what is given is not several.
    """
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise ValueError(
            f"`batches` must be a sequence of batches, got {type(batches).__name__}. Of one batch give [batch], of "
            "Minibatches [batches(step) for step in range(batches.steps_per_epoch)]."
        )
    check_key("key", key)
    batches = list(batches)
    if not batches:
        raise ValueError("`batches` must hold at least one batch to evaluate on, got none.")
    terms_of = jax.jit(terms)
    sizes = [(np.shape(jax.tree.leaves(batch)[0]) or (1,))[0] for batch in batches]
    shares = np.array(sizes) / sum(sizes)

    def evaluate(model: Any) -> tuple[float, dict[str, np.ndarray]]:
        found = [terms_of(model, batch, jax.random.fold_in(key, index)) for index, batch in enumerate(batches)]
        weighted = [
            jax.tree.map(lambda value, share=share: share * np.asarray(value, np.float64), each)
            for share, each in zip(shares, jax.device_get(found), strict=True)
        ]
        loss, violation = jax.tree.map(lambda *values: sum(values), *weighted)
        return float(loss), violation

    return evaluate


def judge(
    evaluate: Evaluate, model: Any, step: int, best: Best | None, tolerance: float, sharding: DataParallel | None
) -> tuple[Best | None, dict[str, Any]]:
    """The model as the best, with a copy of it, or None where the one before is better; and what to tell of it."""
    result = evaluate(model if sharding is None else sharding.local(model))
    if not isinstance(result, tuple) or len(result) not in (2, 3) or not isinstance(result[1], dict):
        raise ValueError(
            "`evaluate` must return (loss, {name: violation}) or (loss, {name: violation}, {name: number}), "
            f"got {type(result).__name__}: without constraints return (loss, {{}})."
        )
    loss, violation = float(result[0]), {name: np.asarray(value, float) for name, value in result[1].items()}
    metrics = result[2] if len(result) == 3 else {}
    worst = max((float(np.max(value)) for value in violation.values()), default=-math.inf)
    if sharding is not None:  # or processes that differ by a rounding might choose differently, and wait for ever
        loss, worst = sharding.from_first_process(np.array([loss, worst])).tolist()
    new = Best(None, step, loss, worst, is_feasible=worst <= tolerance)
    is_best = _is_better(new, best)
    event = {
        "loss": loss,
        "violation": {name: value.tolist() for name, value in violation.items()},
        "worst_violation": worst,
        "is_feasible": new.is_feasible,
        "is_best": is_best,
        "metrics": {name: float(value) for name, value in metrics.items()},
    }
    # copied, as the training state will be donated
    return new._replace(model=jax.tree.map(jnp.copy, model)) if is_best else None, event


def _is_better(new: Best, old: Best | None) -> bool:
    if not math.isfinite(new.loss) or math.isnan(new.violation):
        return False
    if old is None or new.is_feasible != old.is_feasible:
        return old is None or new.is_feasible
    return new.loss < old.loss if new.is_feasible else new.violation < old.violation
