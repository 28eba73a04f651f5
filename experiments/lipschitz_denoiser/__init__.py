"""A denoiser that is 1-Lipschitz by construction, with learned splines, and plug-and-play that converges with it."""

from experiments.lipschitz_denoiser.command import LipschitzDenoiserCommand as LipschitzDenoiserCommand
