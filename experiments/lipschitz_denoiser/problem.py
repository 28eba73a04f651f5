"""The images of the experiment: patches to train on, and images held out, by the set they come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import Image, load_images, middle, sample_patches, split_images
from experiments.lipschitz_denoiser.settings import Settings


class Problem(NamedTuple):
    """What the denoisers learn from and are tested on.

    Attributes:
        train_images: all of them.
        patches: of these, `(num_patches, patch_size, patch_size, 1)`, clean.
        tests: images that are held out, by the name of their set; none of them shares a pixel with the patches.
    """

    train_images: Sequence[Image]
    patches: np.ndarray
    tests: Mapping[str, Sequence[Image]]


def make_problem(settings: Settings, data: Path | None, test_data: Sequence[Path], seed: int) -> Problem:
    """The images at `data`, to learn from, and those at `test_data`, or where there are none some of the first.

    Raises:
        ValueError: where images are too few or too small, or two sets have one name.
        FileNotFoundError: where nothing lies at a path.
    """
    images = load_images(data)
    if test_data:
        train, tests = images, {path.stem: load_images(path) for path in test_data}
        if len(tests) < len(test_data):
            raise ValueError(f"`--test-data` must be folders of different names, got {', '.join(map(str, test_data))}.")
    else:
        train, held_out = split_images(images, held_out=settings.held_out_share, seed=seed)
        tests = {"held out": [Image(image.name, middle(image.pixels, settings.held_out_size)) for image in held_out]}
    smallest = min(min(image.pixels.shape) for images in tests.values() for image in images)
    needed = max(settings.measured_size, settings.restored_size)
    if smallest < needed:
        raise ValueError(
            f"The images to test on must be at least {needed} x {needed}, but one has a side of {smallest}. "
            "Give larger ones by --test-data."
        )
    if max(min(image.pixels.shape) for image in train) < settings.tuning_size:
        raise ValueError(
            f"The images to learn from need one of at least {settings.tuning_size} x {settings.tuning_size}, to choose "
            "the parameters of plug-and-play. Give larger ones by --data."
        )
    rows = sample_patches(train, size=settings.patch_size, num_patches=settings.num_patches, seed=seed)
    return Problem(train, rows.reshape(-1, settings.patch_size, settings.patch_size, 1), tests)
