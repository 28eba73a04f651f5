"""The images of the experiment, in colour: crops to learn from, crops held out, and the masks that hide pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.inpainting.settings import Settings

_FEW_IMAGES = 20  # fewer are cut into tiles before they are split, or train and test would show different things
_TILE = 2  # a tile's size in crop sizes
# the colour photographs among those that come with scikit-image
_COLOURED = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


class Inpaintings(NamedTuple):
    """Crops of images, in 8-bit intensities.

    Attributes:
        train: `(num_train, size, size, 3)`.
        held_out: `(num_held_out, size, size, 3)`, from other images, or other tiles of them.
        num_images: how many there were.
    """

    train: np.ndarray
    held_out: np.ndarray
    num_images: int


def make_problem(settings: Settings, path: Path | None, seed: int) -> Inpaintings:
    """Crops of the colour images at `path`, of which the share `settings.held_out_share` is held out.

    Raises:
        FileNotFoundError: where nothing lies at `path`.
        ValueError: for a folder without images, or with images smaller than a crop only.
    """
    images = load_colour_images(path)
    num_images = len(images)
    if num_images < _FEW_IMAGES:
        tiles = data.cut_tiles(images, size=_TILE * settings.crop_size)
        images = tiles if len(tiles) > num_images else images
    train, held_out = data.split_images(images, held_out=settings.held_out_share, seed=seed)
    return Inpaintings(
        train=sample_crops(train, settings.crop_size, settings.num_train, seed),
        held_out=sample_crops(held_out, settings.crop_size, settings.num_held_out, seed + 1),
        num_images=num_images,
    )


def load_colour_images(path: Path | None) -> list[data.Image]:
    """The images in a folder, `(height, width, 3)` in [0, 1], sorted by name; None stands for scikit-image's own."""
    if path is None:
        folder = data._bundled_folder()
        files = [folder / name for name in _COLOURED]
    else:
        if not path.is_dir():
            raise FileNotFoundError(f"`--data` must be a folder of images, but no folder lies at {path}.")
        folder = path
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in data.SUFFIXES)
        if not files:
            raise ValueError(f"`--data` {path} holds no image; looked for {', '.join(data.SUFFIXES)}.")
    images = []
    for file in files:
        pixels = data.load_picture(file)
        pixels = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
        images.append(data.Image(file.relative_to(folder).as_posix(), pixels))
    return images


def sample_crops(images: Sequence[data.Image], size: int, num_crops: int, seed: int) -> np.ndarray:
    """Square crops at random places of random images, in 8-bit intensities: `(num_crops, size, size, 3)`."""
    large = [image.pixels for image in images if min(image.pixels.shape[:2]) >= size]
    if not large:
        raise ValueError(f"`--data` needs images of at least {size} x {size} in either part, got none in one of them.")
    rng = np.random.default_rng(seed)
    crops = np.empty((num_crops, size, size, 3), np.uint8)
    for crop, owner in zip(crops, rng.integers(len(large), size=num_crops), strict=True):
        pixels = large[owner]
        top, left = (rng.integers(side - size + 1) for side in pixels.shape[:2])
        crop[:] = np.rint(255 * pixels[top : top + size, left : left + size])
    return crops


def hole_mask(settings: Settings) -> np.ndarray:
    """1 where pixels are known, 0 in the hole in the middle: `(size, size, 1)`."""
    mask = np.ones((settings.crop_size, settings.crop_size, 1), np.float32)
    start = (settings.crop_size - settings.hole_size) // 2
    mask[start : start + settings.hole_size, start : start + settings.hole_size] = 0
    return mask


def random_masks(settings: Settings, rng: np.random.Generator, num_masks: int) -> np.ndarray:
    """1 where pixels are known, 0 at random pixels: `(num_masks, size, size, 1)`."""
    return (rng.random((num_masks, settings.crop_size, settings.crop_size, 1)) >= settings.hidden_share).astype(
        np.float32
    )


def perturbation(key: jax.Array, like: jax.Array, norm: jax.Array | float) -> jax.Array:
    """Noise of a given norm in a random direction, in the shape of `like`."""
    noise = jax.random.normal(key, like.shape, like.dtype)
    return norm * noise / jnp.linalg.norm(noise)


def make_batches(crops: np.ndarray, settings: Settings, batch_size: int, seed: int) -> Callable[[int], Any]:
    """Training batches as a function of the step: random crops, mirrored at random, with masks."""

    def batches(step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((seed, step))
        images = to_unit(crops[rng.integers(len(crops), size=batch_size)])
        images = data.mirrored(images, rng)
        masks = np.repeat(hole_mask(settings)[None], batch_size, axis=0)
        is_random = rng.random(batch_size) < settings.random_share
        masks[is_random] = random_masks(settings, rng, int(np.sum(is_random)))
        return {"image": images, "mask": masks}

    return batches


def make_flow_batches(crops: np.ndarray, settings: Settings, seed: int) -> Callable[[int], Any]:
    """Batches for the likelihood, of images made continuous: (8-bit intensity + uniform noise) / 256."""

    def batches(step: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step))
        return dequantized(data.mirrored(crops[rng.integers(len(crops), size=settings.flow_batch)], rng), rng)

    return batches


def to_unit(crops: np.ndarray) -> np.ndarray:
    """8-bit intensities in [0, 1], float32."""
    return crops.astype(np.float32) / 255


def dequantized(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(intensity + uniform noise in [0, 1)) / 256, float32: a density of these bounds the probability of the crops."""
    return ((crops + rng.random(crops.shape)) / 256).astype(np.float32)
