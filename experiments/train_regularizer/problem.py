"""The images of the training: patches at several scales, and those to validate on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from experiments.data import Image, load_images, middle, mirrored, sample_patches, split_images
from experiments.train_regularizer.settings import Settings


class Data(NamedTuple):
    """What a regularizer learns from and is chosen by.

    Attributes:
        patches: clean ones, turned and mirrored at random, `(num_patches, patch_size, patch_size, 1)`.
        validation: middles of clean images of one size, `(num_images, size, size, 1)`.
        num_images: how many images the patches are from.
    """

    patches: np.ndarray
    validation: np.ndarray
    num_images: int


def make_data(settings: Settings, data: Sequence[Path], validation: Path | None, seed: int) -> Data:
    """Patches of the images at all of `data`, and the middles of those at `validation` or of a fifth of the first.

    Raises:
        ValueError: where images are too few or too small.
        FileNotFoundError: where nothing lies at a path.
    """
    images = [image for path in data or (None,) for image in load_images(path)]
    if validation is None:
        images, held_out = split_images(images, held_out=0.2, seed=seed)
    else:
        held_out = load_images(validation)
    size = min(settings.validation_size, *(min(image.pixels.shape) for image in held_out))
    if size <= 2 * settings.margin:
        raise ValueError(
            f"validation images must have more than {2 * settings.margin} pixels a side, as {settings.margin} at each "
            f"edge do not count, got {size}."
        )
    middles = np.stack([middle(image.pixels, size) for image in held_out])[..., None]
    scaled = [_scaled(image, scale) for scale in settings.scales for image in images]
    rows = sample_patches(scaled, size=settings.patch_size, num_patches=settings.num_patches, seed=seed)
    patches = rows.reshape(-1, settings.patch_size, settings.patch_size, 1)
    return Data(_turned(patches, seed), middles, len(images))


def _turned(patches: np.ndarray, seed: int) -> np.ndarray:
    """Each of the square `patches` in one of its eight orientations."""
    rng = np.random.default_rng([seed, 1])
    is_transposed = rng.random((len(patches), 1, 1, 1)) < 0.5
    return mirrored(np.where(is_transposed, np.swapaxes(patches, 1, 2), patches), rng)


def _scaled(image: Image, scale: float) -> Image:
    if scale == 1:
        return image
    height, width = (max(round(scale * side), 1) for side in image.pixels.shape)
    picture = PIL.Image.fromarray(image.pixels).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return Image(image.name, np.clip(np.asarray(picture, np.float32), 0, 1))
