"""Linear splines: piecewise linear functions of one number, applied to every entry of an array.

A spline is given by its values at the knots of a grid, its `coefficients`: `(num_knots,)` for one spline that all
entries share, or `(channels, num_knots)` for one per channel, where `x` has the shape `(..., channels)`. All functions
here are pure, take `x` of any such shape, and compute in the type of their arguments, in half precision with single
precision inside. They pass through `jax.jit`, `jax.vmap`, `jax.jvp` and `jax.grad`, nested as you like.
"""

# grids of knots
from unroll_jax.splines.grids import Grid as Grid
from unroll_jax.splines.grids import UniformGrid as UniformGrid
from unroll_jax.splines.grids import NonuniformGrid as NonuniformGrid

# values and slopes
from unroll_jax.splines.kernels import linear_spline as linear_spline
from unroll_jax.splines.kernels import spline_slope as spline_slope
from unroll_jax.splines.kernels import odd_coefficients as odd_coefficients

# integrals, inverses and proximal operators
from unroll_jax.splines.calculus import spline_potential as spline_potential
from unroll_jax.splines.calculus import spline_inverse as spline_inverse
from unroll_jax.splines.calculus import potential_prox as potential_prox
from unroll_jax.splines.calculus import potential_moreau as potential_moreau

# slopes in a box
from unroll_jax.splines.boxes import SlopeBox as SlopeBox
from unroll_jax.splines.boxes import flat_ends as flat_ends
from unroll_jax.splines.cells import cell_slopes as cell_slopes
from unroll_jax.splines.cells import coefficients_from_slopes as coefficients_from_slopes
from unroll_jax.splines.feasible import clip_slopes as clip_slopes
from unroll_jax.splines.feasible import project_slopes as project_slopes
from unroll_jax.splines.training import keep_feasible as keep_feasible

# few knots
from unroll_jax.splines.sparsity import kinks as kinks
from unroll_jax.splines.sparsity import second_order_variation as second_order_variation
from unroll_jax.splines.sparsity import bv2_norm as bv2_norm
from unroll_jax.splines.sparsity import prune as prune
from unroll_jax.splines.sparsity import remove_knots as remove_knots
from unroll_jax.splines.sparsity import insert_knots as insert_knots
from unroll_jax.splines.sparsity import refine as refine

# learned splines as nnx modules
from unroll_jax.splines.shapes import initial_coefficients as initial_coefficients
from unroll_jax.splines.modules import LinearSpline as LinearSpline
from unroll_jax.splines.modules import FixedSpline as FixedSpline
from unroll_jax.splines.modules import SplineCoefficients as SplineCoefficients
from unroll_jax.splines.modules import SplineScale as SplineScale
from unroll_jax.splines.training import spline_labels as spline_labels
from unroll_jax.splines.training import with_feasible_splines as with_feasible_splines
from unroll_jax.splines.training import keep_splines_feasible as keep_splines_feasible

# layers of Lipschitz networks
from unroll_jax.splines.layers import LipschitzLinear as LipschitzLinear
from unroll_jax.splines.layers import OrthonormalLinear as OrthonormalLinear
from unroll_jax.splines.layers import LipschitzConv as LipschitzConv
from unroll_jax.splines.residual import ResidualBlock as ResidualBlock
from unroll_jax.splines.residual import Inverse as Inverse
from unroll_jax.splines.residual import lipschitz_bound as lipschitz_bound
from unroll_jax.splines.spectral import spectral_bound as spectral_bound
from unroll_jax.splines.spectral import conv_spectral_bound as conv_spectral_bound
from unroll_jax.splines.spectral import orthonormalized as orthonormalized
