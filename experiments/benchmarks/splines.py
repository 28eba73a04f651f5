"""The cost of linear splines: forward, and forward and backward, against what the machine and others do.

`python -m experiments.benchmarks --case splines` prints the table; run it while nothing else runs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.harness import Comparison, Side, compare, peer
from experiments.benchmarks.machine import copy_side
from experiments.benchmarks.rows import Row, ratio_row, scaled, seconds_row
from unroll_jax.splines import LinearSpline, NonuniformGrid, SlopeBox, UniformGrid, linear_spline

NOTE = (
    "A spline of 101 knots. `shared`: one for an image behind 60 filters, 9.3 million values; `channels`: 60 of them "
    "on a training batch, with the gradient in their coefficients. A copy reads as many values and writes as many: a "
    "ratio of 2 is half of the copy bandwidth."
)

GRID = UniformGrid(-1.0, 1.0, 101)
IMAGE = (481, 321, 60)  # one image behind 60 filters: 9.3 million values
BATCH = (16, 40, 40, 60)
ACCELERATOR = (32, 128, 128, 64)


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    rounds = 2 if quick else 20
    if quick:
        return [*shared_splines((8, 8, 3), rounds), *splines_per_channel((2, 4, 4, 3), rounds), *pruned_splines(100, 2)]
    rows = [*shared_splines(IMAGE, rounds), *splines_per_channel(BATCH, rounds), *pruned_splines(1_000_000, rounds)]
    return rows if jax.default_backend() == "cpu" else [*rows, *splines_per_channel(ACCELERATOR, rounds)]


def shared_splines(shape: tuple[int, ...], rounds: int) -> list[Row]:
    """One spline for all values, where a filter bank's one nonlinearity is applied to an image."""
    x, coefficients = _draw(0, shape) / 2, _draw(1, (GRID.num_knots,))
    nonuniform = NonuniformGrid(GRID.knots)
    both = lambda spline: _bound(_forward_and_backward(spline), x, coefficients, x)
    own = {
        "copy": copy_side(x.size),
        "a * x + b": Side(_bound(lambda x, c: c[0] * x + c[1], x, coefficients)),
        "ReLU": Side(_bound(lambda x, c: jax.nn.relu(x), x, coefficients)),
        "plain": Side(_bound(plain_spline, x, coefficients)),
        "uniform": Side(_bound(_library_spline, x, coefficients), same_as="plain"),
        "nonuniform": Side(_bound(lambda x, c: linear_spline(x, c, nonuniform), x, coefficients), same_as="plain"),
        "plain, both": Side(both(plain_spline)),
        # a number within rounding of a knot may have the slope of either cell
        "uniform, both": Side(both(_library_spline), same_as="plain, both", tolerance=1e-2),
    }
    peers = {
        "torch": lambda: Side(_torch_spline(x, coefficients, None), same_as="plain"),
        "torch, both": lambda: Side(_torch_spline(x, coefficients, x), same_as="plain, both", tolerance=1e-3),
    }
    compared = compare(own, peers, rounds=rounds)
    return [
        seconds_row("shared, forward", compared, "uniform"),
        ratio_row("shared, forward / a * x + b", compared, "uniform", "a * x + b", "<= 2.0"),
        ratio_row("shared, forward / ReLU", compared, "uniform", "ReLU"),
        ratio_row("shared, forward / copy", compared, "uniform", "copy"),
        ratio_row("shared, forward, on a non-uniform grid / a * x + b", compared, "nonuniform", "a * x + b"),
        ratio_row("shared, forward: torch / library", compared, "torch", "uniform"),
        ratio_row("shared, both: plain autodiff / library", compared, "plain, both", "uniform, both"),
        ratio_row("shared, both / copy", compared, "uniform, both", "copy"),
        ratio_row("shared, both: torch / library", compared, "torch, both", "uniform, both"),
    ]


def splines_per_channel(shape: tuple[int, ...], rounds: int) -> list[Row]:
    """A spline per channel on a training batch, with the gradient in their coefficients."""
    x, cotangent = _draw(0, shape) / 2, _draw(2, shape)
    coefficients = _draw(1, (shape[-1], GRID.num_knots))
    relu = lambda x, c: jax.nn.relu(x)
    own = {
        "copy": copy_side(x.size),
        "ReLU, both": Side(_bound(_forward_and_backward(relu), x, coefficients, cotangent)),
        "plain, both": Side(_bound(_forward_and_backward(plain_spline), x, coefficients, cotangent)),
        "library": Side(_bound(_library_spline, x, coefficients)),
        "library, both": Side(
            _bound(_forward_and_backward(_library_spline), x, coefficients, cotangent), same_as="plain, both"
        ),
    }
    peers = {
        "torch": lambda: Side(_torch_spline(x, coefficients, None), same_as="library"),
        "torch, both": lambda: Side(_torch_spline(x, coefficients, cotangent), same_as="plain, both", tolerance=1e-3),
    }
    compared = compare(own, peers, rounds=rounds)
    name = "channels, " + " x ".join(map(str, shape))
    return [
        seconds_row(f"{name}, both", compared, "library, both"),
        ratio_row(f"{name}, both: plain autodiff / library", compared, "plain, both", "library, both", ">= 1.5"),
        ratio_row(f"{name}, both: torch / library", compared, "torch, both", "library, both"),
        ratio_row(f"{name}, both / ReLU", compared, "library, both", "ReLU, both"),
        # forward and backward read the values twice and write them twice at the least
        *_shares(name, compared, {"library": 1, "library, both": 2}),
    ]


def _shares(name: str, compared: Comparison, copies: dict[str, int]) -> list[Row]:
    return [
        scaled(ratio_row(f"{name}, {side}: share of the copy bandwidth", compared, "copy", side), num_copies)
        for side, num_copies in copies.items()
    ]


def pruned_splines(size: int, rounds: int) -> list[Row]:
    """A spline of 101 knots against what `frozen` makes of it, where 3, 12 and 40 knots are left."""
    x, rows = _draw(0, (size,)) / 2, []
    for num_knots in (3, 12, 40):
        places = jnp.linspace(0, GRID.num_knots - 1, num_knots).round().astype(int)
        heights = jnp.interp(GRID.knots, GRID.knots[places], _draw(num_knots, (num_knots,)) / num_knots)
        parent = LinearSpline(GRID, init=heights, box=SlopeBox(-jnp.inf, jnp.inf), learn_scale=False)
        pruned = parent.frozen(threshold=1e-3)
        own = {"parent": Side(_bound(parent, x)), "pruned": Side(_bound(pruned, x), same_as="parent")}
        name = f"pruned to {num_knots} knots / parent of {GRID.num_knots}"
        rows.append(ratio_row(name, compare(own, rounds=rounds), "pruned", "parent", "<= 1.0"))
    return rows


def plain_spline(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """The formula with two gathers, left to autodiff; from one flat table, the fastest way to index it on CPU."""
    position = (x - GRID.low) / GRID.step
    index = jnp.clip(jnp.floor(position), 0, GRID.num_knots - 2).astype(jnp.int32)
    fraction = position - index
    if coefficients.ndim == 2:
        channels = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        index = index + GRID.num_knots * channels
    table = coefficients.ravel()
    left, right = table[index], table[index + 1]
    return left + fraction * (right - left)


def _torch_spline(x: jax.Array, coefficients: jax.Array, cotangent: jax.Array | None) -> Callable[[], Any]:
    """The same formula in plain PyTorch: forward, or forward and backward for a cotangent."""
    torch = peer("torch")
    inputs = torch.from_numpy(np.array(x)).requires_grad_(cotangent is not None)
    table = torch.from_numpy(np.array(coefficients)).requires_grad_(cotangent is not None)
    offsets = GRID.num_knots * torch.arange(table.shape[0]) if table.ndim == 2 else 0
    low, step, last = float(GRID.low), float(GRID.step), GRID.num_knots - 2

    def forward() -> Any:
        position = (inputs - low) / step
        cell = position.detach().floor().clamp(0, last)
        fraction, index = position - cell, cell.long() + offsets
        flat = table.ravel()
        left, right = flat[index], flat[index + 1]
        return left + fraction * (right - left)

    if cotangent is None:
        return forward
    pulled = torch.from_numpy(np.array(cotangent))

    def both() -> Any:
        value = forward()
        return value.detach(), torch.autograd.grad(value, (inputs, table), pulled)

    return both


def _library_spline(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    return linear_spline(x, coefficients, GRID)


def _forward_and_backward(spline: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
    def both(x: jax.Array, coefficients: jax.Array, cotangent: jax.Array) -> Any:
        value, pullback = jax.vjp(spline, x, coefficients)
        return value, pullback(cotangent)

    return both


def _draw(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _bound(function: Callable[..., Any], *args: jax.Array) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: compiled(*args)


if __name__ == "__main__":
    from experiments.benchmarks.__main__ import main

    main(["--case", "splines"])
