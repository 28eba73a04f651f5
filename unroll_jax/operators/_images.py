"""What the operators on images share: checks of shapes, and complex images as two real ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._types import Array


def check_image(name: str, x: Any, channels: int | None = None) -> None:
    """Raise unless `x` is a floating-point or complex image: with `channels` of them, or with any number or none."""
    wanted = "(height, width) or (height, width, channels)" if channels is None else f"(height, width, {channels})"
    shape = jnp.shape(x)
    fits = len(shape) in (2, 3) if channels is None else len(shape) == 3 and shape[2] == channels
    if not fits:
        hint = " A gray image (height, width) becomes one by x[..., None]." if len(shape) == 2 else ""
        raise ValueError(f"`{name}` must be an image {wanted}, got shape {shape}.{hint} Take batches by jax.vmap.")
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        raise ValueError(
            f"`{name}` must be an image of a floating-point or complex type, got {jnp.result_type(x)}. "
            "Convert whole numbers first: x / 255, say."
        )


def check_kernel(kernel: Any, num_axes: int, form: str) -> None:
    """Raise unless `kernel` is real, has so many axes, and has a middle."""
    shape = jnp.shape(kernel)
    if len(shape) != num_axes or jnp.iscomplexobj(kernel):
        raise ValueError(
            f"`kernel` must be real and have shape {form}, got {shape} of type {jnp.result_type(kernel)}. "
            "Map over a batch of operators by jax.vmap."
        )
    if shape[0] % 2 == 0 or shape[1] % 2 == 0:
        raise ValueError(
            f"`kernel` must have odd sides, so that it has a middle, got shape {shape}. "
            "Pad an even side with zeros on the side where they belong."
        )


def check_divides(name: str, number: int, image: str, shape: tuple[int, ...]) -> None:
    """Raise unless `number` divides both sides of an image."""
    if shape[0] % number or shape[1] % number:
        raise ValueError(
            f"`{image}` must have sides that the {name} {number} divides, got shape {shape}. Crop or pad the image."
        )


def real_type(x: Any) -> Any:
    """The type of the real part of `x`."""
    return jnp.finfo(jnp.result_type(x)).dtype


def by_parts(function: Callable[[Array], Array], x: Array) -> Array:
    """What a linear function with real numbers makes of `x`, of the real and the imaginary part each by itself."""
    if not jnp.iscomplexobj(x):
        return function(x)
    parts = jax.vmap(function)(jnp.stack([x.real, x.imag]))
    return jax.lax.complex(parts[0], parts[1])
