"""The core's own costs: compilation against depth, constraints against none, rematerialization, import.

`python -m experiments.benchmarks.core` prints a table; run it while nothing else runs. Ratios are of medians after a
warm-up, measured in turns in one process; absolute times are of this machine only.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import unroll_jax as uj
from experiments.report import markdown_table

NUM_PIXELS, NUM_ATOMS, BATCH_SIZE = 256, 307, 512


def main() -> None:
    """Print the table."""
    rows = [*compilation(), *constraints(), *memory(), *import_time()]
    print(markdown_table(["what", "measured", "target"], rows))


def compilation() -> list[list[str]]:
    """Tracing and compiling a gradient at 64 layers against 4, and the size of the programs."""
    seconds, sizes = {}, {}
    for num_layers in (4, 64):
        times = []
        for repeat in range(5):
            # a new closure each time, or JAX would remember the trace
            gradient, network = jax.jit(_make_gradient(offset=float(repeat))), _network(num_layers)
            started = time.perf_counter()
            program = gradient.lower(network, _patches())
            program.compile()
            times.append(time.perf_counter() - started)
            sizes[num_layers] = len(program.as_text().splitlines())
        seconds[num_layers] = statistics.median(times[1:])
    return [
        ["compile time, 64 layers / 4", f"{seconds[64] / seconds[4]:.2f}", "<= 1.5"],
        ["program lines, 4 and 64 layers", f"{sizes[4]} and {sizes[64]}", "equal"],
    ]


def constraints() -> list[list[str]]:
    """A training step under descent constraints against one that records all layers and uses the last."""
    batch = {"x": _patches(), "y": jax.random.normal(jax.random.key(2), (BATCH_SIZE, NUM_ATOMS))}
    operator = uj.operators.Dense(_dictionary())
    closer = uj.constraints.descent(uj.constraints.distance_to(lambda example: example["y"]), rate=0.05)
    num_traces = {"unconstrained": 0, "constrained": 0}

    def make_step(name: str) -> Callable[[], Any]:
        def terms(model: uj.Unrolled, batch: Mapping[str, jax.Array], key: jax.Array):
            num_traces[name] += 1
            codes = jax.vmap(
                lambda x: model.trajectory(uj.objectives.LeastSquares(operator, x), record=lambda state: state.x)
            )(batch["x"])
            loss = jnp.mean(jnp.sum((codes[:, -1] - batch["y"]) ** 2, axis=-1))
            if name == "unconstrained":
                return loss, {}
            return loss, {"closer": jnp.mean(jax.vmap(closer)(codes, batch), axis=0)}

        trainer = uj.primal_dual(terms, optax.adam(1e-3), optax.sgd(1e-1))
        state = trainer.init(_network(10), batch, jax.random.key(0))
        num_traces[name] = 0
        step = jax.jit(trainer.step, donate_argnums=0)

        def run() -> Any:
            nonlocal state
            state, report = step(state, batch)
            return report

        return run

    times = _interleaved({name: make_step(name) for name in num_traces}, repeats=30)
    ratio = times["constrained"] / times["unconstrained"]
    return [
        ["constrained step / unconstrained step", f"{ratio:.2f}", "<= 1.3"],
        ["traces of the constrained step", f"{num_traces['constrained']}", "1"],
    ]


def memory() -> list[list[str]]:
    """XLA's temporary memory for a gradient of 64 layers that keep several values each, without and with remat."""

    def layer(weight: jax.Array, x: jax.Array, problem: jax.Array) -> jax.Array:
        for _ in range(8):
            x = jnp.tanh(x @ weight) + problem
        return x

    algorithm = uj.Algorithm(lambda problem: problem, layer)
    weight = jax.random.normal(jax.random.key(0), (64, 64)) / 8
    batch = jax.random.normal(jax.random.key(1), (BATCH_SIZE, 64))

    def temporary(remat: Any) -> int:
        network = uj.unroll(algorithm, 64, weight, remat=remat)
        gradient = jax.jit(jax.grad(lambda network: jnp.sum(jax.vmap(network)(batch) ** 2)))
        analysis = gradient.lower(network).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    none = temporary(None)
    return [
        ["temporary memory, per layer / none", f"1/{none / temporary('layer'):.0f}", "<= 1/10"],
        ["temporary memory, nested / none", f"1/{none / temporary('nested'):.0f}", "<= 1/15"],
    ]


def import_time() -> list[list[str]]:
    """What `import unroll_jax` adds to importing jax, flax and optax."""
    code = (
        "import time, jax, flax.nnx, optax; start = time.perf_counter(); import unroll_jax; "
        "print(time.perf_counter() - start)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    return [["import unroll_jax beyond jax, flax, optax", f"{statistics.median(times):.3f} s", "<= 0.2 s"]]


def _dictionary() -> jax.Array:
    matrix = jax.random.normal(jax.random.key(0), (NUM_PIXELS, NUM_ATOMS))
    return matrix / jnp.linalg.norm(matrix, axis=0, keepdims=True)


def _patches() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (BATCH_SIZE, NUM_PIXELS))


def _network(num_layers: int) -> uj.Unrolled:
    params = uj.algorithms.lista_params(uj.operators.Dense(_dictionary()), l1_weight=0.1)
    return uj.unroll(uj.algorithms.lista(), num_layers, params)


def _make_gradient(offset: float) -> Callable[[uj.Unrolled, jax.Array], Any]:
    operator = uj.operators.Dense(_dictionary())

    def loss(network: uj.Unrolled, patches: jax.Array) -> jax.Array:
        codes = jax.vmap(lambda x: network(uj.objectives.LeastSquares(operator, x)).x)(patches)
        return jnp.sum((codes - offset) ** 2)

    return jax.grad(loss)


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
