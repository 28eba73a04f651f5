"""The model card of a trained regularizer, from what its training and its evaluation wrote.

`python -m experiments.train_regularizer.card NAME EVALUATION TRAINING ...` prints it, from the run folders of
evaluate-denoiser and of train-regularizer, each of which went on with the weights of the one before. Beside the weights
in `unroll_jax/regularizers/weights/` it is what `model_card` gives.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.report import command_line, markdown_table
from experiments.train_regularizer.settings import error_in_words, potentials_in_words

PUBLISHED = {"crr": {"5": 36.960, "15": 30.545, "25": 28.096}, "wcrr": {"5": 37.654, "15": 31.209, "25": 28.677}}

CROPS = "bsd400_gray180"


def main() -> None:
    """Print the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the weights: crr or wcrr")
    parser.add_argument("evaluation", type=Path, help="a run folder of evaluate-denoiser")
    parser.add_argument("trainings", type=Path, nargs="+", help="run folders of train-regularizer, in their order")
    options = parser.parse_args()
    evaluation, *trainings = (
        json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        for folder in (options.evaluation, *options.trainings)
    )
    print(card(options.name, evaluation, trainings), end="")


def card(name: str, evaluation: dict[str, Any], trainings: Sequence[dict[str, Any]]) -> str:
    """The card as Markdown."""
    settings, bounds = trainings[-1]["settings"], trainings[-1]["bounds"]
    published = PUBLISHED.get(name, {})
    kind = "weakly convex" if settings["rho"] else "convex"
    rows = [
        [row[0], row[1], row[2], f"{published[row[0]]:.3f}" if row[0] in published else "-", row[5]]
        for row in evaluation["tables"][0]["rows"]
    ]
    num_images = len({row["image"] for row in evaluation["images"]})
    test = Path(evaluation["command"]["data"]).name
    return f"""# {name}: a {kind} ridge regularizer

For gray images in [0, 1] and noise between 0 and {settings["max_sigma"]:g}/255.
{trainings[-1]["num_params"]:,} parameters: filters {" -> ".join(map(str, (1, *settings["channels"])))}
of {settings["kernel_size"]} x {settings["kernel_size"]}, {potentials_in_words(trainings[-1].get("num_potentials", 1))},
and the filters' scales over the noise level; rho = {settings["rho"]:g}.

## Denoising

{markdown_table(["sigma", "noisy", "PSNR", "published", "SSIM"], rows)}

Means over the {num_images} images of {test}, which were seen neither in training nor in choosing; PSNR in dB with a
peak of 1, without clipping; noise of seed {evaluation["command"]["seed"]}, to a relative change of
{evaluation["command"]["tolerance"]:g}. "published" are the figures of the authors' own training of that kind
(arXiv 2308.10542), 6,000 steps of 128 patches on a GPU.

## Bounds

Certified norm of the filters {bounds["norm_bound"]:.6f};
curvature in [{0 - bounds["rho"]:g}, {bounds["mu"]:.2f}],
found in [{bounds["lowest"]:.3f}, {bounds["highest"]:.3f}] at {bounds["num_pairs"]:,} pairs of an image and a direction,
borders included. So denoising is a convex problem, at any noise level.

## Training

{_trainings(trainings)}

Licence of the weights: as the library's, Apache-2.0. The photographs they were learned from are for research and
teaching.
"""


def _trainings(trainings: Sequence[dict[str, Any]]) -> str:
    """What each training was, the later ones with where they started."""
    return "\n\n".join(_training(training, is_first=index == 0) for index, training in enumerate(trainings))


def _training(training: dict[str, Any], is_first: bool) -> str:
    settings, where = training["settings"], training["environment"]
    command = training["command"]
    paths = [command["data"]] if isinstance(command["data"], str) else command["data"]
    data, validation = [_source(Path(path)) for path in paths], Path(command["validation"]).name
    command = command | {"data": data, "validation": validation} | ({} if is_first else {"init": "THE_WEIGHTS_BEFORE"})
    images = " and ".join(data) + (" (crops of BSDS500's train and test\nimages)" if data == [CROPS] else "")
    scales = ", ".join(map(str, settings["scales"]))
    size, minutes = settings["patch_size"], training["history"]["seconds"] / 60
    return f"""`{command_line("train-regularizer", command, short=True)}`,
commit {(where["git_commit"] or "unknown")[:12]}: {settings["num_steps"]:,} steps of {settings["batch_size"]} patches of
{size} x {size} from {training["num_images"]} images of {images}, at the scales {scales}; the filters with
{settings.get("optimizer", "adam").capitalize()}, by {error_in_words(settings["loss"], settings.get("margin", 0))};
chosen at step {training["best_step"]:,} on
{training["num_validation"]} images of {validation}. {minutes:.0f} minutes on {where["cpu_count"]} CPU cores, shared
with other work; jax {where["versions"]["jax"]}."""


def _source(path: Path) -> str:
    """The name of a folder of images; a part of a set has the set's name before it."""
    return f"{path.parent.name}/{path.name}" if path.name in ("train", "test") else path.name


if __name__ == "__main__":
    main()
