"""Iterative algorithms as pairs of pure functions, and their classical parameters."""

# gradient methods, for smooth objectives
from unroll_jax.algorithms.gradient import gradient_descent as gradient_descent
from unroll_jax.algorithms.gradient import gradient_descent_params as gradient_descent_params
from unroll_jax.algorithms.gradient import heavy_ball as heavy_ball
from unroll_jax.algorithms.gradient import heavy_ball_params as heavy_ball_params
from unroll_jax.algorithms.gradient import nesterov as nesterov
from unroll_jax.algorithms.gradient import nesterov_params as nesterov_params
from unroll_jax.algorithms.gradient import GradientDescentParams as GradientDescentParams
from unroll_jax.algorithms.gradient import GradientDescentState as GradientDescentState
from unroll_jax.algorithms.gradient import MomentumParams as MomentumParams
from unroll_jax.algorithms.gradient import MomentumState as MomentumState
from unroll_jax.algorithms.accelerated import accelerated_gradient as accelerated_gradient
from unroll_jax.algorithms.accelerated import accelerated_gradient_params as accelerated_gradient_params
from unroll_jax.algorithms.accelerated import safeguarded_agd as safeguarded_agd
from unroll_jax.algorithms.accelerated import safeguarded_agd_params as safeguarded_agd_params
from unroll_jax.algorithms.accelerated import AcceleratedGradientParams as AcceleratedGradientParams
from unroll_jax.algorithms.accelerated import SafeguardedAGDParams as SafeguardedAGDParams
from unroll_jax.algorithms.accelerated import SafeguardedAGDState as SafeguardedAGDState
from unroll_jax.algorithms.adaptive import adagd as adagd
from unroll_jax.algorithms.adaptive import adagd_params as adagd_params
from unroll_jax.algorithms.adaptive import AdaGDParams as AdaGDParams
from unroll_jax.algorithms.adaptive import AdaGDState as AdaGDState

# proximal gradient methods, for a smooth and a simple term
from unroll_jax.algorithms.proximal import fista as fista
from unroll_jax.algorithms.proximal import proximal_gradient as proximal_gradient
from unroll_jax.algorithms.proximal import proximal_gradient_params as proximal_gradient_params
from unroll_jax.algorithms.proximal import zero_start as zero_start
from unroll_jax.algorithms.proximal import FISTAState as FISTAState
from unroll_jax.algorithms.proximal import ProximalGradientParams as ProximalGradientParams
from unroll_jax.algorithms.proximal import ProximalGradientState as ProximalGradientState
from unroll_jax.algorithms.nonmonotone import nmapg as nmapg
from unroll_jax.algorithms.nonmonotone import nmapg_params as nmapg_params
from unroll_jax.algorithms.nonmonotone import NMAPGParams as NMAPGParams
from unroll_jax.algorithms.nonmonotone import NMAPGState as NMAPGState

# splitting methods, for two simple terms
from unroll_jax.algorithms.splitting import half_quadratic_params as half_quadratic_params
from unroll_jax.algorithms.splitting import half_quadratic_splitting as half_quadratic_splitting
from unroll_jax.algorithms.splitting import douglas_rachford as douglas_rachford
from unroll_jax.algorithms.splitting import douglas_rachford_params as douglas_rachford_params
from unroll_jax.algorithms.splitting import HalfQuadraticParams as HalfQuadraticParams
from unroll_jax.algorithms.splitting import HalfQuadraticState as HalfQuadraticState
from unroll_jax.algorithms.splitting import DouglasRachfordParams as DouglasRachfordParams
from unroll_jax.algorithms.splitting import DouglasRachfordState as DouglasRachfordState
from unroll_jax.algorithms.alternating_direction import admm as admm
from unroll_jax.algorithms.alternating_direction import admm_params as admm_params
from unroll_jax.algorithms.alternating_direction import linearized_admm as linearized_admm
from unroll_jax.algorithms.alternating_direction import linearized_admm_params as linearized_admm_params
from unroll_jax.algorithms.alternating_direction import ADMMParams as ADMMParams
from unroll_jax.algorithms.alternating_direction import ADMMState as ADMMState
from unroll_jax.algorithms.alternating_direction import LinearizedADMMParams as LinearizedADMMParams

# primal-dual methods, for a term behind an operator
from unroll_jax.algorithms.saddle import chambolle_pock as chambolle_pock
from unroll_jax.algorithms.saddle import chambolle_pock_params as chambolle_pock_params
from unroll_jax.algorithms.saddle import ChambollePockParams as ChambollePockParams
from unroll_jax.algorithms.saddle import ChambollePockState as ChambollePockState
from unroll_jax.algorithms.three_terms import condat_vu as condat_vu
from unroll_jax.algorithms.three_terms import condat_vu_params as condat_vu_params
from unroll_jax.algorithms.three_terms import CondatVuParams as CondatVuParams
from unroll_jax.algorithms.three_terms import CondatVuState as CondatVuState

# methods for positive estimates
from unroll_jax.algorithms.positive import mirror_descent as mirror_descent
from unroll_jax.algorithms.positive import mlem as mlem
from unroll_jax.algorithms.positive import mlem_params as mlem_params
from unroll_jax.algorithms.positive import one_start as one_start
from unroll_jax.algorithms.positive import sirt as sirt
from unroll_jax.algorithms.positive import sirt_params as sirt_params
from unroll_jax.algorithms.positive import MLEMParams as MLEMParams
from unroll_jax.algorithms.positive import MLEMState as MLEMState
from unroll_jax.algorithms.positive import SIRTParams as SIRTParams
from unroll_jax.algorithms.positive import SIRTState as SIRTState

# denoisers and networks as steps
from unroll_jax.algorithms.denoisers import modl as modl
from unroll_jax.algorithms.denoisers import modl_params as modl_params
from unroll_jax.algorithms.denoisers import plug_and_play as plug_and_play
from unroll_jax.algorithms.denoisers import plug_and_play_params as plug_and_play_params
from unroll_jax.algorithms.denoisers import plug_and_play_admm as plug_and_play_admm
from unroll_jax.algorithms.denoisers import plug_and_play_admm_params as plug_and_play_admm_params
from unroll_jax.algorithms.denoisers import adjoint_start as adjoint_start
from unroll_jax.algorithms.denoisers import MoDLParams as MoDLParams
from unroll_jax.algorithms.denoisers import MoDLState as MoDLState
from unroll_jax.algorithms.denoisers import PlugAndPlayParams as PlugAndPlayParams
from unroll_jax.algorithms.denoisers import PlugAndPlayState as PlugAndPlayState
from unroll_jax.algorithms.denoisers import PlugAndPlayADMMParams as PlugAndPlayADMMParams
from unroll_jax.algorithms.learned_saddle import learned_primal_dual as learned_primal_dual
from unroll_jax.algorithms.learned_saddle import LearnedPrimalDualParams as LearnedPrimalDualParams
from unroll_jax.algorithms.learned_saddle import LearnedPrimalDualState as LearnedPrimalDualState

# the LISTA family, sparse coders to be learned
from unroll_jax.algorithms.learned import lista as lista
from unroll_jax.algorithms.learned import lista_params as lista_params
from unroll_jax.algorithms.learned import random_lista_params as random_lista_params
from unroll_jax.algorithms.learned import LISTAParams as LISTAParams
from unroll_jax.algorithms.learned import LISTAState as LISTAState
from unroll_jax.algorithms.sparse_coders import alista as alista
from unroll_jax.algorithms.sparse_coders import alista_params as alista_params
from unroll_jax.algorithms.sparse_coders import lista_cp as lista_cp
from unroll_jax.algorithms.sparse_coders import lista_cp_params as lista_cp_params
from unroll_jax.algorithms.sparse_coders import tilista as tilista
from unroll_jax.algorithms.sparse_coders import tilista_params as tilista_params
from unroll_jax.algorithms.sparse_coders import LISTACPParams as LISTACPParams
from unroll_jax.algorithms.sparse_coders import SparseCoderState as SparseCoderState
from unroll_jax.algorithms.sparse_coders import TiLISTAParams as TiLISTAParams
from unroll_jax.algorithms.support_selection import selective_threshold as selective_threshold
from unroll_jax.algorithms.support_selection import SupportSelection as SupportSelection
from unroll_jax.algorithms.slista import slista as slista
from unroll_jax.algorithms.slista import slista_params as slista_params
from unroll_jax.algorithms.slista import SLISTAParams as SLISTAParams
from unroll_jax.algorithms.slista import SLISTAState as SLISTAState
from unroll_jax.algorithms.gated import glista as glista
from unroll_jax.algorithms.gated import glista_params as glista_params
from unroll_jax.algorithms.gated import GLISTAParams as GLISTAParams
from unroll_jax.algorithms.gated import GLISTAState as GLISTAState
from unroll_jax.algorithms.analytic_weights import analytic_encoder as analytic_encoder
from unroll_jax.algorithms.analytic_weights import coherence as coherence

# approximate message passing
from unroll_jax.algorithms.approximate_message_passing import lamp as lamp
from unroll_jax.algorithms.approximate_message_passing import lamp_params as lamp_params
from unroll_jax.algorithms.approximate_message_passing import LAMPParams as LAMPParams
from unroll_jax.algorithms.approximate_message_passing import LAMPState as LAMPState
from unroll_jax.algorithms.trainable_ista import bernoulli_gaussian_mean as bernoulli_gaussian_mean
from unroll_jax.algorithms.trainable_ista import tista as tista
from unroll_jax.algorithms.trainable_ista import tista_params as tista_params
from unroll_jax.algorithms.trainable_ista import TISTAParams as TISTAParams
from unroll_jax.algorithms.trainable_ista import TISTAState as TISTAState

# wrappers: algorithms made of algorithms
from unroll_jax.algorithms.averaging import averaged as averaged
from unroll_jax.algorithms.averaging import relaxed as relaxed
from unroll_jax.algorithms.averaging import relaxed_params as relaxed_params
from unroll_jax.algorithms.averaging import AveragedState as AveragedState
from unroll_jax.algorithms.averaging import RelaxedParams as RelaxedParams
from unroll_jax.algorithms.anderson import anderson as anderson
from unroll_jax.algorithms.anderson import AndersonState as AndersonState
from unroll_jax.algorithms.wrappers import perturbed as perturbed
from unroll_jax.algorithms.wrappers import monotone as monotone
from unroll_jax.algorithms.wrappers import NoisyProblem as NoisyProblem
from unroll_jax.algorithms.wrappers import PerturbedState as PerturbedState
from unroll_jax.algorithms.wrappers import MonotoneState as MonotoneState
