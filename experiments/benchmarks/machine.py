"""What the machine can do: the rate of its matrix products and the bandwidth of its copies, which bound all else."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.harness import Side, compare, peer
from experiments.benchmarks.rows import Row, rate_row

NOTE = (
    "Products of float32 matrices in each library's default precision, which on some accelerators is less than "
    "float32; copies read an array and write another (their bandwidth counts both)."
)

SQUARE = (2048, 2048, 2048)
LAYER = (512, 1228, 1228)
"""The product of a batch with a layer's matrix, in `lista_step`."""
COPIES = {"37 MB": 9_266_460, "256 MB": 64_000_000}
"""Numbers of float32 values: one image behind 60 filters, as in `splines`, and more than caches hold."""


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    rounds, rows = (2, []) if quick else (15, [])
    for shape in [(64, 48, 32)] if quick else [SQUARE, LAYER]:
        own = {"XLA": product_side(shape), "numpy": _numpy_product(shape)}
        compared = compare(own, {"torch": lambda shape=shape: _torch_product(shape)}, rounds=rounds)
        size = " x ".join(map(str, shape))
        work = 2e-9 * math.prod(shape)
        rows += [rate_row(f"product {size}, {name}", compared, name, work, "GFLOP/s") for name in (*own, "torch")]
    for name, size in {"40 kB": 10_000}.items() if quick else COPIES.items():
        own = {"XLA": copy_side(size), "numpy": _numpy_copy(size)}
        compared = compare(own, {"torch": lambda size=size: _torch_copy(size)}, rounds=rounds)
        rows += [rate_row(f"copy of {name}, {side}", compared, side, 8e-9 * size, "GB/s") for side in (*own, "torch")]
    return rows


def product_side(shape: tuple[int, int, int]) -> Side:
    """A product of float32 matrices, (rows, inner) @ (inner, columns), by XLA."""
    left, right = (jnp.asarray(matrix) for matrix in _matrices(shape))
    product = jax.jit(jnp.matmul)
    return Side(lambda: product(left, right))


def copy_side(size: int) -> Side:
    """XLA reading `size` float32 values and writing as many: their negatives, as it may skip a mere copy."""
    x, negative = jnp.ones(size), jax.jit(jnp.negative)
    return Side(_without_result(lambda: negative(x)))


def _numpy_product(shape: tuple[int, int, int]) -> Side:
    left, right = _matrices(shape)
    # in the default precision of an accelerator products agree to some digits only
    tolerance = 1e-4 if jax.default_backend() == "cpu" else 1e-2
    return Side(lambda: left @ right, same_as="XLA", tolerance=tolerance)


def _torch_product(shape: tuple[int, int, int]) -> Side:
    torch = peer("torch")
    left, right = (torch.from_numpy(matrix) for matrix in _matrices(shape))
    return Side(lambda: left @ right, same_as="numpy")


def _numpy_copy(size: int) -> Side:
    x = np.ones(size, np.float32)
    target = np.empty_like(x)
    return Side(_without_result(lambda: np.copyto(target, x)))


def _torch_copy(size: int) -> Side:
    torch = peer("torch")
    x = torch.ones(size)
    target = torch.empty_like(x)
    return Side(_without_result(lambda: target.copy_(x)))


def _matrices(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, inner, columns = shape
    draw = np.random.default_rng(0).standard_normal
    return draw((rows, inner), np.float32), draw((inner, columns), np.float32)


def _without_result(function: Callable[[], Any]) -> Callable[[], None]:
    """`function`, waited for; its result is not kept for a comparison."""

    def run() -> None:
        jax.block_until_ready(function())

    return run
