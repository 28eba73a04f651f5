"""The denoisers under comparison, and how each is trained."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import unroll_jax as uj
from experiments.events import read_events, total_seconds
from experiments.files import WORK
from experiments.lipschitz_denoiser.blocks import GradientBlock, cosine_filters
from experiments.lipschitz_denoiser.optimizer import scale_by_spline_adam
from experiments.lipschitz_denoiser.settings import Settings
from unroll_jax.splines import LinearSpline, LipschitzConv, SlopeBox, UniformGrid


class Variant(NamedTuple):
    """One denoiser of the comparison.

    Attributes:
        name: how tables and files call it.
        activation: "spline", one per channel, odd; or "relu", with a bias per channel.
        is_constrained: whether filters have norm at most 1 and slopes lie in [0, 1].
    """

    name: str
    activation: Literal["spline", "relu"]
    is_constrained: bool


SPLINE = Variant("spline", "spline", True)
RELU = Variant("relu", "relu", True)
UNCONSTRAINED = Variant("unconstrained", "spline", False)
VARIANTS = (SPLINE, RELU, UNCONSTRAINED)


class History(NamedTuple):
    """What training reported, a row for some steps each.

    Attributes:
        step: `(num_rows,)`, the steps made.
        loss: `(num_rows,)`, the mean over the row's steps.
        seconds: that training took.
    """

    step: np.ndarray
    loss: np.ndarray
    seconds: float


def make_denoiser(settings: Settings, variant: Variant, seed: int) -> nnx.Sequential:
    """The denoiser before training: with splines, some steps toward smaller cosine coefficients."""
    rngs, start = nnx.Rngs(seed), jnp.asarray(cosine_filters(settings.kernel_size, settings.num_filters))

    def block() -> GradientBlock:
        size = (settings.kernel_size, settings.kernel_size)
        conv = LipschitzConv(1, settings.num_filters, size, use_bias=variant.activation == "relu", rngs=rngs)
        # a little noise, and no filter is blind to a constant to the last digit, where bounds have no derivative
        conv.kernel[...] = start + 0.01 / settings.kernel_size**2 * jax.random.normal(rngs.params(), start.shape)
        activation = jax.nn.relu if variant.activation == "relu" else _start_spline(settings, variant)
        return GradientBlock(conv, activation, settings.averagedness, is_bounded=variant.is_constrained)

    return nnx.Sequential(*(block() for _ in range(settings.num_blocks)))


def _start_spline(settings: Settings, variant: Variant) -> LinearSpline:
    # the filters' norm is 1 / kernel_size, so this is the noise behind them
    noise = settings.sigma / 255 / settings.kernel_size
    grid = UniformGrid(-settings.knot_range * noise, settings.knot_range * noise, settings.num_knots)
    # all blocks together then take about two standard deviations off every coefficient
    threshold = 1.2 / settings.num_blocks * noise
    start = jnp.broadcast_to(jnp.clip(grid.knots, -threshold, threshold), (settings.num_filters, grid.num_knots))
    box = SlopeBox.firmly_nonexpansive() if variant.is_constrained else SlopeBox(-math.inf, math.inf)
    return LinearSpline(grid, init=start, box=box, keep="odd")


def splines_of(denoiser: nnx.Sequential) -> list[LinearSpline]:
    """The splines of a denoiser, block by block; none where it has other activations."""
    return [block.activation for block in denoiser.layers if isinstance(block.activation, LinearSpline)]


def make_loss(settings: Settings) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """The loss `(denoiser, patches, key) -> ()`: the mean squared error in units of the noise's variance, plus TV2."""
    sigma = settings.sigma / 255

    def loss(denoiser: nnx.Sequential, patches: jax.Array, key: jax.Array) -> jax.Array:
        noisy = patches + sigma * jax.random.normal(key, patches.shape, patches.dtype)
        value = jnp.mean((jax.vmap(denoiser)(noisy) - patches) ** 2) / sigma**2
        for spline in splines_of(denoiser):
            value = value + settings.variation_weight / settings.num_blocks * jnp.mean(spline.second_order_variation())
        return value

    return loss


def train(
    patches: np.ndarray, settings: Settings, variant: Variant, seed: int, run: Path
) -> tuple[nnx.Sequential, History]:
    """The trained denoiser and what its training reported.

    Filters form first, and splines wait, since coefficients that learn under filters without form only pick up noise.

    Args:
        patches: `(num_patches, height, width, 1)`, clean.
        settings: of the run.
        variant: which denoiser.
        seed: decides the batches and the noise.
        run: the run's folder: events go to `training/NAME.jsonl` there, checkpoints to `work/NAME`, from which training
            that was stopped goes on.

    Raises:
        FloatingPointError: if the loss, the gradient or an update was not finite.
    """
    denoiser = jax.jit(make_denoiser, static_argnums=(0, 1, 2))(settings, variant, seed)
    num_frozen = int(settings.frozen_share * settings.num_steps)

    def schedule(rate: float, num_waiting: int = 0) -> optax.Schedule:
        rising = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=rate,
            warmup_steps=min(20, settings.num_steps // 10),
            decay_steps=settings.num_steps - num_waiting,
            end_value=rate / 100,
        )
        return optax.join_schedules([optax.constant_schedule(0.0), rising], [num_waiting]) if num_waiting else rising

    optimizer = optax.multi_transform(
        {
            "weights": optax.adam(schedule(settings.learning_rate)),
            "scales": optax.adam(schedule(settings.learning_rate)),
            "coefficients": optax.chain(
                scale_by_spline_adam(), optax.scale_by_learning_rate(schedule(settings.coefficient_rate, num_frozen))
            ),
        },
        uj.splines.spline_labels,
    )
    if variant.is_constrained and splines_of(denoiser):
        optimizer = optax.chain(optimizer, _projected(splines_of(denoiser)[0]))
    events = run / "training" / f"{variant.name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    try:
        fitted = uj.training.fit(
            uj.training.unconstrained(make_loss(settings), optimizer),
            denoiser,
            uj.training.Minibatches(patches, settings.batch_size, seed=seed),
            num_steps=settings.num_steps,
            key=jax.random.key(seed),
            checkpoints=uj.training.Checkpoints(
                run / WORK / variant.name,
                every=settings.checkpoint_every,
                keep=2,
                config={"settings": vars(settings), "variant": variant.name, "seed": seed},
            ),
            resume=True,
            callbacks=[uj.training.json_lines(events), uj.training.progress_bar(variant.name)],
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"Training {variant.name!r}: {error}") from error
    return fitted.model, read_history(events, settings.steps_per_row)


def _projected(like: LinearSpline) -> optax.GradientTransformation:
    """Every update of coefficients followed by the projection onto the box of `like`, which all splines share.

    Clipping as `keep_splines_feasible` does would hold up a flat part: where its level is to sink, the one cell before
    it would have a negative slope and be clipped, and all would be as before. The projection moves it as a whole.
    """

    def is_coefficients(params: Any) -> Any:
        return jax.tree.map(lambda label: label == "coefficients", uj.splines.spline_labels(params))

    return uj.splines.keep_feasible(like.grid, like.box, project=uj.splines.project_slopes, mask=is_coefficients)


def load_denoiser(path: Path, settings: Settings, variant: Variant) -> nnx.Sequential:
    """The denoiser whose parameters a run wrote to `path`."""
    return uj.export.load_params(path, make_denoiser(settings, variant, 0))


def read_history(path: Path, steps_per_row: int) -> History:
    """What `train` wrote to `path`."""
    events = read_events(path, "train")
    rows = [events[start : start + steps_per_row] for start in range(0, len(events), steps_per_row)]
    return History(
        step=np.array([row[-1]["step"] for row in rows]),
        loss=np.array([np.mean([event["loss"] for event in row]) for row in rows]),
        seconds=total_seconds(events),
    )
