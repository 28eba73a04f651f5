"""`training.fit`: the loop, its choice of the best model, its policies; a killed run resumes in the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import to_numpy

import unroll_jax as uj
from unroll_jax.training import Checkpoints, Minibatches, NonFiniteError, evaluator, fit, unconstrained

LONG_RUN = Path(__file__).parent / "long_run.py"
FACTOR = uj.Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)


def model_of(value=0.5):
    return uj.unroll(FACTOR, 1, jnp.array(value, jnp.float32))


def factor_of(model):
    return float(model(jnp.ones(())))


def terms(model, batch, key):
    """The factor nearest to the batch's mean that is at most 1."""
    del key
    factor = model(jnp.ones(()))
    return jnp.mean((factor - batch) ** 2), {"at_most_one": jnp.array([factor - 1])}


def trainer(rate=0.1, dual_rate=0.1):
    return uj.primal_dual(terms, optax.sgd(rate), optax.sgd(dual_rate))


def threes(step):
    return np.full(2, 3, np.float32)


def run(num_steps: int = 40, batches=threes, the_trainer=None, model=None, **options: Any):
    return fit(
        the_trainer or trainer(), model or model_of(), batches, num_steps=num_steps, key=jax.random.key(0), **options
    )


def best_of(fitted):
    assert fitted.best is not None
    return fitted.best


def assert_same(a, b):
    for x, y in zip(to_numpy(a), to_numpy(b), strict=True):
        np.testing.assert_array_equal(x, y)


# --- the loop ---


def test_it_makes_the_steps_that_a_plain_loop_makes():
    the_trainer, model = trainer(), model_of()
    rng = np.random.default_rng(0)
    data = rng.standard_normal((40, 2)).astype(np.float32)
    state = the_trainer.init(model, data[0], jax.random.key(0))
    step = jax.jit(the_trainer.step)
    for batch in data:
        state, _ = step(state, batch)
    fitted = run(batches=lambda step: data[step])
    for a, b in zip(to_numpy(fitted.state), to_numpy(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert factor_of(model) == 0.5  # what was passed in is left alone


def test_it_solves_the_constrained_problem():
    fitted = run(500, steps_per_dispatch=50)
    assert factor_of(fitted.model) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(fitted.state.multipliers["at_most_one"], [4], atol=1e-2)
    assert fitted.best is None and not fitted.is_stopped_early and fitted.num_skipped == 0


@pytest.mark.parametrize("steps_per_dispatch", [1, 7, 40, 100])
def test_steps_per_dispatch_change_the_events_and_not_the_result(steps_per_dispatch):
    events = []
    fitted = run(steps_per_dispatch=steps_per_dispatch, callbacks=[events.append])
    assert factor_of(fitted.model) == pytest.approx(factor_of(run().model), rel=1e-6)
    steps = [event["step"] for event in events if event["event"] == "train"]
    assert steps == [*range(steps_per_dispatch, 40, steps_per_dispatch), 40]


def test_plain_training_is_its_special_case():
    plain = unconstrained(lambda model, batch, key: jnp.mean((model(jnp.ones(())) - batch) ** 2), optax.adam(0.1))
    fitted = run(300, the_trainer=plain)
    assert factor_of(fitted.model) == pytest.approx(3, abs=1e-3)
    assert fitted.state.multipliers == {}


def test_the_last_dispatches_compile_nothing_new():
    traced = []

    def counting(model, batch, key):
        traced.append(1)
        return terms(model, batch, key)

    run(num_steps=60, the_trainer=uj.primal_dual(counting, optax.sgd(0.1), optax.sgd(0.1)), steps_per_dispatch=20)
    assert len(traced) <= 3  # eval_shape in init, and the scan's body


def test_events_are_plain_and_complete():
    events = []
    run(
        steps_per_dispatch=10,
        evaluate=evaluator(terms, [threes(0)], jax.random.key(0)),
        evaluate_every=20,
        callbacks=[events.append],
    )
    assert events == json.loads(json.dumps(events))
    assert [event["event"] for event in events] == [
        "start", "train", "train", "evaluation", "train", "train", "evaluation", "end"
    ]  # fmt: skip
    train = events[1]
    assert train["step"] == 10 and train["skipped"] == 0 and train["seconds"] > 0
    assert train["violation"].keys() == train["multipliers"].keys() == {"at_most_one"}
    assert train["loss"] > 0 and train["gradient_norm"] > 0 and len(train["violation"]["at_most_one"]) == 1
    assert events[-1]["reason"] == "finished"


def test_metrics_of_the_evaluation_are_told():
    events = []
    run(evaluate=lambda model: (1.0, {}, {"psnr": jnp.array(31.5)}), callbacks=[events.append])
    assert events[-2]["metrics"] == {"psnr": 31.5} and events[-2]["worst_violation"] == -np.inf


# --- the choice of the best ---


def test_a_feasible_model_is_chosen_over_one_with_a_lower_loss():
    """The unconstrained optimum is 3: the loss is lowest where the multiplier has not risen yet."""
    events = []
    fitted = run(
        600,
        the_trainer=trainer(rate=0.1, dual_rate=0.05),
        steps_per_dispatch=5,
        evaluate=evaluator(terms, [threes(0)], jax.random.key(0)),
        evaluate_every=5,
        tolerance=0.01,
        callbacks=[events.append],
    )
    evaluations = [event for event in events if event["event"] == "evaluation"]
    lowest = min(evaluations, key=lambda event: event["loss"])
    assert not lowest["is_feasible"] and lowest["step"] != best_of(fitted).step
    feasible = [event for event in evaluations if event["worst_violation"] <= 0.01]
    assert best_of(fitted).step == min(feasible, key=lambda event: event["loss"])["step"]
    assert best_of(fitted).is_feasible and factor_of(fitted.model) <= 1.01
    assert best_of(fitted).loss == pytest.approx((factor_of(best_of(fitted).model) - 3) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("evaluations", "chosen"),
    [
        ([(3, 1), (1, 2), (2, 0.5)], 3),  # none is feasible: the least violation
        ([(3, 1), (9, 0), (1, 0.5), (5, -1)], 4),  # feasible ones exist: the lowest loss among them
        ([(5, 0), (4, 0), (4, -1)], 2),  # a tie keeps the earlier
        ([(np.nan, 0), (7, 0), (np.nan, -1)], 2),
        ([(1, np.nan), (7, 3), (np.inf, -1)], 2),
        ([(np.nan, 0), (np.nan, 0)], None),
    ],
)
def test_which_evaluation_is_best(evaluations, chosen):
    results = iter(evaluations)

    def evaluate(model):
        loss, violation = next(results)
        return loss, {"a": np.array([violation, -5.0]), "b": np.array([-3.0])}

    fitted = run(len(evaluations), evaluate=evaluate, evaluate_every=1)
    assert (best_of(fitted).step if fitted.best else None) == chosen
    if chosen is None:
        assert_same(fitted.model, fitted.state.model)


def test_patience_stops_early():
    losses = iter([5, 4, 6, 7, 3])
    events = []
    fitted = run(
        50,
        evaluate=lambda model: (next(losses), {}),
        evaluate_every=10,
        patience=2,
        callbacks=[events.append],
    )
    assert fitted.is_stopped_early and best_of(fitted).step == 20 and int(fitted.state.step) == 40
    assert events[-1] == {"event": "end", "step": 40, "reason": "patience"}


def test_evaluator_takes_the_mean_over_all_held_out_examples():
    def terms(model, batch, key):
        return jnp.mean(batch), {"v": jnp.array([jnp.mean(batch) - 1, jnp.max(batch) * 0])}

    data = np.arange(7, dtype=np.float32)
    loss, violation = evaluator(terms, [data[:4], data[4:]], jax.random.key(0))(model_of())
    assert loss == pytest.approx(3) and violation["v"] == pytest.approx([2, 0])


# --- non-finite steps ---


def poisoned(at):
    return lambda step: np.full(2, np.nan if step in at else 3, np.float32)


@pytest.mark.parametrize("steps_per_dispatch", [1, 8])
@pytest.mark.parametrize("bad", [0, 13, 39])
def test_stop_names_the_step_and_keeps_the_last_good_state(tmp_path, steps_per_dispatch, bad):
    checkpoints = Checkpoints(tmp_path, every=10)
    with pytest.raises(NonFiniteError, match=rf"Step {bad} met a number that is not finite in: loss, gradient\. "
                       rf"The last good state is the checkpoint of step {bad}") as caught:  # fmt: skip
        run(batches=poisoned({bad, bad + 2}), steps_per_dispatch=steps_per_dispatch, checkpoints=checkpoints)
    good = run(bad).state if bad else trainer().init(model_of(), threes(0), jax.random.key(0))
    assert caught.value.step == bad and int(caught.value.state.step) == bad
    assert factor_of(caught.value.state.model) == pytest.approx(factor_of(good.model), rel=1e-6)
    assert checkpoints.steps()[-1] == bad
    # mended, the run goes on from there
    fitted = run(batches=threes, checkpoints=checkpoints, resume=True, steps_per_dispatch=steps_per_dispatch)
    assert factor_of(fitted.model) == pytest.approx(factor_of(run().model), rel=1e-5)


def test_skip_leaves_the_state_alone_and_counts():
    events = []
    fitted = run(batches=poisoned({3, 4, 20}), non_finite="skip", steps_per_dispatch=8, callbacks=[events.append])
    assert fitted.num_skipped == 3 and int(fitted.state.step) == 40
    assert factor_of(fitted.model) == pytest.approx(factor_of(run(37).model), rel=1e-6)
    assert [event["skipped"] for event in events if event["event"] == "train"] == [2, 2, 3, 3, 3]
    assert all(np.isfinite(event["loss"]) for event in events if event["event"] == "train")


def test_an_update_that_overflows_is_not_finite():
    def overflow(updates, state, params=None):
        del params
        return jax.tree.map(lambda u: u * jnp.inf, updates), state

    bad = optax.GradientTransformation(optax.sgd(0.1).init, overflow)
    with pytest.raises(NonFiniteError, match=r"Step 0 .* in: update"):
        run(the_trainer=uj.primal_dual(terms, bad, optax.sgd(0.1)))


# --- stopping and resuming ---


def full_options(folder, **changes):
    data = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    return {
        "batches": Minibatches(data, 5, seed=1),
        "the_trainer": uj.primal_dual(terms, optax.adam(0.05), optax.adam(0.05), weight=uj.augmented_weight(1.0)),
        "steps_per_dispatch": 3,
        "evaluate": evaluator(terms, [data], jax.random.key(0)),
        "evaluate_every": 4,
        "checkpoints": Checkpoints(folder, every=5),
    } | changes


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_after", [1, 9, 16])
def test_a_run_that_dies_resumes_in_the_same_bits(tmp_path, killed_after):
    whole = run(30, **full_options(tmp_path / "whole"))

    def die(event):
        if event["event"] == "train" and event["step"] >= killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        run(30, **full_options(tmp_path / "killed"), callbacks=[die])
    resumed = run(30, **full_options(tmp_path / "killed"), resume=True)
    assert_same(resumed.state, whole.state)
    assert_same(best_of(resumed).model, best_of(whole).model)
    assert best_of(resumed)._replace(model=None) == best_of(whole)._replace(model=None)


def test_a_finished_run_resumes_to_its_result_at_once(tmp_path):
    whole = run(30, **full_options(tmp_path))
    events = []
    again = run(30, **full_options(tmp_path), resume=True, callbacks=[events.append])
    assert_same(again.state, whole.state)
    assert [event["event"] for event in events] == ["start", "end"]


def test_a_run_stopped_by_patience_stays_stopped(tmp_path):
    def options():
        losses = iter(range(100))
        return {"evaluate": lambda model: (next(losses), {}), "evaluate_every": 5, "patience": 2}

    first = run(checkpoints=Checkpoints(tmp_path), **options())
    again = run(checkpoints=Checkpoints(tmp_path), resume=True, **options())
    assert first.is_stopped_early and again.is_stopped_early
    assert int(first.state.step) == int(again.state.step) == 15


def test_a_run_can_be_made_longer(tmp_path):
    options = {"steps_per_dispatch": 5}
    run(20, checkpoints=Checkpoints(tmp_path), **options)
    longer = run(40, checkpoints=Checkpoints(tmp_path), resume=True, **options)
    assert_same(longer.state, run(40, **options).state)


def test_an_older_checkpoint_can_be_chosen(tmp_path):
    whole = run(30, **full_options(tmp_path))
    assert Checkpoints(tmp_path).steps() == (20, 25, 30)
    again = run(30, **full_options(tmp_path), resume=20)
    assert_same(again.state, whole.state)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7 .* The steps there: \[20, 25, 30\]"):
        run(30, **full_options(tmp_path), resume=7)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run(checkpoints=Checkpoints(tmp_path))
    with pytest.raises(FileExistsError, match=r"holds a run, at step 40. Go on with it by resume=True"):
        run(checkpoints=Checkpoints(tmp_path))


def test_resume_starts_anew_where_nothing_was_saved(tmp_path):
    assert factor_of(run(checkpoints=Checkpoints(tmp_path), resume=True).model) == factor_of(run().model)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_stop_after_the_dispatch_and_save(tmp_path, number, error):
    before = signal.getsignal(number)

    def interrupt(event):
        if event["event"] == "train" and event["step"] == 12:
            os.kill(os.getpid(), number)

    checkpoints = Checkpoints(tmp_path, every=100)
    with pytest.raises(error):
        run(checkpoints=checkpoints, callbacks=[interrupt], steps_per_dispatch=4)
    assert checkpoints.steps() == (12,)
    assert signal.getsignal(number) is before
    assert_same(run(checkpoints=checkpoints, resume=True, steps_per_dispatch=4).state, run(steps_per_dispatch=4).state)


def long_run(folder, *arguments):
    command = [sys.executable, str(LONG_RUN), str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(folder):
    process = long_run(folder)
    process.communicate(timeout=120)
    assert process.returncode == 0
    with np.load(folder / "final.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_a_run_killed_at_a_random_moment_resumes_in_the_same_bits(tmp_path, uninterrupted, seed):
    step = int(np.random.default_rng(seed).integers(0, 50))
    with long_run(tmp_path, "--pause", 0.02) as process:
        for line in process.stdout or ():  # the step, and then anywhere within it
            if line == f"step {step}\n":
                time.sleep(0.015 * seed)
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "final.npz").exists()
    resumed = finish(tmp_path)
    for name in uninterrupted.keys() - {"losses"}:
        assert resumed[name].tobytes() == uninterrupted[name].tobytes(), name
    # the losses after the resume too, and the file tells the whole run once
    tail = resumed["losses"]
    np.testing.assert_array_equal(tail, uninterrupted["losses"][len(uninterrupted["losses"]) - len(tail) :])
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal([e["loss"] for e in told if e["event"] == "train"], uninterrupted["losses"])


# --- misuse ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be a whole number of at least 1, got 0"),
        ({"steps_per_dispatch": 1.5}, "`steps_per_dispatch` must be a whole number"),
        ({"tolerance": -1}, "`tolerance` must be non-negative, got -1"),
        ({"patience": 3}, "`patience` needs `evaluate`"),
        ({"evaluate_every": 3}, "`evaluate_every` needs `evaluate`"),
        ({"non_finite": "ignore"}, "`non_finite` must be 'stop' or 'skip', got 'ignore'"),
        ({"batches": [1, 2]}, "`batches` must be a function of the step, got list"),
        ({"resume": True}, "`resume` needs `checkpoints`"),
        ({"evaluate": lambda model: 3.0}, r"`evaluate` must return \(loss, \{name: violation\}\)"),
        ({"batches": lambda step: np.zeros(step + 1, np.float32), "steps_per_dispatch": 2}, "`batches` must give the "
         "same shapes at every step"),
        ({"batches": lambda step: [np.zeros(1)] * (step + 1), "steps_per_dispatch": 2,
          "the_trainer": unconstrained(lambda m, b, k: jnp.mean(m(b[0])), optax.sgd(1.0))},
         "`batches` must give the same structure at every step: step 0"),
    ],
)  # fmt: skip
def test_misuse_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_an_evaluator_needs_batches():
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        evaluator(terms, [], jax.random.key(0))
