"""Training on several devices and in several processes gives what training on one does; what runs where.

`XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest tests/eight_devices.py` runs the first part alone.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from unroll_jax.training import data_parallel

TESTS = Path(__file__).parent
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def run_python(tmp_path_factory):
    """Starts `python ...` with so many devices; the processes share what they compile, most of what takes time here."""
    cache = tmp_path_factory.mktemp("compiled")
    started = []

    def start(*arguments, num_devices=1):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, *map(str, arguments)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TESTS.parent
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_two_and_eight_devices(run_python, request):
    options = ["-q", "-p", "no:cacheprovider", "--tb=short", "-m", request.config.option.markexpr or "slow or not slow"]
    process = run_python("-m", "pytest", TESTS / "eight_devices.py", *options, num_devices=8)
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    assert re.search(r"\d+ passed", printed) and "skipped" not in printed


# --- two processes ---

# all dispatches alike, so that one program is compiled
FIFTY_STEPS = ("--num-steps", 50, "--steps-per-dispatch", 1, "--save-every", 10, "--evaluate-every", 25)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start_pair(run_python, folder, *arguments, num_devices=1, **of_each):
    """The two processes of a run; `of_each` has options with a value for each."""
    port = free_port()
    options = [[f"--{name}", *values] for name, values in of_each.items()]
    return [
        run_python(
            TESTS / "long_run.py", folder, "--devices", "all", "--process", index, "--port", port, *FIFTY_STEPS,
            *arguments, *(word for name, *values in options for word in (name, values[index])), num_devices=num_devices,
        )
        for index in (0, 1)
    ]  # fmt: skip


def finish_pair(processes):
    printed = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    return printed


def result_of(folder):
    with np.load(folder / "final.npz") as archive:
        return dict(archive)


def told(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def on_one_device(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    process = run_python(TESTS / "long_run.py", folder, *FIFTY_STEPS)
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    return folder


@pytest.fixture(scope="module")
def in_two_processes(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, finish_pair(start_pair(run_python, folder))


def assert_close(folder, expected_folder):
    """Losses, multipliers and evaluations of all steps, and all arrays at their end, to 1e-5."""
    expected = told(expected_folder)
    for event, other in zip(told(folder), expected, strict=True):
        assert event["event"] == other["event"] and event["step"] == other["step"]
        for name in {"loss", "violation", "multipliers"} & event.keys():
            value, other_value = (
                np.ravel(e[name] if name == "loss" else list(e[name].values())) for e in (event, other)
            )
            np.testing.assert_allclose(value, other_value, rtol=1e-5, atol=0 if name == "loss" else 1e-5)
    result, expected_result = result_of(folder), result_of(expected_folder)
    assert result.keys() == expected_result.keys()
    for name, value in expected_result.items():
        np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-5 * np.max(np.abs(value)))


def assert_same_bits(folder, expected_folder):
    result, expected = result_of(folder), result_of(expected_folder)
    for name in expected.keys() - {"losses"}:  # of this process alone, which may have resumed
        assert result[name].tobytes() == expected[name].tobytes(), name
    without_time = [[event | {"seconds": 0} for event in told(each)] for each in (folder, expected_folder)]
    assert without_time[0] == without_time[1]


def test_two_processes_do_what_one_device_does(in_two_processes, on_one_device):
    assert_close(in_two_processes[0], on_one_device)


def test_callbacks_are_called_on_the_first_process_only(in_two_processes):
    folder, (first, second) = in_two_processes
    events = told(folder)
    assert f"{len(events)} events" in first and "\n0 events" in second
    assert [event["event"] for event in events].count("start") == 1
    assert len(events) == len({(event["event"], event["step"]) for event in events})


def test_every_process_knows_the_best_model(in_two_processes):
    best = [re.findall(r"best at \d+", printed) for printed in in_two_processes[1]]
    assert best[0] == best[1] and len(best[0]) == 1


def test_two_killed_processes_resume_in_the_same_bits(run_python, tmp_path, in_two_processes):
    processes = start_pair(run_python, tmp_path, "--pause", 0.01)
    for line in processes[1].stdout:
        if line == "step 23\n":
            break
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    assert not (tmp_path / "final.npz").exists() and told(tmp_path)[-1]["step"] >= 20
    finish_pair(start_pair(run_python, tmp_path))
    assert_same_bits(tmp_path, in_two_processes[0])


@SLOW
@pytest.mark.parametrize("parameters", ["replicated", "sharded", "layers"])
def test_two_processes_of_two_devices_do_what_one_device_does(run_python, tmp_path, on_one_device, parameters):
    finish_pair(start_pair(run_python, tmp_path, "--parameters", parameters, num_devices=2))
    assert_close(tmp_path, on_one_device)


@SLOW
def test_a_run_moves_from_two_processes_to_one_device_and_back(run_python, tmp_path, on_one_device):
    finish_pair(start_pair(run_python, tmp_path, "--num-steps", 20, "--parameters", "sharded"))
    process = run_python(TESTS / "long_run.py", tmp_path, *FIFTY_STEPS, "--num-steps", 36)
    printed, _ = process.communicate(timeout=280)
    assert process.returncode == 0, printed
    finish_pair(start_pair(run_python, tmp_path))
    of_one = {event["step"]: event["loss"] for event in told(on_one_device) if event["event"] == "train"}
    for event in told(tmp_path):
        if event["event"] == "train" and event["step"] in of_one and event["step"] <= 20:
            assert event["loss"] == pytest.approx(of_one[event["step"]], rel=1e-5)
    np.testing.assert_allclose(result_of(tmp_path)["0"], result_of(on_one_device)["0"], rtol=0, atol=1e-5)


@SLOW
def test_a_process_that_dies_takes_the_other_with_it(run_python, tmp_path):
    """It does not wait for ever."""
    processes = start_pair(run_python, tmp_path, "--pause", 0.01)
    for line in processes[0].stdout:
        if line == "step 20\n":
            break
    processes[1].kill()
    processes[0].communicate(timeout=200)
    assert processes[0].returncode != 0 and not (tmp_path / "final.npz").exists()


@SLOW
def test_processes_that_do_not_agree_are_told(run_python, tmp_path):
    processes = start_pair(run_python, tmp_path, seed=("3", "4"))
    for process in processes:
        printed, _ = process.communicate(timeout=280)
        assert process.returncode == 1, printed
        assert "`model` and `key` must be the same in every process, these differ" in printed


@SLOW
def test_a_run_in_two_processes_needs_sharding(run_python, tmp_path):
    processes = start_pair(run_python, tmp_path, devices=("one", "one"))
    for process in processes:
        printed, _ = process.communicate(timeout=280)
        assert process.returncode == 1, printed
        assert "`sharding` is None, so each of the 2 processes would train a model of its own" in printed


# --- misuse on one device ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": []}, "`devices` must hold at least one device, got none. Leave it out to use all"),
        ({"devices": 2}, r"`devices` must be some of `jax.devices\(\)`, got \[2\]. Leave it out to use all"),
        ({"devices": "cpu"}, r"`devices` must be some of `jax.devices\(\)`, got \['c', 'p', 'u'\]"),
        ({"parameters": "divided"}, "`parameters` must be 'replicated', 'sharded' or 'layers', got 'divided'"),
    ],
)
def test_misuse_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data_parallel(**arguments)


def test_one_device_may_be_given_alone():
    assert data_parallel(jax.devices()[0]).mesh.devices.tolist() == [jax.devices()[0]]
