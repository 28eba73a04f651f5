"""Invertible maps of one array, channels last, as pytrees with two methods.

`forward(x)` returns the image of `x` and the logarithm of the absolute determinant of the Jacobian there, `()`;
`inverse(y)` undoes it. All are differentiable in their parameters, and take batches by `jax.vmap`.
"""

# every channel by itself, and channels among each other
from unroll_jax.flows.bijections.linear import ActNorm as ActNorm
from unroll_jax.flows.bijections.linear import InvertibleConvolution as InvertibleConvolution
from unroll_jax.flows.bijections.linear import factored_convolution as factored_convolution
from unroll_jax.flows.bijections.linear import fit_actnorm as fit_actnorm
from unroll_jax.flows.bijections.linear import random_convolution as random_convolution

# one half of the channels, given the other
from unroll_jax.flows.bijections.couplings import AffineCoupling as AffineCoupling
from unroll_jax.flows.bijections.couplings import SplineCoupling as SplineCoupling

# several scales
from unroll_jax.flows.bijections.scales import Split as Split
from unroll_jax.flows.bijections.scales import Standardized as Standardized
from unroll_jax.flows.bijections.scales import squeeze as squeeze
from unroll_jax.flows.bijections.scales import unsqueeze as unsqueeze
