"""How the sparse coders are trained: on all layers at once, in decibels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import unroll_jax as uj
from experiments.events import read_events, total_seconds
from experiments.files import WORK
from experiments.sparse_recovery.coders import Coder, codes, distances
from experiments.sparse_recovery.problem import TRAINING, Task
from experiments.sparse_recovery.settings import Settings

# what the loss looks at, and whether every layer must descend
Kind = Literal["layers", "last", "descent"]


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
        measurement: `(batch_size, num_measurements)`.
        code: `(batch_size, num_atoms)`.
        layer_weights: `(num_layers,)`, how much each layer's error counts; they add to 1.
    """

    measurement: Any
    code: Any
    layer_weights: Any


class History(NamedTuple):
    """What a training reported, a row for every dispatch.

    Attributes:
        step: `(num_rows,)`, the steps made.
        loss: `(num_rows,)`.
        multipliers: by constraint, `(num_rows, num_layers)`.
        seconds: that training took, compilation included.
    """

    step: np.ndarray
    loss: np.ndarray
    multipliers: dict[str, np.ndarray]
    seconds: float


def make_batches(task: Task, settings: Settings, kind: Kind) -> Callable[[int], Batch]:
    """`step -> batch`: new codes in every step.

    For "layers" all layers count alike first, and the last one alone in the end; else it does from the beginning.
    """
    all_alike = np.full(settings.num_layers, 1 / settings.num_layers, np.float32)
    last_alone = np.eye(settings.num_layers, dtype=np.float32)[-1]
    first_of_last = (1 - settings.last_layer_share) * settings.num_steps if kind == "layers" else 0

    def batches(step: int) -> Batch:
        weights = all_alike if step < first_of_last else last_alone
        return Batch(*task.draw(settings.batch_size, TRAINING, step), weights)

    return batches


def make_terms(task: Task, settings: Settings, kind: Kind, l1_weight: float) -> Callable[..., Any]:
    """The loss and the constraints that `primal_dual` trains a network with.

    The loss is  sum_l w_l log(NMSE after layer l).  A layer whose error is a hundred times smaller counts as much as
    another: with the plain mean square error, layers learn one after the other, which is why they are commonly
    trained so.

    "descent" asks every layer to lower the mean distance to the code, and bounds by how much, on average over the
    examples, it may raise one's.
    """
    dictionary = task.dictionary
    closer = uj.constraints.descent(uj.constraints.distance_to(lambda code: code), settings.tail_rate, form="ratio")

    def terms(network: uj.Unrolled, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        found = codes(network, dictionary, batch.measurement, l1_weight)
        values = distances(found, batch.code)
        errors = jnp.mean(values[:, 1:] ** 2, axis=0) / jnp.mean(jnp.sum(batch.code**2, axis=-1))
        loss = jnp.vdot(batch.layer_weights, jnp.log(errors))
        if kind != "descent":
            return loss, {}
        each = jax.vmap(closer)(found, batch.code)
        return loss, {
            "mean": uj.constraints.ratio_of_means(values, settings.train_rate),
            "tail": uj.constraints.expected_hinge(each, settings.tail_allowance),
        }

    return terms


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Adam, with a learning rate for matrices and another one for numbers, both warmed up and then lowered to zero."""

    def adam(rate: float) -> optax.GradientTransformation:
        warmup = max(1, min(20, settings.num_steps // 10))
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, rate, warmup, max(settings.num_steps, warmup + 1), 0.01 * rate
        )
        return optax.adam(schedule)

    def kinds(params: Any) -> Any:
        return jax.tree.map(lambda leaf: "matrix" if leaf.ndim >= 2 else "number", params)

    return optax.multi_transform({"matrix": adam(settings.matrix_rate), "number": adam(settings.scalar_rate)}, kinds)


def train(
    task: Task, settings: Settings, coder: Coder, name: str, run: Path, *, kind: Kind = "layers", l1_weight: float
) -> tuple[uj.Unrolled, History]:
    """The trained network and what its training reported.

    Args:
        task: draws the codes.
        settings: of the run.
        coder: what is trained.
        name: of this training in files.
        run: the run's folder: events go to `training/NAME.jsonl` there, checkpoints to `work/NAME`, from which training
            that was stopped goes on.
        kind: of training.
        l1_weight: of the problems; only SLISTA looks at it.

    Raises:
        FloatingPointError: if the loss, a violation, the gradient or an update was not finite.
    """
    trainer = uj.primal_dual(
        make_terms(task, settings, kind, l1_weight),
        make_optimizer(settings),
        optax.sgd(settings.dual_rate),
        weight=uj.augmented_weight(settings.penalty),
    )
    events = run / "training" / f"{name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    try:
        fitted = uj.training.fit(
            trainer,
            coder.make(task, settings),
            make_batches(task, settings, kind),
            num_steps=settings.num_steps,
            key=jax.random.key(task.seed),
            steps_per_dispatch=settings.steps_per_dispatch,
            checkpoints=uj.training.Checkpoints(
                run / WORK / name,
                every=settings.checkpoint_every,
                keep=1,
                config={"settings": vars(settings), "name": name, "seed": task.seed},
            ),
            resume=True,
            callbacks=[uj.training.json_lines(events), uj.training.progress_bar(name)],
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"Training {name!r}: {error}") from error
    return fitted.model, _read_history(events)


def _read_history(path: Path) -> History:
    rows = read_events(path, "train")
    names = rows[0]["multipliers"]
    return History(
        step=np.array([row["step"] for row in rows]),
        loss=np.array([row["loss"] for row in rows]),
        multipliers={name: np.array([row["multipliers"][name] for row in rows]) for name in names},
        seconds=total_seconds(rows),
    )
