"""What `uj.training.json_lines` wrote of a training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_events(path: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind at `path`, such as "train" or "evaluation", in their order."""
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["event"] == kind]


def total_seconds(events: Sequence[dict[str, Any]]) -> float:
    """How long the training with these "train" events took, over all sittings."""
    seconds = np.array([event["seconds"] for event in events])
    # the clock starts again where training was resumed
    is_last = np.append(seconds[1:] < seconds[:-1], True)
    return float(np.sum(seconds[is_last]))
