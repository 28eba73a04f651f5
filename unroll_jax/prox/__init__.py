"""Proximal operators, `prox(x, strength)`: the minimizer over z of strength * g(z) + ||z - x||^2 / 2.

Each comes with its value, `NAME_value(x, strength=1.0)`, which is strength * g(x) and takes the same parameters:
`l1(x, strength, weights=w)` minimizes `l1_value(z, strength, weights=w)` plus half the squared distance. A set has the
value 0 inside and infinity outside, and its projection ignores the strength. The strength is one number, or where each
entry counts by itself also an array of the shape of `x`. Arrays come out in the type that they go in.
"""

# entry by entry, toward zero
from unroll_jax.prox.shrinkage import soft_threshold as soft_threshold
from unroll_jax.prox.shrinkage import l1 as l1
from unroll_jax.prox.shrinkage import l1_value as l1_value
from unroll_jax.prox.shrinkage import elastic_net as elastic_net
from unroll_jax.prox.shrinkage import elastic_net_value as elastic_net_value
from unroll_jax.prox.shrinkage import squared_l2 as squared_l2
from unroll_jax.prox.shrinkage import squared_l2_value as squared_l2_value
from unroll_jax.prox.shrinkage import huber as huber
from unroll_jax.prox.shrinkage import huber_value as huber_value

# entry by entry, not convex
from unroll_jax.prox.nonconvex import l0 as l0
from unroll_jax.prox.nonconvex import l0_value as l0_value
from unroll_jax.prox.nonconvex import mcp as mcp
from unroll_jax.prox.nonconvex import mcp_value as mcp_value
from unroll_jax.prox.nonconvex import scad as scad
from unroll_jax.prox.nonconvex import scad_value as scad_value
from unroll_jax.prox.nonconvex import log_sum as log_sum
from unroll_jax.prox.nonconvex import log_sum_value as log_sum_value

# likelihoods, losses and entropies
from unroll_jax.prox.likelihoods import poisson as poisson
from unroll_jax.prox.likelihoods import poisson_value as poisson_value
from unroll_jax.prox.likelihoods import entropy as entropy
from unroll_jax.prox.likelihoods import entropy_value as entropy_value
from unroll_jax.prox.likelihoods import log_barrier as log_barrier
from unroll_jax.prox.likelihoods import log_barrier_value as log_barrier_value
from unroll_jax.prox.losses import logistic as logistic
from unroll_jax.prox.losses import logistic_value as logistic_value
from unroll_jax.prox.losses import hinge as hinge
from unroll_jax.prox.losses import hinge_value as hinge_value
from unroll_jax.prox.losses import quantile as quantile
from unroll_jax.prox.losses import quantile_value as quantile_value

# quadratics
from unroll_jax.prox.quadratics import quadratic as quadratic
from unroll_jax.prox.quadratics import quadratic_value as quadratic_value
from unroll_jax.prox.quadratics import least_squares as least_squares
from unroll_jax.prox.quadratics import least_squares_value as least_squares_value

# norms of vectors and groups
from unroll_jax.prox.norms import l2 as l2
from unroll_jax.prox.norms import l2_value as l2_value
from unroll_jax.prox.norms import group_l21 as group_l21
from unroll_jax.prox.norms import group_l21_value as group_l21_value
from unroll_jax.prox.norms import linf as linf
from unroll_jax.prox.norms import linf_value as linf_value

# total variation
from unroll_jax.prox.variation import total_variation as total_variation
from unroll_jax.prox.variation import total_variation_value as total_variation_value
from unroll_jax.prox.variation import total_variation_gap as total_variation_gap
from unroll_jax.prox.variation_1d import total_variation_1d as total_variation_1d
from unroll_jax.prox.variation_1d import total_variation_1d_value as total_variation_1d_value

# singular values and eigenvalues
from unroll_jax.prox.spectra import nuclear as nuclear
from unroll_jax.prox.spectra import nuclear_value as nuclear_value
from unroll_jax.prox.spectra import nuclear_ball as nuclear_ball
from unroll_jax.prox.spectra import nuclear_ball_value as nuclear_ball_value
from unroll_jax.prox.spectra import spectral_norm as spectral_norm
from unroll_jax.prox.spectra import spectral_norm_value as spectral_norm_value
from unroll_jax.prox.spectra import spectral_ball as spectral_ball
from unroll_jax.prox.spectra import spectral_ball_value as spectral_ball_value
from unroll_jax.prox.spectra import positive_semidefinite as positive_semidefinite
from unroll_jax.prox.spectra import positive_semidefinite_value as positive_semidefinite_value

# sets
from unroll_jax.prox.sets import box as box
from unroll_jax.prox.sets import box_value as box_value
from unroll_jax.prox.sets import non_negative as non_negative
from unroll_jax.prox.sets import non_negative_value as non_negative_value
from unroll_jax.prox.balls import simplex as simplex
from unroll_jax.prox.balls import simplex_value as simplex_value
from unroll_jax.prox.balls import l1_ball as l1_ball
from unroll_jax.prox.balls import l1_ball_value as l1_ball_value
from unroll_jax.prox.balls import l2_ball as l2_ball
from unroll_jax.prox.balls import l2_ball_value as l2_ball_value
from unroll_jax.prox.balls import linf_ball as linf_ball
from unroll_jax.prox.balls import linf_ball_value as linf_ball_value
from unroll_jax.prox.sets import half_space as half_space
from unroll_jax.prox.sets import half_space_value as half_space_value
from unroll_jax.prox.sets import affine as affine
from unroll_jax.prox.sets import affine_value as affine_value
from unroll_jax.prox.sets import second_order_cone as second_order_cone
from unroll_jax.prox.sets import second_order_cone_value as second_order_cone_value

# combinators
from unroll_jax.prox.combinators import conjugate as conjugate
from unroll_jax.prox.combinators import scaled as scaled
from unroll_jax.prox.combinators import translated as translated
from unroll_jax.prox.combinators import with_quadratic as with_quadratic
from unroll_jax.prox.combinators import through as through
from unroll_jax.prox.combinators import separable_sum as separable_sum
from unroll_jax.prox.combinators import envelope as envelope
from unroll_jax.prox.combinators import envelope_gradient as envelope_gradient
