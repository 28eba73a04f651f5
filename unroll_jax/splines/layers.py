"""Linear layers whose Lipschitz constant is guaranteed, whatever is learned."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_count, check_positive
from unroll_jax._types import Array
from unroll_jax.splines.modules import _static
from unroll_jax.splines.spectral import conv_spectral_bound, orthonormalized, spectral_bound

Padding: TypeAlias = Literal["zero", "circular"]
"""What lies outside of an image: zeros, or the image again."""


class LipschitzLinear(nnx.Module):
    """A linear layer x W + b of spectral norm at most `lipschitz`, whatever is learned.

    W = weight min(1, lipschitz / B(weight)) with `spectral_bound` B(weight) >= ||weight||: a weight inside the ball is
    taken as it is, any other one is moved to its boundary.

    Attributes:
        weight: `(in_features, out_features)`, what is learned.
        bias: `(out_features,)`, or None.

    Args:
        in_features: the last axis of what comes in.
        out_features: the last axis of what comes out.
        lipschitz: the bound, positive.
        use_bias: whether there is a bias, which starts at 0.
        num_steps: of `spectral_bound`.
        rngs: its `params` stream draws an orthonormal start.

    Raises:
        ValueError: if a size is below 1, or `lipschitz` not positive; when called, if the last axis of the input has
            another size.

    >>> layer = LipschitzLinear(3, 2, rngs=nnx.Rngs(0))
    >>> layer.weight[...] = 100 * layer.weight[...]
    >>> bool(jnp.linalg.norm(layer(jnp.ones(3)) - layer(jnp.zeros(3))) <= 3**0.5)
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        use_bias: bool = True,
        num_steps: int = 8,
        rngs: nnx.Rngs,
    ):
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        check_count("num_steps", num_steps)
        check_positive("lipschitz", lipschitz)
        self.in_features, self.out_features, self.num_steps = in_features, out_features, num_steps
        self.lipschitz: float = _static("lipschitz", lipschitz)
        start = jax.nn.initializers.orthogonal()(rngs.params(), (in_features, out_features))
        self.weight = nnx.Param(self.lipschitz * start)
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    @property
    def bounded_weight(self) -> Array:
        """W, `(in_features, out_features)`: the weight that counts, with ||W|| <= lipschitz."""
        return _shrunk(self.weight[...], spectral_bound(self.weight[...], num_steps=self.num_steps), self.lipschitz)

    def __call__(self, x: Array) -> Array:
        """The map x W + b, `(..., out_features)` for `x` of shape `(..., in_features)`."""
        _check_channels(x, self.in_features)
        return _with_bias(jnp.matmul(x, self.bounded_weight), self.bias)


class OrthonormalLinear(nnx.Module):
    """A linear layer x W + b with orthonormal W, times `lipschitz`: W from `orthonormalized`.

    It keeps the norms of vectors, or where it lowers the dimension those of gradients, so nothing fades in deep
    networks (Anil et al. 2019, arXiv 1811.05381, with the iteration of Bjorck and Bowie 1971).

    Attributes:
        weight: `(in_features, out_features)`, what is learned.
        bias: `(out_features,)`, or None.

    Args:
        in_features: the last axis of what comes in.
        out_features: the last axis of what comes out.
        lipschitz: the norm, positive.
        use_bias: whether there is a bias, which starts at 0.
        num_iterations: of `orthonormalized`.
        rngs: its `params` stream draws the start.

    Raises:
        ValueError: as `LipschitzLinear`.

    >>> layer = OrthonormalLinear(3, 3, rngs=nnx.Rngs(0))
    >>> jnp.linalg.norm(layer(jnp.array([3.0, 4.0, 0.0]))).round(3)
    Array(5., dtype=float32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lipschitz: float = 1.0,
        use_bias: bool = True,
        num_iterations: int = 25,
        rngs: nnx.Rngs,
    ):
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        check_count("num_iterations", num_iterations)
        check_positive("lipschitz", lipschitz)
        self.in_features, self.out_features, self.num_iterations = in_features, out_features, num_iterations
        self.lipschitz: float = _static("lipschitz", lipschitz)
        self.weight = nnx.Param(jax.nn.initializers.orthogonal()(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    @property
    def bounded_weight(self) -> Array:
        """W, `(in_features, out_features)`: the weight that counts, with ||W|| <= lipschitz."""
        return self.lipschitz * orthonormalized(self.weight[...], num_iterations=self.num_iterations)

    def __call__(self, x: Array) -> Array:
        """The map x W + b, `(..., out_features)` for `x` of shape `(..., in_features)`."""
        _check_channels(x, self.in_features)
        return _with_bias(jnp.matmul(x, self.bounded_weight), self.bias)


class LipschitzConv(nnx.Module):
    """A convolution of images with norm at most `lipschitz` on images of any size, whatever is learned.

    The kernel is shrunk as the weight of `LipschitzLinear` is, by `conv_spectral_bound`. Images keep their size.

    Attributes:
        kernel: `(height, width, in_channels, out_channels)`, what is learned.
        bias: `(out_channels,)`, or None.

    Args:
        in_channels: the last axis of what comes in.
        out_channels: the last axis of what comes out.
        kernel_size: of the kernel, `(height, width)`.
        padding: what lies outside of the images, `"zero"` or `"circular"`.
        lipschitz: the bound, positive.
        use_bias: whether there is a bias, which starts at 0.
        num_frequencies: of `conv_spectral_bound`: more make a tighter bound.
        rngs: its `params` stream draws the start: orthonormal in the middle of the kernel, and noise.

    Raises:
        ValueError: if a size is below 1, `lipschitz` not positive, or `padding` another one; when called, if the input
            is no image with the right channels.

    >>> layer = LipschitzConv(1, 4, (3, 3), rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((8, 8, 1))).shape
    (8, 8, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        padding: Padding = "zero",
        lipschitz: float = 1.0,
        use_bias: bool = True,
        num_frequencies: int | None = None,
        rngs: nnx.Rngs,
    ):
        if padding not in get_args(Padding):
            raise ValueError(f"`padding` must be one of {get_args(Padding)}, got {padding!r}.")
        if not isinstance(kernel_size, tuple) or len(kernel_size) != 2:
            raise ValueError(f"`kernel_size` must be a pair (height, width), got {kernel_size!r}.")
        for name, size in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("kernel_size", kernel_size[0]),
            ("kernel_size", kernel_size[1]),
        ):
            check_count(name, size)
        check_positive("lipschitz", lipschitz)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.padding: Padding = padding
        self.lipschitz: float = _static("lipschitz", lipschitz)
        self.num_frequencies = num_frequencies
        height, width = kernel_size
        noise = jax.random.normal(rngs.params(), (height, width, in_channels, out_channels))
        middle = jax.nn.initializers.orthogonal()(rngs.params(), (in_channels, out_channels))
        noise = noise * (0.1 / (height * width * max(in_channels, out_channels)) ** 0.5)
        self.kernel = nnx.Param(self.lipschitz * noise.at[(height - 1) // 2, (width - 1) // 2].add(middle))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None
        conv_spectral_bound(self.kernel[...], num_frequencies=num_frequencies)  # checks the frequencies

    @property
    def bounded_kernel(self) -> Array:
        """The kernel that counts, `(height, width, in_channels, out_channels)`; its convolution is in the bound."""
        bound = conv_spectral_bound(self.kernel[...], num_frequencies=self.num_frequencies)
        return _shrunk(self.kernel[...], bound, self.lipschitz)

    def __call__(self, x: Array) -> Array:
        """The convolution of `x`, `(..., height, width, in_channels)`, plus the bias: `(..., out_channels)`."""
        _check_channels(x, self.in_channels)
        if x.ndim < 3:
            raise ValueError(f"`x` must be an image (..., height, width, {self.in_channels}), got shape {x.shape}.")
        return _with_bias(_convolve(x, self.bounded_kernel, self.padding), self.bias)


def _shrunk(weight: Array, bound: Array, lipschitz: float) -> Array:
    """`weight` times min(1, lipschitz / bound)."""
    factor = lipschitz / jnp.maximum(bound, lipschitz)
    return (weight.astype(bound.dtype) * factor).astype(weight.dtype)


def _convolve(x: Array, kernel: Array, padding: Padding) -> Array:
    height, width = kernel.shape[:2]
    before, after = ((height - 1) // 2, (width - 1) // 2), (height // 2, width // 2)
    pads = list(zip(before, after, strict=True))
    images = x.reshape(-1, *x.shape[-3:]).astype(jnp.result_type(x, kernel))
    if padding == "circular":
        images = jnp.pad(images, [(0, 0), *pads, (0, 0)], mode="wrap")
        pads = [(0, 0), (0, 0)]
    value = jax.lax.conv_general_dilated(
        images, kernel.astype(images.dtype), (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return value.reshape(*x.shape[:-1], kernel.shape[-1])


def _with_bias(value: Array, bias: nnx.Param | None) -> Array:
    return value if bias is None else value + jnp.broadcast_to(bias[...], value.shape)


def _check_channels(x: Array, num_channels: int) -> None:
    if jnp.shape(x)[-1:] != (num_channels,):
        raise ValueError(f"`x` must have {num_channels} channels as its last axis, got shape {jnp.shape(x)}.")
