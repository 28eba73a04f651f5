"""Linear operators: registered pytrees with `operator(x)` and `operator.adjoint(y)`, for one example."""

# matrices and diagonals
from unroll_jax.operators.matrix import Dense as Dense
from unroll_jax.operators.matrix import factored as factored
from unroll_jax.operators.matrix import FactoredDense as FactoredDense
from unroll_jax.operators.matrix import Diagonal as Diagonal
from unroll_jax.operators.matrix import mask as mask

# operators made of operators
from unroll_jax.operators.algebra import compose as compose
from unroll_jax.operators.algebra import add as add
from unroll_jax.operators.algebra import scale as scale
from unroll_jax.operators.algebra import stack as stack
from unroll_jax.operators.algebra import adjoint as adjoint
from unroll_jax.operators.algebra import Composed as Composed
from unroll_jax.operators.algebra import Sum as Sum
from unroll_jax.operators.algebra import Scaled as Scaled
from unroll_jax.operators.algebra import Stacked as Stacked
from unroll_jax.operators.algebra import Adjoint as Adjoint
from unroll_jax.operators.algebra import Identity as Identity

# linear functions as operators
from unroll_jax.operators.function import from_function as from_function
from unroll_jax.operators.function import Function as Function

# images in space
from unroll_jax.operators.convolution import Convolution as Convolution
from unroll_jax.operators.blur import CircularBlur as CircularBlur
from unroll_jax.operators.blur import gaussian_kernel as gaussian_kernel
from unroll_jax.operators.resampling import Downsampling as Downsampling
from unroll_jax.operators.differences import FiniteDifferences as FiniteDifferences

# images through a transform
from unroll_jax.operators.fourier import Fourier as Fourier
from unroll_jax.operators.fourier import SubsampledFourier as SubsampledFourier
from unroll_jax.operators.mri import MultiCoilMRI as MultiCoilMRI
from unroll_jax.operators.mri import cartesian_mask as cartesian_mask
from unroll_jax.operators.mri import scattered_mask as scattered_mask
from unroll_jax.operators.mri import coil_sensitivities as coil_sensitivities
from unroll_jax.operators.cosine import CosineTransform as CosineTransform
from unroll_jax.operators.wavelets import Wavelets as Wavelets
from unroll_jax.operators.xray import ParallelBeamCT as ParallelBeamCT
from unroll_jax.operators.xray import filtered_backprojection as filtered_backprojection

# norms and resolvents
from unroll_jax.operators.norms import operator_norm as operator_norm
from unroll_jax.operators.norms import norm_bound as norm_bound
from unroll_jax.operators.gram import gram_resolvent as gram_resolvent
