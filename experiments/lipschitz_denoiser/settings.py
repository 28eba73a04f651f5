"""What the experiment with Lipschitz denoisers can be told."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run.

    Intensities are in [0, 1], but noise levels are told in 8-bit units: 10 means 10/255.
    """

    # the networks
    num_blocks: int
    num_filters: int
    kernel_size: int
    averagedness: float  # of every block, in (0, 1); 1/2 makes them firmly nonexpansive
    num_knots: int
    knot_range: float  # the outermost knots, in standard deviations of the noise behind the first filters
    # data
    sigma: float
    patch_size: int
    num_patches: int
    held_out_share: float  # of the images, where no others are given to test on
    held_out_size: int  # the middle of those that is used
    # training
    num_steps: int
    batch_size: int
    learning_rate: float
    coefficient_rate: float  # of the splines' coefficients
    frozen_share: float  # of the steps, in which the splines wait for the filters to form
    variation_weight: float  # of the mean TV2 of the splines, beside the loss in units of the noise's variance
    steps_per_row: int  # of the history
    checkpoint_every: int
    # Lipschitz constants at images
    num_measured: int
    measured_size: int
    power_steps: int
    # plug-and-play: deblurring
    blur_size: int
    blur_std: float
    measurement_sigma: float
    restored_size: int
    step_sizes: tuple[float, ...]  # to choose from, in units of 1 / ||blur||^2, below 2
    relaxations: tuple[float, ...]  # to choose from, in (0, 1]
    tuning_size: int
    tuning_steps: int
    tolerance: float
    max_steps: int


DEFAULTS = Settings(
    num_blocks=4,
    num_filters=24,
    kernel_size=5,
    averagedness=0.9,
    num_knots=51,
    knot_range=6.4,
    sigma=10.0,
    patch_size=32,
    num_patches=9_600,
    held_out_share=0.3,
    held_out_size=256,
    num_steps=600,
    batch_size=16,
    learning_rate=2e-3,
    coefficient_rate=3e-5,
    frozen_share=0.2,
    variation_weight=1e-3,
    steps_per_row=20,
    checkpoint_every=200,
    num_measured=4,
    measured_size=128,
    power_steps=50,
    blur_size=9,
    blur_std=1.6,
    measurement_sigma=5.0,
    restored_size=128,
    step_sizes=(1.0, 1.9),
    relaxations=(0.25, 0.5, 1.0),
    tuning_size=96,
    tuning_steps=60,
    tolerance=1e-6,
    max_steps=1_000,
)
