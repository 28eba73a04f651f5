"""Glow, a multi-scale normalizing flow for images, as nnx modules."""

from unroll_jax.flows.glow.model import Given as Given
from unroll_jax.flows.glow.model import Glow as Glow
from unroll_jax.flows.glow.model import Latents as Latents
from unroll_jax.flows.glow.model import Preset as Preset
from unroll_jax.flows.glow.model import glow_preset as glow_preset
