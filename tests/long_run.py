"""A small constrained training run for tests that kill it or spread it: `python tests/long_run.py FOLDER [options]`.

It resumes where it was stopped, and writes its whole final state to FOLDER/final.npz.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import unroll_jax as uj


class Run(NamedTuple):
    """Perturbed LISTA under descent constraints: the noise shows whether random numbers depend on the devices."""

    trainer: uj.PrimalDual
    model: uj.Unrolled
    data: dict[str, np.ndarray]
    terms: Callable


def make_run(num_layers: int) -> Run:
    rng = np.random.default_rng(0)
    operator = uj.operators.Dense(jnp.asarray(rng.standard_normal((8, 16)) / 3, jnp.float32))
    x = (rng.standard_normal((256, 16)) * (rng.random((256, 16)) < 0.3)).astype(np.float32)
    data = {"x": x, "y": np.asarray(x @ operator.matrix.T)}
    algorithm = uj.algorithms.perturbed(uj.algorithms.lista(), lambda x, problem: 0.1 * jnp.linalg.norm(x))
    model = uj.unroll(algorithm, num_layers, uj.algorithms.lista_params(operator, l1_weight=0.05))
    closer = uj.constraints.descent(uj.constraints.distance_to(lambda example: example["x"]), rate=0.2)

    def terms(model, batch, key):
        def run(y, key):
            problem = uj.algorithms.NoisyProblem(uj.objectives.LeastSquares(operator, y), key)
            return model.trajectory(problem, record=lambda state: state.x)

        xs = jax.vmap(run)(batch["y"], jax.random.split(key, len(batch["y"])))
        loss = jnp.mean(jnp.sum((xs[:, -1] - batch["x"]) ** 2, axis=-1))
        return loss, {"closer": jnp.mean(jax.vmap(closer)(xs, batch), axis=0)}

    trainer = uj.primal_dual(terms, optax.adam(1e-2), optax.sgd(0.5), weight=uj.augmented_weight(1.0))
    return Run(trainer, model, data, terms)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-steps", type=int, default=60)
    parser.add_argument("--steps-per-dispatch", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--evaluate-every", type=int, default=9)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait at each step, to be killed in")
    parser.add_argument("--devices", choices=("one", "all"), default="one")
    parser.add_argument("--parameters", choices=("replicated", "sharded", "layers"), default="replicated")
    parser.add_argument(
        "--process", type=int, default=None, help="0 or 1: two processes that find each other at --port"
    )
    parser.add_argument("--port", type=int, default=None)
    parser.add_argument("--seed", type=int, default=3, help="of the noise")
    arguments = parser.parse_args()

    if arguments.process is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{arguments.port}", 2, arguments.process)
    sharding = None
    if arguments.devices == "all":
        sharding = uj.training.data_parallel(parameters=arguments.parameters)

    trainer, model, data, terms = make_run(num_layers=4)
    minibatches = uj.training.Minibatches(data, 64, seed=1)

    def batches(step: int) -> Any:
        time.sleep(arguments.pause)
        print(f"step {step}", flush=True)
        return minibatches(step)

    events = []
    fitted = uj.training.fit(
        trainer,
        model,
        batches,
        num_steps=arguments.num_steps,
        key=jax.random.key(arguments.seed),
        steps_per_dispatch=arguments.steps_per_dispatch,
        evaluate=uj.training.evaluator(terms, [data], jax.random.key(4)),
        evaluate_every=arguments.evaluate_every,
        checkpoints=uj.training.Checkpoints(arguments.folder / "checkpoints", every=arguments.save_every),
        resume=True,
        sharding=sharding,
        callbacks=[events.append, uj.training.json_lines(arguments.folder / "metrics.jsonl")],
    )
    best = fitted.best
    assert best is not None
    print(f"{len(events)} events, best at {best.step}", flush=True)
    final = {"state": fitted.state, "best": best.model}
    final = final if sharding is None else sharding.local(final)
    leaves = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
              for a in jax.tree.leaves(final)]  # fmt: skip
    arrays = {str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)}
    if jax.process_index() == 0:
        arrays["losses"] = np.array([event["loss"] for event in events if event["event"] == "train"])
        arrays["best"] = np.array([best.step, best.loss, best.violation])
        np.savez(arguments.folder / "final.npz", **arrays)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
