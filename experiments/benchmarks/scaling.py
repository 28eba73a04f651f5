"""How costs grow: with depth, batch and image size; what remat, trajectories and certificates cost."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.benchmarks.harness import Side, compare
from experiments.benchmarks.lista_step import Sizes, make_data, make_params, make_trainer, stepping
from experiments.benchmarks.rows import Row, ratio_row, seconds_row
from unroll_jax.regularizers import prepare_ridge, ridge_gradient, ridge_params

NOTE = (
    "LISTA from 256 pixels to 307 atoms; depths at batch 512, batches at 10 layers; `step` is plain training by Adam. "
    "Compile times are tracing and compiling of such a step, from nothing."
)

NUM_PIXELS, NUM_ATOMS, BATCH_SIZE = 256, 307, 512
DEPTHS, BATCHES, SIDES = (4, 16, 64, 256), (1, 8, 64, 512, 4096), (64, 128, 256, 512)


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    if quick:
        sizes, rounds = (8, 10, 4), 2
        return [
            *depths((2, 4), sizes, rounds),
            *batches((1, 4), sizes, rounds),
            *images((16, 24), rounds),
            *memory(4, (4, 4)),
            *outputs(sizes, rounds),
        ]
    sizes, rounds = (NUM_PIXELS, NUM_ATOMS, BATCH_SIZE), 10
    return [
        *depths(DEPTHS, sizes, rounds),
        *batches(BATCHES, sizes, rounds),
        *images(SIDES, rounds),
        *memory(64, (BATCH_SIZE, 64)),
        *outputs(sizes, rounds),
    ]


def depths(depths: tuple[int, ...], sizes: tuple[int, int, int], rounds: int) -> list[Row]:
    """Step time and compile time of a training step against the number of layers."""
    compiling = {depth: _compile_seconds(depth, sizes, repeats=min(rounds, 5)) for depth in depths}
    lines = {depth: _lowered(depth, sizes).as_text().count("\n") for depth in depths}
    compared = compare({f"{depth}": Side(_training(depth, sizes)) for depth in depths}, rounds=rounds, budget=120)
    first, last = depths[0], depths[-1]
    rows = [seconds_row(f"step, {depth} layers", compared, f"{depth}") for depth in depths]
    if {16, 64} <= set(depths):
        rows.append(ratio_row("step, 64 layers / 16", compared, "64", "16", "<= 4.2"))
    rows += [Row(f"compile, {depth} layers", 1e3 * compiling[depth], "ms") for depth in depths]
    rows += [
        Row(f"compile, {depth} layers / {first}", compiling[depth] / compiling[first], target="<= 1.5")
        for depth in depths[1:]
    ]
    rows.append(Row(f"program lines, {last} layers / {first}", lines[last] / lines[first], target="<= 1.0"))
    return rows


def batches(batches: tuple[int, ...], sizes: tuple[int, int, int], rounds: int) -> list[Row]:
    """Step time against the batch size."""
    sides = {f"{batch}": Side(_training(10, (*sizes[:2], batch))) for batch in batches}
    compared = compare(sides, rounds=rounds, budget=120)
    rows = []
    for batch in batches:
        throughput = f"{batch / compared.median(str(batch)):,.0f} examples/s"
        rows.append(seconds_row(f"step, batch {batch}", compared, f"{batch}", note=throughput))
    return rows


def images(sides: tuple[int, ...], rounds: int) -> list[Row]:
    """Ten gradient steps of weakly convex denoising in one scan, against the side of a square image."""
    ridge = prepare_ridge(ridge_params(jax.random.key(0)), 25 / 255)

    @jax.jit
    def steps(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (x - ridge_gradient(ridge, x) / 60, None), x, length=10)[0]

    images = {f"{side}": jnp.full((side, side, 1), 0.5) for side in sides}
    own = {name: Side(lambda image=image: steps(image)) for name, image in images.items()}
    compared = compare(own, rounds=rounds, budget=120)
    rows = []
    for side in sides:
        per_pixel = f"{1e9 * compared.median(str(side)) / (10 * side**2):.0f} ns per pixel and step"
        rows.append(seconds_row(f"10 ridge gradients, {side} x {side}", compared, f"{side}", note=per_pixel))
    return rows


def memory(num_layers: int, shape: tuple[int, int]) -> list[Row]:
    """XLA's temporary memory for a gradient of layers that keep several values each, without and with remat."""

    def layer(weight: jax.Array, x: jax.Array, problem: jax.Array) -> jax.Array:
        for _ in range(8):
            x = jnp.tanh(x @ weight) + problem
        return x

    algorithm = uj.Algorithm(lambda problem: problem, layer)
    weight = jax.random.normal(jax.random.key(0), (shape[1], shape[1])) / 8
    batch = jax.random.normal(jax.random.key(1), shape)

    def temporary(remat: Any) -> int:
        network = uj.unroll(algorithm, num_layers, weight, remat=remat)
        gradient = jax.jit(jax.grad(lambda network: jnp.sum(jax.vmap(network)(batch) ** 2)))
        analysis = gradient.lower(network).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    none = temporary(None)
    title = f"temporary memory, {num_layers} layers, none /"
    rows = [Row(f"temporary memory, {num_layers} layers, without remat", none / 1e6, "MB")]
    for remat, target in {"layer": ">= 10", "nested": ">= 15"}.items():
        rows.append(Row(f"{title} {remat}", none / max(temporary(remat), 1), target=target if num_layers == 64 else ""))
    return rows


def outputs(sizes: tuple[int, int, int], rounds: int) -> list[Row]:
    """What a trajectory costs beside the last estimate, and a certificate beside the values that it judges."""
    data = _data(Sizes(*sizes, 10))
    operator = uj.operators.Dense(jnp.asarray(data["matrix"]))
    batch = {name: jnp.asarray(data[name]) for name in ("x", "y")}
    network = uj.unroll(uj.algorithms.lista(), 10, make_params(data))
    distance = uj.constraints.distance_to(lambda example: example["y"])
    problem = lambda x: uj.objectives.LeastSquares(operator, x)
    trajectory = lambda x: network.trajectory(problem(x), record=lambda state: state.x)
    final = jax.jit(lambda batch: jax.vmap(lambda x: network(problem(x)).x)(batch["x"]))
    recorded = jax.jit(lambda batch: jax.vmap(trajectory)(batch["x"]))

    @jax.jit
    def values(batch: Mapping[str, jax.Array]) -> jax.Array:
        codes = jax.vmap(trajectory)(batch["x"])
        return jax.vmap(lambda codes, example: uj.constraints.measure_layers(distance, codes, example))(codes, batch)

    found = values(batch)
    bound = float(jnp.max(found))
    own = {
        "final": Side(lambda: final(batch)),
        "trajectory": Side(lambda: recorded(batch)),
        "measured": Side(lambda: values(batch)),
        "certificate": Side(lambda: uj.certify(found, rate=0.05, value_bound=bound).violation_bound),
    }
    compared = compare(own, rounds=rounds)
    return [
        seconds_row("10 layers forward, last estimate", compared, "final"),
        ratio_row("the same with its trajectory / last estimate", compared, "trajectory", "final"),
        ratio_row("the same with distances measured / last estimate", compared, "measured", "final"),
        seconds_row("a certificate of these distances", compared, "certificate"),
    ]


def _compile_seconds(num_layers: int, sizes: tuple[int, int, int], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        _lowered(num_layers, sizes).compile()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _lowered(num_layers: int, sizes: tuple[int, int, int]) -> Any:
    # a new trainer each time, or JAX would remember the trace
    trainer, state, batch = _trainer(num_layers, sizes)
    return jax.jit(trainer.step).lower(state, batch)


def _training(num_layers: int, sizes: tuple[int, int, int]) -> Callable[[], Any]:
    trainer, state, batch = _trainer(num_layers, sizes)
    return stepping(trainer.step, state, batch)


def _trainer(
    num_layers: int, sizes: tuple[int, int, int]
) -> tuple[uj.PrimalDual, uj.PrimalDualState, dict[str, jax.Array]]:
    wanted = Sizes(*sizes, num_layers)
    return make_trainer(wanted, _data(wanted), "none")


@functools.cache
def _data(sizes: Sizes) -> dict[str, np.ndarray]:
    return make_data(sizes)
