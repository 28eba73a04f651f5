"""What denoisers do on images that are held out, and how far they spread two images apart."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.data import Image, middle
from experiments.lipschitz_denoiser.settings import Settings

_NOISE_KEY = 2_000  # every denoiser meets the same noise


def psnr(image: jax.Array, truth: jax.Array) -> jax.Array:
    """The peak signal-to-noise ratio in dB for intensities in [0, 1], without clipping: `()`."""
    return -10 * jnp.log10(jnp.mean((image - truth) ** 2))


def with_noise(pixels: np.ndarray, sigma: float, index: int) -> jax.Array:
    """The image number `index` with Gaussian noise of standard deviation sigma / 255: `(height, width, 1)`."""
    key = jax.random.fold_in(jax.random.key(_NOISE_KEY), index)
    return jnp.asarray(pixels)[..., None] + sigma / 255 * jax.random.normal(key, (*pixels.shape, 1))


def denoised_psnr(denoiser: nnx.Sequential | None, images: Sequence[Image], settings: Settings) -> np.ndarray:
    """The PSNR of every image after denoising, of the noisy one where `denoiser` is None: `(num_images,)`."""
    found = []
    for index, image in enumerate(images):
        noisy, truth = with_noise(image.pixels, settings.sigma, index), jnp.asarray(image.pixels)[..., None]
        found.append(float(psnr(noisy if denoiser is None else _call(denoiser, noisy), truth)))
    return np.array(found)


def local_constants(denoiser: nnx.Sequential, images: Sequence[Image], settings: Settings) -> dict[str, np.ndarray]:
    """The local Lipschitz constants, measured at the middles of some images: `(num_images,)` each.

    Of clean images, noisy ones, and noise alone, each by `local_lipschitz`.
    """
    shown = images[: settings.num_measured]
    truths = [middle(image.pixels, settings.measured_size) for image in shown]
    places = {
        "clean": [jnp.asarray(pixels)[..., None] for pixels in truths],
        "noisy": [with_noise(pixels, settings.sigma, index) for index, pixels in enumerate(truths)],
        "noise": [with_noise(np.zeros_like(pixels), settings.sigma, index) for index, pixels in enumerate(truths)],
    }
    return {
        name: np.array([float(_local_lipschitz(denoiser, x, settings.power_steps)) for x in xs])
        for name, xs in places.items()
    }


def local_lipschitz(function: Callable[[jax.Array], jax.Array], x: jax.Array, num_steps: int) -> jax.Array:
    """The norm of the derivative J of `function` at `x`, by power iteration on J* J, from below: `()`.

    Args:
        function: from arrays to arrays.
        x: where.
        num_steps: of the iteration, from a random start.
    """
    _, jvp = jax.linearize(function, x)
    transposed = jax.linear_transpose(jvp, x)

    def iterate(carry: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        image = jvp(carry)
        (carry,) = transposed(image)
        return carry / jnp.linalg.norm(carry), jnp.linalg.norm(image)

    start = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    _, norms = jax.lax.scan(iterate, start / jnp.linalg.norm(start), length=num_steps)
    return norms[-1]


@jax.jit
def _call(denoiser: nnx.Sequential, x: jax.Array) -> jax.Array:
    return denoiser(x)


_local_lipschitz = jax.jit(local_lipschitz, static_argnums=2)
