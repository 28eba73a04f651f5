"""`python -m experiments denoise` and `evaluate-denoiser`: pictures without noise, and how good they are."""

from experiments.denoising.denoise import DenoiseCommand as DenoiseCommand
from experiments.denoising.evaluate import EvaluateDenoiserCommand as EvaluateDenoiserCommand
