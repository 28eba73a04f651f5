"""Normalizing flows: invertible networks with a known density, and their use as priors.

A flow takes an image to latents that are standard normal where it fits the data. `flow.forward(x)` returns the latents,
one array for each level, and the log-determinant; `flow.inverse(latents)` goes back.
"""

# flows of images
from unroll_jax.flows.glow import Glow as Glow
from unroll_jax.flows.glow import Given as Given
from unroll_jax.flows.glow import glow_preset as glow_preset

# priors
from unroll_jax.flows.prox import Flow as Flow
from unroll_jax.flows.prox import shrink as shrink
from unroll_jax.flows.prox import flow_prox as flow_prox
from unroll_jax.flows.prox import glow_prox as glow_prox
from unroll_jax.flows.prox import glow_prox_params as glow_prox_params
from unroll_jax.flows.prox import GlowProxParams as GlowProxParams
from unroll_jax.flows.prox import GlowProxState as GlowProxState

# a problem for them
from unroll_jax.flows._inpainting import Inpainting as Inpainting
from unroll_jax.flows._inpainting import inpainting as inpainting
from unroll_jax.flows._inpainting import smooth_fill as smooth_fill

# bijections of every channel by itself, and of channels among each other
from unroll_jax.flows.bijections import ActNorm as ActNorm
from unroll_jax.flows.bijections import InvertibleConvolution as InvertibleConvolution
from unroll_jax.flows.bijections import factored_convolution as factored_convolution
from unroll_jax.flows.bijections import fit_actnorm as fit_actnorm
from unroll_jax.flows.bijections import random_convolution as random_convolution

# bijections of one half of the channels, given the other
from unroll_jax.flows.bijections import AffineCoupling as AffineCoupling
from unroll_jax.flows.bijections import SplineCoupling as SplineCoupling

# bijections between scales
from unroll_jax.flows.bijections import Split as Split
from unroll_jax.flows.bijections import Standardized as Standardized
from unroll_jax.flows.bijections import squeeze as squeeze
from unroll_jax.flows.bijections import unsqueeze as unsqueeze
