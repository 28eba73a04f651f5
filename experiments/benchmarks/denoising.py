"""The cost of denoising by a weakly convex regularizer: one kernel on tiles against the chain of convolutions.

`python -m experiments.benchmarks.denoising --image FILE` prints a table; run it while nothing else runs. Both sides run
the same accelerated method on the same objective, but for what a chain that pads between its convolutions does at the
border; times are medians after a warm-up, in turns in one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.data import load_images, load_picture
from experiments.denoising.measuring import psnr
from experiments.denoising.weights import load_weights, noisy_version
from experiments.report import markdown_table
from unroll_jax.regularizers import Ridge, RidgeParams, collapsed, prepare_ridge, ridge_denoise, ridge_gradient
from unroll_jax.regularizers.filters import norm_bound, same_convolution, same_transpose, zero_mean
from unroll_jax.splines import linear_spline

SIGMA = 25.0
TOLERANCE, MAX_STEPS = 1e-4, 500
REPEATS = 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a clean gray picture; a photograph of scikit-image by default")
    parser.add_argument("--weights", default="wcrr", help="a regularizer, as in `denoise`")
    options = parser.parse_args()
    if options.image is None:
        pixels = next(image.pixels for image in load_images(None) if image.name == "camera.png")[:481, :321]
        clean = np.asarray(pixels)[..., None]
    else:
        clean = load_picture(options.image)[..., :1]
    print(markdown_table(["what", "measured", "target"], rows(clean, load_weights(options.weights))))


def rows(clean: np.ndarray, params: RidgeParams) -> list[list[str]]:
    """The table's rows for one image."""
    noisy, sigma = noisy_version(clean, SIGMA, 0, 0), jnp.float32(SIGMA / 255)
    solve = jax.jit(lambda noisy: ridge_denoise(params, noisy, sigma, tolerance=TOLERANCE, max_steps=MAX_STEPS))
    chained = jax.jit(lambda noisy: _solve_chained(params, noisy, sigma))
    ridge = prepare_ridge(params, SIGMA / 255)
    steps = 10
    loop = lambda gradient: jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, x: x - gradient(x) / 60, x))
    chained_loop = loop(_chained_gradient(params, ridge))
    library_loop = loop(lambda x: ridge_gradient(ridge, x))
    times = _interleaved(
        {
            "chained": lambda: chained(noisy),
            "library": lambda: solve(noisy),
            "chained gradient": lambda: chained_loop(noisy),
            "library gradient": lambda: library_loop(noisy),
        }
    )
    ours, theirs = solve(noisy), chained(noisy)
    per_step = [1e3 * times[name] / steps for name in ("library gradient", "chained gradient")]
    return [
        ["library / chain, one image", f"{times['library'] / times['chained']:.3f}", "<= 0.25"],
        ["seconds, library and chain", f"{times['library']:.2f} and {times['chained']:.2f}", ""],
        ["iterations, library and chain", f"{int(ours.num_steps)} and {int(theirs.num_steps)}", ""],
        ["a gradient in a loop, library and chain, ms", f"{per_step[0]:.0f} and {per_step[1]:.0f}", ""],
        [
            "PSNR, library and chain",
            f"{psnr(ours.state.x, clean):.3f} and {psnr(theirs.state.x, clean):.3f}",
            "within 0.01 dB",
        ],
        ["size of the image", f"{clean.shape[0]} x {clean.shape[1]}", ""],
    ]


def _chained_gradient(params: RidgeParams, ridge: Ridge) -> Callable[[jax.Array], jax.Array]:
    """The regularizer's gradient by convolutions after each other, as published; of the same norm."""
    first, *others = params.kernels
    norm = norm_bound(collapsed([zero_mean(first), *others]))
    kernels = [zero_mean(first) / norm, *others]

    def gradient(x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = same_convolution(x, kernel)
        scales = jnp.broadcast_to(ridge.scales, x.shape)
        x = linear_spline(x * scales, ridge.coefficients, ridge.grid, extrapolation="constant") / scales
        for kernel in reversed(kernels):
            x = same_transpose(x, kernel)
        return x

    return gradient


def _solve_chained(params: RidgeParams, noisy: jax.Array, sigma: jax.Array) -> uj.Solution:
    ridge = prepare_ridge(params, sigma)
    gradient = _chained_gradient(params, ridge)
    algorithm = uj.algorithms.accelerated_gradient(lambda z, x: z - x + gradient(z), start=lambda x: x)
    constants = uj.algorithms.accelerated_gradient_params(1 + ridge.mu, 1 - ridge.rho)
    return uj.solve(algorithm, constants, noisy, tolerance=TOLERANCE, max_steps=MAX_STEPS)


def _interleaved(functions: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median seconds of each function, called in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(REPEATS + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
