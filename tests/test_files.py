import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.files import default_run_path, load_arrays, run_folder, save_arrays

# --- run folders ---


def test_a_run_folder_appears_only_when_complete(tmp_path):
    path = tmp_path / "runs" / "first"
    with run_folder(path) as partial:
        assert partial.parent == path.parent
        assert partial.name.startswith(".first.")
        assert partial.name.endswith(".partial")
        (partial / "plots").mkdir()
        (partial / "plots" / "a.txt").write_text("done")
        assert not path.exists()
    assert (path / "plots" / "a.txt").read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_leaves_nothing(tmp_path, error):
    (tmp_path / "other.txt").write_text("kept")

    def fail():
        with run_folder(tmp_path / "run") as partial:
            (partial / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_an_empty_folder_is_taken_and_survives_a_failure(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with pytest.raises(ValueError, match="boom"), run_folder(path):
        raise ValueError("boom")
    assert list(tmp_path.iterdir()) == [path]
    with run_folder(path) as partial:
        (partial / "a.txt").touch()
    assert [file.name for file in path.iterdir()] == ["a.txt"]


def test_results_are_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.txt").write_text("old")
    (tmp_path / "file").touch()
    for name in ("run", "file"):
        message = rf"`--out` .*{name} exists.*Choose another, or remove it"
        with pytest.raises(FileExistsError, match=message), run_folder(tmp_path / name):
            pytest.fail("the block must not run")
    assert (tmp_path / "run" / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_of_two_runs_at_once_the_slower_keeps_its_results_aside(tmp_path):
    path = tmp_path / "run"
    slow_run, fast_run = run_folder(path), run_folder(path)
    slow, fast = slow_run.__enter__(), fast_run.__enter__()
    assert slow != fast
    (slow / "a.txt").write_text("slow")
    (fast / "a.txt").write_text("fast")
    fast_run.__exit__(None, None, None)
    with pytest.raises(OSError, match=r"`--out` .* cannot be written .*The results lie in .*partial"):
        slow_run.__exit__(None, None, None)
    assert (path / "a.txt").read_text() == "fast"
    assert (slow / "a.txt").read_text() == "slow"


def test_a_path_that_cannot_be_written_fails_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    message = r"`--out` .*run cannot be written .*Choose another folder"
    with pytest.raises(OSError, match=message), run_folder(tmp_path / "file" / "run"):
        pytest.fail("the block must not run")


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path.resolve())
    with pytest.raises(OSError, match=r"`--out` .* is a mount point.*inside it"), run_folder(tmp_path):
        pytest.fail("the block must not run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_fails_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"`--out` .* cannot be written"), run_folder(tmp_path / "run"):
        pytest.fail("the block must not run")


def test_default_run_paths_are_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_run_path("lista")
    assert first.parent == Path("runs")
    assert not first.parent.exists()
    monkeypatch.setattr(Path, "exists", lambda path: not path.name.endswith("-3"))
    assert default_run_path("lista").name.endswith("-3")
    assert first.name.startswith("lista-20")
    assert len(first.name) == len("lista-YYYYMMDD-HHMMSS")


# --- arrays ---


class Point(NamedTuple):
    x: jax.Array
    label: str


class Module(nnx.Module):
    def __init__(self, seed):
        self.linear = nnx.Linear(2, 3, rngs=nnx.Rngs(seed))
        self.scale = nnx.Param(jnp.float32(seed))


def tree_of(seed):
    rng = np.random.default_rng(seed)
    return {
        "point": Point(jnp.asarray(rng.random(3)), rng.random((2, 2))),  # pyright: ignore[reportArgumentType]
        "list": [seed, float(seed), jnp.array([seed > 0]), jnp.complex64(seed * 1j)],
        "a/b": jnp.zeros((0, 2)),
        "module": Module(seed),
    }


def test_arrays_survive_a_round_trip(tmp_path):
    tree = tree_of(1)
    save_arrays(tmp_path / "a.npz", tree)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    restored = load_arrays(tmp_path / "a.npz", tree_of(0))
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(tree), strict=True):
        assert type(found) is type(expected)
        assert np.asarray(found).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(restored["module"].linear(jnp.ones(2)), tree["module"].linear(jnp.ones(2)))


def test_arrays_are_named_by_their_key_paths(tmp_path):
    save_arrays(tmp_path / "a.npz", {"p": Point(jnp.ones(2), [np.ones(1)])})  # pyright: ignore[reportArgumentType]
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive) == ["['p'].label[0]", "['p'].x"]


def test_a_single_array_and_a_structure_without_values(tmp_path):
    save_arrays(tmp_path / "a", jnp.arange(3.0))
    restored = load_arrays(tmp_path / "a", jax.ShapeDtypeStruct((3,), jnp.float32))
    assert isinstance(restored, jax.Array)
    np.testing.assert_array_equal(restored, [0, 1, 2])


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": jnp.ones(3)}, r"\['a'\] has shape \(2,\) and dtype float32, `like` has \(3,\) and float32"),
        ({"a": jnp.ones(2, int)}, r"\['a'\] has shape \(2,\) and dtype float32, `like` has \(2,\) and int32"),
        ({"b": jnp.ones(2)}, r"""it lacks \["\['b'\]"\] and has \["\['a'\]"\] that `like` lacks"""),
        ({"a": jnp.ones(2), "b": 1}, r"""it lacks \["\['b'\]"\] and has \[\]"""),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, like, message):
    save_arrays(tmp_path / "a.npz", {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        load_arrays(tmp_path / "a.npz", like)


@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.bfloat16), jax.random.key(0), "text", object()])
def test_leaves_that_npz_cannot_hold(tmp_path, leaf):
    with pytest.raises(ValueError, match=r"`tree` must have numbers of a NumPy dtype .*at \['a'\]\. Cast"):
        save_arrays(tmp_path / "a.npz", {"a": leaf})
    assert not list(tmp_path.iterdir())


def test_damaged_and_missing_files(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        load_arrays(path, jnp.ones(2))
    save_arrays(path, jnp.ones(200))
    for contents in (b"", b"no zip", path.read_bytes()[:-9]):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"a\.npz is no complete \.npz file"):
            load_arrays(path, jnp.ones(200))


def test_saving_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    save_arrays(tmp_path / "a.npz", jnp.ones(2))

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        save_arrays(tmp_path / "a.npz", jnp.zeros(2))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    np.testing.assert_array_equal(load_arrays(tmp_path / "a.npz", jnp.ones(2)), [1, 1])
