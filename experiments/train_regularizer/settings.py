"""What the training of a regularizer can be told."""

import dataclasses
from typing import Any, Literal

Mode = Literal["equilibrium", "jacobian-free", "unrolled"]
Loss = Literal["l1", "squared"]
Optimizer = Literal["muon", "adam"]

FILTER_RATES: dict[Optimizer, float] = {"adam": 5e-3, "muon": 5e-2}


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of one run.

    Intensities are in [0, 1], but noise levels are told in 8-bit units: 25 means 25/255.
    """

    # the regularizer
    rho: float  # 0 for a convex one
    channels: tuple[int, ...]
    kernel_size: int
    num_knots: int  # of the narrowest potential
    num_potentials: int  # of which every filter has a mixture; 1 for one that all share
    mu: float  # where training starts; after --init only where --mu says so
    # data
    max_sigma: float  # noise levels are uniform between 0 and this
    patch_size: int
    # pixels along the edge whose error does not count, as filters see zeros beyond it: they are half of a patch, and
    # what suits them takes 0.05 dB from the inside of images
    margin: int
    num_patches: int
    scales: tuple[float, ...]  # of the images the patches are cut from
    # the denoiser in training
    mode: Mode
    loss: Loss
    tolerance: float  # relative change at which the fixed point counts as found, at max_sigma; in proportion below
    max_steps: int
    adjoint_tolerance: float  # relative residual of the linear system behind the implicit gradient
    adjoint_steps: int
    num_unrolled: int  # gradient steps of the mode "unrolled"
    variation_weight: float  # of the TV2 of both splines, in the unit of their knots
    # the optimizer
    num_steps: int
    batch_size: int
    warmup_steps: int
    optimizer: Optimizer  # of the filters; all else takes Adam
    filter_rate: float
    scaling_rate: float
    curvature_rate: float
    mixture_rate: float
    spline_rate: float
    frozen_share: float  # of the steps, in which the splines wait for the filters to form
    # validation
    validation_sigmas: tuple[float, ...]
    validation_size: int  # the middle of each image that is used
    evaluate_every: int
    patience: int
    checkpoint_every: int
    steps_per_row: int  # of the history


DEFAULTS = Settings(
    rho=1.0,
    channels=(4, 8, 60),
    kernel_size=5,
    num_knots=101,
    num_potentials=5,
    mu=50.0,
    max_sigma=30.0,
    patch_size=40,
    margin=6,
    num_patches=40_000,
    scales=(1.0, 0.9, 0.8, 0.7),
    mode="equilibrium",
    loss="l1",
    tolerance=3e-4,
    max_steps=80,
    adjoint_tolerance=1e-2,
    adjoint_steps=25,
    num_unrolled=10,
    variation_weight=0.0,
    num_steps=1_000,
    batch_size=16,
    warmup_steps=10,
    optimizer="adam",
    filter_rate=FILTER_RATES["adam"],
    scaling_rate=1e-2,
    curvature_rate=2e-3,
    mixture_rate=5e-2,
    spline_rate=0.0,
    frozen_share=0.5,
    validation_sigmas=(5.0, 15.0, 25.0),
    validation_size=128,
    evaluate_every=200,
    patience=5,
    checkpoint_every=50,
    steps_per_row=20,
)

CONVEX: dict[str, Any] = {"loss": "squared", "optimizer": "muon", "mu": 100.0, "max_steps": 120}
"""What differs for a convex regularizer: Muon lifted it by 0.1 dB in 120 steps where Adam lifted it by 0.02, squared
errors by 0.04 dB in 100; twice the curvature, which takes more iterations, by 0.04 without any training. A weakly
convex one they did not help."""


def potentials_in_words(num_potentials: int) -> str:
    """What the filters' potentials are, for reports.

    >>> potentials_in_words(1)
    'two splines that all filters share'
    """
    if num_potentials == 1:
        return "two splines that all filters share"
    return f"{num_potentials} pairs of splines, of which every filter has its own mixture at every noise level"


def error_in_words(loss: str, margin: int) -> str:
    """What is minimized, for reports.

    >>> error_in_words("squared", 6)
    'the squared error 6 pixels from the edge on'
    """
    return f"the {loss} error" + (f" {margin} pixels from the edge on" if margin else "")
