"""What is paid before and beside the arithmetic: importing, and starting one small step."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.benchmarks.harness import Side, compare
from experiments.benchmarks.lista_step import (
    SETTINGS,
    TINY,
    library_step,
    make_data,
    make_params,
    make_trainer,
    stepping,
)
from experiments.benchmarks.lista_torch import torch_step
from experiments.benchmarks.rows import Row, ratio_row, seconds_row

NOTE = (
    "A small step is a training step of LISTA under distance constraints, from 16 pixels to 20 atoms, 3 layers, batch "
    "8; the floor is a compiled function that takes and returns arrays of the step's shapes, and does nothing else. A "
    "call is waited for before the next."
)

SMALL = TINY
MANY = 50


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    return [*import_time(1 if quick else 7), *small_steps(2 if quick else 20)]


def import_time(repeats: int) -> list[Row]:
    """What `import unroll_jax` adds to importing jax, flax and optax, in new processes."""
    before = "import time, jax, flax.nnx, optax; start = time.perf_counter(); "
    times = {}
    for name, code in {
        "unroll_jax beyond jax, flax and optax": before + "import unroll_jax",
        "jax, flax and optax": "import time; start = time.perf_counter(); import jax, flax.nnx, optax",
    }.items():
        command = [sys.executable, "-c", f"{code}; print(time.perf_counter() - start)"]
        times[name] = [float(subprocess.check_output(command, env=dict(os.environ))) for _ in range(repeats)]
    targets = {"unroll_jax beyond jax, flax and optax": "<= 0.2"}
    return [
        Row(
            f"import of {name}",
            statistics.median(values),
            "s",
            (min(values), max(values)),
            targets.get(name, ""),
            note="with the extremes in place of the quartiles",
        )
        for name, values in times.items()
    ]


def small_steps(rounds: int) -> list[Row]:
    """One small step, many of them in one dispatch, and the floor beneath."""
    data = make_data(SMALL)
    own = {
        "step": Side(library_step(SMALL, data, "distance")),
        "floor": Side(_floor(data)),
        "steps": Side(_many_steps(data), num_units=MANY),
        "solve": Side(_small_solve(data)),
    }
    params = jax.tree.map(np.asarray, make_params(data))._asdict()

    def torch_side() -> Side:
        run = torch_step(data, params, SMALL.num_layers, "distance", "eager", **SETTINGS)
        return Side(run, same_as="step", tolerance=2e-3)

    compared = compare(own, {"torch": torch_side}, rounds=rounds, turn=0.1)
    return [
        seconds_row("a small step", compared, "step"),
        seconds_row("the floor", compared, "floor"),
        ratio_row("a small step / the floor", compared, "step", "floor"),
        ratio_row(f"a small step / one of {MANY} in a dispatch", compared, "step", "steps"),
        ratio_row("a small step: torch eager / library", compared, "torch", "step"),
        seconds_row("a small Lasso solved", compared, "solve"),
    ]


def _floor(data: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A compiled function of as many arrays as a training step takes and returns."""
    _, state, batch = make_trainer(SMALL, data, "distance")
    leaves = [leaf for leaf in jax.tree.leaves((state, batch)) if jnp.issubdtype(leaf.dtype, jnp.number)]
    through = jax.jit(lambda leaves: jax.tree.map(lambda leaf: leaf + 1, leaves))
    return lambda: through(leaves)


def _many_steps(data: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    trainer, state, batch = make_trainer(SMALL, data, "distance")
    batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (MANY, *leaf.shape)), batch)
    return stepping(trainer.steps, state, batches)


def _small_solve(data: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    operator = uj.operators.Dense(jnp.asarray(data["matrix"]))
    params, algorithm = uj.algorithms.proximal_gradient_params(operator, 0.1), uj.algorithms.fista()

    @jax.jit
    def solve(x: jax.Array) -> jax.Array:
        problem = uj.objectives.Lasso(operator, x, 0.1)
        return uj.solve(algorithm, params, problem, tolerance=1e-4, max_steps=200).state.x

    x = jnp.asarray(data["x"][0])
    return lambda: solve(x)
