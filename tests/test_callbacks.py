"""Callbacks: a file of JSON lines that reads as if the run had never stopped, TensorBoard, a progress bar."""

import json
import math
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import unroll_jax as uj
from unroll_jax.training import Checkpoints, fit, json_lines, progress_bar, tensorboard

FACTOR = uj.Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)


def terms(model, batch, key):
    del key
    factor = model(jnp.ones(()))
    return jnp.mean((factor - batch) ** 2), {"at_most_one": jnp.stack([factor - 1, -factor])}


def run(num_steps, callbacks, **options):
    return fit(
        uj.primal_dual(terms, optax.sgd(0.1), optax.sgd(0.1)),
        uj.unroll(FACTOR, 1, jnp.array(0.5)),
        lambda step: np.full(2, 3, np.float32),
        num_steps=num_steps,
        key=jax.random.key(0),
        steps_per_dispatch=2,
        evaluate=lambda model: (1.0, {}, {"psnr": float(model(jnp.ones(())))}),
        evaluate_every=4,
        callbacks=callbacks,
        **options,
    )


class KilledError(Exception):
    pass


def dying(step):
    def die(event):
        if event["event"] == "train" and event["step"] == step:
            raise KilledError

    return die


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def without_time(events):
    return [{name: value for name, value in event.items() if name != "seconds"} for event in events]


# --- JSON lines ---


def test_the_lines_are_the_events(tmp_path):
    events = []
    run(6, [json_lines(tmp_path / "metrics.jsonl"), events.append])
    expected = [{k: None if v == -math.inf else v for k, v in event.items()} for event in events]
    assert lines_of(tmp_path / "metrics.jsonl") == expected and len(events) == 7


def test_a_new_run_replaces_the_lines_of_an_earlier_one(tmp_path):
    run(20, [json_lines(tmp_path / "metrics.jsonl")])
    run(6, [json_lines(tmp_path / "metrics.jsonl")])
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert lines[0] == {"event": "start", "step": 0, "num_steps": 6} and lines[-1]["step"] == 6 and len(lines) == 7


def test_its_folder_is_made(tmp_path):
    run(2, [json_lines(tmp_path / "runs" / "first" / "metrics.jsonl")])
    assert len(lines_of(tmp_path / "runs" / "first" / "metrics.jsonl")) == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(20, [json_lines(folder / "metrics.jsonl")], checkpoints=Checkpoints(folder / "checkpoints", every=10))
    return lines_of(folder / "metrics.jsonl")


@pytest.mark.parametrize("half", ["", '{"ev', '{"event": "train", "step": 11, "loss": 0.'])
@pytest.mark.parametrize("killed_at", [8, 14])
def test_a_resumed_run_tells_everything_once(tmp_path, whole, half, killed_at):
    path = tmp_path / "metrics.jsonl"
    options = {"checkpoints": Checkpoints(tmp_path / "checkpoints", every=10)}
    with pytest.raises(KilledError):
        run(20, [json_lines(path), dying(killed_at)], **options)
    with path.open("a") as file:
        file.write(half)
    run(20, [json_lines(path)], resume=True, **options)
    assert without_time(lines_of(path)) == without_time(whole)


def test_a_run_made_longer_goes_on_in_its_file(tmp_path):
    path, options = tmp_path / "metrics.jsonl", {"checkpoints": Checkpoints(tmp_path / "checkpoints", every=10)}
    run(10, [json_lines(path)], **options)
    run(20, [json_lines(path)], resume=True, **options)
    assert [e["step"] for e in lines_of(path) if e["event"] == "train"] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert [event["event"] for event in lines_of(path)].count("end") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b"my notes\non two lines\n",
        b'{"loss": 1}\n',
        b"[1, 2]\n",
        b"3\n",
        b'{"event": "train"}\n',
        b'{"event": "train", "step": "3"}\n',
        b'{"event": "start", "step": 0}\nmine\n{"event": "end", "step": 1}\n',
        b"\x89PNG\r\n\x1a\n\xff\xfe\n",
        b"\xff\xfe",
        b"\n",
    ],
)
@pytest.mark.parametrize("step", [0, 4])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, content, step):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` .*notes.txt holds something else than the events of a run \(line .*"
                       "Choose another file"):  # fmt: skip
        json_lines(path)({"event": "start", "step": step, "num_steps": 10})
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_an_empty_file_will_do(tmp_path):
    (tmp_path / "x").touch()
    json_lines(tmp_path / "x")({"event": "start", "step": 0})
    assert lines_of(tmp_path / "x") == [{"event": "start", "step": 0}]


def test_nan_and_infinities_become_null(tmp_path):
    write = json_lines(tmp_path / "x")
    write({"event": "start", "step": 0})
    write(
        {
            "event": "train",
            "step": 1,
            "loss": math.nan,
            "violation": {"a": [1.0, math.inf, -math.inf]},
            "deep": [[math.nan]],
        }
    )
    assert lines_of(tmp_path / "x")[1] == {
        "event": "train", "step": 1, "loss": None, "violation": {"a": [1.0, None, None]}, "deep": [[None]]
    }  # fmt: skip


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        run(2, [json_lines(tmp_path / "file" / "metrics.jsonl")])


# --- TensorBoard ---


def event_files(folder):
    """What the files say, in their order: `("start", step)` or `(tag, step, value)`."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    def records(content):
        while content:
            length = int.from_bytes(content[:8], "little")
            yield Event.FromString(content[12 : 12 + length])
            content = content[12 + length + 4 :]

    for path in sorted(Path(folder).glob("events.out.tfevents.*")):
        for event in records(path.read_bytes()):
            if event.HasField("session_log"):
                yield "start", event.step
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def as_tensorboard_shows(folder):
    """Its rule: a session's start drops what has its step or a later one."""
    shown = []
    for tag, step, *value in event_files(folder):
        if tag == "start":
            shown = [each for each in shown if each[1] < step]
        else:
            shown.append((tag, step, *value))
    return shown


def test_tensorboard_gets_the_numbers(tmp_path, caplog):
    events = []
    run(8, [tensorboard(tmp_path / "board"), events.append])
    assert not caplog.records
    shown = as_tensorboard_shows(tmp_path / "board")
    assert len(shown) == len({(tag, step) for tag, step, _ in shown})
    values = {(tag, step): value for tag, step, value in shown}
    assert {tag for tag, _ in values} == {
        "train/loss", "train/gradient_norm", "train/skipped", "train/seconds",
        "train/violation/at_most_one/001", "train/violation/at_most_one/002",
        "train/multipliers/at_most_one/001", "train/multipliers/at_most_one/002",
        "evaluation/loss", "evaluation/is_feasible", "evaluation/is_best",
        "evaluation/metrics/psnr",
    }  # fmt: skip
    for event in events:
        if event["event"] == "train":
            assert values["train/loss", event["step"]] == pytest.approx(event["loss"])
            for layer in (0, 1):
                assert values[f"train/multipliers/at_most_one/00{layer + 1}", event["step"]] == pytest.approx(
                    event["multipliers"]["at_most_one"][layer]
                )
        if event["event"] == "evaluation":
            assert values["evaluation/metrics/psnr", event["step"]] == pytest.approx(event["metrics"]["psnr"])


def test_tensorboard_shows_a_resumed_run_as_if_it_had_never_stopped(tmp_path):
    options = {"checkpoints": Checkpoints(tmp_path / "checkpoints", every=10)}
    with pytest.raises(KilledError):
        run(20, [tensorboard(tmp_path / "board"), dying(14)], **options)
    run(20, [tensorboard(tmp_path / "board")], resume=True, **options)
    run(20, [tensorboard(tmp_path / "whole")])
    resumed, whole = (
        [each for each in as_tensorboard_shows(tmp_path / name) if each[0] != "train/seconds"]
        for name in ("board", "whole")
    )
    assert [each[:2] for each in event_files(tmp_path / "board") if each[0] == "start"] == [("start", 0), ("start", 11)]
    assert resumed == whole


def test_tensorboard_shows_a_new_run_alone(tmp_path):
    run(8, [tensorboard(tmp_path)])
    run(4, [tensorboard(tmp_path)])
    assert {step for _, step, _ in as_tensorboard_shows(tmp_path)} == {2, 4}


def test_tensorboard_takes_nan(tmp_path):
    write = tensorboard(tmp_path)
    write({"event": "start", "step": 0, "num_steps": 1})
    write({"event": "train", "step": 1, "loss": math.nan})
    write({"event": "end", "step": 1, "reason": "finished"})
    ((tag, step, value),) = as_tensorboard_shows(tmp_path)
    assert (tag, step) == ("train/loss", 1) and math.isnan(value)


@pytest.mark.parametrize(
    ("make", "package", "message"),
    [
        (
            lambda: tensorboard("unused"),
            "tensorboardX",
            r'`tensorboard` needs tensorboardX: pip install "unroll_jax\[tens',
        ),
        (progress_bar, "tqdm", "`progress_bar` needs tqdm: pip install tqdm"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, make, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        make()


# --- the progress bar ---

BAR = """
from unroll_jax.training import progress_bar
draw = progress_bar("training")
draw({"event": "start", "step": 5, "num_steps": 20})
for step in (10, 15):
    draw({"event": "train", "step": step, "loss": 0.12345, "violation": {"a": [-1.0, 0.25]}, "skipped": 2})
draw({"event": "evaluation", "step": 15}); draw({"event": "checkpoint", "step": 15})
draw({"event": "train", "step": 20, "loss": 0.5, "violation": {}, "skipped": 0})
draw({"event": "end", "step": 20, "reason": "finished"})
"""


def test_the_bar_is_quiet_where_stderr_is_no_terminal():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_bar_is_drawn_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 150))
    environment = os.environ | {"TQDM_MININTERVAL": "0"}
    process = subprocess.Popen([sys.executable, "-c", BAR], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += (part := os.read(ours, 4096))
        except OSError:  # Linux's way to tell the end of a terminal
            break
        if not part:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0, drawn.decode()
    text = drawn.decode()
    assert "training:  25%" in text and "5/20" in text and "training: 100%" in text and "20/20" in text
    assert "loss=0.1235" in text or "loss=0.1234" in text
    assert "worst violation=+0.25" in text and "skipped=2" in text and text.endswith("\r\n")
    assert "skipped" not in text[text.rindex("20/20") :]


# --- together ---


def test_they_compose_and_serve_again(tmp_path, capfd):
    seen = []
    callbacks = [json_lines(tmp_path / "x.jsonl"), tensorboard(tmp_path / "board"), progress_bar(), seen.append]
    run(4, callbacks)
    run(8, callbacks)  # the same ones for another run
    assert len(lines_of(tmp_path / "x.jsonl")) == 8
    assert {step for _, step, _ in as_tensorboard_shows(tmp_path / "board")} == {2, 4, 6, 8}
    assert [event["event"] for event in seen].count("start") == 2
    assert capfd.readouterr() == ("", "")
