"""Learned convex and weakly convex regularizers, with bounds of their curvature."""

# pure functions
from unroll_jax.regularizers.filters import collapsed as collapsed
from unroll_jax.regularizers.ridge import Ridge as Ridge
from unroll_jax.regularizers.ridge import RidgeParams as RidgeParams
from unroll_jax.regularizers.ridge import prepare_ridge as prepare_ridge
from unroll_jax.regularizers.ridge import ridge_gradient as ridge_gradient
from unroll_jax.regularizers.ridge import ridge_hvp as ridge_hvp
from unroll_jax.regularizers.ridge import ridge_value as ridge_value

# denoising and inverse problems, to tolerance
from unroll_jax.regularizers.solvers import ridge_denoise as ridge_denoise
from unroll_jax.regularizers.solvers import ridge_prox as ridge_prox
from unroll_jax.regularizers.solvers import ridge_reconstruct as ridge_reconstruct

# training
from unroll_jax.regularizers.starts import ridge_params as ridge_params
from unroll_jax.regularizers.starts import mix_potentials as mix_potentials
from unroll_jax.regularizers.modules import RidgeRegularizer as RidgeRegularizer
from unroll_jax.regularizers.modules import keep_ridge_feasible as keep_ridge_feasible
from unroll_jax.regularizers.modules import ridge_labels as ridge_labels

# weights
from unroll_jax.regularizers._pretrained import pretrained as pretrained
from unroll_jax.regularizers._pretrained import pretrained_names as pretrained_names
from unroll_jax.regularizers._pretrained import model_card as model_card
from unroll_jax.regularizers._pretrained import save_ridge as save_ridge
from unroll_jax.regularizers._pretrained import load_ridge as load_ridge
