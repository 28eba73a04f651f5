"""Training throughput on several devices, as a ratio to one: here host devices, which share this machine's cores.

`python -m experiments.benchmarks.devices` prints a table; run it while nothing else runs. The counts of devices are
measured in turns, each in a process of its own; the times are of this machine only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import unroll_jax as uj
from experiments.report import markdown_table

NUM_PIXELS, NUM_ATOMS, BATCH_SIZE, NUM_LAYERS = 256, 307, 512, 10
LAYOUTS = {"1": (1, None), "2": (2, None), "1, on one core": (1, 1)}
"""For each row the host devices, and the cores they may use (None: all)."""
ROUNDS = 3


def main() -> None:
    """Print the table; with `--measure`, the median seconds of a step on this process's devices."""
    parser = argparse.ArgumentParser(description="Training throughput on several devices.")
    parser.add_argument("--measure", action="store_true", help="measure on the devices of this process alone")
    if parser.parse_args().measure:
        print(_seconds_per_step())
        return
    times = {name: [] for name in LAYOUTS}
    for _ in range(ROUNDS):
        for name, layout in LAYOUTS.items():
            times[name].append(_in_a_process(*layout))
    rows = []
    for name, values in times.items():
        ratios = [one / each for one, each in zip(times["1"], values, strict=True)]
        throughput = f"{BATCH_SIZE / statistics.median(values):,.0f}"
        rows.append([name, throughput, f"{statistics.median(ratios):.2f}", ", ".join(f"{each:.2f}" for each in ratios)])
    print(f"LISTA {NUM_PIXELS} -> {NUM_ATOMS}, {NUM_LAYERS} layers, batch {BATCH_SIZE}, on {os.cpu_count()} cores")
    print(markdown_table(["host devices", "examples/s", "ratio to 1", f"in each of {ROUNDS} rounds"], rows))


def _in_a_process(num_devices: int, num_cores: int | None) -> float:
    # one device spreads each operation over all cores it may use; several share them
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
    cores = sorted(os.sched_getaffinity(0))[:num_cores]
    command = [sys.executable, "-m", "experiments.benchmarks.devices", "--measure"]
    return float(subprocess.check_output(command, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cores)))


def _seconds_per_step(repeats: int = 40, warm_up: int = 5) -> float:
    """The median over the steps of `fit`, which waits for each and brings the batch to the devices."""
    sharding = uj.training.data_parallel()
    operator = uj.operators.Dense(_dictionary())
    params = uj.algorithms.lista_params(operator, l1_weight=0.1)
    model = uj.unroll(uj.algorithms.lista(), NUM_LAYERS, params)
    arrays = {
        "x": jax.random.normal(jax.random.key(1), (BATCH_SIZE, NUM_PIXELS)),
        "y": jax.random.normal(jax.random.key(2), (BATCH_SIZE, NUM_ATOMS)),
    }
    batch = jax.device_get(arrays)

    def loss(model: uj.Unrolled, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        del key
        codes = jax.vmap(lambda x: model(uj.objectives.LeastSquares(operator, x)).x)(batch["x"])
        return jnp.mean(jnp.sum((codes - batch["y"]) ** 2, axis=-1))

    times = []

    def note(event: Mapping[str, Any]) -> None:
        if event["event"] == "train":
            times.append(time.perf_counter())

    uj.training.fit(
        uj.training.unconstrained(loss, optax.adam(1e-3)),
        model,
        lambda step: batch,
        num_steps=repeats + warm_up + 1,
        key=jax.random.key(0),
        sharding=sharding,
        callbacks=[note],
    )
    return statistics.median(
        after - before for before, after in zip(times[warm_up:-1], times[warm_up + 1 :], strict=True)
    )


def _dictionary() -> jax.Array:
    matrix = jax.random.normal(jax.random.key(0), (NUM_PIXELS, NUM_ATOMS))
    return matrix / jnp.linalg.norm(matrix, axis=0, keepdims=True)


if __name__ == "__main__":
    main()
