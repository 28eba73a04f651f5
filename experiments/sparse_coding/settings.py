"""What the sparse coding experiment can be told, and its presets."""

import dataclasses
from typing import Literal, TypeAlias

Preset: TypeAlias = Literal["quick", "paper"]
Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run.

    Lengths are in the unit of the patches after `problem.prepare_patches`: their mean norm is about 1.
    """

    # data
    patch_size: int
    normalize: bool  # remove each patch's mean and contrast, and drop flat patches
    num_train: int
    num_held_out: int
    held_out_share: float  # of the images
    # the sparse coding problem
    atoms_per_pixel: float
    l1_weight: float  # before the patches are brought to unit norm
    dictionary_rounds: int
    label_gap: float  # duality gap of the labels, relative to the objective
    # the networks
    num_layers: int
    # training
    num_steps: int
    batch_size: int
    learning_rate: float
    gradient_clip: float
    dual_rate: float
    penalty: float
    train_rate: float  # what training asks for; a little more than `rate`, which is what counts
    tail_rate: float  # what the tail constraint asks of nearly every patch; any descent is what counts
    tail_allowance: float  # the mean excess it tolerates
    steps_per_dispatch: int
    checkpoint_every: int
    precision: Precision  # of the layers; parameters, losses and constraints are always float32
    # evaluation
    rate: float
    confidence: float
    noise_levels: tuple[float, ...]
    shift_levels: tuple[float, ...]
    num_shifted: int


QUICK = Settings(
    patch_size=16,
    normalize=True,
    num_train=16_000,
    num_held_out=4_000,
    held_out_share=0.3,
    atoms_per_pixel=1.2,
    l1_weight=0.05,
    dictionary_rounds=12,
    label_gap=1e-4,
    num_layers=10,
    num_steps=1_200,
    batch_size=128,
    learning_rate=2e-3,
    gradient_clip=0.1,
    dual_rate=0.3,
    penalty=3.0,
    train_rate=0.07,
    tail_rate=0.03,
    tail_allowance=2e-4,
    steps_per_dispatch=20,
    checkpoint_every=200,
    precision="float32",
    rate=0.05,
    confidence=0.95,
    noise_levels=(0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    shift_levels=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    num_shifted=1_000,
)

# sizes, data, l1 weight, depth, batch and rate of arXiv 2312.15788; 62 steps are an epoch, 31,000 steps 500 epochs
PAPER = dataclasses.replace(
    QUICK,
    patch_size=32,
    normalize=False,
    num_train=32_000,
    num_held_out=10_000,
    held_out_share=0.2,
    l1_weight=0.5,
    num_steps=31_000,
    batch_size=512,
    steps_per_dispatch=62,
    checkpoint_every=620,
    num_shifted=10_000,
)

PRESETS: dict[Preset, Settings] = {"quick": QUICK, "paper": PAPER}
