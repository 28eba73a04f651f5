"""The cost of denoising by a weakly convex regularizer: one kernel on tiles against the chain of convolutions.

`python -m experiments.benchmarks.denoising --image FILE` prints the table; run it while nothing else runs. Both sides
run the same accelerated method on the same objective, but for what a chain that pads between its convolutions does at
the border.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import unroll_jax as uj
from experiments.benchmarks.harness import Side, compare, relative_difference
from experiments.benchmarks.rows import Row, memory_row, ratio_row, seconds_row, table
from experiments.data import load_images, load_picture
from experiments.denoising.measuring import psnr
from experiments.denoising.weights import load_weights, noisy_version
from experiments.train_regularizer.settings import DEFAULTS
from experiments.train_regularizer.training import make_loss
from unroll_jax.regularizers import (
    Ridge,
    RidgeParams,
    RidgeRegularizer,
    collapsed,
    prepare_ridge,
    ridge_denoise,
    ridge_gradient,
)
from unroll_jax.regularizers.filters import norm_bound, same_convolution, same_transpose, zero_mean
from unroll_jax.splines import linear_spline

NOTE = (
    "A weakly convex regularizer at sigma 25, to a relative change of 1e-4; `chain`: the published formulation, "
    "convolutions after each other in a while loop. A training step is one of 16 patches of 40 x 40 with the implicit "
    "gradient, with the settings of `train-regularizer`."
)

SIGMA = 25.0
TOLERANCE, MAX_STEPS = 1e-4, 500
REPEATS = 3
BATCH = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="a clean gray picture; a photograph of scikit-image by default")
    parser.add_argument("--weights", default="wcrr", help="a regularizer, as in `denoise`")
    options = parser.parse_args()
    clean = _photograph() if options.image is None else load_picture(options.image)[..., :1]
    print(table("Weakly convex denoising", NOTE, rows(clean, load_weights(options.weights))).markdown())


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    params = load_weights("wcrr")
    clean = _photograph()[:24, :24] if quick else _photograph()
    patch = (2, 16) if quick else (DEFAULTS.batch_size, DEFAULTS.patch_size)
    return [*rows(clean, params), *batch_rows(clean, params, BATCH), *training_rows(clean, params, *patch)]


def rows(clean: np.ndarray, params: RidgeParams) -> list[Row]:
    """The table's rows for one image."""
    noisy, sigma = noisy_version(clean, SIGMA, 0, 0), jnp.float32(SIGMA / 255)
    solve = jax.jit(lambda noisy: ridge_denoise(params, noisy, sigma, tolerance=TOLERANCE, max_steps=MAX_STEPS))
    ridge = prepare_ridge(params, SIGMA / 255)
    chained = jax.jit(lambda noisy: _solve_convolved(_chain(params), ridge, noisy))
    merged = jax.jit(lambda noisy: _solve_convolved([ridge.kernel], ridge, noisy))
    steps = 10
    loop = lambda gradient: jax.jit(lambda x: jax.lax.fori_loop(0, steps, lambda _, x: x - gradient(x) / 60, x))
    chained_loop = loop(_convolved_gradient(_chain(params), ridge))
    library_loop = loop(lambda x: ridge_gradient(ridge, x))
    # they differ at the border, a few pixels wide
    inside = lambda found, wanted: relative_difference(found[8:-8, 8:-8], wanted[8:-8, 8:-8])
    own = {
        "chain": Side(lambda: chained(noisy).state.x),
        "library": Side(lambda: solve(noisy).state.x, same_as="chain", tolerance=1e-2, difference=inside),
        "chain, gradient": Side(lambda: chained_loop(noisy), num_units=steps),
        "library, gradient": Side(
            lambda: library_loop(noisy), "chain, gradient", tolerance=1e-2, num_units=steps, difference=inside
        ),
    }
    compared = compare(own, rounds=REPEATS, warm_up=1, budget=300)
    ours, theirs, same = solve(noisy), chained(noisy), merged(noisy)
    psnrs = [psnr(each.state.x, clean) for each in (ours, theirs, same)]
    size = f"{clean.shape[0]} x {clean.shape[1]}"
    counts = f"{int(ours.num_steps)} iterations, and {int(theirs.num_steps)} of the chain"
    return [
        seconds_row(f"{size}, one image", compared, "library", note=counts),
        ratio_row("one image, library / chain", compared, "library", "chain", "<= 0.25"),
        ratio_row("a gradient in a loop, library / chain", compared, "library, gradient", "chain, gradient"),
        Row("PSNR", psnrs[0], "dB", note=f"{psnrs[1]:.3f} dB of the chain, another operator at the border"),
        Row("PSNR, library against conv_general_dilated", abs(psnrs[0] - psnrs[2]), "dB", target="<= 0.01"),
        memory_row("memory, one image", solve.lower(noisy).compile()),
    ]


def batch_rows(clean: np.ndarray, params: RidgeParams, num: int) -> list[Row]:
    """Images of different noise levels under vmap, against one after the other."""
    sigmas = jnp.linspace(10.0, 30.0, num) / 255
    noisy = jnp.stack([noisy_version(clean, float(255 * sigma), 0, i) for i, sigma in enumerate(sigmas)])

    def denoise(noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        return ridge_denoise(params, noisy, sigma, tolerance=TOLERANCE, max_steps=MAX_STEPS).state.x

    single, batched = jax.jit(denoise), jax.jit(jax.vmap(denoise))
    own = {
        "one by one": Side(
            lambda: jnp.stack([single(*each) for each in zip(noisy, sigmas, strict=True)]), None, 0, num
        ),
        "batch": Side(lambda: batched(noisy, sigmas), "one by one", 1e-4, num),
    }
    compared = compare(own, rounds=REPEATS, warm_up=1, budget=300)
    return [
        seconds_row(f"batch of {num}, per image", compared, "batch"),
        ratio_row(f"batch of {num} / one by one", compared, "batch", "one by one"),
        memory_row(f"memory, batch of {num}", batched.lower(noisy, sigmas).compile()),
    ]


def training_rows(clean: np.ndarray, params: RidgeParams, batch_size: int, patch_size: int) -> list[Row]:
    """A training step at the fixed point, and by unrolled steps."""
    rng = np.random.default_rng(0)
    corners = [[rng.integers(side - patch_size + 1) for side in clean.shape[:2]] for _ in range(batch_size)]
    patches = jnp.stack([jnp.asarray(clean[i : i + patch_size, j : j + patch_size]) for i, j in corners])
    notes = {"equilibrium": "at the fixed point", "unrolled": f"{DEFAULTS.num_unrolled} unrolled steps"}
    own, memory = {}, []
    for mode, note in notes.items():
        trainer = uj.training.unconstrained(make_loss(dataclasses.replace(DEFAULTS, mode=mode)), optax.adam(1e-6))
        state = trainer.init(RidgeRegularizer(params), patches, jax.random.key(0))
        step = jax.jit(trainer.step)
        memory.append(memory_row(f"memory, training step, {note}", step.lower(state, patches).compile()))
        own[mode] = Side(lambda step=step, state=state: step(state, patches)[1].loss)
    compared = compare(own, rounds=5, warm_up=2, budget=120)
    return [*(seconds_row(f"training step, {note}", compared, mode) for mode, note in notes.items()), *memory]


def _photograph() -> np.ndarray:
    pixels = next(image.pixels for image in load_images(None) if image.name == "camera.png")[:481, :321]
    return np.asarray(pixels)[..., None]


def _chain(params: RidgeParams) -> list[jax.Array]:
    """The kernels of convolutions after each other, as published; of the same norm as the regularizer's one."""
    first, *others = params.kernels
    norm = norm_bound(collapsed([zero_mean(first), *others]))
    return [zero_mean(first) / norm, *others]


def _convolved_gradient(kernels: Sequence[jax.Array], ridge: Ridge) -> Callable[[jax.Array], jax.Array]:
    """The regularizer's gradient by `conv_general_dilated`, one kernel after the other."""

    def gradient(x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = same_convolution(x, kernel)
        scales = jnp.broadcast_to(ridge.scales, x.shape)
        x = linear_spline(x * scales, ridge.coefficients, ridge.grid, extrapolation="constant") / scales
        for kernel in reversed(kernels):
            x = same_transpose(x, kernel)
        return x

    return gradient


def _solve_convolved(kernels: Sequence[jax.Array], ridge: Ridge, noisy: jax.Array) -> uj.Solution:
    gradient = _convolved_gradient(kernels, ridge)
    algorithm = uj.algorithms.accelerated_gradient(lambda z, x: z - x + gradient(z), start=lambda x: x)
    constants = uj.algorithms.accelerated_gradient_params(1 + ridge.mu, 1 - ridge.rho)
    return uj.solve(algorithm, constants, noisy, tolerance=TOLERANCE, max_steps=MAX_STEPS)


if __name__ == "__main__":
    main()
