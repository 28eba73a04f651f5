import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import report
from experiments.report import environment, markdown_table, write_json

# --- tables ---


def test_tables_align_numbers_to_the_right():
    table = markdown_table(
        ["method", "PSNR", "time", "notes"],
        [
            ["a|b", "27.31 ± 0.05", "3 ms", "12"],
            ["long name", "-1e-3", "-", "x\ny"],
            ["c", "nan", "120 ms", ""],
        ],
    )
    assert table.splitlines() == [
        "| method    |         PSNR |   time | notes |",
        "| :-------- | -----------: | -----: | :---- |",
        r"| a\|b      | 27.31 ± 0.05 |   3 ms | 12    |",
        "| long name |        -1e-3 |      - | x y   |",
        "| c         |          nan | 120 ms |       |",
    ]


def test_tables_without_rows_or_numbers():
    assert markdown_table(["a", "b"], []).splitlines() == ["| a  | b  |", "| :- | :- |"]
    assert markdown_table(["n"], [[12], [3]]).splitlines() == ["|  n |", "| -: |", "| 12 |", "|  3 |"]
    with pytest.raises(ValueError, match=r"`rows` must have 2 cells each.*got \['x'\]"):
        markdown_table(["a", "b"], [["x"]])


# --- JSON ---


class Point(NamedTuple):
    x: jax.Array
    label: str


def test_json_takes_arrays_and_scalars(tmp_path):
    value = {
        "point": Point(jnp.array([0.1, jnp.nan]), "å"),
        "matrix": np.arange(4).reshape(2, 2),
        "scalars": [
            np.float32(0.1),
            np.float64(0.1),
            jnp.bfloat16(0.5),
            np.int64(3),
            np.True_,
            True,
            None,
            2,
        ],
        "odd": (float("inf"), -np.inf, np.float32("nan")),
        "path": Path("a") / "b",
        "empty": [{}, [], np.zeros((0, 3))],
        1: "a key that is no text",
    }
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "point": {"x": [0.1, None], "label": "å"},
        "matrix": [[0, 1], [2, 3]],
        "scalars": [0.1, 0.1, 0.5, 3, True, True, None, 2],
        "odd": [None, None, None],
        "path": str(Path("a") / "b"),
        "empty": [{}, [], []],
        "1": "a key that is no text",
    }


def test_json_gives_back_every_float32_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal(100).astype(np.float32) * 1e-8
    write_json(tmp_path / "a.json", values)
    np.testing.assert_array_equal(np.float32(json.loads((tmp_path / "a.json").read_text())), values)


def test_json_layout_is_stable(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": {"d": [[1], [2]], "c": ["x"]}, "e": {}})
    assert (tmp_path / "a.json").read_text().splitlines() == [
        "{",
        '  "a": {',
        '    "c": [',
        '      "x"',
        "    ],",
        '    "d": [',
        "      [1],",
        "      [2]",
        "    ]",
        "  },",
        '  "b": [1, 2.5],',
        '  "e": {}',
        "}",
    ]


def test_json_that_fails_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    for bad in (object(), jnp.array(1j), np.array(["text"])):
        with pytest.raises(TypeError, match="`value` must hold numbers, arrays, texts"):
            write_json(tmp_path / "a.json", {"bad": bad})
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert len(list(tmp_path.iterdir())) == 1


# --- environment ---


def test_environment_can_be_written(tmp_path):
    found = environment()
    write_json(tmp_path / "a.json", found)
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["platform"] == jax.devices()[0].platform
    assert found["command"] == sys.argv
    assert found["date_utc"].endswith("+00:00")


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.CalledProcessError(128, "git")])
def test_environment_without_git_or_packages(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(subprocess, "check_output", fail)
    assert environment()["git_commit"] is None
    assert report._version("no-such-package") is None
