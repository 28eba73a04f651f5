import os
from pathlib import Path

import pytest

from experiments.files import default_run_path, replacing, run_folder


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_run_keeps_its_results_and_not_its_work(tmp_path):
    path = tmp_path / "runs" / "first"
    with run_folder(path) as folder:
        assert folder == path and (folder / "work").is_dir()
        (folder / "work" / "checkpoint").touch()
        (folder / "report.md").write_text("done")
    assert files_in(path) == ["report.md"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_before_it_saved_anything_leaves_nothing(tmp_path, error):
    (tmp_path / "other.txt").write_text("kept")

    def fail():
        with run_folder(tmp_path / "run") as folder:
            (folder / "config.json").write_text("{}")
            raise error

    with pytest.raises(error):
        fail()
    assert files_in(tmp_path) == ["other.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_stops_later_says_how_to_go_on_and_can(tmp_path, error):
    path = tmp_path / "run"

    def stop():
        with run_folder(path) as folder:
            (folder / "config.json").write_text("{}")
            (folder / "work" / "checkpoint").write_text("here")
            raise error

    with pytest.raises(error) as caught:
        stop()
    assert caught.value.__notes__ == [f"The run so far lies in {path}; `--resume {path}` goes on with it."]
    with run_folder(path, is_resumed=True) as folder:
        assert (folder / "work" / "checkpoint").read_text() == "here"
        (folder / "metrics.json").touch()
    assert files_in(path) == ["config.json", "metrics.json"]


def test_an_empty_folder_is_taken_and_survives_a_failure(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with pytest.raises(ValueError, match="boom"), run_folder(path):
        raise ValueError("boom")
    assert files_in(tmp_path) == ["run"] and files_in(path) == []
    with run_folder(path) as folder:
        (folder / "a.txt").touch()
    assert files_in(path) == ["a.txt"]


def test_results_are_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.txt").write_text("old")
    (tmp_path / "file").touch()
    for name in ("run", "file"):
        message = rf"`--out` .*{name} exists.*Choose another, or remove it"
        with pytest.raises(FileExistsError, match=message), run_folder(tmp_path / name):
            pytest.fail("the block must not run")
    assert (tmp_path / "run" / "a.txt").read_text() == "old"


def test_an_unfinished_run_is_not_overwritten_but_can_be_resumed(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(FileExistsError, match="or go on with it by --resume"), run_folder(tmp_path):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"`--resume` .* is no run: it has no config.json"),
        (["config.json", "metrics.json"], r"`--resume` .* is a finished run\. Its results are in .*report\.md"),
    ],
)
def test_what_cannot_be_resumed_is_told(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(OSError, match=message), run_folder(tmp_path, is_resumed=True):
        pytest.fail("the block must not run")
    assert files_in(tmp_path) == files


def test_a_path_that_cannot_be_written_fails_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    message = r"`--out` .*run cannot be written .*Choose another folder"
    with pytest.raises(OSError, match=message), run_folder(tmp_path / "file" / "run"):
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


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as partial:
            partial.write_text("half")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert path.read_text() == "old" and files_in(tmp_path) == ["a.txt"]
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and files_in(tmp_path) == ["a.txt"]
