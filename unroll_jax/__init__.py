"""Learned iterative solvers with guarantees, on JAX."""

# algorithms and the ways to run them
from unroll_jax._types import Algorithm as Algorithm
from unroll_jax._types import LinearOperator as LinearOperator
from unroll_jax._types import Measure as Measure
from unroll_jax._types import Constraint as Constraint
from unroll_jax._unroll import Unrolled as Unrolled
from unroll_jax._unroll import unroll as unroll
from unroll_jax._scan import scan_layers as scan_layers
from unroll_jax._scan import stack_layers as stack_layers
from unroll_jax._solve import Solution as Solution
from unroll_jax._solve import solve as solve
from unroll_jax._equilibrium import ImplicitGradient as ImplicitGradient
from unroll_jax._equilibrium import JacobianFree as JacobianFree
from unroll_jax._equilibrium import equilibrium as equilibrium

# training under constraints, and certificates
from unroll_jax._primal_dual import PrimalDual as PrimalDual
from unroll_jax._primal_dual import PrimalDualState as PrimalDualState
from unroll_jax._primal_dual import Report as Report
from unroll_jax._primal_dual import Terms as Terms
from unroll_jax._primal_dual import Weight as Weight
from unroll_jax._primal_dual import Optimizer as Optimizer
from unroll_jax._primal_dual import augmented_weight as augmented_weight
from unroll_jax._primal_dual import linear_weight as linear_weight
from unroll_jax._primal_dual import primal_dual as primal_dual

from unroll_jax.certificates import Certificate as Certificate
from unroll_jax.certificates import certify as certify

# parts
from unroll_jax import adapters as adapters
from unroll_jax import algorithms as algorithms
from unroll_jax import certificates as certificates
from unroll_jax import constraints as constraints
from unroll_jax import export as export
from unroll_jax import flows as flows
from unroll_jax import noise as noise
from unroll_jax import objectives as objectives
from unroll_jax import operators as operators
from unroll_jax import prox as prox
from unroll_jax import regularizers as regularizers
from unroll_jax import splines as splines
from unroll_jax import stopping as stopping
from unroll_jax import testing as testing
from unroll_jax import training as training
