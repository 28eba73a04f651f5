"""Which regularizer a command uses."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unroll_jax.regularizers import RidgeParams, load_ridge, pretrained, pretrained_names


def load_weights(name: str) -> RidgeParams:
    """The pretrained regularizer of that name, or the one in the file or run folder `name`.

    Raises:
        ValueError: if it is neither.
    """
    if name in pretrained_names():
        return pretrained(name)
    path = Path(name)
    if path.is_dir():
        path = path / "regularizer.npz"
    if not path.is_file():
        raise ValueError(
            f"`--weights` must be one of {', '.join(pretrained_names())}, or the file or run folder of "
            f"train-regularizer, got {name}."
        )
    return load_ridge(path)


def noisy_version(clean: np.ndarray, sigma: float, seed: int, index: int) -> jax.Array:
    """`clean` with noise of standard deviation `sigma` in 8-bit units; the key is fold_in(fold_in(key(seed), index),
    100 sigma), so that every image and level has its own, whatever else is run.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), round(100 * sigma))
    return jnp.asarray(clean) + sigma / 255 * jax.random.normal(key, clean.shape)
