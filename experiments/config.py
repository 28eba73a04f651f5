"""Options from files: `--config FILE` and `--resume RUN` put into words of the command line."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.files import CONFIG

# what a run's own configuration leaves out
_NOT_KEPT = ("out", "config", "resume")


def expand(arguments: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """`arguments` with the options that `--config` and `--resume` refer to; options of the command line come last.

    Args:
        arguments: of the command line, a command's name first.
        commands: dataclasses by name.

    Raises:
        ValueError: for a file of another form, entries that the command does not have, or options beside `--resume`.
        FileNotFoundError: if there is no such file or run.
    """
    name, *options = arguments or [""]
    fields = {field.name for field in dataclasses.fields(commands[name])} if name in commands else set()
    if "resume" in fields and (run := _value_of("--resume", options)) is not None:
        others = [option for option in options if option.startswith("--") and option.split("=")[0] != "--resume"]
        if others:
            raise ValueError(
                f"`--resume` takes all settings from {Path(run) / CONFIG}, got {' '.join(others)} beside it. "
                "Leave them out, or start a new run with --config and them."
            )
        if not Path(run).is_dir():
            raise FileNotFoundError(f"`--resume` {run} is no folder. Give the folder of a run.")
        return [name, *_read(name, "--resume", Path(run) / CONFIG, fields), *options]
    if "config" in fields and (path := _value_of("--config", options)) is not None:
        return [name, *_read(name, "--config", Path(path), fields), *options]
    return list(arguments)


def kept_options(command: Any) -> dict[str, Any]:
    """The options of a command that decide what it computes, with paths that hold from any folder."""
    options = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    return {name: _kept(value) for name, value in options.items() if name not in _NOT_KEPT}


def _kept(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_kept(each) for each in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def _value_of(option: str, options: Sequence[str]) -> str | None:
    for index, text in enumerate(options):
        if text == option and index + 1 < len(options):
            return options[index + 1]
        if text.startswith(f"{option}="):
            return text.removeprefix(f"{option}=")
    return None


def _read(name: str, option: str, path: Path, fields: set[str]) -> list[str]:
    """The options in a file, as words of the command line."""
    if not path.is_file():
        raise FileNotFoundError(f"`{option}` needs the file {path}, which does not exist.")
    try:
        text = path.read_text(encoding="utf-8")
        entries = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"`{option}` {path} is no valid {path.suffix or 'JSON'} file ({error}).") from error
    if isinstance(entries, dict) and "command" in entries:  # a run's own config.json
        if entries.get("experiment") != name:
            raise ValueError(f"`{option}` {path} is of {entries.get('experiment')!r}, and the command is {name!r}.")
        entries = entries["command"]
    if not isinstance(entries, dict):
        raise ValueError(f"`{option}` {path} must hold options by name, got {type(entries).__name__}.")
    words = []
    for key, value in entries.items():
        field = key.replace("-", "_")
        if field not in fields - set(_NOT_KEPT):
            known = ", ".join(sorted(fields - set(_NOT_KEPT)))
            raise ValueError(f"`{option}` {path} has the entry {key!r}, which {name} does not know. It knows: {known}.")
        words += _words(f"--{field.replace('_', '-')}", value)
    return words


def _words(option: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, *map(str, value)] if isinstance(value, list) else [option, str(value)]
