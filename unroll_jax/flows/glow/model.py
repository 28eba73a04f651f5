"""Glow, a multi-scale normalizing flow for images, as an nnx module."""

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from unroll_jax._checks import check_count, check_inexact, check_key
from unroll_jax._types import Array
from unroll_jax.flows.bijections import Split, Standardized, squeeze, unsqueeze
from unroll_jax.flows.glow.layers import GlowStep, ZeroConvolution

Latents: TypeAlias = tuple[Array, ...]
"""One array `(height, width, channels)` for each level, the finest first; together as many numbers as the image."""


class Given(NamedTuple):
    """A flow with the context that it is given: `forward` and `inverse` of the image or the latents alone.

    Attributes:
        flow: a `Glow`.
        context: `(height, width, context_channels)`.
    """

    flow: "Glow"
    context: Array

    def forward(self, x: Array) -> tuple[Latents, Array]:
        """As `Glow.forward`."""
        return self.flow.forward(x, self.context)

    def inverse(self, latents: Latents) -> Array:
        """As `Glow.inverse`."""
        return self.flow.inverse(latents, self.context)


class Glow(nnx.Module):
    """A multi-scale flow from images to standard normal latents (Kingma and Dhariwal 2018), for one image.

    On each level the image is squeezed, goes through `num_steps` steps (a scale and shift of each channel, an
    invertible 1 x 1 convolution, a coupling), and half of its channels are split off as latents, standardized by a
    Gaussian prior that the other half sets. The last level's prior depends on the position only. So `inverse` undoes
    `forward` whatever has been learned. The steps of a level are stacked and run in one scan: the program does not grow
    with their number.

    A new flow does nothing but rotate channels: `fitted(batch)` starts it from data, then train `-log_prob`.

    Attributes:
        levels: the stacked steps of each level.
        priors: what sets the mean and the deviation of each level's latents.

    Args:
        num_channels: of the images.
        num_levels: at least 1; sides must be divisible by 2^num_levels.
        num_steps: of each level, at least 1.
        width: of the couplings' networks.
        key: a random key, for the start.
        context_channels: of an image that all couplings are shown too, such as the mask of known pixels; on coarser
            levels its means. The density is then that given the context. A new flow does not depend on it.
        smallest_scale: below which no coupling scales, in [0, 1); the inverse of a coupling enlarges by at most
            1 / smallest_scale.
        spline_knots: makes the couplings `bijections.SplineCoupling` with so many knots.
        remat: whether the backward pass computes the inside of every step again, for memory.
        dtype: of the parameters.

    Raises:
        ValueError: for numbers that make no flow.

    >>> flow = Glow(num_channels=3, num_levels=2, num_steps=2, width=8, key=jax.random.key(0))
    >>> image = jax.random.uniform(jax.random.key(1), (8, 8, 3))
    >>> latents, log_det = jax.jit(flow.forward)(image)
    >>> [latent.shape for latent in latents], bool(jnp.allclose(jax.jit(flow.inverse)(latents), image, atol=1e-5))
    ([(4, 4, 6), (2, 2, 24)], True)
    """

    def __init__(
        self,
        *,
        num_channels: int = 3,
        num_levels: int,
        num_steps: int,
        width: int,
        key: Array,
        context_channels: int = 0,
        smallest_scale: float = 0.0,
        spline_knots: int | None = None,
        remat: bool = False,
        dtype: Any = jnp.float32,
    ):
        for name, count in (
            ("num_channels", num_channels),
            ("num_levels", num_levels),
            ("num_steps", num_steps),
            ("width", width),
        ):
            check_count(name, count)
        check_key("key", key)
        if not 0 <= smallest_scale < 1:
            raise ValueError(f"`smallest_scale` must lie in [0, 1), got {smallest_scale}.")
        if context_channels < 0:
            raise ValueError(f"`context_channels` must be at least 0, got {context_channels}.")
        self.num_channels = num_channels
        self.num_levels = num_levels
        self.num_steps = num_steps
        self.context_channels = context_channels
        self.remat = remat
        levels, priors = [], []
        channels = num_channels
        for level in range(num_levels):
            channels = 4 * channels

            def make(key: Array, channels: int = channels) -> GlowStep:
                return GlowStep(
                    channels,
                    width,
                    key,
                    num_context=4 * context_channels,
                    smallest_scale=smallest_scale,
                    spline_knots=spline_knots,
                    dtype=dtype,
                )

            levels.append(jax.vmap(make)(jax.random.split(jax.random.fold_in(key, level), num_steps)))
            if level < num_levels - 1:
                kept = channels // 2
                priors.append(ZeroConvolution(kept, 2 * (channels - kept), dtype))
                channels = kept
            else:
                priors.append(ZeroConvolution(channels, 2 * channels, dtype))
        self.levels = nnx.List(levels)
        self.priors = nnx.List(priors)

    def forward(self, x: Array, context: Array | None = None) -> tuple[Latents, Array]:
        """The latents of an image, standard normal where the flow fits the data, and the log-determinant, `()`.

        Args:
            x: `(height, width, num_channels)`, sides divisible by 2^num_levels.
            context: `(height, width, context_channels)`, None without.

        Raises:
            ValueError: for other shapes.
        """
        contexts = self._contexts(x.shape, context, "x")
        total = jnp.zeros((), x.dtype)
        latents = []
        for level, (steps, prior, given) in enumerate(zip(self.levels, self.priors, contexts, strict=True)):
            x, log_dets = self._scan(
                lambda x, step, given=given: step.forward(x, given), squeeze(x), steps, reverse=False
            )
            total = total + jnp.sum(log_dets)
            if level < self.num_levels - 1:
                (x, latent), log_det = Split(prior).forward(x)
            else:
                latent, log_det = Standardized(prior).forward(x, jnp.zeros_like(x))
            total = total + log_det
            latents.append(latent)
        return tuple(latents), total

    def inverse(self, latents: Latents, context: Array | None = None) -> Array:
        """The image with these latents, `(height, width, num_channels)`.

        Args:
            latents: as `forward` returns them.
            context: as in `forward`.

        Raises:
            ValueError: for other shapes.
        """
        shape = self._image_shape(latents)
        contexts = self._contexts(shape, context, "latents")
        x = latents[-1]
        for level in reversed(range(self.num_levels)):
            prior, given = self.priors[level], contexts[level]
            if level < self.num_levels - 1:
                x = Split(prior).inverse((x, latents[level]))
            else:
                x = Standardized(prior).inverse(x, jnp.zeros_like(x))
            x, _ = self._scan(
                lambda x, step, given=given: (step.inverse(x, given), None), x, self.levels[level], reverse=True
            )
            x = unsqueeze(x)
        return x

    def log_prob(self, x: Array, context: Array | None = None) -> Array:
        """The logarithm of the density at an image, `()`: log N(latents; 0, 1) + log-determinant.

        Args:
            x: as in `forward`; for images of whole numbers, with uniform noise of one unit (dequantized).
            context: as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        latents, log_det = self.forward(x, context)
        squares = sum(jnp.sum(latent**2) for latent in latents)
        return log_det - squares / 2 - x.size * math.log(2 * math.pi) / 2

    def sample(
        self, key: Array, image_shape: tuple[int, int], *, temperature: float = 1.0, context: Array | None = None
    ) -> Array:
        """A random image `(height, width, num_channels)` of the flow's distribution.

        Args:
            key: a random key.
            image_shape: height and width, divisible by 2^num_levels.
            temperature: of the latents' standard deviation; below 1 for images nearer to the mode.
            context: as in `forward`.

        Raises:
            ValueError: for what is no key, or a shape that does not fit.
        """
        check_key("key", key)
        shape = (*image_shape, self.num_channels)
        dtype = self.priors[0].bias.dtype
        zeros = jax.ShapeDtypeStruct(shape, dtype)
        like, _ = jax.eval_shape(self.forward, zeros, context)
        keys = jax.random.split(key, len(like))
        latents = [temperature * jax.random.normal(k, z.shape, dtype) for k, z in zip(keys, like, strict=True)]
        return self.inverse(tuple(latents), context)

    def given(self, context: Array) -> Given:
        """The flow with a context, as a flow without."""
        return Given(self, context)

    def fitted(self, batch: Array, context: Array | None = None) -> "Glow":
        """The flow started from data: a new one, of convolutions and scales only, that makes a batch nearly white.

        The scale and shift of each step give its channels mean 0 and standard deviation 1; the convolution that opens a
        level takes them to their principal components, of which the lesser half is split off at its end.

        Args:
            batch: `(batch, height, width, num_channels)`.
            context: `(batch, height, width, context_channels)`, None without.

        Raises:
            ValueError: for other shapes.
        """
        check_inexact("batch", batch)
        if jnp.ndim(batch) != 4:
            raise ValueError(f"`batch` must have shape (batch, height, width, channels), got {jnp.shape(batch)}.")
        if context is None:
            contexts = self._contexts(batch.shape[1:], None, "batch")
        else:
            contexts = jax.vmap(lambda c: self._contexts(batch.shape[1:], c, "batch"))(context)
        x, levels = batch, []
        for level, (steps, prior, given) in enumerate(zip(self.levels, self.priors, contexts, strict=True)):

            def body(x: Array, numbered: tuple[Array, GlowStep], given: Array | None = given) -> tuple[Array, GlowStep]:
                index, step = numbered
                step = step.fitted(x, index=index, num_steps=self.num_steps)
                # what comes next sees this step as fitted
                return jax.vmap(lambda x, given: step.forward(x, given)[0])(x, given), step

            x, fitted = jax.lax.scan(body, jax.vmap(squeeze)(x), (jnp.arange(self.num_steps), steps))
            levels.append(fitted)
            if level < self.num_levels - 1:
                x = jax.vmap(lambda x, prior=prior: Split(prior).forward(x)[0][0])(x)
        flow = jax.tree.map(lambda leaf: leaf, self)
        flow.levels = nnx.List(levels)
        return flow

    def _scan(self, body: Any, x: Array, steps: GlowStep, *, reverse: bool) -> tuple[Array, Any]:
        # inside a scan the loop itself keeps the compiler from merging the two forward passes
        body = jax.checkpoint(body, prevent_cse=False) if self.remat else body
        return jax.lax.scan(body, x, steps, reverse=reverse)

    def _contexts(self, shape: tuple[int, ...], context: Array | None, name: str) -> list[Array | None]:
        """The context at every level; checks both shapes."""
        block = 2**self.num_levels
        if len(shape) != 3 or shape[-1] != self.num_channels or shape[0] % block or shape[1] % block:
            raise ValueError(
                f"`{name}` must be of an image (height, width, {self.num_channels}) whose sides are divisible by "
                f"2^num_levels = {block}, got {shape}. Crop or pad the image, or take fewer levels; batches go through "
                "jax.vmap."
            )
        if not self.context_channels:
            if context is not None:
                raise ValueError("`context` must be None for a flow that was made with `context_channels=0`.")
            return [None] * self.num_levels
        wanted = (*shape[:2], self.context_channels)
        if context is None or jnp.shape(context) != wanted:
            found = None if context is None else jnp.shape(context)
            raise ValueError(f"`context` must have shape {wanted} for `{name}` of shape {shape}, got {found}.")
        contexts = []
        for _ in range(self.num_levels):
            contexts.append(squeeze(context))
            height, width, channels = context.shape
            context = jnp.mean(context.reshape(height // 2, 2, width // 2, 2, channels), axis=(1, 3))
        return contexts

    def _image_shape(self, latents: Latents) -> tuple[int, ...]:
        if not isinstance(latents, tuple | list) or len(latents) != self.num_levels:
            raise ValueError(
                f"`latents` must be a tuple of {self.num_levels} arrays, one for each level as `forward` returns them, "
                f"got {type(latents).__name__}."
            )
        height, width, _ = jnp.shape(latents[0])
        return (2 * height, 2 * width, self.num_channels)


Preset: TypeAlias = Literal["small", "paper"]

PRESETS: dict[Preset, dict[str, Any]] = {
    # for crops of 32 x 32 on a CPU
    "small": {"num_levels": 3, "num_steps": 2, "width": 48, "smallest_scale": 0.2},
    # of arXiv 2312.15788, for images of 64 x 64 on a GPU
    "paper": {"num_levels": 4, "num_steps": 18, "width": 512, "remat": True},
}


def glow_preset(preset: Preset, key: Array, **options: Any) -> Glow:
    """A `Glow` of a known size, for colour images.

    Args:
        preset: "small" (3 levels of 2 steps, width 48) or "paper" (4 levels of 18 steps, width 512: 41,979,864
            parameters).
        key: a random key.
        options: of `Glow`, in place of the preset's.

    Raises:
        ValueError: for an unknown preset, or what `Glow` raises.

    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(glow_preset("small", jax.random.key(0)), nnx.Param)))
    181176
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}.")
    return Glow(key=key, **(PRESETS[preset] | options))
