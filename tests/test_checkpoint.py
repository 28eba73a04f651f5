"""Checkpoints: bitwise, atomic, verified; damaged and foreign ones are told apart and an older one is offered."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import to_numpy

from unroll_jax.training import CheckpointError, Checkpoints

GOLDEN = Path(__file__).parent / "golden"


def tree_of(value=1.0):
    return {
        "model": (jnp.linspace(0, value, 50).reshape(5, 10), jnp.arange(3)),
        "half": jnp.full(4, value, jnp.bfloat16),
        "key": jax.random.key(int(value)),
        "empty": jnp.zeros((0, 2)),
        "step": jnp.int32(value),
        "complex": jnp.array([1j, value]),
        "flag": jnp.array(True),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(to_numpy(a), to_numpy(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", config={"rate": 0.1})
    for step in (10, 20, 30):
        checkpoints.save(step, tree_of(step), {"best": step})
    return checkpoints


def largest_file(folder):
    return max((path for path in folder.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_what_comes_back_is_what_was_saved_bit_for_bit(saved):
    found = saved.restore(tree_of())
    assert_same(found.tree, tree_of(30))
    assert (found.step, found.extra, found.config) == (30, {"best": 30}, {"rate": 0.1})
    assert found.versions["jax"] == jax.__version__
    assert_same(saved.restore(tree_of(), 10).tree, tree_of(10))


def test_nan_infinity_and_subnormals_survive(tmp_path):
    tree = {"x": jnp.array([np.nan, -np.inf, 1e-42, -0.0], jnp.float32)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree)
    assert_same(checkpoints.restore(tree).tree, tree)


def test_the_last_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3, 10):
        checkpoints.save(step, tree_of())
    assert checkpoints.steps() == (3, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "3"]


def test_saving_at_an_earlier_step_leaves_the_other_course(saved):
    saved.save(15, tree_of(15))
    assert saved.steps() == (10, 15)


def test_no_log_handler_is_left_on_the_root_logger(saved):
    code = (
        "import logging; from unroll_jax.training import Checkpoints; Checkpoints('unused'); "
        "print(logging.getLogger().handlers, logging.getLogger().level)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == f"[] {logging.WARNING}\n" and printed.stderr == ""
    assert not Path("unused").exists()


# --- damage ---


def edit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [edit, truncate, Path.unlink], ids=["edited", "truncated", "removed"])
@pytest.mark.parametrize("which", ["data", "manifest", "record"])
def test_a_damaged_checkpoint_is_told_and_an_older_one_offered(saved, damage, which):
    folder = saved.folder / "30"
    path = {
        "data": largest_file(folder),
        "manifest": folder / "state" / "manifest.ocdbt",
        "record": folder / "unroll_jax.json",
    }[which]
    damage(path)
    with pytest.raises(CheckpointError, match=r"The checkpoint of step 30 in .* That of step 20 is good: "
                       "resume=20 uses it") as caught:  # fmt: skip
        saved.restore(tree_of())
    assert path.name in str(caught.value) and caught.value.good_step == 20
    assert_same(saved.restore(tree_of(), 20).tree, tree_of(20))


def test_any_flipped_byte_is_found(saved):
    rng = np.random.default_rng(0)
    files = sorted(path for path in (saved.folder / "30").rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        for position in rng.integers(0, len(content), 3):
            flipped = bytearray(content)
            flipped[position] ^= 1 << rng.integers(0, 8)
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                saved.restore(tree_of(), 30)
        path.write_bytes(content)
    assert_same(saved.restore(tree_of(), 30).tree, tree_of(30))


def test_if_all_are_damaged_it_says_so(saved):
    for step in saved.steps():
        truncate(largest_file(saved.folder / str(step)))
    with pytest.raises(CheckpointError, match="No other there is good") as caught:
        saved.restore(tree_of())
    assert caught.value.good_step is None


def test_something_else_in_the_folder_is_left_alone(saved):
    (saved.folder / "notes.txt").write_text("mine")
    (saved.folder / "40").mkdir()
    with pytest.raises(CheckpointError, match=r"step 40 .* That of step 30 is good"):
        saved.restore(tree_of())
    saved.save(50, tree_of(50))
    assert (saved.folder / "notes.txt").read_text() == "mine"


def test_half_written_ones_are_not_seen_and_cleaned_up(saved):
    shutil.copytree(saved.folder / "30", saved.folder / ".40.partial")
    assert saved.steps() == (10, 20, 30)
    saved.save(50, tree_of(50))
    assert sorted(path.name for path in saved.folder.iterdir()) == ["20", "30", "50"]


# --- another model, another run, a newer format ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree | {"half": jnp.zeros(5, jnp.bfloat16)}, r"another model: it has \['half'\] = .*\[4\]"),
        (lambda tree: tree | {"half": jnp.zeros(4)}, r"has \['half'\] = .*bfloat16.*, here it is .*float32"),
        (lambda tree: tree | {"new": jnp.zeros(1)}, r"lacks \['new'\]"),
        (lambda tree: {k: v for k, v in tree.items() if k != "half"}, r"has \['half'\] = .*, which is not here"),
        (lambda tree: tree | {"key": jax.random.key(0, impl="rbg")}, r"\['key'\] = .*fry.*, here it is .*rbg"),
    ],
)  # fmt: skip
def test_another_model_is_named_by_its_first_difference(saved, change, message):
    with pytest.raises(CheckpointError, match=message):
        saved.restore(change(tree_of()))


def test_another_configuration_is_named(saved):
    other = Checkpoints(saved.folder, config={"rate": 0.2})
    with pytest.raises(CheckpointError, match=r"of another run: `config` has rate = 0.1, here it is 0.2"):
        other.restore(tree_of())
    assert Checkpoints(saved.folder).restore(tree_of()).config == {"rate": 0.1}  # to read it, none is needed


def test_a_newer_format_is_refused(saved):
    path = saved.folder / "30" / "unroll_jax.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match=r"has format 99, this version of unroll_jax reads up to 1.*Upgrade"):
        saved.restore(tree_of())


def test_a_checkpoint_of_another_library_is_refused(saved):
    (saved.folder / "30" / "unroll_jax.json").unlink()
    with pytest.raises(CheckpointError, match=r"was not written by unroll_jax, or lost its unroll_jax.json"):
        saved.restore(tree_of())


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint in .*nowhere"):
        Checkpoints(tmp_path / "nowhere").restore(tree_of())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("checkpoint-*")), ids=lambda path: path.name)
def test_the_checkpoints_of_released_versions_are_read(path, tmp_path):
    """Made by `python tests/golden/make_checkpoint.py VERSION` when a version with a new format is released."""
    shutil.copytree(path, tmp_path / "run")
    found = Checkpoints(tmp_path / "run").restore(tree_of())
    assert_same(found.tree, tree_of(7))
    assert found.extra == {"best": None} and found.config == {"rate": 0.5}


def test_there_is_a_golden_checkpoint_of_the_present_format():
    from unroll_jax.training.checkpoint import FORMAT_VERSION

    assert (GOLDEN / f"checkpoint-{FORMAT_VERSION}").is_dir()


# --- disks that refuse ---

WRITER = """
import resource, signal, sys
import jax.numpy as jnp
from unroll_jax.training import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(20, {"x": jnp.arange(10.0)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    checkpoints.save(30, {"x": jnp.sin(jnp.arange(1e5))})
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 100_000])
def test_a_disk_that_takes_no_more_leaves_the_earlier_ones(tmp_path, limit):
    """The kernel refuses every write beyond the limit, as a full disk does."""
    assert resource.RLIMIT_FSIZE is not None
    printed = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=120
    )
    assert "The checkpoint of step 30 cannot be written" in printed.stdout, printed.stderr[-2000:]
    assert "The earlier ones are intact: steps [20]" in printed.stdout and "Make room" in printed.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["20"]
    assert_same(Checkpoints(tmp_path).restore({"x": jnp.zeros(10)}).tree, {"x": jnp.arange(10.0)})


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_earlier_ones(small_disk):
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(20, {"x": jnp.arange(10.0)})
    with pytest.raises(OSError, match=r"step 30 cannot be written .* The earlier ones are intact: steps \[20\]"):
        checkpoints.save(30, {"x": jax.random.normal(jax.random.key(0), (300_000,))})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["20"]
    assert_same(checkpoints.restore({"x": jnp.zeros(10)}).tree, {"x": jnp.arange(10.0)})


def test_a_read_only_disk_is_named(small_disk):
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(20, {"x": jnp.arange(10.0)})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=r"cannot be written .* The earlier ones are intact: steps \[20\]"):
        checkpoints.save(30, {"x": jnp.arange(10.0)})
    assert_same(checkpoints.restore({"x": jnp.zeros(10)}).tree, {"x": jnp.arange(10.0)})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written to .*file/run .*The earlier ones are intact: steps \[\]"):
        Checkpoints(tmp_path / "file" / "run").save(1, tree_of())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` must be a whole number of at least 1"),
        ({"keep": 0}, "`keep` must be a whole number of at least 1"),
        ({"config": {"path": Path("x")}}, "`config` must hold what JSON can.*Turn paths into texts"),
    ],
)
def test_misuse_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path, **options)
