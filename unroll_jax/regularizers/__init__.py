"""Learned convex and weakly convex regularizers, with bounds of their curvature."""

from unroll_jax.regularizers.filters import collapsed as collapsed
from unroll_jax.regularizers.ridge import Ridge as Ridge
from unroll_jax.regularizers.ridge import RidgeParams as RidgeParams
from unroll_jax.regularizers.ridge import prepare_ridge as prepare_ridge
from unroll_jax.regularizers.ridge import ridge_gradient as ridge_gradient
from unroll_jax.regularizers.ridge import ridge_hvp as ridge_hvp
from unroll_jax.regularizers.ridge import ridge_params as ridge_params
from unroll_jax.regularizers.ridge import ridge_value as ridge_value
