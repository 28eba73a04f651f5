"""The networks under comparison, and how each is trained."""

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
from experiments.sparse_coding.problem import Examples, SparseCoding, Task
from experiments.sparse_coding.settings import Settings

# one object, so that networks differ in their numbers only and share their compiled programs
LISTA = uj.algorithms.lista()

distance = uj.constraints.distance_to(lambda example: example.y)


class Variant(NamedTuple):
    """One network of the comparison.

    Attributes:
        name: how tables and files call it.
        start: "random" (Gaussian matrices) or "classical" (every layer is an ISTA step).
        noise: of the perturbation between the layers in training, relative to the gradient's norm.
        constraints: "none"; "mean", every layer descends on average; "tail", and nearly every example does.
    """

    name: str
    start: Literal["random", "classical"]
    noise: float
    constraints: Literal["none", "mean", "tail"]

    @property
    def file_name(self) -> str:
        """The name as part of a file's."""
        return self.name.replace(", ", "-").replace(" ", "-").lower()


VARIANTS = (
    Variant("plain", "random", 0.0, "none"),
    Variant("noisy", "random", 0.3, "none"),
    Variant("descent", "random", 0.3, "mean"),
    Variant("descent-tail", "random", 0.3, "tail"),
    Variant("plain, from ISTA", "classical", 0.0, "none"),
    Variant("noisy, from ISTA", "classical", 0.1, "none"),
    Variant("descent-tail, from ISTA", "classical", 0.1, "tail"),
)


class History(NamedTuple):
    """What training reported, a row for every dispatch: means over its steps, and the multipliers after it.

    Attributes:
        step: `(num_rows,)`, the steps made.
        loss: `(num_rows,)`.
        violation: by constraint, `(num_rows, num_layers)`.
        multipliers: by constraint, `(num_rows, num_layers)`.
        seconds: that training took.
    """

    step: np.ndarray
    loss: np.ndarray
    violation: dict[str, np.ndarray]
    multipliers: dict[str, np.ndarray]
    seconds: float


def make_network(task: Task, settings: Settings, variant: Variant, seed: int) -> uj.Unrolled:
    """The variant's network before training."""
    num_pixels, num_atoms = task.dictionary.matrix.shape
    compute_dtype = None if settings.precision == "float32" else settings.precision
    if variant.start == "classical":
        params = uj.algorithms.lista_params(task.dictionary, task.l1_weight)
        return uj.unroll(LISTA, settings.num_layers, params, compute_dtype=compute_dtype)
    keys = jax.random.split(jax.random.key(seed), settings.num_layers)
    layers = jax.vmap(lambda key: uj.algorithms.random_lista_params(key, num_pixels, num_atoms))(keys)
    return uj.Unrolled(LISTA, settings.num_layers, layers, compute_dtype=compute_dtype)


def run(network: uj.Unrolled, task: Task, x: jax.Array) -> jax.Array:
    """The codes after every layer, the start first, for a batch of patches: `(batch, num_layers + 1, atoms)`."""
    return jax.vmap(lambda x: network.trajectory(task.least_squares(x), record=lambda state: state.x))(x)


def run_perturbed(
    network: uj.Unrolled, task: Task, x: jax.Array, key: jax.Array, level: jax.Array | float
) -> jax.Array:
    """As `run`, with noise of `level` times the gradient's norm between the layers."""

    def noise_norm(code: jax.Array, least_squares: uj.objectives.LeastSquares) -> jax.Array:
        return level * jnp.linalg.norm(least_squares.gradient(code))

    perturbed = network.with_algorithm(uj.algorithms.perturbed(network.algorithm, noise_norm))

    def run_one(x: jax.Array, key: jax.Array) -> jax.Array:
        noisy = uj.algorithms.NoisyProblem(task.least_squares(x), key)
        return perturbed.trajectory(noisy, record=lambda state: state.x)

    return jax.vmap(run_one)(x, jax.random.split(key, len(x)))


def make_terms(task: Task, settings: Settings, variant: Variant) -> Callable[..., Any]:
    """The loss and the constraints that `primal_dual` trains the variant with.

    The loss is the paper's, half the squared distance of the last layer. "mean" asks every layer to lower the mean
    distance; "tail" also bounds by how much the examples that hardly descend miss that, on average.
    """
    on_average = uj.constraints.descent(distance, settings.train_rate)
    nearly_always = uj.constraints.descent(distance, settings.tail_rate)

    def terms(network: uj.Unrolled, batch: Examples, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        if variant.noise:
            codes = run_perturbed(network, task, batch.x, key, variant.noise)
        else:
            codes = run(network, task, batch.x)
        loss = jnp.mean(jnp.sum((codes[:, -1] - batch.y) ** 2, axis=-1)) / 2
        violation = {}
        if variant.constraints in ("mean", "tail"):
            violation["mean"] = jnp.mean(jax.vmap(on_average)(codes, batch), axis=0)
        if variant.constraints == "tail":
            each = jax.vmap(nearly_always)(codes, batch)
            violation["tail"] = uj.constraints.expected_hinge(each, settings.tail_allowance)
        return loss, violation

    return terms


def train(
    problem: SparseCoding, settings: Settings, variant: Variant, seed: int, run: Path
) -> tuple[uj.Unrolled, History]:
    """The trained network and what its training reported.

    Args:
        problem: the data.
        settings: of the run.
        variant: which network.
        seed: decides the start, the batches and the noise.
        run: the run's folder: events go to `training/NAME.jsonl` there, checkpoints to `work/NAME`, from which training
            that was stopped goes on.

    Raises:
        FloatingPointError: if the loss, a violation, the gradient or an update was not finite.
    """
    primal = optax.chain(
        optax.clip_by_global_norm(settings.gradient_clip),
        optax.adam(
            optax.warmup_cosine_decay_schedule(
                init_value=0.0,
                peak_value=settings.learning_rate,
                warmup_steps=min(50, settings.num_steps // 10),
                decay_steps=settings.num_steps,
                end_value=settings.learning_rate / 100,
            )
        ),
    )
    trainer = uj.primal_dual(
        make_terms(problem.task, settings, variant),
        primal,
        optax.sgd(settings.dual_rate),
        weight=uj.augmented_weight(settings.penalty),
    )
    events = run / "training" / f"{variant.file_name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    try:
        fitted = uj.training.fit(
            trainer,
            make_network(problem.task, settings, variant, seed),
            uj.training.Minibatches(jax.tree.map(np.asarray, problem.train), settings.batch_size, seed=seed),
            num_steps=settings.num_steps,
            key=jax.random.key(seed),
            steps_per_dispatch=settings.steps_per_dispatch,
            checkpoints=uj.training.Checkpoints(
                run / WORK / variant.file_name,
                every=settings.checkpoint_every,
                keep=2,
                config={"settings": vars(settings), "variant": variant.name, "seed": seed},
            ),
            resume=True,
            callbacks=[uj.training.json_lines(events), uj.training.progress_bar(variant.name)],
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"Training {variant.name!r}: {error}") from error
    return fitted.model, read_history(events)


def read_history(path: Path) -> History:
    """What `train` wrote to `path`."""
    rows = read_events(path, "train")

    def column(name: str) -> Any:
        return jax.tree.map(lambda *values: np.array(values), *(row[name] for row in rows), is_leaf=_is_list)

    return History(
        step=column("step"),
        loss=column("loss"),
        violation=column("violation"),
        multipliers=column("multipliers"),
        seconds=total_seconds(rows),
    )


def _is_list(node: Any) -> bool:
    return isinstance(node, list)
