"""Denoisers made of steps along gradients of convex functions, 1-Lipschitz by construction."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unroll_jax.splines import FixedSpline, LinearSpline, LipschitzConv


class GradientBlock(nnx.Module):
    """The map  x - 2 a W* f(W x)  of images, with filters W of norm at most 1 and a function f of every number.

    Where the slopes of f lie in [0, 1], W* f(W x) is the gradient of a convex function, and firmly nonexpansive, so the
    block is an a-averaged operator. Unlike in a chain of layers that shrink, what f does not touch passes unchanged.
    With ReLU it is the layer of Meunier et al. 2022 (arXiv 2110.12690); splines see both signs of W x.

    Attributes:
        conv: W, from one channel to several; with a bias, f(W x + b).
        activation: f, a `LinearSpline` for every channel, or `jax.nn.relu`.

    Args:
        conv: as above; its padding is zero.
        activation: as above.
        averagedness: a, in (0, 1).
        is_bounded: False takes the kernel as it is, whatever its norm.
    """

    def __init__(
        self,
        conv: LipschitzConv,
        activation: LinearSpline | Callable[[jax.Array], jax.Array],
        averagedness: float,
        *,
        is_bounded: bool = True,
    ):
        self.conv = conv
        self.activation = activation
        self.averagedness = averagedness
        self.is_bounded = is_bounded

    @property
    def kernel(self) -> jax.Array:
        """The kernel that counts, `(height, width, 1, num_filters)`."""
        return self.conv.bounded_kernel if self.is_bounded else self.conv.kernel[...]

    @property
    def is_averaged(self) -> bool:
        """Whether the block is a-averaged whatever is learned."""
        lower, upper = _slopes_of(self.activation)
        return self.is_bounded and self.conv.lipschitz <= 1 and lower >= 0 and upper <= 1

    @property
    def lipschitz(self) -> float:
        """A Lipschitz constant that holds whatever is learned: 1, or infinity where nothing is constrained."""
        if not self.is_bounded:
            return math.inf
        # the derivative is I - 2 a W* S W with S between the slopes, so its eigenvalues lie between these and 1
        ends = (1 - 2 * self.averagedness * slope * self.conv.lipschitz**2 for slope in _slopes_of(self.activation))
        return max(1.0, *map(abs, ends))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The image `x`, `(height, width, 1)`, after the step."""
        bias = None if self.conv.bias is None else self.conv.bias[...]
        return gradient_step(x, self.kernel, bias, self.activation, self.averagedness)

    def frozen(self) -> "FrozenBlock":
        """The same map with all constraints worked in, so that a call does not work them out again."""
        activation = self.activation
        if isinstance(activation, LinearSpline):
            # on all of its knots, so that this can be compiled
            activation = FixedSpline(activation.feasible_coefficients, activation.grid, activation.scale)
        return FrozenBlock(self.kernel, self.conv.bias, activation, self.averagedness, self.lipschitz)


class FrozenBlock(nnx.Module):
    """A `GradientBlock` that is not learned any more.

    Attributes:
        lipschitz: the constant of the block that it was.
    """

    def __init__(
        self,
        kernel: jax.Array,
        bias: nnx.Param | None,
        activation: Callable[[jax.Array], jax.Array],
        averagedness: float,
        lipschitz: float,
    ):
        self.kernel = nnx.Variable(kernel)
        self.bias = None if bias is None else nnx.Variable(bias[...])
        self.activation = activation
        self.averagedness = averagedness
        self.lipschitz = lipschitz

    def __call__(self, x: jax.Array) -> jax.Array:
        """The image `x`, `(height, width, 1)`, after the step."""
        bias = None if self.bias is None else self.bias[...]
        return gradient_step(x, self.kernel[...], bias, self.activation, self.averagedness)


@jax.jit
def frozen(denoiser: nnx.Sequential) -> nnx.Sequential:
    """A chain of `GradientBlock`s as one of `FrozenBlock`s, the same map."""
    return nnx.Sequential(*(block.frozen() for block in denoiser.layers))


def averagedness_of(denoiser: nnx.Sequential) -> float | None:
    """The a such that a chain of `GradientBlock`s is a-averaged whatever is learned; None where there is no such a.

    A chain of a_i-averaged operators is a-averaged with  a / (1 - a) = sum_i a_i / (1 - a_i)  (Combettes and Yamada
    2015).
    """
    if not all(block.is_averaged for block in denoiser.layers):
        return None
    total = sum(block.averagedness / (1 - block.averagedness) for block in denoiser.layers)
    return total / (1 + total)


def gradient_step(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, activation: Callable[[Any], jax.Array], averagedness: float
) -> jax.Array:
    """The image x - 2 a W* f(W x + b), the shape of `x`, `(height, width, 1)`, with zeros around it."""
    height, width = kernel.shape[:2]
    pads = [((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2)]

    def filtered(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x[None], kernel.astype(x.dtype), (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    response = filtered(x)
    if bias is not None:
        response = response + jnp.broadcast_to(bias.astype(x.dtype), response.shape)
    (gradient,) = jax.linear_transpose(filtered, x)(activation(response))
    return x - 2 * averagedness * gradient


def cosine_filters(size: int, num_filters: int) -> np.ndarray:
    """The first filters of the discrete cosine transform but the constant one: `(size, size, 1, num_filters)`, float32.

    All `size`^2 of them are a tight frame: W* W = I with circular padding.

    Raises:
        ValueError: if there are not so many.
    """
    if not 0 < num_filters < size * size:
        raise ValueError(
            f"`num_filters` must lie between 1 and {size * size - 1}, as many as there are {size} x {size} cosines "
            f"but the constant one, got {num_filters}."
        )
    index = np.arange(size)
    waves = np.cos(np.pi * np.outer(index, index + 0.5) / size)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    filters = np.einsum("ai,bj->abij", waves, waves).reshape(-1, size, size) / size
    order = np.argsort(np.add.outer(index, index).ravel(), kind="stable")
    return np.moveaxis(filters[order[1 : num_filters + 1]], 0, -1)[:, :, None].astype(np.float32)


def _slopes_of(activation: Any) -> tuple[float, float]:
    if isinstance(activation, LinearSpline):
        return float(np.min(activation.box.lower)), float(np.max(activation.box.upper))
    if activation is jax.nn.relu:
        return 0.0, 1.0
    return -math.inf, math.inf
