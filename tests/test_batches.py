"""Minibatches: each example once an epoch, a function of the step; batches stacked for one dispatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import searched
from hypothesis import given
from hypothesis import strategies as st

from unroll_jax.training import Minibatches
from unroll_jax.training.batches import stack_batches


def examples(batches, num_steps):
    return np.concatenate([batches(step) for step in range(num_steps)])


@searched
@given(
    num_examples=st.integers(1, 40), data=st.data(), seed=st.integers(0, 2**63), num_epochs=st.integers(1, 3)
)  # fmt: skip
def test_every_example_is_used_once_an_epoch(num_examples, data, seed, num_epochs):
    """Also where a batch begins in one epoch and ends in the next."""
    batch_size = data.draw(st.integers(1, num_examples))
    batches = Minibatches(np.arange(num_examples), batch_size, seed=seed)
    seen = examples(batches, -(-num_epochs * num_examples // batch_size))
    for epoch in range(num_epochs):
        np.testing.assert_array_equal(
            np.sort(seen[epoch * num_examples : (epoch + 1) * num_examples]), np.arange(num_examples)
        )


@searched
@given(
    num_examples=st.integers(8, 40),
    part=st.integers(1, 4),
    process_count=st.sampled_from([1, 2]),
    step=st.integers(0, 30),
)  # fmt: skip
def test_the_parts_of_the_processes_are_the_whole_batch_in_order(num_examples, part, process_count, step):
    arrays = {"x": np.arange(num_examples), "y": np.arange(2 * num_examples).reshape(-1, 2)}
    batch_size = part * process_count
    whole = Minibatches(arrays, batch_size, seed=1)(step)
    parts = [
        Minibatches(arrays, batch_size, seed=1, process_index=index, process_count=process_count)(step)
        for index in range(process_count)
    ]
    for name, value in whole.items():
        assert all(len(each[name]) == part for each in parts)
        np.testing.assert_array_equal(np.concatenate([each[name] for each in parts]), value)


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for():
    batches = Minibatches(np.arange(100), 7, seed=2)
    forward = [batches(step) for step in range(60)]
    another = Minibatches(np.arange(100), 7, seed=2)
    for step in np.random.default_rng(0).permutation(60):
        np.testing.assert_array_equal(another(int(step)), forward[step])
    np.testing.assert_array_equal(batches(10**9), another(10**9))


def test_the_order_is_fixed():
    """Resumed runs depend on it, across versions."""
    assert Minibatches(np.arange(6), 4, seed=0)(0).tolist() == np.random.default_rng((0, 0)).permutation(6)[:4].tolist()
    assert examples(Minibatches(np.arange(6), 4, seed=0), 3).tolist() == [3, 2, 5, 4, 0, 1, 1, 4, 3, 0, 2, 5]


def test_epochs_and_seeds_differ():
    batches = Minibatches(np.arange(50), 50)
    other = Minibatches(np.arange(50), 50, seed=1)
    orders = {tuple(order) for order in (batches(0), batches(1), batches(2), other(0), other(1))}
    assert len(orders) == 5


@pytest.mark.parametrize(("num_examples", "batch_size", "steps"), [(6, 3, 2), (7, 3, 3), (5, 5, 1), (1, 1, 1)])
def test_steps_per_epoch_round_up(num_examples, batch_size, steps):
    assert Minibatches(np.arange(num_examples), batch_size).steps_per_epoch == steps


def test_pytrees_keep_their_structure_dtypes_and_rows():
    arrays = {
        "x": np.arange(10.0, dtype=np.float32),
        "pair": (np.arange(10), jnp.arange(20).reshape(10, 2)),
        "no": None,
    }
    batch = Minibatches(arrays, 4)(1)
    assert jax.tree.structure(batch) == jax.tree.structure(arrays)
    x, (index, rows) = batch["x"], batch["pair"]
    assert (x.dtype, index.dtype, rows.dtype) == (np.float32, np.int64, jnp.int32)
    np.testing.assert_array_equal(x, index)
    np.testing.assert_array_equal(rows, np.stack([2 * index, 2 * index + 1], axis=1))


def test_a_memory_map_is_read_by_rows(tmp_path):
    expected = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", expected)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    batches = Minibatches({"x": mapped}, 8, seed=3)
    assert batches.arrays["x"] is mapped
    batch = batches(5)["x"]
    assert batch.shape == (8, 3) and not np.shares_memory(batch, mapped)
    np.testing.assert_array_equal(batch, Minibatches({"x": expected}, 8, seed=3)(5)["x"])


def test_a_batch_may_be_changed():
    array = np.arange(8.0)
    batch = Minibatches(array, 8)(0)
    batch += 1
    np.testing.assert_array_equal(array, np.arange(8.0))


def test_the_part_is_this_process_s_by_default(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    own = Minibatches(np.arange(20), 6)(3)
    whole = Minibatches(np.arange(20), 6, process_index=0, process_count=1)(3)
    np.testing.assert_array_equal(own, whole[3:])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (np.arange(5), {"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        (np.arange(5), {"batch_size": 2.0}, "`batch_size` must be a whole number of at least 1, got 2.0"),
        (np.arange(5), {"batch_size": 6}, "`batch_size` must be at most the number of examples, 5, got 6"),
        (np.arange(0), {"batch_size": 1}, "`batch_size` must be at most the number of examples, 0, got 1"),
        (np.arange(5), {"batch_size": 3, "process_count": 2}, "`batch_size` must be a multiple of the 2 processes, "
         "got 3"),
        (np.arange(5), {"batch_size": 2, "process_count": 0}, "`process_count` must be a whole number"),
        (np.arange(5), {"batch_size": 2, "process_count": 2, "process_index": 2}, r"`process_index` must lie in "
         r"\[0, 2\), got 2"),
        (np.arange(5), {"batch_size": 2, "process_index": -1}, r"`process_index` must lie in \[0, 1\), got -1"),
        (np.arange(5), {"batch_size": 2, "seed": -1}, "`seed` must be a whole number of at least 0, got -1"),
        (np.arange(5), {"batch_size": 2, "seed": 0.5}, "`seed` must be a whole number of at least 0, got 0.5"),
        ({"x": np.zeros(5), "y": np.zeros(6)}, {"batch_size": 2}, r"`arrays` must share a leading axis of examples, "
         r"got the leading axes .*'x'.*\(5,\).*'y'.*\(6,\)"),
        ({"x": np.zeros(5), "y": np.float32(1)}, {"batch_size": 2}, r"must share a leading axis .*'y'.*\(\)"),
        (np.float32(1), {"batch_size": 1}, "must share a leading axis"),
        ([1.0, 2.0], {"batch_size": 1}, "must share a leading axis"),
        ({}, {"batch_size": 1}, "must share a leading axis"),
    ],
)  # fmt: skip
def test_misuse_is_named(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        Minibatches(arrays, **options)


# --- stacking ---


def test_stacking_adds_a_leading_axis_on_the_host():
    batches = Minibatches({"x": np.arange(30).reshape(15, 2), "y": jnp.arange(15)}, 4)
    stacked = stack_batches(batches, 3, 6)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(stacked))
    assert stacked["x"].shape == (3, 4, 2)
    for index, step in enumerate(range(3, 6)):
        np.testing.assert_array_equal(stacked["x"][index], batches(step)["x"])
        np.testing.assert_array_equal(stacked["y"][index], batches(step)["y"])


def test_each_batch_is_asked_for_once_and_in_order():
    """So that an iterator serves too."""
    asked = []
    stack_batches(lambda step: asked.append(step) or np.zeros(2), 4, 8)
    assert asked == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (lambda step: np.zeros(2 + step // 3), r"the same shapes at every step, got \[\[\(2,\)\], .*\[\(3,\)\]\] for "
         "the steps 2 to 3. Drop or pad the short last batch of an epoch"),
        (lambda step: {"x": np.zeros(1)} if step < 3 else {"y": np.zeros(1)}, "the same structure at every step: "
         "step 2 gave .*'x'.*, step 3 .*'y'"),
    ],
)  # fmt: skip
def test_batches_that_differ_are_named(batches, message):
    with pytest.raises(ValueError, match=message):
        stack_batches(batches, 2, 4)
