"""What the networks and the classical methods do on held-out crops."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import unroll_jax as uj
from experiments.inpainting import classical, networks
from experiments.inpainting.conditioning import given_measured
from experiments.inpainting.problem import hole_mask, perturbation, random_masks, to_unit
from experiments.inpainting.settings import Settings
from unroll_jax.flows import Glow, inpainting

_MASK_SEED, _NOISE_KEY = 1_000, 2_000  # every method meets the same masks and the same noise


class Task(NamedTuple):
    """Held-out crops with masks.

    Attributes:
        images: `(num, size, size, 3)`, in [0, 1].
        masks: `(num, size, size, 1)`.
    """

    images: np.ndarray
    masks: np.ndarray


class Quality(NamedTuple):
    """How near restored images are to the truth: each `(num,)`, or `(num, num_layers + 1)` along the layers.

    Attributes:
        hole_psnr: over the hidden pixels, in dB.
        psnr: over all pixels.
        hole_ssim: the mean of the SSIM map over the hidden pixels.
        ssim: over all pixels.
    """

    hole_psnr: np.ndarray
    psnr: np.ndarray
    hole_ssim: np.ndarray
    ssim: np.ndarray


class Found(NamedTuple):
    """One network on one task.

    Attributes:
        layers: the quality after every layer, the start first.
        restored: that of the last layer's image with the known pixels as they were measured.
        measures: by name, `(num, num_layers + 1)`.
        examples: `(8, num_layers + 1, size, size, 3)`, the first images.
    """

    layers: Quality
    restored: Quality
    measures: dict[str, np.ndarray]
    examples: np.ndarray


class Perturbed(NamedTuple):
    """One method on perturbed measurements.

    Attributes:
        hole_psnr: `(num_levels, num)`, of the restored images, without perturbation first.
        examples: `(num_levels, 4, size, size, 3)`, the first images.
    """

    hole_psnr: np.ndarray
    examples: np.ndarray


def make_tasks(crops: np.ndarray, settings: Settings) -> dict[str, Task]:
    """The held-out crops with the hole, and with random masks."""
    images = to_unit(crops)
    rng = np.random.default_rng(_MASK_SEED)
    return {
        "hole": Task(images, np.repeat(hole_mask(settings)[None], len(images), axis=0)),
        "random": Task(images, random_masks(settings, rng, len(images))),
    }


def measure_network(network: uj.Unrolled, task: Task, settings: Settings) -> Found:
    """The network's quality and measures after every layer."""
    x, measures = _in_parts(lambda images, masks: tuple(_run(network, images, masks)), task, settings)
    restored = np.where(task.masks == 1, task.images, x[:, -1])
    return Found(
        layers=_stacked([quality(x[:, layer], task) for layer in range(x.shape[1])]),
        restored=quality(restored, task),
        measures=measures,
        examples=x[:8],
    )


def restore_by(network: uj.Unrolled) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`(images, masks) -> images`: the network's last layer, with the known pixels as they were measured."""
    return lambda images, masks: np.where(masks == 1, images, _last(network, images, masks))


def restore_by_flow(flow: Glow) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`(images, masks) -> images`: the most probable images of one flow, with the known pixels as measured."""
    return lambda images, masks: np.where(masks == 1, images, _modes(flow, images, masks))


def classical_methods(settings: Settings) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The methods to compare with, by name, as `(images, masks) -> images`."""
    return {
        "harmonic": lambda images, masks: np.asarray(classical.harmonic_inpainting(images, masks)),
        "biharmonic": classical.biharmonic_inpainting,
        "total variation": lambda images, masks: np.asarray(
            classical.variation_inpainting(images, masks, settings.variation_steps)
        ),
    }


def measure_perturbed(
    restore: Callable[[np.ndarray, np.ndarray], np.ndarray], task: Task, settings: Settings
) -> Perturbed:
    """The method on measurements of images that were moved in a random direction, by each norm of the settings."""
    keys = jax.random.split(jax.random.key(_NOISE_KEY), len(task.images))
    levels = (0.0, *settings.perturbations)
    found, examples = [], []
    for level in levels:
        noisy = task.images + np.asarray(_perturbations(keys, task.images, level))
        restored = _in_parts(restore, Task(noisy, task.masks), settings)
        found.append(_psnr(restored, task.images, 1 - task.masks))
        examples.append(restored[:4])
    return Perturbed(np.array(found), np.array(examples))


def certificates(
    measures: dict[str, np.ndarray], bounds: dict[str, float], settings: Settings
) -> dict[str, uj.Certificate]:
    """The certificate of descent in every measure, for layers 2, 3, ...; saturated at `bounds`."""
    return {
        name: uj.certify(values[:, 1:], rate=settings.rate, confidence=settings.confidence, value_bound=bounds[name])
        for name, values in measures.items()
    }


def largest_measures(network: uj.Unrolled, task: Task, settings: Settings) -> dict[str, float]:
    """The largest values of the measures on training crops, by name: where certificates saturate them."""
    _, measures = _in_parts(lambda images, masks: tuple(_run(network, images, masks)), task, settings)
    return {name: float(np.max(values[:, 1:])) for name, values in measures.items()}


def quality(restored: np.ndarray, task: Task) -> Quality:
    """How near `restored`, clipped to [0, 1], is to the task's images."""
    from skimage.metrics import structural_similarity

    restored = np.clip(restored, 0, 1)
    maps = np.array(
        [
            np.mean(structural_similarity(a, b, channel_axis=-1, data_range=1.0, full=True)[1], axis=-1)
            for a, b in zip(restored, task.images, strict=True)
        ]
    )
    hidden = 1 - task.masks
    return Quality(
        hole_psnr=_psnr(restored, task.images, hidden),
        psnr=_psnr(restored, task.images, np.ones_like(hidden)),
        hole_ssim=np.sum(maps * hidden[..., 0], axis=(1, 2)) / np.sum(hidden, axis=(1, 2, 3)),
        ssim=np.mean(maps, axis=(1, 2)),
    )


def _psnr(restored: np.ndarray, images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    squares = np.sum(weights * (np.clip(restored, 0, 1) - images) ** 2, axis=(1, 2, 3))
    # no better than the rounding to 8 bits
    floor = (0.5 / 255) ** 2 / 3
    return -10 * np.log10(np.maximum(squares / (3 * np.sum(weights, axis=(1, 2, 3))), floor))


def _stacked(qualities: list[Quality]) -> Quality:
    return Quality(*(np.stack(values, axis=1) for values in zip(*qualities, strict=True)))


def _in_parts(function: Callable, task: Task, settings: Settings):
    size = settings.batch_evaluated
    parts = [
        jax.tree.map(np.asarray, function(task.images[start : start + size], task.masks[start : start + size]))
        for start in range(0, len(task.images), size)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@jax.jit
def _modes(flow: Glow, images: jax.Array, masks: jax.Array) -> jax.Array:
    return jax.vmap(lambda image, mask: given_measured(flow, inpainting(image, mask)).mode())(images, masks)


_run = jax.jit(networks.run)
_last = jax.jit(lambda network, images, masks: networks.run(network, images, masks).x[:, -1])
_perturbations = jax.jit(jax.vmap(perturbation, in_axes=(0, 0, None)))
