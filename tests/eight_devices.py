"""Training on 1, 2 and 8 devices of one process: the same numbers, the state divided, checkpoints from one to another.

pytest does not collect this file by itself; test_sharding.py runs it in a process that has 8 devices.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TraceCounter, to_numpy
from jax.core import Tracer
from long_run import make_run

import unroll_jax as uj
from unroll_jax.training import Checkpoints, Minibatches, NonFiniteError, data_parallel, evaluator, fit

NUM_LAYERS = 8
SLOW = pytest.mark.slow
RUN = make_run(NUM_LAYERS)
layout = data_parallel()
LAYOUTS = {"one device": None, "one of eight": (1, "replicated"), "two": (2, "replicated"), "all": (8, "replicated"),
           "all, sharded": (8, "sharded"), "all, by layers": (8, "layers")}  # fmt: skip


def layout_of(name):
    if LAYOUTS[name] is None:
        return None
    num_devices, parameters = LAYOUTS[name]
    return data_parallel(jax.devices()[:num_devices], parameters=parameters)


def run(name, num_steps=50, batches=None, model=None, key=None, **options: Any):
    """The fitted run, its losses and its multipliers, `(num_steps, num_layers)`."""
    told = []
    fitted = fit(
        RUN.trainer,
        model or RUN.model,
        batches or Minibatches(RUN.data, 64, seed=1),
        num_steps=num_steps,
        key=jax.random.key(3) if key is None else key,
        sharding=layout_of(name),
        callbacks=[lambda event: told.append(event) if event["event"] == "train" else None],
        **options,
    )
    return fitted, [event["loss"] for event in told], [event["multipliers"]["closer"] for event in told]


@functools.cache
def fifty_steps(name):
    return run(name)


def test_there_are_eight():
    assert jax.device_count() == 8 and jax.process_count() == 1


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "one device"])
def test_the_losses_and_the_multipliers_are_those_of_one_device(name):
    fitted, losses, multipliers = fifty_steps(name)
    expected, expected_losses, expected_multipliers = fifty_steps("one device")
    assert len(losses) == 50 and np.min(multipliers[-1]) > 0.1  # the constraints are at work in every layer
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(multipliers, expected_multipliers, rtol=0, atol=1e-5 * np.max(expected_multipliers))
    for leaf, other in zip(to_numpy(fitted.state), to_numpy(expected.state), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-5 * np.max(np.abs(other)))


def test_replicated_every_device_holds_the_whole_state():
    for leaf in jax.tree.leaves(fifty_steps("all")[0].state):
        assert [shard.data.shape for shard in leaf.addressable_shards] == [leaf.shape] * 8


@pytest.mark.parametrize("name", ["all, sharded", "all, by layers"])
def test_sharded_the_devices_divide_the_state_among_them(name):
    state = fifty_steps(name)[0].state
    for tree in (state.model, state.primal_state, state.multipliers):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]  # adam's count is a number
        assert leaves
        for leaf in leaves:
            assert [shard.data.size for shard in leaf.addressable_shards] == [leaf.size // 8] * 8


def test_layers_divides_the_axis_of_the_layers_and_sharded_the_longest():
    tree = {"weights": jnp.zeros((NUM_LAYERS, 16, 24)), "odd": jnp.zeros((7, 9)), "key": jax.random.key(0)}
    specs = {
        parameters: {
            name: sharding.spec for name, sharding in data_parallel(parameters=parameters).state_shardings(tree).items()
        }
        for parameters in ("sharded", "layers")
    }
    nowhere = jax.P()
    assert specs["sharded"] == {"weights": jax.P(None, None, "batch"), "odd": nowhere, "key": nowhere}
    assert specs["layers"] == {"weights": jax.P("batch"), "odd": nowhere, "key": nowhere}


def test_the_state_is_made_in_its_parts():
    """The optimizer's state is never whole on one device, not even at the start."""
    layout = data_parallel(parameters="sharded")
    seen = []

    def init(params):
        state = optax.adam(0.1).init(params)
        seen.extend(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state))
        return state

    trainer = uj.primal_dual(RUN.terms, optax.GradientTransformation(init, optax.adam(0.1).update), optax.sgd(0.1))
    state = layout.init_state(trainer.init, RUN.model, Minibatches(RUN.data, 64)(0), jax.random.key(0))
    assert seen and all(seen)
    expected = trainer.init(RUN.model, Minibatches(RUN.data, 64)(0), jax.random.key(0))
    for leaf, other in zip(to_numpy(state), to_numpy(expected), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("name", ["all, sharded", "all, by layers"])
def test_the_parameters_are_gathered_and_not_the_batch(name):
    """Else each device would compute on all examples with its part of the weights."""
    layout, batch = layout_of(name), Minibatches(RUN.data, 64)(0)
    assert layout is not None
    state = layout.init_state(RUN.trainer.init, RUN.model, batch, jax.random.key(0))
    step = jax.jit(functools.partial(layout.step, RUN.trainer.step))
    program = step.lower(state, layout.place_batches(batch)).compile().as_text() or ""
    gathered = [line for line in program.splitlines() if re.search(r" all-(gather|to-all)(-start)?\(", line)]
    assert any("[8,16,16]" in line for line in gathered)
    assert not [line for line in gathered if re.search(r"\[(\d+,)*64[,\]]", line)]


@pytest.mark.parametrize("name", ["all", "all, sharded"])
def test_the_step_is_traced_and_compiled_once(name):
    counter, num_compiled = TraceCounter(RUN.terms), []
    layout = layout_of(name)
    trainer = uj.primal_dual(counter, optax.adam(1e-2), optax.sgd(0.5))

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            num_compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    after = []
    fit(trainer, RUN.model, Minibatches(RUN.data, 64), num_steps=12, key=jax.random.key(0), steps_per_dispatch=3,
        sharding=layout, callbacks=[lambda event: after.append((counter.count, len(num_compiled)))])  # fmt: skip
    jax.monitoring.unregister_event_duration_listener(note)
    _, first, *others = after  # "start", then a dispatch each
    assert len(others) == 4 and set(others) == {first} and first[1] > 0


# --- checkpoints ---


@pytest.mark.parametrize(
    ("saved_on", "resumed_on"),
    [
        ("all", "one device"),
        ("one device", "all"),
        pytest.param("all, sharded", "two", marks=SLOW),
        pytest.param("two", "all, by layers", marks=SLOW),
    ],
)
def test_a_run_moves_to_other_devices_by_its_checkpoint(tmp_path, saved_on, resumed_on):
    checkpoints = Checkpoints(tmp_path)
    first, losses, _ = run(saved_on, 20, checkpoints=checkpoints)
    state = RUN.trainer.init(RUN.model, Minibatches(RUN.data, 64)(0), jax.random.key(0))
    restored = checkpoints.restore({"state": state, "best": RUN.model}).tree["state"]
    for leaf, other in zip(to_numpy(restored), to_numpy(first.state), strict=True):
        assert leaf.tobytes() == other.tobytes()
    _, more, _ = run(resumed_on, 50, checkpoints=checkpoints, resume=True)
    np.testing.assert_allclose([*losses, *more], fifty_steps("one device")[1], rtol=1e-5)


def test_a_resumed_run_has_the_same_bits_on_the_same_devices(tmp_path):
    run("all, sharded", 35, checkpoints=Checkpoints(tmp_path))
    resumed = run("all, sharded", 50, checkpoints=Checkpoints(tmp_path), resume=True)[0]
    for leaf, other in zip(to_numpy(resumed.state), to_numpy(fifty_steps("all, sharded")[0].state), strict=True):
        assert leaf.tobytes() == other.tobytes()


# --- the rest of fit ---


@pytest.mark.parametrize("name", ["all", pytest.param("all, sharded", marks=SLOW)])
def test_models_are_evaluated_whole_on_one_device(name):
    """So that data which lies on a device can be used."""
    held_out = jax.device_put(RUN.data, jax.devices()[0])
    seen = []
    evaluate = evaluator(RUN.terms, [held_out], jax.random.key(0))

    def spying(model):
        seen.extend(leaf.sharding.device_set for leaf in jax.tree.leaves(model))
        return evaluate(model)

    best = run(name, 10, evaluate=spying, evaluate_every=5)[0].best
    expected = run("one device", 10, evaluate=evaluate, evaluate_every=5)[0].best
    assert best is not None and expected is not None
    assert seen and all(devices == {jax.devices()[0]} for devices in seen)
    assert best.step == expected.step and best.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_model_that_lies_on_some_devices_is_trained_on_others():
    """As after restoring it from a checkpoint, or training it on another number of devices."""
    on_all = layout.place_state(RUN.model)
    on_the_fourth, key = jax.device_put((RUN.model, jax.random.key(3)), jax.devices()[3])
    expected = fifty_steps("one device")[1]
    for name, model in (("two", on_all), ("all", on_the_fourth), ("all", on_all)):
        before = to_numpy(model)
        assert run(name, 3, model=model, key=key)[1] == pytest.approx(expected[:3], rel=1e-5)
        for leaf, other in zip(to_numpy(model), before, strict=True):  # it is left as it was
            np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
def test_placing_keeps_values_and_keys(parameters):
    tree = {"x": np.arange(16.0, dtype=np.float32), "key": jax.device_put(jax.random.key(1), jax.devices()[2])}
    placed = data_parallel(parameters=parameters).place_state(tree)
    assert placed["x"].sharding.num_devices == placed["key"].sharding.num_devices == 8
    for leaf, other in zip(to_numpy(data_parallel().local(placed)), to_numpy(tree), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_nan_on_one_device_is_skipped_on_all():
    minibatches = Minibatches(RUN.data, 64, seed=1)

    def batches(step):
        batch = minibatches(step)
        if step == 4:
            batch = {"x": batch["x"], "y": np.where(np.arange(64)[:, None] == 60, np.nan, batch["y"])}
        return batch

    fitted, losses, _ = run("all", 8, batches=batches, non_finite="skip")
    assert fitted.num_skipped == 1 and np.isnan(losses[4]) and np.all(np.isfinite(losses[:4] + losses[5:]))
    with pytest.raises(NonFiniteError, match="Step 4") as caught:
        run("all", 8, batches=batches)
    assert int(caught.value.state.step) == 4


def test_batches_lie_divided_in_order():
    placed = layout.place_batches({"x": np.arange(48).reshape(2, 24)}, axis=1)["x"]
    assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(placed, np.arange(48).reshape(2, 24))


@pytest.mark.parametrize(("size", "steps"), [(60, 1), (60, 2)])
def test_a_batch_that_the_devices_do_not_divide_is_named(size, steps):
    with pytest.raises(ValueError, match=r"`batches` must have a leading batch axis that the 8 devices of a process "
                       r"divide, got \(60, 16\) at \['x'\]. Choose another batch size, or fewer devices"):  # fmt: skip
        run("all", 4, batches=Minibatches(RUN.data, size), steps_per_dispatch=steps)


def test_a_batch_without_an_axis_is_named():
    with pytest.raises(ValueError, match=r"leading batch axis .* got \(\) at \['level'\]"):
        layout.place_batches({"level": np.float32(1)})


def test_a_device_twice_is_named():
    with pytest.raises(ValueError, match="`devices` must hold each device once"):
        data_parallel([jax.devices()[0], jax.devices()[1], jax.devices()[0]])
