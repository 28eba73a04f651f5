"""The cost of linear splines: forward against `a * x + b`, forward and backward against plain autodiff.

`python -m experiments.benchmarks.splines` prints a table; run it while nothing else runs. Ratios are of medians after a
warm-up, measured in turns in one process; absolute times are of this machine only.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.report import markdown_table
from unroll_jax.splines import LinearSpline, NonuniformGrid, SlopeBox, UniformGrid, linear_spline

GRID = UniformGrid(-1.0, 1.0, 101)
IMAGE = (481, 321, 60)  # one image behind 60 filters: 9.3 million values
BATCH = (16, 40, 40, 60)


def main() -> None:
    """Print the table."""
    rows = [*shared_splines(), *splines_per_channel(), *pruned_splines()]
    print(markdown_table(["what", "measured", "milliseconds", "target"], rows))


def shared_splines() -> list[list[str]]:
    """One spline for all of 9.3 million values, where a filter bank's one nonlinearity is applied to an image."""
    x = _draw(0, IMAGE) / 2
    coefficients = _draw(1, (GRID.num_knots,))
    nonuniform = NonuniformGrid(GRID.knots)
    times = _interleaved(
        {
            "a * x + b": _bound(lambda x, c: c[0] * x + c[1], x, coefficients),
            "uniform": _bound(lambda x, c: linear_spline(x, c, GRID), x, coefficients),
            "nonuniform": _bound(lambda x, c: linear_spline(x, c, nonuniform), x, coefficients),
            "plain, both": _bound(_forward_and_backward(plain_spline), x, coefficients, x),
            "uniform, both": _bound(_forward_and_backward(_library_spline), x, coefficients, x),
        },
        repeats=20,
    )
    return [
        _row("shared spline forward / a * x + b", times, "uniform", "a * x + b", "<= 2.0"),
        _row("the same on a non-uniform grid / a * x + b", times, "nonuniform", "a * x + b", ""),
        _row("plain autodiff / shared spline, forward and backward", times, "plain, both", "uniform, both", ""),
    ]


def splines_per_channel() -> list[list[str]]:
    """60 splines on a training batch, with the gradient in their coefficients."""
    x, cotangent = _draw(0, BATCH) / 2, _draw(2, BATCH)
    coefficients = _draw(1, (BATCH[-1], GRID.num_knots))
    times = _interleaved(
        {
            "plain": _bound(_forward_and_backward(plain_spline), x, coefficients, cotangent),
            "splines": _bound(_forward_and_backward(_library_spline), x, coefficients, cotangent),
        },
        repeats=50,
    )
    return [_row("plain autodiff / 60 splines, forward and backward", times, "plain", "splines", ">= 1.5")]


def pruned_splines() -> list[list[str]]:
    """A spline of 101 knots against what `frozen` makes of it, where 3, 12 and 40 knots are left."""
    x, rows = _draw(0, (1_000_000,)) / 2, []
    for num_knots in (3, 12, 40):
        places = jnp.linspace(0, GRID.num_knots - 1, num_knots).round().astype(int)
        heights = jnp.interp(GRID.knots, GRID.knots[places], _draw(num_knots, (num_knots,)) / num_knots)
        parent = LinearSpline(GRID, init=heights, box=SlopeBox(-jnp.inf, jnp.inf), learn_scale=False)
        pruned = parent.frozen(threshold=1e-3)
        times = _interleaved({"parent": _bound(parent, x), "pruned": _bound(pruned, x)}, repeats=50)
        name = f"pruned to {num_knots} knots / parent of {GRID.num_knots}"
        rows.append(_row(name, times, "pruned", "parent", "<= 1.0"))
    return rows


def plain_spline(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    """The formula with two gathers, left to autodiff; from one flat table, the fastest way to index it on CPU."""
    position = (x - GRID.low) / GRID.step
    index = jnp.clip(jnp.floor(position), 0, GRID.num_knots - 2).astype(jnp.int32)
    fraction = position - index
    if coefficients.ndim == 2:
        index = index + GRID.num_knots * jnp.arange(coefficients.shape[0])
    table = coefficients.ravel()
    left, right = table[index], table[index + 1]
    return left + fraction * (right - left)


def _library_spline(x: jax.Array, coefficients: jax.Array) -> jax.Array:
    return linear_spline(x, coefficients, GRID)


def _forward_and_backward(spline: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
    def both(x: jax.Array, coefficients: jax.Array, cotangent: jax.Array) -> Any:
        value, pullback = jax.vjp(spline, x, coefficients)
        return value, pullback(cotangent)

    return both


def _row(what: str, times: Mapping[str, float], first: str, second: str, target: str) -> list[str]:
    absolute = f"{1e3 * times[first]:.1f} / {1e3 * times[second]:.1f}"
    return [what, f"{times[first] / times[second]:.2f}", absolute, target]


def _draw(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _bound(function: Callable[..., Any], *args: jax.Array) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: compiled(*args)


def _interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median seconds of each function, called in turns after three warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 3):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            if repeat >= 3:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
