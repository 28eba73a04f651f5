"""Iterative algorithms as pairs of pure functions, and their classical parameters."""

from unroll_jax.algorithms.learned import LISTAParams as LISTAParams
from unroll_jax.algorithms.learned import LISTAState as LISTAState
from unroll_jax.algorithms.learned import lista as lista
from unroll_jax.algorithms.learned import lista_params as lista_params
from unroll_jax.algorithms.learned import random_lista_params as random_lista_params
from unroll_jax.algorithms.proximal import FISTAState as FISTAState
from unroll_jax.algorithms.proximal import ProximalGradientParams as ProximalGradientParams
from unroll_jax.algorithms.proximal import ProximalGradientState as ProximalGradientState
from unroll_jax.algorithms.proximal import fista as fista
from unroll_jax.algorithms.proximal import proximal_gradient as proximal_gradient
from unroll_jax.algorithms.proximal import proximal_gradient_params as proximal_gradient_params
from unroll_jax.algorithms.proximal import zero_start as zero_start
from unroll_jax.algorithms.wrappers import NoisyProblem as NoisyProblem
from unroll_jax.algorithms.wrappers import PerturbedState as PerturbedState
from unroll_jax.algorithms.wrappers import perturbed as perturbed
