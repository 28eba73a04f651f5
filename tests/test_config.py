"""Options from files: what `--config` and `--resume` stand for on the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
import tyro

from experiments.config import expand, kept_options


@dataclasses.dataclass
class Command:
    preset: Literal["quick", "paper"] = "quick"
    num_steps: int | None = None
    rates: tuple[float, ...] = (1.0,)
    is_fast: bool = False
    data: Path | None = None
    out: Path | None = None
    config: Path | None = None
    resume: Path | None = None


COMMANDS = {"train": Command, "other": Command}


def parse(*arguments):
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, args=expand([str(a) for a in arguments], COMMANDS))


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    return write


def test_toml_and_json_say_the_same(write):
    toml = write("a.toml", 'preset = "paper"\nnum-steps = 7\nrates = [0.5, 2]\nis_fast = true\ndata = "photos"\n')
    same = {"preset": "paper", "num_steps": 7, "rates": [0.5, 2], "is-fast": True, "data": "photos", "out": None}
    del same["out"]
    for path in (toml, write("a.json", same)):
        found = parse("train", "--config", path)
        assert dataclasses.replace(found, config=None) == Command("paper", 7, (0.5, 2.0), True, Path("photos"))


def test_options_beside_the_file_come_first(write):
    path = write("a.toml", "num-steps = 7\nis_fast = true\nrates = [1, 2]")
    found = parse("train", "--num-steps", 9, f"--config={path}", "--no-is-fast", "--rates", "3")
    assert (found.num_steps, found.is_fast, found.rates) == (9, False, (3.0,))


def test_a_run_goes_on_with_its_own_options(tmp_path, write):
    command = Command("paper", 7, (0.1, 0.2), True, tmp_path / "photos", tmp_path / "out")
    write("run/config.json", {"experiment": "train", "command": kept_options(command), "settings": {"x": 1}})
    resumed = parse("train", "--resume", tmp_path / "run")
    assert resumed == dataclasses.replace(command, out=None, resume=tmp_path / "run")
    # and another run may start from them
    again = parse("train", "--config", tmp_path / "run" / "config.json", "--num-steps", 8)
    assert (again.num_steps, again.rates, again.out) == (8, (0.1, 0.2), None)


def test_kept_paths_hold_from_any_folder():
    assert kept_options(Command(data=Path("photos")))["data"] == str(Path("photos").resolve())


def test_without_files_nothing_changes():
    arguments = ["train", "--num-steps", "3"]
    assert expand(arguments, COMMANDS) == arguments
    assert expand([], COMMANDS) == [] and expand(["no-such"], COMMANDS) == ["no-such"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "num_step = 3", r"`--config` .* has the entry 'num_step', which train does not know\. It knows"),
        ("a.toml", 'out = "x"', "has the entry 'out', which train does not know"),
        ("a.toml", "num_steps 3", r"is no valid \.toml file"),
        ("a.json", "{", r"is no valid \.json file"),
        ("a.json", [1], "must hold options by name, got list"),
        ("a.json", {"experiment": "other", "command": {}}, "is of 'other', and the command is 'train'"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_told(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        parse("train", "--config", write(name, text))


def test_a_value_of_another_type_is_told_by_the_command_line(write, capsys):
    with pytest.raises(SystemExit):
        parse("train", "--config", write("a.toml", 'num-steps = "many"'))
    assert "num-steps" in capsys.readouterr().err


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`--config` needs the file .*no\.toml, which does not exist"):
        parse("train", "--config", tmp_path / "no.toml")
    with pytest.raises(FileNotFoundError, match=r"`--resume` .*no is no folder"):
        parse("train", "--resume", tmp_path / "no")
    with pytest.raises(FileNotFoundError, match=r"`--resume` needs the file .*config\.json"):
        parse("train", "--resume", tmp_path)


def test_options_beside_resume_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`--resume` takes all settings from .*config\.json, got --num-steps beside"):
        parse("train", "--resume", tmp_path, "--num-steps", "3")
