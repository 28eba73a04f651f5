"""The networks inside a Glow, and one of its steps, as nnx modules."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._types import Array
from unroll_jax.flows._shifts import convolve
from unroll_jax.flows.bijections import (
    ActNorm,
    AffineCoupling,
    InvertibleConvolution,
    SplineCoupling,
    factored_convolution,
    fit_actnorm,
    random_convolution,
)
from unroll_jax.splines.grids import UniformGrid

_GAIN = 3.0  # of the logarithmic scales behind a convolution that starts at zero
_BORDER = 1.0  # lets that convolution know where the image ends


class ZeroConvolution(nnx.Module):
    """A 3 x 3 convolution that starts at zero, times exp(3 log_scale): so a flow starts without couplings."""

    def __init__(self, num_in: int, num_out: int, dtype: Any):
        self.kernel = nnx.Param(jnp.zeros((3, 3, num_in, num_out), dtype))
        self.bias = nnx.Param(jnp.zeros(num_out, dtype))
        self.log_scale = nnx.Param(jnp.zeros(num_out, dtype))

    def __call__(self, x: Array) -> Array:
        """`(height, width, num_in) -> (height, width, num_out)`."""
        # the scales go into the kernel, which is small beside the image
        scale = jnp.exp(_GAIN * self.log_scale[...])
        kernel = self.kernel[...] * jnp.broadcast_to(scale, self.kernel.shape)
        out = convolve(x, kernel, _BORDER)
        return out + jnp.broadcast_to(self.bias[...] * scale, out.shape)


class CouplingNetwork(nnx.Module):
    """A 3 x 3, a 1 x 1 and a zero 3 x 3 convolution with ReLU between them: what moves one half, given the other."""

    def __init__(self, num_in: int, num_context: int, num_out: int, width: int, key: Array, dtype: Any):
        keys = jax.random.split(key)
        first = jax.nn.initializers.he_normal()(keys[0], (3, 3, num_in, width), dtype)
        # what the context says is learned from nothing: until then a flow is the same with any
        self.first = nnx.Param(jnp.concatenate([first, jnp.zeros((3, 3, num_context, width), dtype)], axis=2))
        self.first_bias = nnx.Param(jnp.zeros(width, dtype))
        self.second = nnx.Param(jax.nn.initializers.he_normal()(keys[1], (width, width), dtype))
        self.second_bias = nnx.Param(jnp.zeros(width, dtype))
        self.last = ZeroConvolution(width, num_out, dtype)

    def __call__(self, x: Array) -> Array:
        """`(height, width, num_in) -> (height, width, num_out)`."""
        x = convolve(x, self.first[...])
        x = jax.nn.relu(x + jnp.broadcast_to(self.first_bias[...], x.shape)) @ self.second[...]
        return self.last(jax.nn.relu(x + jnp.broadcast_to(self.second_bias[...], x.shape)))


class GlowStep(nnx.Module):
    """One step of a Glow: a scale and shift of each channel, an invertible 1 x 1 convolution, a coupling."""

    def __init__(
        self,
        num_channels: int,
        width: int,
        key: Array,
        *,
        num_context: int,
        smallest_scale: float,
        spline_knots: int | None,
        dtype: Any,
    ):
        convolution_key, network_key = jax.random.split(key)
        convolution = random_convolution(convolution_key, num_channels, dtype)
        kept = num_channels // 2
        moved = num_channels - kept
        self.shift = nnx.Param(jnp.zeros(num_channels, dtype))
        self.log_scale = nnx.Param(jnp.zeros(num_channels, dtype))
        self.lower = nnx.Param(convolution.lower)
        self.upper = nnx.Param(convolution.upper)
        self.log_diagonal = nnx.Param(convolution.log_diagonal)
        self.signs = nnx.Variable(convolution.signs)
        self.permutation = nnx.Variable(convolution.permutation)
        self.network = CouplingNetwork(kept, num_context, 2 * moved, width, network_key, dtype)
        self.smallest_scale = smallest_scale
        # on the range of numbers of standard deviation 1
        self.grid = None if spline_knots is None else UniformGrid(-3.0, 3.0, spline_knots)
        self.coefficients = (
            None if self.grid is None else nnx.Param(jnp.tile(self.grid.knots.astype(dtype), (moved, 1)))
        )

    def parts(self, context: Array | None) -> tuple[Any, Any, Any]:
        """The three bijections in their order."""

        def conditioner(kept: Array) -> Array:
            return self.network(kept if context is None else jnp.concatenate([kept, context], axis=-1))

        convolution = InvertibleConvolution(
            self.lower[...], self.upper[...], self.log_diagonal[...], self.signs[...], self.permutation[...]
        )
        if self.grid is None or self.coefficients is None:
            coupling = AffineCoupling(conditioner, self.smallest_scale)
        else:
            coupling = SplineCoupling(
                conditioner, self.coefficients[...], self.grid, smallest_scale=self.smallest_scale
            )
        return ActNorm(self.shift[...], self.log_scale[...]), convolution, coupling

    def forward(self, x: Array, context: Array | None) -> tuple[Array, Array]:
        """The image of `x` and the log-determinant."""
        total = jnp.zeros((), x.dtype)
        for part in self.parts(context):
            x, log_det = part.forward(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Array, context: Array | None) -> Array:
        """The `x` with the image `y`."""
        for part in reversed(self.parts(context)):
            y = part.inverse(y)
        return y

    def fitted(self, batch: Array, *, index: Array, num_steps: int) -> "GlowStep":
        """The step, as number `index` of its level, fitted to a batch `(batch, height, width, channels)`.

        Scales and shifts give all channels mean 0 and deviation 1. The first step's convolution takes them to their
        principal components, and the others' swap the halves, such that what is split off in the end is what varies
        least.
        """
        norm = fit_actnorm(batch)
        fitted = jax.tree.map(lambda leaf: leaf, self)
        fitted.shift[...] = norm.shift
        fitted.log_scale[...] = norm.log_scale

        normed = jax.vmap(lambda x: norm.forward(x)[0])(batch).reshape(-1, batch.shape[-1])
        # eigenvalues come in increasing order
        components = jnp.linalg.eigh(normed.T @ normed)[1].T[::-1]
        swap = jnp.roll(jnp.eye(batch.shape[-1], dtype=batch.dtype), batch.shape[-1] // 2, axis=0)
        ordered = swap.T @ components if num_steps % 2 == 0 else components
        convolution = factored_convolution(jnp.where(index == 0, ordered, swap))
        for name in ("lower", "upper", "log_diagonal", "signs", "permutation"):
            getattr(fitted, name)[...] = getattr(convolution, name)
        return fitted
