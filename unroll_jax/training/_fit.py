"""`fit`: the loop around `primal_dual`, for runs that take long."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unroll_jax._checks import check_count, check_non_negative
from unroll_jax._primal_dual import Optimizer, PrimalDual, PrimalDualState, Report, primal_dual
from unroll_jax._tree import tree_where
from unroll_jax._types import Array, PyTree
from unroll_jax.training._evaluation import Best, Evaluate, judge
from unroll_jax.training._signals import interruptible
from unroll_jax.training.batches import Batches, stack_batches
from unroll_jax.training.callbacks import Callback
from unroll_jax.training.checkpoint import Checkpoints
from unroll_jax.training.sharding import DataParallel


class Fitted(NamedTuple):
    """A finished run.

    Attributes:
        state: the last `PrimalDualState`; `.model` in it is the last model.
        best: the best model evaluated, None if nothing was, or nothing finite.
        num_skipped: steps skipped because they were not finite.
        is_stopped_early: whether `patience` ended the run.
    """

    state: PrimalDualState
    best: Best | None
    num_skipped: int
    is_stopped_early: bool

    @property
    def model(self) -> Any:
        """The best model, or the last where none was evaluated."""
        return self.state.model if self.best is None else self.best.model


class NonFiniteError(FloatingPointError):
    """A training step that met NaN or an infinity.

    Attributes:
        step: which, counted from 0.
        state: the last good state, before that step.
    """

    def __init__(self, message: str, step: int, state: PrimalDualState):
        super().__init__(message)
        self.step = step
        self.state = state


def unconstrained(loss: Callable[[Any, Any, Array], Array], optimizer: Optimizer) -> PrimalDual:
    """Plain optax training as a `PrimalDual`: `loss(model, batch, key) -> ()`, no constraints.

    >>> import unroll_jax as uj
    >>> model = uj.unroll(uj.Algorithm(lambda p: p, lambda params, x, p: params * x), 1, jnp.array(0.5))
    >>> trainer = unconstrained(lambda model, batch, key: (model(batch) - 3) ** 2, optax.sgd(0.1))
    >>> fitted = fit(trainer, model, lambda step: np.float32(1), num_steps=50, key=jax.random.key(0))
    >>> f"{fitted.model(jnp.array(1.0)):.3f}"
    '3.000'
    """
    return primal_dual(lambda model, batch, key: (loss(model, batch, key), {}), optimizer, optax.identity())


def fit(
    trainer: PrimalDual,
    model: Any,
    batches: Batches,
    *,
    num_steps: int,
    key: Array,
    steps_per_dispatch: int = 1,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    tolerance: float = 0.0,
    patience: int | None = None,
    non_finite: Literal["stop", "skip"] = "stop",
    checkpoints: Checkpoints | None = None,
    resume: bool | int = False,
    sharding: DataParallel | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """The model after `num_steps` steps of `trainer`, and the best on the way.

    The best model has the lowest loss among those whose worst violation is within `tolerance`; as long as there is
    none, it has the least violation.

    A run that was killed resumes from its last checkpoint and ends in the same bits as if it had not been, on one
    machine and with the same library versions. With `checkpoints`, Ctrl-C and SIGTERM stop after the present dispatch
    and save; a second one stops at once.

    Args:
        trainer: `primal_dual(...)`, or `unconstrained(loss, optimizer)`. Gradients are clipped by its optimizer:
            `optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))`.
        model: the network to start from; it is left as it is.
        batches: `step -> batch`, such as `Minibatches`. An iterator works as `lambda step: next(iterator)`, but a run
            that resumes then sees other batches.
        num_steps: in all, those before a resume included; `20 * batches.steps_per_epoch` for 20 epochs of
            `Minibatches`.
        key: for the noise in `terms`.
        steps_per_dispatch: steps compiled into one call, for steps that are short beside a dispatch (about 0.1 ms and
            more); batches are stacked, so it takes their memory as often.
        evaluate: `model -> (loss, {name: violation})`, such as `evaluator(...)`; compile what it calls. A third entry
            `{name: number}` is reported.
        evaluate_every: steps between two evaluations; by default only after the last step.
        tolerance: the worst violation at which a model still counts as feasible.
        patience: stop after so many evaluations in a row without a better model.
        non_finite: what a step does that meets NaN or an infinity in its loss, violations, gradient or update:
            "stop" raises `NonFiniteError` with the last good state, "skip" leaves model, multipliers and optimizers as
            they are and goes on.
        checkpoints: where and how often to save; the last state always is.
        resume: whether to go on from the latest checkpoint, from the start if there is none; or the step of an older
            checkpoint to go on from.
        sharding: `data_parallel()` to train on several devices; `sharding.local(fitted.model)` is the model on one.
            Models are evaluated whole, on one device. With several processes, each gives its part of every batch,
            callbacks are called on the first only, evaluations run on all and the first's counts, and no signal is
            caught.
        callbacks: called with one plain dictionary an event, see `training.callbacks`.

    Returns:
        `Fitted(state, best, num_skipped, is_stopped_early)`; its `.model` is the best model, or the last if there was
        no `evaluate`.

    Raises:
        ValueError: for arguments that do not fit each other.
        NonFiniteError: see `non_finite`.
        FileExistsError: if `checkpoints` holds a run and `resume` is False.
        CheckpointError: if a checkpoint cannot be resumed from.
        OSError: if a checkpoint cannot be written.

    >>> import unroll_jax as uj
    >>> model = uj.unroll(uj.Algorithm(lambda p: p, lambda params, x, p: params * x), 1, jnp.array(0.5))
    >>> trainer = unconstrained(lambda model, batch, key: jnp.mean((jax.vmap(model)(batch) - 3) ** 2), optax.sgd(0.1))
    >>> history = []
    >>> fitted = fit(
    ...     trainer, model, lambda step: np.ones(4, np.float32), num_steps=60, key=jax.random.key(0),
    ...     steps_per_dispatch=20, callbacks=[history.append])
    >>> f"{fitted.model(jnp.array(1.0)):.3f}", [event["step"] for event in history if event["event"] == "train"]
    ('3.000', [20, 40, 60])
    """
    _check_kinds(trainer, checkpoints, sharding, callbacks)
    check_count("num_steps", num_steps)
    check_count("steps_per_dispatch", steps_per_dispatch)
    check_non_negative("tolerance", tolerance)
    if evaluate_every is not None:
        check_count("evaluate_every", evaluate_every)
    if patience is not None:
        check_count("patience", patience)
    for name, value in (("evaluate_every", evaluate_every), ("patience", patience)):
        if value is not None and evaluate is None:
            raise ValueError(f"`{name}` needs `evaluate`, which is None. Give `evaluator(terms, held_out, key)`.")
    if non_finite not in ("stop", "skip"):
        raise ValueError(f"`non_finite` must be 'stop' or 'skip', got {non_finite!r}.")
    if not callable(batches):
        raise ValueError(
            f"`batches` must be a function of the step, got {type(batches).__name__}. Give Minibatches(arrays, "
            "batch_size), or for an iterator `lambda step: next(iterator)`."
        )
    if resume is not False and checkpoints is None:
        raise ValueError("`resume` needs `checkpoints` to resume from, which is None.")
    if sharding is None and jax.process_count() > 1:
        raise ValueError(
            f"`sharding` is None, so each of the {jax.process_count()} processes would train a model of its own. "
            "Give data_parallel()."
        )

    make_state = trainer.init if sharding is None else functools.partial(sharding.init_state, trainer.init)
    state = make_state(model, batches(0), key)
    progress = _Progress(state, best=None, num_waited=0, num_skipped=0)
    if checkpoints is not None:
        progress = _resume(progress, checkpoints, resume)
    steps = _compile_steps(trainer, non_finite, state, sharding)
    boundaries = [steps_per_dispatch, evaluate_every or num_steps, checkpoints.every if checkpoints else num_steps]
    started = time.monotonic()
    del state  # donated

    def tell(kind: str, **values: Any) -> None:
        for callback in callbacks if jax.process_index() == 0 else ():
            callback({"event": kind, "step": step, **values})

    def save() -> None:
        nonlocal saved
        if checkpoints is not None and saved != (step,):
            checkpoints.save(step, progress.arrays(), progress.numbers())
            saved = (step,)
            tell("checkpoint")

    def stack(start: int) -> tuple[int, Any]:
        stop = min(num_steps, *(start - start % every + every for every in boundaries))
        stacked = stack_batches(batches, start, stop)
        return stop, stacked if sharding is None else sharding.place_batches(stacked, axis=1)

    def has_waited() -> bool:
        return patience is not None and progress.num_waited >= patience

    step = int(progress.state.step)
    # read once: processes that see a shared folder change at different moments would wait for each other
    saved = () if checkpoints is None else checkpoints.steps()[-1:]
    tell("start", num_steps=num_steps)
    with interruptible(checkpoints is not None and jax.process_count() == 1) as interruption:
        upcoming = stack(step) if step < num_steps else None
        while upcoming is not None and not has_waited():
            first, (step, stacked) = step, upcoming
            state, report = steps(progress.state, stacked)
            upcoming = stack(step) if step < num_steps else None  # while the device works
            report = jax.device_get(report)
            progress = progress._replace(state=state)
            num_bad = int(np.sum(~report.is_finite))
            if non_finite == "stop" and num_bad:
                step = first + int(np.argmin(report.is_finite))
                save()
                raise NonFiniteError(_non_finite_message(report, step - first, step, checkpoints), step, state)
            progress = progress._replace(num_skipped=progress.num_skipped + num_bad)
            tell("train", **_summary(report), skipped=progress.num_skipped, seconds=time.monotonic() - started)
            if evaluate is not None and (upcoming is None or step % (evaluate_every or num_steps) == 0):
                best, evaluation = judge(evaluate, state.model, step, progress.best, tolerance, sharding)
                progress = progress.evaluated(best)
                tell("evaluation", **evaluation)
            if interruption or upcoming is None or has_waited() or step % boundaries[-1] == 0:
                save()
            if interruption:
                raise interruption[0]
    tell("end", reason="patience" if has_waited() else "finished")
    return Fitted(progress.state, progress.best, progress.num_skipped, has_waited())


def _check_kinds(trainer: Any, checkpoints: Any, sharding: Any, callbacks: Any) -> None:
    if not all(callable(getattr(trainer, name, None)) for name in PrimalDual._fields):
        raise ValueError(
            "`trainer` must be made by primal_dual(terms, primal_optimizer, dual_optimizer) or "
            f"unconstrained(loss, optimizer), got {type(trainer).__name__}."
        )
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise ValueError(f"`checkpoints` must be Checkpoints(folder) or None, got {checkpoints!r}.")
    if sharding is not None and not isinstance(sharding, DataParallel):
        raise ValueError(f"`sharding` must be data_parallel() or None, got {sharding!r}.")
    if not isinstance(callbacks, Iterable) or not all(map(callable, callbacks)):
        raise ValueError(f"`callbacks` must be a sequence of functions, got {callbacks!r}. Of one give [callback].")


class _Progress(NamedTuple):
    """What a checkpoint keeps: arrays, and the numbers beside them."""

    state: PrimalDualState
    best: Best | None
    num_waited: int
    num_skipped: int

    def evaluated(self, best: Best | None) -> "_Progress":
        if best is None:
            return self._replace(num_waited=self.num_waited + 1)
        return self._replace(best=best, num_waited=0)

    def arrays(self) -> PyTree:
        # with the same structure whether there is a best model yet or not
        return {"state": self.state, "best": self.state.model if self.best is None else self.best.model}

    def numbers(self) -> dict[str, Any]:
        best = None if self.best is None else self.best._replace(model=None)._asdict()
        if best is not None and math.isinf(best["violation"]):
            best["violation"] = None  # JSON knows no infinity
        return {"best": best, "num_waited": self.num_waited, "num_skipped": self.num_skipped}


def _resume(progress: _Progress, checkpoints: Checkpoints, resume: bool | int) -> _Progress:
    known = checkpoints.steps()
    if resume is False:
        if known:
            raise FileExistsError(
                f"`checkpoints` {checkpoints.folder} holds a run, at step {known[-1]}. Go on with it by resume=True, "
                "or give another folder."
            )
        return progress
    if resume is True and not known:
        return progress
    found = checkpoints.restore(progress.arrays(), None if resume is True else resume)
    best = found.extra["best"]
    if best is not None:
        violation = -math.inf if best["violation"] is None else best["violation"]
        best = Best(**best | {"model": found.tree["best"], "violation": violation})
    return _Progress(found.tree["state"], best, found.extra["num_waited"], found.extra["num_skipped"])


def _compile_steps(
    trainer: PrimalDual, non_finite: str, state: PrimalDualState, sharding: DataParallel | None
) -> Callable[[PrimalDualState, Any], tuple[PrimalDualState, Report]]:
    """The trainer's steps, of which those that are not finite change nothing; under "stop" nor do those after."""
    train = trainer.step if sharding is None else functools.partial(sharding.step, trainer.step)

    def step(carry: tuple[PrimalDualState, Array], batch: Any) -> tuple[tuple[PrimalDualState, Array], Report]:
        state, is_good = carry
        new, report = train(state, batch)
        if non_finite == "stop":
            is_good = is_good & report.is_finite
            return (tree_where(is_good, new, state), is_good), report
        kept = tree_where(report.is_finite, new, state)
        return (kept._replace(key=new.key, step=new.step), is_good), report

    def steps(state: PrimalDualState, batches: Any) -> tuple[PrimalDualState, Report]:
        (state, _), reports = jax.lax.scan(step, (state, jnp.array(True)), batches)
        return state, reports

    if sharding is None:
        return jax.jit(steps, donate_argnums=0)
    # fixed, or the compiler might divide what comes back otherwise and compile anew
    out_shardings = (sharding.state_shardings(state), sharding.replicated)
    return jax.jit(steps, donate_argnums=0, out_shardings=out_shardings)


def _summary(report: Report) -> dict[str, Any]:
    """A dispatch's reports as plain numbers: means over its finite steps, and the last multipliers."""
    finite = report.is_finite

    def mean(values: Any) -> Any:
        kept = np.asarray(values, np.float64)[finite]
        return (np.mean(kept, axis=0) if len(kept) else np.full(values.shape[1:], np.nan)).tolist()

    return {
        "loss": mean(report.loss),
        "violation": {name: mean(values) for name, values in report.violation.items()},
        "multipliers": {name: values[-1].astype(float).tolist() for name, values in report.multipliers.items()},
        "gradient_norm": mean(report.gradient_norm),
    }


def _non_finite_message(report: Report, index: int, step: int, checkpoints: Checkpoints | None) -> str:
    values = {"loss": report.loss, "gradient": report.gradient_norm, **report.violation}
    culprits = [name for name, value in values.items() if not np.all(np.isfinite(value[index]))] or ["update"]
    saved = (
        "The last good state is in this error's `.state`."
        if checkpoints is None
        else f"The last good state is the checkpoint of step {step} in {checkpoints.folder}."
    )
    return (
        f"Step {step} met a number that is not finite in: {', '.join(culprits)}. {saved} Look for NaN in its batch, "
        "lower the learning rate, clip the gradient, or skip such steps with non_finite='skip'."
    )
