"""The inpainting experiment, end to end at a tiny size, and its parts."""

import contextlib
import dataclasses
import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from PIL import Image as PillowImage

import unroll_jax as uj
from experiments import cli
from experiments.inpainting import classical, measuring, networks, prior
from experiments.inpainting import problem as problems
from experiments.inpainting.settings import PRESETS, SMALL

TINY = dataclasses.replace(
    SMALL,
    crop_size=8,
    hole_size=4,
    num_train=80,
    num_held_out=10,
    num_levels=1,
    num_steps=1,
    width=4,
    flow_steps=10,
    tuning_steps=6,
    tuning_batch=8,
    tuning_likelihoods=3,
    flow_batch=8,
    num_layers=3,
    train_steps=12,
    batch_size=4,
    checkpoint_every=5,
    perturbations=(0.5, 1.0),
    variation_steps=50,
    num_samples=3,
    batch_evaluated=5,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of three smooth colour images and a gray one, of at least 4 tiles each."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(4):
        coarse = rng.random((5, 6, 3) if index else (5, 6))
        image = PillowImage.fromarray(np.uint8(255 * coarse)).resize((48, 40), PillowImage.Resampling.BICUBIC)
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def finished_run(photographs, tmp_path_factory):
    """The folder of a run with seed 3, and what it printed."""
    out, printed = tmp_path_factory.mktemp("inpainting") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setitem(PRESETS, "small", TINY)
        assert cli.main(["inpainting", "--data", str(photographs), "--out", str(out), "--seed", "3"]) == 0
    return out, printed.getvalue()


def test_crops_are_split_by_image_or_tile_and_repeatable(photographs):
    found = problems.make_problem(TINY, photographs, seed=1)
    again = problems.make_problem(TINY, photographs, seed=1)
    assert found.train.shape == (80, 8, 8, 3) and found.held_out.shape == (10, 8, 8, 3) and found.num_images == 4
    np.testing.assert_array_equal(found.train, again.train)
    shared = {crop.tobytes() for crop in found.train} & {crop.tobytes() for crop in found.held_out}
    assert not shared


def test_masks_hide_the_middle_or_random_pixels(photographs):
    mask = problems.hole_mask(TINY)
    assert mask.shape == (8, 8, 1) and np.sum(mask == 0) == 16 and np.all(mask[2:6, 2:6] == 0)
    random = problems.random_masks(TINY, np.random.default_rng(0), 100)
    assert 0.45 < np.mean(random) < 0.55
    settings = dataclasses.replace(TINY, batch_size=200, random_share=0.25)
    crops = problems.make_problem(TINY, photographs, seed=0).train
    batches = problems.make_batches(crops, settings, settings.batch_size, seed=0)
    batch = batches(7)
    is_hole = np.all(batch["mask"] == mask, axis=(1, 2, 3))
    assert 0.6 < np.mean(is_hole) < 0.9
    np.testing.assert_array_equal(batch["image"], batches(7)["image"])
    assert batch["image"].dtype == np.float32 and np.max(batch["image"]) <= 1


def test_the_gaussian_has_the_bits_of_its_density():
    rng = np.random.default_rng(0)
    train, held_out = rng.integers(0, 256, (300, 2, 2, 3)), rng.integers(0, 256, (50, 2, 2, 3))
    bits = prior.gaussian_bits(train.astype(np.uint8), held_out.astype(np.uint8), seed=0)
    # independent and uniform: a Gaussian of variance 1 / 12 where the density is 1
    expected = 8 - np.mean(scipy.stats.norm.logpdf(rng.random(100_000), 0.5, 12**-0.5)) / np.log(2)
    np.testing.assert_allclose(bits, expected, atol=0.05)


def test_total_variation_inpainting_continues_an_edge_and_keeps_what_is_known():
    image = np.zeros((1, 10, 10, 3), np.float32)
    image[:, :, 5:] = (0.2, 0.5, 0.9)
    mask = np.ones((1, 10, 10, 1), np.float32)
    mask[:, 3:7, 3:7] = 0
    found = np.asarray(classical.variation_inpainting(jnp.asarray(image), jnp.asarray(mask), 2_000))
    np.testing.assert_array_equal(found[:, :2], image[:, :2])
    np.testing.assert_allclose(found, image, atol=0.02)


def test_quality_sees_the_hidden_pixels_by_themselves():
    rng = np.random.default_rng(0)
    images = rng.random((2, 8, 8, 3)).astype(np.float32)
    masks = np.repeat(problems.hole_mask(TINY)[None], 2, axis=0)
    moved = images + 0.1 * (1 - masks) * np.where(images < 0.5, 1, -1)
    found = measuring.quality(moved, measuring.Task(images, masks))
    np.testing.assert_allclose(found.hole_psnr, 20, atol=1e-3)
    np.testing.assert_allclose(found.psnr, 20 + 10 * np.log10(4), atol=1e-3)
    assert np.all(found.hole_ssim < found.ssim)


def test_the_command_writes_a_complete_run_folder(finished_run):
    out, printed = finished_run
    assert "over TV" in printed and "total variation" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["networks"]) == {"plain", "descent"}
    report = (out / "report.md").read_text()
    names = sorted(path.name for path in (out / "figures").iterdir())
    assert names == ["descent.png", "layers.png", "perturbed.png", "samples.png", "training.png"]
    assert all(f"figures/{name}" in report for name in names)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "figures", "metrics.json", "report.md", "solvers", "training"
    ]  # fmt: skip
    descent = metrics["networks"]["descent"]
    assert set(descent["certificates"]) == {"x", "z"}
    assert set(descent["final_multipliers"]) == {"x", "z", "first z"}
    assert descent["num_skipped"] == 0
    assert len(descent["certificates"]["z"]["mean_violation"]) == TINY.num_layers - 1
    assert len(descent["tasks"]["hole"]["layers"]["hole_psnr"]) == TINY.num_layers + 1
    assert metrics["networks"]["plain"]["final_multipliers"] == {}
    assert len(metrics["perturbed"]["plain"]) == 3
    # restored images have the known pixels, so only hidden ones can be wrong
    restored = descent["tasks"]["hole"]["restored"]
    np.testing.assert_allclose(restored["psnr"] - restored["hole_psnr"], 10 * np.log10(4), atol=1e-3)


def test_a_stranger_can_load_the_trained_network(finished_run, photographs):
    out, _ = finished_run
    crops = problems.make_problem(TINY, photographs, seed=3)
    like = jax.eval_shape(lambda: networks.make_network(prior.make_flow(TINY, crops.train, 3), TINY).params)
    params = uj.export.load_params(out / "solvers" / "descent.npz", like)
    assert params.step_logit.shape == (3,) and params.log_strength.shape == (3, 1)
    assert np.all(np.asarray(params.step_size) < 2)


def without_times(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    for network in metrics["networks"].values():
        del network["training_seconds"]
    return {name: metrics[name] for name in ("settings", "networks", "others", "perturbed", "bits_per_dimension")}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_results(finished_run, photographs, tmp_path, monkeypatch, capsys):
    (whole, _), stopped = finished_run, tmp_path / "stopped"
    monkeypatch.setitem(PRESETS, "small", TINY)
    progress_bar = uj.training.progress_bar

    def interrupting_bar(name):
        draw = progress_bar(name)

        def draw_and_interrupt(event):
            draw(event)
            if name == "descent" and event["step"] == 7:
                os.kill(os.getpid(), signal.SIGINT)

        return draw_and_interrupt

    arguments = ["inpainting", "--data", str(photographs), "--out", str(stopped), "--seed", "3"]
    with monkeypatch.context() as patched:
        patched.setattr(uj.training, "progress_bar", interrupting_bar)
        assert cli.main(arguments) == 130
    assert f"`--resume {stopped}` goes on with it." in capsys.readouterr().err
    assert cli.main(["inpainting", "--resume", str(stopped)]) == 0
    assert without_times(whole) == without_times(stopped)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "`--seed` must be non-negative"),
        (["--train-steps", "0"], "`--train-steps` must be positive"),
        (["--num-held-out", "1"], "`--num-held-out` must be at least 2"),
        (["--data", "/no/such/folder"], "no folder lies at /no/such/folder"),
    ],
)
def test_misuse_is_told_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    assert cli.main(["inpainting", "--out", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_skipped_steps_are_counted_and_leave_gaps(tmp_path):
    made = {"event": "train", "step": 1, "loss": 2.0, "violation": {"x": [0.5]}, "multipliers": {}, "skipped": 0}
    made["seconds"] = 1.0
    skipped = made | {"step": 2, "loss": None, "violation": {"x": [None]}, "skipped": 1, "seconds": 2.0}
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(json.dumps(event) for event in (made, skipped)))
    history = networks.read_history(path)
    np.testing.assert_array_equal(history.loss, [2, np.nan])
    np.testing.assert_array_equal(history.violation["x"], [[0.5], [np.nan]])
    assert history.num_skipped == 1 and history.seconds == 2


@pytest.mark.slow
def test_the_paper_preset_takes_a_training_step_on_a_cpu():
    settings = dataclasses.replace(PRESETS["paper"], batch_size=1, random_share=0.0)
    crops = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    flow = prior.make_flow(settings, crops, seed=0)
    trainer = uj.primal_dual(
        networks.make_terms(settings, networks.DESCENT),
        networks.make_optimizer(settings),
        optax.sgd(settings.dual_rate),
        weight=uj.augmented_weight(settings.penalty),
    )
    batch = problems.make_batches(crops, settings, settings.batch_size, seed=0)(0)
    state = trainer.init(networks.make_network(flow, settings), batch, jax.random.key(0))
    state, report = jax.jit(trainer.step, donate_argnums=0)(state, batch)
    assert report.is_finite
    assert report.violation["z"].shape == (settings.num_layers - 1,)
