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

# the parts, as pure functions and pytrees
from unroll_jax.flows import bijections as bijections
