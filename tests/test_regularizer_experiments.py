"""The commands around regularizers, end to end at a small size."""

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image as PillowImage

import unroll_jax as uj
from experiments import cli
from experiments.denoising.measuring import psnr
from experiments.reconstruction import settings as reconstruction_settings
from experiments.reconstruction.tuning import search
from experiments.train_regularizer import settings, training
from experiments.train_regularizer.card import card
from experiments.train_regularizer.problem import make_data
from unroll_jax.regularizers import RidgeRegularizer

RESULTS = Path(__file__).parent.parent / "experiments" / "results"

TINY = dataclasses.replace(
    settings.DEFAULTS,
    channels=(2, 4),
    kernel_size=3,
    num_knots=21,
    num_potentials=2,
    mu=10.0,
    patch_size=12,
    margin=1,
    num_patches=64,
    scales=(1.0, 0.8),
    max_steps=8,
    adjoint_steps=4,
    num_unrolled=3,
    num_steps=12,
    batch_size=2,
    warmup_steps=2,
    spline_rate=1e-6,
    variation_weight=1e-3,
    validation_sigmas=(15.0,),
    validation_size=20,
    evaluate_every=6,
    checkpoint_every=4,
    steps_per_row=3,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 4 small gray images with edges and waves."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows, columns = np.mgrid[:36, :40] / 40
    for index in range(4):
        waves = sum(np.sin(rng.uniform(-20, 20) * rows + rng.uniform(-20, 20) * columns) for _ in range(3))
        pixels = 0.5 + 0.3 * np.sign(waves) + 0.05 * waves
        PillowImage.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photographs):
    """The run folder of a training that was stopped once and taken up again."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    arguments = ["train-regularizer", "--data", str(photographs), "--validation", str(photographs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "DEFAULTS", TINY)
        evaluate = training.make_evaluate

        def stopping(*args):
            os.kill(os.getpid(), signal.SIGINT)
            return evaluate(*args)

        patch.setattr(training, "make_evaluate", lambda *args: lambda model: stopping(*args)(model))
        assert cli.main([*arguments, "--out", str(out)]) == 130
        patch.setattr(training, "make_evaluate", evaluate)
        assert (out / "work").exists()
        assert cli.main(["train-regularizer", "--resume", str(out)]) == 0
    return out


def test_training_writes_a_complete_folder_and_goes_on_where_it_was_stopped(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    names = {"config.json", "metrics.json", "report.md", "regularizer.npz", "training.jsonl"}
    assert files == names | {f"figures/{name}.png" for name in ("training", "filters", "activations")}
    events = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(1, 13))
    found = json.loads((trained / "metrics.json").read_text())
    assert found["bounds"]["holds"] is True
    assert found["bounds"]["norm_found"] <= found["bounds"]["norm_bound"] <= 1 + 1e-5
    assert found["history"]["validation_step"] == [6, 12]
    assert "2 pairs of splines, of which every filter has its own mixture" in (trained / "report.md").read_text()
    params = uj.regularizers.load_ridge(trained / "regularizer.npz")
    assert [kernel.shape for kernel in params.kernels] == [(3, 3, 1, 2), (3, 3, 2, 4)]


@pytest.mark.parametrize("mode", ["jacobian-free", "unrolled"])
def test_the_cheaper_modes_train_too(mode, trained, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "DEFAULTS", dataclasses.replace(TINY, num_steps=3, spline_rate=0.0))
    start = trained / "regularizer.npz"
    arguments = ["--data", str(photographs), "--init", str(start), "--mode", mode, "--loss", "l1"]
    arguments += ["--rho", "0", "--margin", "2", "--mu", "200"]
    assert cli.main(["train-regularizer", *arguments, "--out", str(tmp_path / "run")]) == 0
    params, old = (uj.regularizers.load_ridge(path) for path in (tmp_path / "run" / "regularizer.npz", start))
    assert params.rho == 0
    np.testing.assert_allclose(jnp.exp(params.log_mu), 200, rtol=0.1)
    np.testing.assert_allclose(params.scaling - old.scaling, params.log_mu - old.log_mu, atol=0.1)
    np.testing.assert_array_equal(params.convex, old.convex)
    assert params.mixture is not None and params.mixture.shape == (4, 2, 11)
    assert np.any(params.mixture != old.mixture)
    assert np.any(np.asarray(params.kernels[0]) != np.asarray(old.kernels[0]))


def test_what_init_has_mixed_stays_as_it_is(trained, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "DEFAULTS", TINY)
    arguments = ["--data", str(photographs), "--init", str(trained / "regularizer.npz"), "--num-potentials", "3"]
    assert cli.main(["train-regularizer", *arguments, "--out", str(tmp_path / "run")]) == 1
    assert "`--num-potentials` must be 2, as `--init` has, or be left out, got 3" in capsys.readouterr().err


def test_patches_come_from_all_folders_in_all_eight_orientations(tmp_path):
    corner = np.zeros((4, 4), np.uint8)
    corner[0, :2] = 255, 100
    for name, image in (("dark", corner), ("bright", 255 - corner)):
        (tmp_path / name).mkdir()
        PillowImage.fromarray(image).save(tmp_path / name / "0.png")
    chosen = dataclasses.replace(TINY, patch_size=4, num_patches=200, scales=(1.0,), validation_size=4)
    folders = (tmp_path / "dark", tmp_path / "bright")
    data = make_data(chosen, folders, tmp_path / "dark", seed=0)
    assert data.num_images == 2 and data.patches.shape == (200, 4, 4, 1)
    found = {patch.tobytes() for patch in data.patches}
    assert len(found) == 16
    assert np.float32(corner / 255).tobytes() in found
    np.testing.assert_array_equal(data.patches, make_data(chosen, folders, tmp_path / "dark", seed=0).patches)


def test_scales_are_positive(photographs, capsys):
    assert cli.main(["train-regularizer", "--data", str(photographs), "--scales", "1", "-0.5"]) == 1
    assert "`--scales` must be positive, got 1.0 -0.5" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "power"), [("squared", 2), ("l1", 1)])
def test_the_loss_counts_pixels_away_from_the_edge_alike_at_all_noise_levels(name, power):
    start = uj.regularizers.ridge_params(jax.random.key(0), channels=(2,), size=3)
    model = RidgeRegularizer(dataclasses.replace(start, kernels=(0 * start.kernels[0],)))  # which leaves the noise
    clean, key = jnp.zeros((500, 9, 9, 1)), jax.random.key(1)
    chosen = dataclasses.replace(settings.DEFAULTS, loss=name, margin=4)
    sigma_key, noise_key = jax.random.split(key)
    sigmas = jax.random.uniform(sigma_key, (500,), maxval=30 / 255)
    middles = jax.random.normal(noise_key, clean.shape)[:, 4, 4, 0] * 255 * sigmas
    expected = np.mean(np.abs(middles * 20 / (255 * sigmas + 5)) ** power)
    np.testing.assert_allclose(training.make_loss(chosen)(model, clean, key), expected, rtol=1e-5)


def test_validation_counts_pixels_away_from_the_edge():
    start = uj.regularizers.ridge_params(jax.random.key(0), channels=(2,), size=3)
    model = RidgeRegularizer(dataclasses.replace(start, kernels=(0 * start.kernels[0],)))  # which leaves the noise
    clean, chosen = np.zeros((1, 9, 9, 1), np.float32), dataclasses.replace(settings.DEFAULTS, margin=4)
    _, _, found = training.make_evaluate(chosen, clean)(model)
    (key,) = jax.random.split(jax.random.key(0), 1)
    middle = jax.random.normal(key, (9, 9, 1))[4, 4, 0] * 25 / 255
    np.testing.assert_allclose(found["25"], -20 * np.log10(abs(middle)), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_only_muon_moves_the_filters_alike_in_all_directions(optimizer):
    start = uj.regularizers.ridge_params(jax.random.key(0), channels=(4, 8), rho=0.0)
    chosen = dataclasses.replace(settings.DEFAULTS, optimizer=optimizer, warmup_steps=0)
    method = training.make_optimizer(chosen, start)
    rng = np.random.default_rng(0)

    def gradient(leaf):
        in_one_direction = rng.normal(size=(*leaf.shape[:-1], 1)) if leaf.ndim == 4 else 1.0
        return (in_one_direction + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    params = nnx.state(RidgeRegularizer(start), nnx.Param)
    changes: Any = method.update(jax.tree.map(gradient, params), method.init(params), params)[0]
    spreads = []
    for kernel in changes["kernels"].values():
        sizes = np.linalg.svd(kernel[...].reshape(-1, kernel.shape[-1]), compute_uv=False)
        spreads.append(sizes[0] / sizes[-1])
    assert max(spreads) < 2 if optimizer == "muon" else min(spreads) > 4
    assert np.all(changes["scaling"][...] != 0) and changes["log_mu"][...] != 0


def test_denoise_takes_a_picture_and_writes_one(photographs, tmp_path, capsys):
    out, picture = tmp_path / "out", photographs / "0.png"
    arguments = ["--image", str(picture), "--sigma", "15", "--add-noise"]
    assert cli.main(["denoise", *arguments, "--out", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    rows = {row[0]: row[1:] for row in found["tables"][0]["rows"]}
    assert float(rows["denoised"][0]) > float(rows["noisy"][0])
    clean, written = (np.asarray(PillowImage.open(path), float) / 255 for path in (picture, out / "denoised.png"))
    assert psnr(written, clean) == pytest.approx(float(rows["denoised"][0]), abs=0.1)
    assert (out / "figures" / "comparison.png").exists()
    assert "denoised" in capsys.readouterr().out


def test_denoise_takes_the_channels_of_a_colour_picture_one_by_one(trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 14, 3), np.uint8)
    PillowImage.fromarray(pixels).save(tmp_path / "colour.png")
    arguments = ["--image", str(tmp_path / "colour.png"), "--clean", str(tmp_path / "colour.png")]
    with pytest.warns(UserWarning, match="each channel is denoised by itself"):
        assert cli.main(["denoise", *arguments, "--weights", str(trained), "--out", str(tmp_path / "out")]) == 0
    with PillowImage.open(tmp_path / "out" / "denoised.png") as picture:
        assert picture.mode == "RGB"
        assert picture.size == (14, 12)


def test_evaluation_tells_every_image_and_resumes(trained, photographs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["evaluate-denoiser", "--data", str(photographs), "--weights", str(trained), "--limit", "2"]
    from experiments.denoising import evaluate

    with monkeypatch.context() as patch:
        calls = iter([psnr, psnr])

        def failing(*args):
            return next(calls)(*args)

        patch.setattr(evaluate, "psnr", failing)
        with pytest.raises(StopIteration):
            cli.main([*arguments, "--sigma", "5", "15", "--out", str(out)])
    assert cli.main(["evaluate-denoiser", "--resume", str(out)]) == 0
    with (out / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], float(row["sigma"])) for row in rows] == [
        ("0.png", 5.0),
        ("0.png", 15.0),
        ("1.png", 5.0),
        ("1.png", 15.0),
    ]
    table = json.loads((out / "metrics.json").read_text())["tables"][0]
    means = [float(row[2]) for row in table["rows"]]
    expected = [np.mean([float(row["psnr"]) for row in rows if float(row["sigma"]) == sigma]) for sigma in (5, 15)]
    np.testing.assert_allclose(means, expected, atol=6e-4)


def test_reconstruct_tunes_and_compares(photographs, tmp_path, monkeypatch):
    tiny = dataclasses.replace(
        reconstruction_settings.DEFAULTS,
        num_tuning=1,
        tuning_steps=10,
        max_rounds=1,
        max_steps=20,
        tv_steps=20,
        tuning_tv_steps=20,
    )
    monkeypatch.setattr(reconstruction_settings, "DEFAULTS", tiny)
    out = tmp_path / "out"
    arguments = ["--problem", "deblurring", "inpainting", "--data", str(photographs), "--size", "32", "--limit", "1"]
    assert cli.main(["reconstruct", *arguments, "--noise", "0.5", "--out", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["outcomes"]) == ["deblurring", "inpainting"]
    for outcome in found["outcomes"].values():
        assert outcome["largest_rise"] <= 1e-6
        assert outcome["psnr"]["regularizer"] > outcome["psnr"]["plain"]
    assert set(found["test_images"]).isdisjoint(found["tuning_images"])
    assert f"noise of {tiny.blur_sigma / 2:g}/255" in (out / "report.md").read_text()


def test_the_search_finds_a_maximum_inside_and_at_the_bounds():
    score = lambda a, b: -abs(np.log(a / 7)) - abs(np.log(b / 0.02))
    options = {"first_factor": 3.0, "last_factor": 1.02, "max_rounds": 40}
    found = search(score, (1.0, 1.0), ((1e-3, 1e3), (1e-3, 1e3)), **options)
    np.testing.assert_allclose(found.values, (7, 0.02), rtol=0.05)
    found = search(score, (1.0, 1.0), ((1e-3, 5.0), (0.1, 1e3)), **options)
    np.testing.assert_allclose(found.values, (5, 0.1), rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-regularizer", "--margin", "20"], "`--margin` must leave some of the patches"),
        (["train-regularizer", "--rho", "-1"], "`--rho` must be at least 0, got -1"),
        (["train-regularizer", "--mu", "0"], "`--mu` must be positive, got 0"),
        (["train-regularizer", "--num-steps", "0"], "`--num-steps` must be at least 1, got 0"),
        (["denoise"], "`--image` is missing"),
        (["denoise", "--image", "nowhere.png"], "no picture lies at nowhere.png"),
        (["denoise", "--image", "nowhere.png", "--sigma", "0"], "`--sigma` must be positive"),
        (["evaluate-denoiser", "--weights", "drunet"], "`--weights` must be one of "),
        (["evaluate-denoiser", "--limit", "0"], "`--limit` must be at least 1"),
        (["reconstruct", "--problem", "phase"], "`--problem` must be some of deblurring, super-resolution, mri"),
        (["reconstruct", "--noise", "-1"], "`--noise` must be a factor of at least 0, got -1"),
        (["reconstruct", "--size", "33"], "`--size` must be at least 32 and a multiple of 2, got 33"),
    ],
)
def test_misuse_is_told_and_writes_nothing(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "seeds"), [("wcrr", (0, 1, 2, 3, 4, 5, 7)), ("crr", (0, 1, 2))])
def test_shipped_cards_and_weights_are_those_of_the_committed_runs(name, seeds):
    trainings = [f"train-{name}-seed{seed}" for seed in seeds]
    evaluation, *others = (
        json.loads((RESULTS / folder / "metrics.json").read_text(encoding="utf-8"))
        for folder in (f"evaluate-{name}-bsd68", *trainings)
    )
    assert card(name, evaluation, others) == uj.regularizers.model_card(name)
    shipped, trained = (
        uj.regularizers.pretrained(name),
        uj.regularizers.load_ridge(RESULTS / trainings[-1] / "regularizer.npz"),
    )
    jax.tree.map(np.testing.assert_array_equal, shipped, trained)
