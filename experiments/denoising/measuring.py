"""How near an image is to the clean one."""

import importlib
import math
from typing import Any

import numpy as np


def psnr(image: Any, clean: Any) -> float:
    """The peak signal-to-noise ratio in dB for a peak of 1, without clipping; infinite for the clean image itself."""
    error = np.mean((np.asarray(image, np.float64) - np.asarray(clean, np.float64)) ** 2)
    return float(-10 * np.log10(error)) if error > 0 else math.inf


def ssim(image: Any, clean: Any) -> float:
    """The structural similarity (Wang et al. 2004), with Gaussian windows of standard deviation 1.5 and a range of 1.

    Args:
        image: `(height, width)` or `(height, width, channels)`.
        clean: the same shape.
    """
    metrics = importlib.import_module("skimage.metrics")
    image, clean = np.asarray(image, np.float64), np.asarray(clean, np.float64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(metrics.structural_similarity(clean, image, channel_axis=2 if image.ndim == 3 else None, **options))
