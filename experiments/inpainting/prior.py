"""The flow by itself: trained for likelihood, compared with a Gaussian by bits per dimension, tuned for inpainting."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

import unroll_jax as uj
from experiments.files import WORK
from experiments.inpainting.conditioning import (
    CONTEXT_CHANNELS,
    Given,
    error_decibels,
    given_measured,
    given_nothing,
)
from experiments.inpainting.optimizer import cosine_adam
from experiments.inpainting.problem import dequantized, make_batches, make_flow_batches, perturbation
from experiments.inpainting.settings import Settings
from unroll_jax.flows import Glow, glow_preset, inpainting

_LOG_LEVELS = math.log2(256)


def make_flow(settings: Settings, crops: np.ndarray, seed: int) -> Glow:
    """The flow before training, fitted to some crops."""

    def make(key: jax.Array, batch: jax.Array) -> Glow:
        flow = glow_preset(
            settings.flow_preset,
            key,
            num_levels=settings.num_levels,
            num_steps=settings.num_steps,
            width=settings.width,
            context_channels=CONTEXT_CHANNELS,
        )
        return flow.fitted(batch, jnp.zeros((*batch.shape[:3], CONTEXT_CHANNELS), batch.dtype))

    batch = dequantized(crops[:512], np.random.default_rng(seed))
    return jax.jit(make)(jax.random.key(seed), batch)


def bits_per_dimension(flow: Glow, images: jax.Array) -> jax.Array:
    """The mean bits per number of 8-bit images, given nothing, from dequantized ones in [0, 1]: `()`."""
    return jnp.mean(jax.vmap(lambda image: _bits(given_nothing(flow, image.shape[0]), image))(images))


def _bits(given: Given, image: jax.Array) -> jax.Array:
    return _LOG_LEVELS - given.log_prob(image) / (image.size * math.log(2))


def train_flow(crops: np.ndarray, settings: Settings, seed: int, run: Path) -> Glow:
    """The flow trained for likelihood, given nothing; events go to `training/flow.jsonl` in the run's folder.

    Raises:
        FloatingPointError: if the loss, the gradient or an update was not finite.
    """

    def loss(flow: Any, batch: Any, key: jax.Array) -> jax.Array:
        del key  # the noise of dequantization comes with the batch
        return bits_per_dimension(flow, batch)

    optimizer = cosine_adam(settings.flow_rate, settings.flow_steps, gradient_clip=1.0, last_share=1 / 100)
    batches = make_flow_batches(crops, settings, seed)
    flow = make_flow(settings, crops, seed)
    return _fit("flow", flow, loss, optimizer, batches, settings.flow_steps, settings, seed, run)


def tune_flow(flow: Glow, crops: np.ndarray, settings: Settings, seed: int, run: Path) -> Glow:
    """`flow` trained on, for its most probable images given measurements to be near the truth by PSNR.

    This costs a fraction of a step of the networks. Of a part of each batch the likelihood given a noisy measurement
    stays in the loss: without it, latents of images far from the most probable one grow until they overflow. Events go
    to `training/tuned flow.jsonl` in the run's folder.

    Raises:
        FloatingPointError: if the loss, the gradient or an update was not finite.
    """

    def decibels(flow: Glow, image: jax.Array, mask: jax.Array) -> jax.Array:
        mode = given_measured(flow, inpainting(image, mask)).mode()
        return error_decibels(mode, image, 1 - mask, settings.error_floor)

    def bits(flow: Glow, image: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        # noisy, as a flow would make ever more of known pixels that it is certain of
        problem = inpainting(image + perturbation(key, image, settings.input_noise), mask)
        return _bits(given_measured(flow, problem), image)

    def loss(flow: Any, batch: Any, key: jax.Array) -> jax.Array:
        images, masks = batch["image"], batch["mask"]
        keys = jax.random.split(key, settings.tuning_likelihoods)
        few = slice(settings.tuning_likelihoods)
        return jnp.mean(jax.vmap(decibels, in_axes=(None, 0, 0))(flow, images, masks)) + settings.bits_weight * (
            jnp.mean(jax.vmap(bits, in_axes=(None, 0, 0, 0))(flow, images[few], masks[few], keys))
        )

    optimizer = cosine_adam(settings.tuning_rate, settings.tuning_steps, gradient_clip=10.0, last_share=1 / 100)
    batches = make_batches(crops, settings, settings.tuning_batch, seed)
    return _fit("tuned flow", flow, loss, optimizer, batches, settings.tuning_steps, settings, seed, run)


def _fit(
    name: str,
    flow: Glow,
    loss: Callable[[Any, Any, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    batches: Callable[[int], Any],
    num_steps: int,
    settings: Settings,
    seed: int,
    run: Path,
) -> Glow:
    events = run / "training" / f"{name}.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)
    fitted = uj.training.fit(
        uj.training.unconstrained(loss, optimizer),
        flow,
        batches,
        num_steps=num_steps,
        key=jax.random.key(seed),
        checkpoints=uj.training.Checkpoints(
            run / WORK / name,
            every=settings.checkpoint_every,
            keep=2,
            config={"settings": vars(settings), "network": name},
        ),
        resume=True,
        callbacks=[uj.training.json_lines(events), uj.training.progress_bar(name)],
    )
    return fitted.model


def held_out_bits(flow: Glow, crops: np.ndarray, settings: Settings, seed: int) -> float:
    """The bits per dimension of the flow on held-out crops."""
    images = dequantized(crops, np.random.default_rng(seed))
    measure = jax.jit(bits_per_dimension)
    parts = np.array_split(images, max(1, len(images) // settings.batch_evaluated))
    return float(sum(len(part) * float(measure(flow, part)) for part in parts) / len(images))


def gaussian_bits(train: np.ndarray, held_out: np.ndarray, seed: int) -> float:
    """The bits per dimension of held-out crops under a Gaussian with the training crops' mean and covariance."""
    rng = np.random.default_rng(seed)
    x, y = (dequantized(crops, rng).reshape(len(crops), -1).astype(np.float64) for crops in (train, held_out))
    num = x.shape[1]
    mean = np.mean(x, axis=0)
    # a little of the identity, for fewer crops than numbers in each
    covariance = np.cov(x, rowvar=False) + 1e-6 * np.eye(num)
    factor = scipy.linalg.cholesky(covariance, lower=True)
    squares = np.sum(scipy.linalg.solve_triangular(factor, (y - mean).T, lower=True) ** 2, axis=0)
    nats = np.mean(squares) / 2 + np.sum(np.log(np.diag(factor))) + num * math.log(2 * math.pi) / 2
    return float(_LOG_LEVELS + nats / (num * math.log(2)))


def samples(flow: Glow, settings: Settings, seed: int, temperature: float) -> np.ndarray:
    """Random images of the flow given nothing: `(num_samples, size, size, 3)`, clipped to [0, 1]."""
    size = (settings.crop_size, settings.crop_size)
    nothing = given_nothing(flow, settings.crop_size).context
    draw = jax.jit(
        jax.vmap(lambda flow, key: flow.sample(key, size, temperature=temperature, context=nothing), in_axes=(None, 0))
    )
    return np.clip(draw(flow, jax.random.split(jax.random.key(seed), settings.num_samples)), 0, 1)
