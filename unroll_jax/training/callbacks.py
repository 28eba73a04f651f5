"""What `fit` can tell to: a file of JSON lines, TensorBoard, a progress bar.

A callback takes one plain dictionary an event; a list's `append` is one. The events of `fit`:

- "start": `step` (0, or where it resumed), `num_steps`;
- "train", after each dispatch: `step` (steps made), `loss`, `violation` and `gradient_norm` (means over the dispatch's
  finite steps), `multipliers` (the last), `skipped` (steps skipped so far), `seconds` (since the start);
- "evaluation": `step`, `loss`, `violation`, `worst_violation`, `is_feasible`, `is_best`, `metrics`;
- "checkpoint": `step`;
- "end": `step`, `reason` ("finished" or "patience").
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[[Event], None]

_LINE_START = '{"event": "'


def json_lines(path: str | os.PathLike[str]) -> Callback:
    """A callback that writes each event as one line of JSON to `path`.

    A new run replaces the file of an earlier one. When a run resumes, the lines after the step it resumes from are
    dropped, so that the file reads as if the run had never stopped (but for `seconds`). NaN and infinities, which
    JSON lacks, become null.

    Raises:
        ValueError: from the first event, where `path` holds something else than such lines.
        OSError: where it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> write = json_lines(path)
    >>> write({"event": "start", "step": 0}); write({"event": "train", "step": 20, "loss": float("nan")})
    >>> print(path.read_text(), end="")
    {"event": "start", "step": 0}
    {"event": "train", "step": 20, "loss": null}
    """
    path = Path(path)

    def write(event: Event) -> None:
        if event["event"] == "start" and _drop_lines_after(path, event["step"]):
            return  # the file already tells of the start of this run
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_without_nan(event), allow_nan=False) + "\n")

    return write


def tensorboard(folder: str | os.PathLike[str]) -> Callback:
    """A callback that writes scalars for TensorBoard into `folder`: losses, violations and multipliers by layer.

    Needs tensorboardX: `pip install "unroll_jax[tensorboard]"`. When a run resumes, TensorBoard drops the steps after.

    Raises:
        ModuleNotFoundError: if tensorboardX is missing.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('`tensorboard` needs tensorboardX: pip install "unroll_jax[tensorboard]".') from error
    writers: list[Any] = []

    def write(event: Event) -> None:
        kind, step = event["event"], event["step"]
        if kind == "start":
            # it drops what has this step or a later one, and this step is told already
            purge_step = step + 1 if step else 0
            # or two sessions that start in one second would write the same file
            writers.append(SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=f".{time.time_ns()}"))
        writer = writers[-1]
        if kind in ("train", "evaluation"):
            for name, value in _scalars(event):
                writer.add_scalar(f"{kind}/{name}", value, step)
            writer.flush()
        if kind == "end":
            writer.close()

    return write


def progress_bar(description: str | None = None) -> Callback:
    """A callback that draws a progress bar with the loss and the worst violation; quiet where stderr is no terminal.

    Needs tqdm, which `pip install "unroll_jax[experiments]"` brings.

    Raises:
        ModuleNotFoundError: if tqdm is missing.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("`progress_bar` needs tqdm: pip install tqdm.") from error
    bars: list[Any] = []

    def draw(event: Event) -> None:
        kind, step = event["event"], event["step"]
        if kind == "start":
            bars.append(
                tqdm(
                    total=event["num_steps"],
                    initial=step,
                    desc=description,
                    unit="step",
                    file=sys.stderr,
                    disable=None,
                )
            )
        bar = bars[-1]
        if kind == "train":
            worst = max((max(values) for values in event["violation"].values()), default=None)
            shown = {"loss": f"{event['loss']:.4g}"}
            shown |= {} if worst is None else {"worst violation": f"{worst:+.3g}"}
            shown |= {"skipped": event["skipped"]} if event["skipped"] else {}
            bar.set_postfix(shown, refresh=False)
            bar.update(step - bar.n)
        if kind == "end":
            bar.close()

    return draw


def _drop_lines_after(path: Path, step: int) -> bool:
    """Drop what a stopped run wrote after `step`, 0 for all; whether lines are left."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return False
    kept = []
    # bytes that are no text of ours stay in the line, which the error tells
    *lines, half = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n")
    if half and not half.startswith(_LINE_START) and not _LINE_START.startswith(half):
        lines.append(half)  # a run that was killed leaves half a line, but this is none of ours
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            is_before = event["step"] <= step and step > 0 and event["event"] != "end"
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"`path` {path} holds something else than the events of a run (line {number}: {line[:60]!r}). "
                "Choose another file."
            ) from error
        if is_before:
            kept.append(line + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
    return bool(kept)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(event: Event) -> list[tuple[str, float]]:
    """The numbers of an event by name, those of the layers numbered from 1."""
    found = []
    for name, value in event.items():
        if name in ("event", "step"):
            continue
        if isinstance(value, dict):
            found += [(f"{name}/{inner}", number) for inner, number in _scalars(value)]
        elif isinstance(value, list):
            found += [(f"{name}/{index:03}", number) for index, number in enumerate(value, 1)]
        elif isinstance(value, bool | int | float) and value != -math.inf:  # the worst violation of no constraint
            found.append((name, value))
    return found
