"""The sparse recovery experiment, end to end at a small size, and its parts."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unroll_jax as uj
from experiments import cli
from experiments.sparse_recovery import coders, command, evaluation, problem, training
from experiments.sparse_recovery.settings import Settings

TINY = Settings(
    num_measurements=20,
    num_atoms=30,
    num_layers=3,
    support_growth=0.05,
    share=0.2,
    num_steps=12,
    batch_size=16,
    steps_per_dispatch=4,
    checkpoint_every=8,
    num_validation=8,
    num_test=32,
    l1_weights=(0.03, 0.1),
    num_converged=20,
)


@pytest.fixture
def tiny(monkeypatch):
    """The command's defaults, made small."""
    monkeypatch.setattr(command, "Settings", lambda: TINY)


def test_draws_have_the_snr_and_the_share_that_they_name():
    settings = Settings()
    clean, noisy = (problem.make_task(settings, snr, seed=1) for snr in ("inf", "20"))
    np.testing.assert_allclose(np.linalg.norm(clean.matrix, axis=0), 1, rtol=1e-5)
    signal, seen = (task.draw(400, problem.TEST) for task in (clean, noisy))
    np.testing.assert_array_equal(signal.code, seen.code)
    np.testing.assert_allclose(signal.measurement, signal.code @ clean.matrix.T, atol=1e-5)
    noise = seen.measurement - signal.measurement
    snr = 10 * np.log10(np.sum(signal.measurement**2) / np.sum(noise**2))
    assert abs(snr - 20) < 0.3
    assert abs(np.mean(signal.code != 0) - 0.1) < 0.01
    np.testing.assert_allclose(np.std(signal.code[signal.code != 0]), 1, rtol=0.05)
    assert signal.measurement.dtype == signal.code.dtype == np.float32


def test_draws_of_different_kinds_and_steps_never_meet():
    task = problem.make_task(TINY, "inf", seed=0)
    draws = [task.draw(4, kind, index).code for kind in (1, 2, 3) for index in (0, 1)]
    other = problem.make_task(TINY, "inf", seed=1)
    draws.append(other.draw(4, 1, 0).code)
    assert len({draw.tobytes() for draw in draws}) == len(draws)
    np.testing.assert_array_equal(task.draw(4, 1, 0).code, draws[0])


def test_the_loss_counts_all_layers_alike_and_then_the_last_one():
    task = problem.make_task(TINY, "inf", seed=0)
    batches = training.make_batches(task, TINY, "layers")
    np.testing.assert_allclose([batches(step).layer_weights[0] for step in (0, 8, 9, 11)], [1 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose([batches(step).layer_weights[-1] for step in (0, 8, 9, 11)], [1 / 3, 1 / 3, 1, 1])

    assert training.make_batches(task, TINY, "last")(0).layer_weights.tolist() == [0, 0, 1]

    network = coders.CODERS["alista"].make(task, TINY)
    batch = batches(0)
    found = np.asarray(coders.codes(network, task.dictionary, batch.measurement, 0.1))
    errors = np.sum((found[:, 1:] - batch.code[:, None]) ** 2, axis=(0, 2)) / np.sum(batch.code**2)
    terms = training.make_terms(task, TINY, "descent", 0.1)
    loss, violation = terms(network, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, np.mean(np.log(errors)), rtol=1e-5)
    distance = np.linalg.norm(found - batch.code[:, None], axis=-1)
    mean = np.mean(distance, axis=0)
    np.testing.assert_allclose(violation["mean"], mean[1:] / mean[:-1] - (1 - TINY.train_rate), rtol=1e-4, atol=1e-5)
    # a code of zeros, which is where the network starts, has no distance to lower
    assert np.all(np.any(batch.code, axis=1))
    excess = np.mean(np.maximum(distance[:, 1:] / distance[:, :-1] - 1, 0), axis=0)
    np.testing.assert_allclose(violation["tail"], excess - TINY.tail_allowance, atol=1e-5)


def test_every_coder_of_the_benchmark_starts_finite_and_counts_what_it_trains():
    task = problem.make_task(TINY, "30", seed=0)
    examples = task.draw(4, problem.TEST)
    matrix, layers = 20 * 30, 3
    expected = {
        "lista": layers * (30 * 30 + matrix + 30),
        "lista-cp": layers * (matrix + 1),
        "lista-cpss": layers * (matrix + 1),
        "tilista": matrix + 2 * layers,
        "alista": 2 * layers,
        "glista": layers * (matrix + 4),
        "lamp": layers * (matrix + 2),
        "slista": layers,
        "tista": layers + 2,
    }
    assert set(expected) == set(coders.CODERS)
    networks = {name: coder.make(task, TINY) for name, coder in coders.CODERS.items()}
    run = jax.jit(lambda nets: [coders.codes(net, task.dictionary, examples.measurement, 0.1) for net in nets])
    for (name, network), found in zip(networks.items(), run(list(networks.values())), strict=True):
        assert coders.CODERS[name].num_trained(network) == expected[name]
        assert found.shape == (4, 4, 30) and found.dtype == jnp.float32 and np.all(np.isfinite(found))


def test_the_coupled_coders_start_from_the_same_layers():
    settings = dataclasses.replace(TINY, support_growth=0.0)  # selects nothing
    task = problem.make_task(settings, "inf", seed=0)
    measurement = task.draw(4, problem.TEST).measurement
    same = [
        coders.CODERS[name].make(task, settings) for name in ("lista", "lista-cp", "lista-cpss", "alista", "glista")
    ]
    run = jax.jit(lambda nets: [coders.codes(net, task.dictionary, measurement, 0.1) for net in nets])
    first, *others = run(same)
    for found in others:
        np.testing.assert_allclose(found, first, atol=1e-5)


def test_training_is_repeatable_and_leaves_what_is_fixed(tmp_path):
    task = problem.make_task(TINY, "20", seed=0)
    coder = coders.CODERS["tista"]
    before = coder.make(task, TINY).params._asdict()
    network, history = training.train(task, TINY, coder, "once", tmp_path, l1_weight=0.1)
    assert history.step.tolist() == [4, 8, 12] and history.seconds > 0 and history.multipliers == {}
    for field, leaf in network.params._asdict().items():
        assert np.array_equal(leaf[...], before[field][...]) == (field in coder.fixed), field
    again, _ = training.train(task, TINY, coder, "again", tmp_path, l1_weight=0.1)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_agrees_with_a_direct_computation():
    task = problem.make_task(TINY, "20", seed=0)
    test = task.draw(TINY.num_test, problem.TEST)
    network = coders.CODERS["lamp"].make(task, TINY)
    found = evaluation.evaluate(network, task, TINY, 0.1)
    xs = np.asarray(coders.codes(network, task.dictionary, test.measurement, 0.1))
    errors = np.sum((xs - test.code[:, None]) ** 2, axis=(0, 2)) / np.sum(test.code**2)
    np.testing.assert_allclose(found.nmse, errors, rtol=1e-4)
    assert found.nmse[0] == pytest.approx(1)

    ista, fista, lasso = evaluation.baselines(task, TINY)
    assert [len(b.nmse) for b in (ista, fista, lasso)] == [4, 4, 21]
    assert {b.l1_weight for b in (ista, fista, lasso)} <= set(TINY.l1_weights)
    algorithm, params = (
        uj.algorithms.proximal_gradient(),
        uj.algorithms.proximal_gradient_params(task.dictionary, ista.l1_weight),
    )

    @jax.jit
    @jax.vmap
    def third(measurement: Any) -> Any:
        state = algorithm.init(uj.objectives.LeastSquares(task.dictionary, measurement))
        for _ in range(3):
            state = algorithm.step(params, state, uj.objectives.LeastSquares(task.dictionary, measurement))
        return state.x

    error = np.sum((np.asarray(third(test.measurement)) - test.code) ** 2) / np.sum(test.code**2)
    np.testing.assert_allclose(ista.nmse[-1], error, rtol=1e-4)


def test_the_command_writes_a_complete_run_folder_and_resumes_one(tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    options = ["--coders", "alista", "slista", "--snr", "inf", "--seed", "3"]
    evaluate, calls = evaluation.evaluate, []

    def interrupting(*args):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", interrupting)
        assert cli.main(["sparse-recovery", "--out", str(out), *options]) == 130
    assert f"`--resume {out}` goes on with it." in capsys.readouterr().err
    assert cli.main(["sparse-recovery", "--resume", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "noiseless" in printed and "alista" in printed and "Lasso solution" in printed

    found = json.loads((out / "metrics.json").read_text())
    assert [table["title"] for table in found["tables"]] == ["Recovery", "Training", "Descent constraints"]
    assert [row[0] for row in found["tables"][0]["rows"]] == [
        "alista", "slista", "ISTA, 3 steps", "FISTA, 3 steps", "Lasso solution"
    ]  # fmt: skip
    assert found["num_trained"] == {"alista": 6, "slista": 3}
    assert set(found["coders"]) == {"inf"} and set(found["descent"]["inf"]) == {"last", "descent", "layers"}
    assert len(found["coders"]["inf"]["alista"]["nmse_db"]) == 4
    text = (out / "report.md").read_text()
    assert "--coders alista slista --snr inf --seed 3" in text
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["descent.png", "layers.png"]
    assert all(figure["path"] in text for figure in found["figures"])
    assert {path.name for path in (out / "solvers").iterdir()} == {
        f"{name}-inf.npz" for name in ("alista-descent", "alista-last", "alista", "slista")
    }
    assert not (out / "work").exists()

    # a stranger can load a trained coder
    task = problem.make_task(TINY, "inf", seed=3)
    like = jax.eval_shape(lambda: coders.CODERS["slista"].make(task, TINY).params)
    params = uj.export.load_params(out / "solvers" / "slista-inf.npz", like)
    assert params.log_step_size.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "`--seed` must be non-negative"),
        (["--num-steps", "0"], "`--num-steps` must be at least 1"),
        (["--num-layers", "0"], "`--num-layers` must be at least 1"),
        (["--coders", "lista", "fista"], "`--coders` must be among lista, lista-cp, "),
        (["--snr", "loud"], "`--snr` must be numbers of decibels, or inf, got 'loud'"),
        (["--snr", "20", "20.0"], "`--snr` must be one or several different numbers"),
    ],
)
def test_misuse_is_told_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    assert cli.main(["sparse-recovery", "--out", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
