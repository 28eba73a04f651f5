"""The networks under comparison, and how each is trained."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import unroll_jax as uj
from experiments.events import read_events, total_seconds
from experiments.files import WORK
from experiments.inpainting.conditioning import error_decibels, given_measured
from experiments.inpainting.optimizer import cosine_adam
from experiments.inpainting.problem import make_batches, perturbation
from experiments.inpainting.settings import Settings
from unroll_jax.flows import (
    Glow,
    GlowProxState,
    Inpainting,
    glow_prox,
    glow_prox_params,
    inpainting,
    smooth_fill,
)


class Variant(NamedTuple):
    """One network of the comparison.

    Attributes:
        name: how tables and files call it.
        is_constrained: whether it is trained to descend, under noise; else plainly.
    """

    name: str
    is_constrained: bool


PLAIN = Variant("plain", False)
DESCENT = Variant("descent", True)
VARIANTS = (PLAIN, DESCENT)


class History(NamedTuple):
    """What training reported, a row for every step.

    Attributes:
        step: `(num_rows,)`.
        loss: `(num_rows,)`, not finite where a step was skipped.
        violation: by constraint, `(num_rows, num_layers - 1)`; of "first z" `(num_rows, 1)`.
        multipliers: the same.
        num_skipped: steps without effect, as they were not finite.
        seconds: that training took.
    """

    step: np.ndarray
    loss: np.ndarray
    violation: dict[str, np.ndarray]
    multipliers: dict[str, np.ndarray]
    num_skipped: int
    seconds: float


class Run(NamedTuple):
    """What a network makes of problems, after every layer, the start first.

    Attributes:
        x: `(num, num_layers + 1, size, size, 3)`, the estimates.
        measures: by name, `(num, num_layers + 1)`: "x", the norm of the gradient of the data term, and "z", that of the
            prior term, which is the latents' norm (MATH B.4); the start has no latents.
    """

    x: jax.Array
    measures: dict[str, jax.Array]


# one object, so that networks differ in their numbers only and share their compiled programs
GLOW_PROX = glow_prox(start=smooth_fill, flow_of=given_measured)


def make_network(flow: Glow, settings: Settings) -> uj.Unrolled:
    """The network before training: every layer has this flow."""
    params = glow_prox_params(
        flow, step_size=settings.step_size, strength=jnp.full(settings.num_levels, settings.strength)
    )
    return uj.unroll(GLOW_PROX, settings.num_layers, params, remat="layer" if settings.remat else None)


def run(network: uj.Unrolled, images: jax.Array, masks: jax.Array) -> Run:
    """The network on problems made of images, which may be noisy, and masks."""

    def run_one(image: jax.Array, mask: jax.Array) -> Run:
        problem = inpainting(image, mask)
        return network.trajectory(problem, lambda state: _record(state, problem))

    return jax.vmap(run_one)(images, masks)


def run_perturbed(network: uj.Unrolled, images: jax.Array, masks: jax.Array, key: jax.Array, settings: Settings) -> Run:
    """As `run`, with noise on the measurements and between the layers."""
    noisy = network.with_algorithm(
        uj.algorithms.perturbed(GLOW_PROX, lambda x, problem: jnp.asarray(settings.layer_noise))
    )

    def run_one(image: jax.Array, mask: jax.Array, key: jax.Array) -> Run:
        norm_key, noise_key, layer_key = jax.random.split(key, 3)
        norm = settings.input_noise * jax.random.uniform(norm_key)
        problem = inpainting(image + perturbation(noise_key, image, norm), mask)
        return noisy.trajectory(
            uj.algorithms.NoisyProblem(problem, layer_key), lambda state: _record(state.inner, problem)
        )

    return jax.vmap(run_one)(images, masks, jax.random.split(key, len(images)))


def make_terms(settings: Settings, variant: Variant) -> Callable[..., Any]:
    """The loss and the constraints that `primal_dual` trains the variant with.

    The loss is the mean of the negative PSNR over the hidden pixels after the last layer, with some weight on the
    layers before and on the whole image. The constraints ask layers 2, 3, ... to lower both measures of MATH B.4, as
    ratios of means. The first layer has none before it, as the start fits the measurement exactly and has no latents;
    it is asked for latents no longer than those of the flow's own images, or it could make the others' task easy.
    """
    decibels = functools.partial(error_decibels, floor=settings.error_floor)

    def terms(network: uj.Unrolled, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        images, masks = batch["image"], batch["mask"]
        if variant.is_constrained:
            found = run_perturbed(network, images, masks, key, settings)
        else:
            found = run(network, images, masks)

        def losses(xs: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
            hidden = jax.vmap(lambda x: decibels(x, image, 1 - mask))(xs)
            return (
                hidden[-1]
                + settings.layer_weight * jnp.mean(hidden[:-1])
                + settings.image_weight * decibels(xs[-1], image, jnp.ones_like(mask))
            )

        loss = jnp.mean(jax.vmap(losses)(found.x[:, 1:], images, masks))
        if not variant.is_constrained:
            return loss, {}
        violation = {
            name: uj.constraints.ratio_of_means(values[:, 1:], settings.train_rate)
            for name, values in found.measures.items()
        }
        first, usual = found.measures["z"][:, 1], math.sqrt(images[0].size)
        return loss, violation | {"first z": jnp.mean(first)[None] / usual - 1}

    return terms


def train(
    flow: Glow, crops: np.ndarray, settings: Settings, variant: Variant, seed: int, run: Path
) -> tuple[uj.Unrolled, History]:
    """The trained network and what its training reported.

    Args:
        flow: that every layer starts with.
        crops: to learn from.
        settings: of the run.
        variant: which network.
        seed: decides the batches and the noise.
        run: the run's folder: events go to `training/NAME.jsonl` there, checkpoints to `work/NAME`, from which training
            that was stopped goes on.

    Raises:
        FloatingPointError: if the loss, a violation, the gradient or an update was not finite.
    """
    trainer = uj.primal_dual(
        make_terms(settings, variant),
        make_optimizer(settings),
        optax.sgd(settings.dual_rate),
        weight=uj.augmented_weight(settings.penalty),
    )
    events = run / "training" / f"{variant.name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    try:
        fitted = uj.training.fit(
            trainer,
            make_network(flow, settings),
            make_batches(crops, settings, settings.batch_size, seed),
            num_steps=settings.train_steps,
            key=jax.random.key(seed),
            checkpoints=uj.training.Checkpoints(
                run / WORK / variant.name,
                every=settings.checkpoint_every,
                keep=2,
                config={"settings": vars(settings), "network": variant.name, "seed": seed},
            ),
            non_finite="skip",  # now and then the latents of a perturbed image overflow
            resume=True,
            callbacks=[uj.training.json_lines(events), uj.training.progress_bar(variant.name)],
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"Training {variant.name!r}: {error}") from error
    return fitted.model, read_history(events)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """That of the networks."""
    return cosine_adam(
        settings.learning_rate, settings.train_steps, gradient_clip=settings.gradient_clip, last_share=1 / 50
    )


def read_history(path: Path) -> History:
    """What training wrote to `path`."""
    rows = read_events(path, "train")

    def columns(name: str) -> dict[str, np.ndarray]:
        return {key: np.array([row[name][key] for row in rows], float) for key in rows[0][name]}

    return History(
        step=np.array([row["step"] for row in rows]),
        loss=np.array([row["loss"] for row in rows], float),  # null becomes NaN
        violation=columns("violation"),
        multipliers=columns("multipliers"),
        num_skipped=rows[-1]["skipped"],
        seconds=total_seconds(rows),
    )


def _record(state: GlowProxState, problem: Inpainting) -> Run:
    def norm(x: jax.Array) -> jax.Array:
        # the square root's slope at zero is infinite, where the start is
        return jnp.sqrt(jnp.sum(x**2) + 1e-12)

    return Run(state.x, {"x": norm(problem.gradient(state.x)), "z": norm(state.latents)})
