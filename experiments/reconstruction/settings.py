"""What the reconstructions can be told."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run; intensities in [0, 1], noise levels of images in 8-bit units."""

    test_size: int  # the middle of each image to test on
    tuning_size: int
    num_tuning: int  # images
    # deblurring: a circular Gaussian blur
    blur_size: int
    blur_std: float
    blur_sigma: float
    # super-resolution: the same kind of blur, and every factor-th pixel
    factor: int
    factor_blur_std: float
    factor_sigma: float
    # magnetic resonance: Cartesian, random columns
    acceleration: float
    center_fraction: float
    num_coils: int  # of the one with several; it runs at twice the acceleration
    spectrum_noise: float  # standard deviation of real and imaginary part
    # computed tomography: parallel beams
    num_angles: int
    sinogram_noise: float  # in units of the intensity times a pixel
    # inpainting: random pixels
    known_share: float
    inpainting_sigma: float
    # solvers
    tolerance: float
    max_steps: int
    tv_steps: int
    # the search for parameters
    tuning_tolerance: float
    tuning_steps: int
    tuning_tv_steps: int
    max_rounds: int  # of 3 x 3 candidates
    first_factor: float  # between neighbouring candidates, in the first round
    last_factor: float  # the search ends below


DEFAULTS = Settings(
    test_size=160,
    tuning_size=96,
    num_tuning=3,
    blur_size=9,
    blur_std=1.6,
    blur_sigma=2.55,
    factor=2,
    factor_blur_std=0.8,
    factor_sigma=2.55,
    acceleration=4.0,
    center_fraction=0.08,
    num_coils=8,
    spectrum_noise=2e-3,
    num_angles=40,
    sinogram_noise=0.5,
    known_share=0.4,
    inpainting_sigma=5.0,
    tolerance=1e-5,
    max_steps=1_000,
    tv_steps=2_000,
    tuning_tolerance=1e-4,
    tuning_steps=400,
    tuning_tv_steps=1_000,
    max_rounds=8,
    first_factor=3.0,
    last_factor=1.2,
)

NOISE = ("blur_sigma", "factor_sigma", "spectrum_noise", "sinogram_noise", "inpainting_sigma")
"""The settings that are standard deviations of noise."""
