"""A training step of LISTA, plain and under descent constraints, against the same network in plain PyTorch."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import unroll_jax as uj
from experiments.benchmarks.harness import Side, compare
from experiments.benchmarks.lista_torch import torch_step
from experiments.benchmarks.machine import SQUARE, product_side
from experiments.benchmarks.rows import Row, ratio_row, scaled, seconds_row

NOTE = (
    "N pixels, batch 512, 10 layers, Adam, multipliers by gradient ascent; `distance` constrains ||y_l - y*||, "
    "`gradient` the norm of D'(D y_l - x), in closed form on both sides. Sides agree in the loss and every violation "
    "of their first three steps. Ratios are PyTorch's seconds over the library's. The share of the product rate counts "
    "the products that a step needs, and nothing else that it does. Without a loop: `layers_per_iteration` is 10."
)


class Sizes(NamedTuple):
    """What is trained."""

    num_pixels: int
    num_atoms: int
    batch_size: int
    num_layers: int

    def flop(self, constraint: str) -> float:
        """The products of a step: a layer's two, the gradients in both matrices, and in the code but for the start.

        The gradient constraint adds two products per estimate, and their pullbacks in all codes but the start.
        """
        square = 2.0 * self.batch_size * self.num_atoms**2
        wide = 2.0 * self.batch_size * self.num_atoms * self.num_pixels
        layers = self.num_layers * 2 * (square + wide) + (self.num_layers - 1) * square
        return layers + (2 * wide * (2 * self.num_layers + 1) if constraint == "gradient" else 0)


PAPER, SMALL, TINY = Sizes(1024, 1228, 512, 10), Sizes(256, 307, 512, 10), Sizes(16, 20, 8, 3)
L1_WEIGHT, RATE, DUAL_RATE, LEARNING_RATE = 0.1, 0.05, 0.1, 1e-3
SETTINGS = {"rate": RATE, "dual_rate": DUAL_RATE, "learning_rate": LEARNING_RATE}
CONSTRAINTS = ("none", "distance", "gradient")

# targets by number of pixels: unconstrained and constrained against plain PyTorch, share of the product rate
TARGETS = {1024: (">= 0.95", ">= 1.3", ">= 0.75"), 256: (">= 1.0", ">= 1.5", "")}


def measure(quick: bool) -> list[Row]:
    """The rows of the case."""
    rows = []
    for sizes in (TINY,) if quick else (PAPER, SMALL):
        rows += _rows(sizes, rounds=2 if quick else 12)
    return rows


def _rows(sizes: Sizes, rounds: int) -> list[Row]:
    data = make_data(sizes)
    own = {name: Side(library_step(sizes, data, name)) for name in CONSTRAINTS}
    for name in CONSTRAINTS:
        step = library_step(sizes, data, name, layers_per_iteration=sizes.num_layers)
        own[f"{name}, no loop"] = Side(step, same_as=name, tolerance=2e-3)
        if name != "none":
            step = library_step(sizes, data, name, record_estimates=True)
            own[f"{name}, recorded"] = Side(step, same_as=name, tolerance=2e-3)
    square = (64, 64, 64) if sizes == TINY else SQUARE
    own["product"] = product_side(square)
    peers = {
        f"torch {way}, {name}": _maker(sizes, data, name, way)
        for way in ("eager", "eager, fused Adam", "compiled")
        for name in CONSTRAINTS
    }
    compared = compare(own, peers, rounds=rounds, budget=180)
    plain, constrained, share = TARGETS.get(sizes.num_pixels, ("", "", ""))
    rows = []
    for name in CONSTRAINTS:
        title = f"N = {sizes.num_pixels}, {'unconstrained' if name == 'none' else name + ' constraint'}"
        rows.append(seconds_row(f"{title}: a step", compared, name))
        target = share if name != "none" else ""
        share_row = ratio_row(f"{title}: share of the product rate", compared, "product", name, target)
        rows.append(scaled(share_row, sizes.flop(name) / (2.0 * math.prod(square))))
        target, straight = (plain if name == "none" else constrained), f"{name}, no loop"
        rows.append(ratio_row(f"{title}: as a loop / without one", compared, name, straight))
        for way in ("eager", "eager, fused Adam", "compiled"):
            over, wanted = f"torch {way}, {name}", target if way == "eager" else ""
            rows.append(ratio_row(f"{title}: torch {way} / library", compared, over, name, wanted))
        faster = f"{title}: torch eager / library without a loop"
        rows.append(ratio_row(faster, compared, f"torch eager, {name}", straight, target))
        if name != "none":
            recorded = f"{title}: estimates recorded, then measured / measured on the way"
            rows.append(ratio_row(recorded, compared, f"{name}, recorded", name))
        if name == "distance":
            rows.append(ratio_row(f"{title}: against none", compared, name, "none", "<= 1.3"))
    return rows


def _maker(sizes: Sizes, data: Mapping[str, np.ndarray], constraint: str, way: str) -> Callable[[], Side]:
    params = jax.tree.map(np.asarray, make_params(data))
    return lambda: Side(
        torch_step(data, params._asdict(), sizes.num_layers, constraint, way, **SETTINGS),
        same_as=constraint,
        tolerance=2e-3,
    )


def make_data(sizes: Sizes) -> dict[str, np.ndarray]:
    """A dictionary `matrix` with unit columns, sparse codes `y`, and what they make, `x`."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((sizes.num_pixels, sizes.num_atoms))
    matrix /= np.linalg.norm(matrix, axis=0)
    shape = (sizes.batch_size, sizes.num_atoms)
    codes = rng.standard_normal(shape) * (rng.random(shape) < 0.1)
    x = codes @ matrix.T + 0.01 * rng.standard_normal((sizes.batch_size, sizes.num_pixels))
    return {name: value.astype(np.float32) for name, value in {"matrix": matrix, "x": x, "y": codes}.items()}


def make_params(data: Mapping[str, np.ndarray]) -> uj.algorithms.LISTAParams:
    """The classical parameters of a layer, from which both sides start."""
    return uj.algorithms.lista_params(uj.operators.Dense(jnp.asarray(data["matrix"])), L1_WEIGHT)


def library_step(sizes: Sizes, data: Mapping[str, np.ndarray], constraint: str, **options: Any) -> Callable[[], Any]:
    """A function that makes the next step and returns the loss and the violations; `options` are of `make_trainer`."""
    trainer, state, batch = make_trainer(sizes, data, constraint, **options)
    return stepping(trainer.step, state, batch)


def stepping(step: Callable[[Any, Any], tuple[Any, uj.Report]], state: Any, batch: Any) -> Callable[[], Any]:
    """A function that makes the next step, compiled and with its state donated, and returns loss and violations."""
    compiled = jax.jit(step, donate_argnums=0)

    def run() -> tuple[jax.Array, list[jax.Array]]:
        nonlocal state
        state, report = compiled(state, batch)
        return report.loss, list(report.violation.values())

    return run


def make_trainer(
    sizes: Sizes,
    data: Mapping[str, np.ndarray],
    constraint: str,
    layers_per_iteration: int = 1,
    record_estimates: bool = False,
) -> tuple[uj.PrimalDual, uj.PrimalDualState, dict[str, jax.Array]]:
    """The library's trainer, its first state, and the batch.

    The constraint is measured while the layers run, or afterwards with `record_estimates`.
    """
    operator = uj.operators.Dense(jnp.asarray(data["matrix"]))
    batch = {name: jnp.asarray(data[name]) for name in ("x", "y")}
    problem = lambda x: uj.objectives.LeastSquares(operator, x)
    measures = {
        "distance": uj.constraints.distance_to(lambda example: example["y"]),
        "gradient": uj.constraints.gradient_norm(lambda code, example: problem(example["x"]).gradient(code)),
    }

    def terms(model: uj.Unrolled, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
        del key
        if constraint == "none":
            return _loss(jax.vmap(lambda x: model(problem(x)).x)(batch["x"]), batch["y"]), {}

        if record_estimates:
            run = lambda x: model.trajectory(problem(x), record=lambda state: state.x)
            trajectories = jax.vmap(run)(batch["x"])
            violation = jax.vmap(uj.constraints.descent(measures[constraint], RATE))(trajectories, batch)
            return _loss(trajectories[:, -1], batch["y"]), {"closer": jnp.mean(violation, axis=0)}

        def solve(example: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            measure = lambda state: measures[constraint](state.x, example)
            state, values = model.run(problem(example["x"]), record=measure)
            return state.x, uj.constraints.descent_violation(values, RATE)

        codes, violation = jax.vmap(solve)(batch)
        return _loss(codes, batch["y"]), {"closer": jnp.mean(violation, axis=0)}

    trainer = uj.primal_dual(terms, optax.adam(LEARNING_RATE), optax.sgd(DUAL_RATE))
    model = uj.unroll(
        uj.algorithms.lista(), sizes.num_layers, make_params(data), layers_per_iteration=layers_per_iteration
    )
    return trainer, trainer.init(model, batch, jax.random.key(0)), batch


def _loss(codes: jax.Array, wanted: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum((codes - wanted) ** 2, axis=-1)) / 2
