"""What the inpainting experiment can be told, and its presets."""

import dataclasses
from typing import Literal, TypeAlias

Preset: TypeAlias = Literal["small", "paper"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run; intensities are in [0, 1]."""

    # data
    crop_size: int
    hole_size: int  # of the hole in the middle
    hidden_share: float  # of the pixels, in random masks
    random_share: float  # of the training examples that have a random mask; the others have the hole
    num_train: int
    num_held_out: int
    held_out_share: float  # of the images
    # the flow
    flow_preset: Literal["small", "paper"]
    num_levels: int
    num_steps: int
    width: int
    # likelihood training of the flow
    flow_steps: int
    flow_batch: int
    flow_rate: float
    # its tuning, for the most probable images given measurements
    tuning_steps: int
    tuning_batch: int
    tuning_rate: float
    tuning_likelihoods: int  # examples of each batch whose likelihood given the measurement counts too
    bits_weight: float  # of that likelihood, in dB for a bit per dimension
    # the networks
    num_layers: int
    step_size: float
    strength: float  # of the shrinkage on every level, at the start
    # their training
    train_steps: int
    batch_size: int
    learning_rate: float
    gradient_clip: float
    layer_weight: float  # of the loss after every layer but the last, beside the last's
    image_weight: float  # of the loss on the whole image, beside that on the hidden pixels
    error_floor: float  # mean squared error below which the loss does not ask for more
    dual_rate: float
    penalty: float
    train_rate: float  # what training asks for; a little more than `rate`, which is what counts
    layer_noise: float  # norm of the noise between the layers of the constrained network
    input_noise: float  # norm of the noise on measurements in training, the largest of the constrained network
    remat: bool  # whether layers are computed again in the backward pass
    checkpoint_every: int
    # evaluation
    rate: float
    confidence: float
    perturbations: tuple[float, ...]  # norms
    variation_steps: int
    num_samples: int
    batch_evaluated: int


SMALL = Settings(
    crop_size=32,
    hole_size=12,
    hidden_share=0.5,
    random_share=0.2,
    num_train=20_000,
    num_held_out=500,
    held_out_share=0.2,
    flow_preset="small",
    num_levels=3,
    num_steps=2,
    width=48,
    flow_steps=400,
    flow_batch=32,
    flow_rate=2e-3,
    tuning_steps=3_600,
    tuning_batch=64,
    tuning_rate=5e-3,
    tuning_likelihoods=8,
    bits_weight=0.2,
    num_layers=5,
    step_size=1.0,
    strength=1.5,
    train_steps=250,
    batch_size=16,
    learning_rate=7e-4,
    gradient_clip=10.0,
    layer_weight=0.1,
    image_weight=0.1,
    error_floor=1e-5,
    dual_rate=0.3,
    penalty=10.0,
    train_rate=0.1,
    layer_noise=0.5,
    input_noise=2.0,
    remat=False,
    checkpoint_every=100,
    rate=0.05,
    confidence=0.95,
    perturbations=(0.5, 1.0, 2.0, 4.0),
    variation_steps=600,
    num_samples=16,
    batch_evaluated=50,
)

# sizes of arXiv 2312.15788: 64 x 64 images, holes of 24, flows of 4 levels with 18 steps of width 512, batches of 8
PAPER = dataclasses.replace(
    SMALL,
    crop_size=64,
    hole_size=24,
    num_train=27_000,
    num_held_out=1_500,
    flow_preset="paper",
    num_levels=4,
    num_steps=18,
    width=512,
    flow_steps=20_000,
    flow_batch=32,
    flow_rate=1e-4,
    tuning_steps=5_000,
    tuning_batch=32,
    tuning_rate=1e-4,
    train_steps=40_000,
    batch_size=8,
    learning_rate=1e-5,
    remat=True,
    checkpoint_every=1_000,
)

PRESETS: dict[Preset, Settings] = {"small": SMALL, "paper": PAPER}
