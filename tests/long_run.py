"""A small constrained training run for tests that kill it: `python tests/long_run.py FOLDER [options]`.

It resumes where it was stopped, and writes its whole final state to FOLDER/final.npz.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-steps", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds to wait at each step, to be killed in")
    parser.add_argument("--devices", choices=("one", "all"), default="one")
    parser.add_argument("--process", type=int, default=None)
    parser.add_argument("--port", type=int, default=None)
    arguments = parser.parse_args()

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import unroll_jax as uj

    num_processes = 1
    if arguments.process is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{arguments.port}", 2, arguments.process)
        num_processes = 2

    rng = np.random.default_rng(0)
    operator = uj.operators.Dense(jnp.asarray(rng.standard_normal((8, 12)) / 3, jnp.float32))
    x = (rng.standard_normal((256, 12)) * (rng.random((256, 12)) < 0.3)).astype(np.float32)
    data = {"x": x, "y": np.asarray(x @ operator.matrix.T)}
    algorithm = uj.algorithms.perturbed(uj.algorithms.lista(), lambda x, problem: 0.1 * jnp.linalg.norm(x))
    model = uj.unroll(algorithm, 4, uj.algorithms.lista_params(operator, l1_weight=0.05))
    closer = uj.constraints.descent(uj.constraints.distance_to(lambda example: example["x"]), rate=0.2)

    def terms(model, batch, key):
        def run(y, key):
            problem = uj.algorithms.NoisyProblem(uj.objectives.LeastSquares(operator, y), key)
            return model.trajectory(problem, record=lambda state: state.x)

        xs = jax.vmap(run)(batch["y"], jax.random.split(key, len(batch["y"])))
        loss = jnp.mean(jnp.sum((xs[:, -1] - batch["x"]) ** 2, axis=-1))
        return loss, {"closer": jnp.mean(jax.vmap(closer)(xs, batch), axis=0)}

    minibatches = uj.training.Minibatches(
        data, 64, seed=1, process_index=arguments.process or 0, process_count=num_processes
    )

    def batches(step):
        time.sleep(arguments.pause)
        print(f"step {step}", flush=True)
        return minibatches(step)

    losses = []
    fitted = uj.training.fit(
        uj.primal_dual(terms, optax.adam(1e-2), optax.sgd(0.5), weight=uj.augmented_weight(1.0)),
        model,
        batches,
        num_steps=arguments.num_steps,
        key=jax.random.key(3),
        steps_per_dispatch=2,
        evaluate=uj.training.evaluator(terms, [data], jax.random.key(4)),
        evaluate_every=9,
        checkpoints=uj.training.Checkpoints(arguments.folder / "checkpoints", every=5),
        resume=True,
        sharding=uj.training.data_parallel() if arguments.devices == "all" else None,
        callbacks=[losses.append, uj.training.json_lines(arguments.folder / "metrics.jsonl")],
    )
    best = fitted.best
    assert best is not None
    final = {"state": fitted.state, "best": best.model}
    leaves = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a
              for a in jax.tree.leaves(final)]  # fmt: skip
    arrays = {str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)}
    if jax.process_index() == 0:
        arrays["losses"] = np.array([event["loss"] for event in losses if event["event"] == "train"])
        arrays["best"] = np.array([best.step, best.loss, best.violation])
        np.savez(arguments.folder / "final.npz", **arrays)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
