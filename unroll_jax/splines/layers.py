"""Layers whose Lipschitz constant is guaranteed, whatever is learned: linear ones, and invertible residual blocks."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_count, check_function, check_positive
from unroll_jax._types import Array
from unroll_jax.splines._interpolation import wide
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


class Inverse(NamedTuple):
    """What `ResidualBlock.inverse` found.

    Attributes:
        x: the shape of `y`.
        num_steps: `()`, the iterations made.
        error: `()`, an upper bound of the distance of `x` from the inverse, up to rounding (Banach).
    """

    x: Array
    num_steps: Array
    error: Array


class ResidualBlock(nnx.Module):
    """An invertible residual block, y = (x + g(x)) / (1 + c) with Lip(g) <= c < 1, which is 1-Lipschitz too.

    g = c branch / L with L = `lipschitz_bound(branch)`. The inverse solves x = (1 + c) y - g(x) by iteration, whose
    error falls by the factor c in every step; it is (1 + c) / (1 - c) Lipschitz (Behrmann et al. 2019,
    arXiv 1811.00995, who leave out the division by 1 + c: `is_nonexpansive=False`).

    Args:
        branch: a module from arrays to arrays of the same shape, made of the layers here, `LinearSpline` and
            `nnx.Sequential`, or one that has an attribute `lipschitz`.
        contraction: c, in (0, 1).
        is_nonexpansive: whether to divide by 1 + c.

    Raises:
        ValueError: if `contraction` is not in (0, 1), or no bound of `branch` is known, or it is infinite; when called,
            if the branch changes the shape.

    >>> block = ResidualBlock(OrthonormalLinear(2, 2, rngs=nnx.Rngs(0)), 0.5)
    >>> block.inverse(block(jnp.array([1.0, 2.0]))).x.round(3)
    Array([1., 2.], dtype=float32)
    """

    def __init__(self, branch: Callable[[Array], Array], contraction: float = 0.9, *, is_nonexpansive: bool = True):
        contraction = _static("contraction", contraction)
        if not (isinstance(contraction, float) and 0 < contraction < 1):
            raise ValueError(
                f"`contraction` must lie in (0, 1), got {contraction}: with 1 or more there need not be any inverse."
            )
        check_function("branch", branch, "nnx.Sequential(LipschitzLinear(4, 4, rngs=rngs), LinearSpline(grid, 4))")
        bound = lipschitz_bound(branch)
        if not 0 < bound < float("inf"):
            raise ValueError(f"`branch` must have a Lipschitz constant that is positive and finite, got {bound}.")
        self.branch = branch
        self.contraction: float = contraction
        self.is_nonexpansive = is_nonexpansive

    @property
    def lipschitz(self) -> float:
        """The Lipschitz constant of the block, 1, or 1 + c without the division."""
        return 1.0 if self.is_nonexpansive else 1 + self.contraction

    def __call__(self, x: Array) -> Array:
        """y, of the shape of `x`."""
        return (x + self._contracted(x)) / self._divisor

    def inverse(self, y: Array, *, tolerance: float = 1e-5, max_steps: int = 1000) -> Inverse:
        """The x whose image under the block is `y`.

        Stops where the error is known to be at most `tolerance` times the norm of x. Differentiable in `y` and in the
        parameters, forward and backward, by the implicit function theorem: nothing is kept of the iterations. `y`
        counts as one vector; map over examples by `jax.vmap`, and each stops on its own.

        Args:
            y: as the block takes x.
            tolerance: positive, relative; in single precision not below about 1e-6 / (1 - c).
            max_steps: of the iteration.

        Raises:
            ValueError: if `tolerance` is not positive, or `max_steps` below 1.
        """
        check_positive("tolerance", tolerance)
        check_count("max_steps", max_steps)
        c = self.contraction
        scaled = self._divisor * jnp.asarray(y)

        def solve(apply: Callable[[Array], Array], b: Array) -> tuple[Array, Array, Array]:
            """The x with x + apply(x) = b."""

            def is_open(carry: tuple[Array, Array, Array]) -> Array:
                x, step, error = carry
                return (step < max_steps) & ~(error <= tolerance * _norm(x))

            def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                x, step, _ = carry
                x_next = b - apply(x)
                return x_next, step + 1, c / (1 - c) * _norm(x_next - x)

            start = b, jnp.zeros((), jnp.int32), jnp.full_like(_norm(b), jnp.inf)
            return jax.lax.while_loop(is_open, iterate, start)

        def solve_linear(matvec: Callable[[Array], Array], b: Array) -> Array:
            return solve(lambda x: matvec(x) - x, b)[0]

        def tangent_solve(matvec: Callable[[Array], Array], b: Array) -> Array:
            return jax.lax.custom_linear_solve(matvec, b, solve_linear, transpose_solve=solve_linear)

        def solve_root(_: Any, start: Array) -> tuple[Array, tuple[Array, Array]]:
            x, num_steps, error = solve(self._contracted, start)
            return x, (num_steps.astype(error.dtype), error)

        x, (num_steps, error) = jax.lax.custom_root(
            lambda x: x + self._contracted(x) - scaled, scaled, solve_root, tangent_solve, has_aux=True
        )
        return Inverse(x, num_steps.astype(jnp.int32), error)

    @property
    def _divisor(self) -> float:
        return 1 + self.contraction if self.is_nonexpansive else 1.0

    def _contracted(self, x: Array) -> Array:
        value = self.branch(x)
        if value.shape != x.shape:
            raise ValueError(f"`branch` must keep the shape of its input, {x.shape}, but it returned {value.shape}.")
        return self.contraction / lipschitz_bound(self.branch) * value


def lipschitz_bound(module: Any) -> float:
    """An upper bound of the Lipschitz constant of `module`, known from its structure alone.

    The attribute `lipschitz` where there is one, and the product over the layers of an `nnx.Sequential`.

    Args:
        module: a layer from here, a `LinearSpline`, an `nnx.Sequential` of such, or any other one with `lipschitz`.

    Raises:
        ValueError: for what has no known bound.

    >>> lipschitz_bound(nnx.Sequential(LipschitzLinear(2, 2, lipschitz=3.0, rngs=nnx.Rngs(0)), jax.nn.relu))
    3.0
    """
    if isinstance(module, nnx.Sequential):
        bound = 1.0
        for layer in module.layers:
            bound *= lipschitz_bound(layer)
        return bound
    if any(module is function for function in _NONEXPANSIVE):
        return 1.0
    bound = getattr(module, "lipschitz", None)
    if bound is None:
        raise ValueError(
            f"No Lipschitz constant of {type(module).__name__} is known. Give it an attribute `lipschitz`, or build it "
            "of LipschitzLinear, OrthonormalLinear, LipschitzConv, LinearSpline, ResidualBlock and nnx.Sequential."
        )
    return float(bound)


_NONEXPANSIVE = (jax.nn.relu, jnp.abs, jnp.tanh)


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


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x.astype(wide(x.dtype)) ** 2))


def _check_channels(x: Array, num_channels: int) -> None:
    if jnp.shape(x)[-1:] != (num_channels,):
        raise ValueError(f"`x` must have {num_channels} channels as its last axis, got shape {jnp.shape(x)}.")
