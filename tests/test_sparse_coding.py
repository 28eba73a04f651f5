"""The sparse coding experiment, end to end at a small size, and its parts."""

import contextlib
import dataclasses
import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image as PillowImage

import unroll_jax as uj
from experiments import cli, data
from experiments.sparse_coding import evaluation, networks
from experiments.sparse_coding import problem as problems
from experiments.sparse_coding.settings import PRESETS, QUICK

TINY = dataclasses.replace(
    QUICK,
    patch_size=4,
    num_train=256,
    num_held_out=128,
    dictionary_rounds=3,
    num_layers=3,
    num_steps=30,
    batch_size=32,
    steps_per_dispatch=7,
    checkpoint_every=10,
    noise_levels=(0.1, 1.0),
    shift_levels=(0.1, 0.5),
    num_shifted=50,
)


@pytest.fixture(scope="module")
def photographs():
    return data.load_images(None, progress=False)


@pytest.fixture(scope="module")
def problem(photographs):
    return problems.make_problem(TINY, photographs, seed=0)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", TINY)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The folder of a run with seed 3, and what it printed."""
    out, printed = tmp_path_factory.mktemp("sparse-coding") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setitem(PRESETS, "quick", TINY)
        assert cli.main(["sparse-coding", "--out", str(out), "--seed", "3"]) == 0
    return out, printed.getvalue()


@pytest.fixture
def folder_of_photographs(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        PillowImage.fromarray(rng.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_dictionary_has_unit_atoms_and_makes_patches_sparse(problem):
    matrix = problem.task.dictionary.matrix
    assert matrix.shape == (16, 19)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), 1, atol=1e-5)
    assert np.mean(np.asarray(problem.train.y) != 0) < 0.8


def test_labels_reach_the_gap_that_is_reported(problem):
    def relative_gap(x, y):
        lasso = problem.task.lasso(x)
        return lasso.duality_gap(y) / lasso.value(y)

    gaps = jax.vmap(relative_gap)(problem.held_out.x, problem.held_out.y)
    assert 0 <= problem.label_gap <= TINY.label_gap
    assert jnp.max(gaps) <= 1.01 * problem.label_gap


def test_patches_are_normalized_and_not_flat(problem):
    np.testing.assert_allclose(np.mean(problem.train.x, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(problem.train.x, axis=1), 1, atol=1e-5)
    assert np.min(np.std(problem.held_out_pixels, axis=1)) > 4 / 255


def test_without_normalization_patches_share_one_unit_and_objectives_scale(photographs):
    settings = dataclasses.replace(TINY, normalize=False)
    made = problems.make_problem(settings, photographs, seed=0)
    np.testing.assert_allclose(np.mean(np.linalg.norm(made.train.x, axis=1)), 1, rtol=1e-5)
    np.testing.assert_allclose(made.task.l1_weight * made.unit, settings.l1_weight, rtol=1e-6)
    np.testing.assert_allclose(made.held_out.x * made.unit, made.held_out_pixels, atol=1e-6)


def test_images_of_one_patch_are_taken_whole():
    rng = np.random.default_rng(0)
    images = [data.Image(f"{i:03}", rng.random((4, 4), np.float32)) for i in range(60)]
    settings = dataclasses.replace(TINY, normalize=False, num_train=40, num_held_out=20)
    made = problems.make_problem(settings, images, seed=0)
    rows = {tuple(image.pixels.ravel()) for image in images}
    assert {tuple(row) for row in made.held_out_pixels} <= rows
    assert len(made.train.x) == 40 and len(made.held_out.x) == 18  # 30 % of 60


def test_classical_network_starts_as_ista(problem):
    variant = next(v for v in networks.VARIANTS if v.start == "classical")
    network = networks.make_network(problem.task, TINY, variant, seed=0)
    codes = networks.run(network, problem.task, problem.held_out.x[:5])
    ista, params = (
        uj.algorithms.proximal_gradient(),
        uj.algorithms.proximal_gradient_params(problem.task.dictionary, problem.task.l1_weight),
    )
    for x, trajectory in zip(problem.held_out.x[:5], codes, strict=True):
        state = ista.init(problem.task.least_squares(x))
        for code in trajectory[1:]:
            state = ista.step(params, state, problem.task.least_squares(x))
            np.testing.assert_allclose(code, state.x, atol=1e-5)


def test_training_lowers_the_loss_and_is_repeatable(problem, tmp_path):
    variant = networks.VARIANTS[0]
    first, history = networks.train(problem, TINY, variant, 0, tmp_path / "first")
    second, _ = networks.train(problem, TINY, variant, 0, tmp_path / "second")
    # dispatches of 7 steps, and a checkpoint every 10
    assert history.step.tolist() == [7, 10, 14, 20, 21, 28, 30]
    assert history.loss.shape == history.step.shape and history.seconds > 0
    assert np.mean(history.loss[-2:]) < np.mean(history.loss[:2])
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_constrained_variant_reports_both_constraints_and_moves_multipliers(problem, tmp_path):
    variant = next(v for v in networks.VARIANTS if v.constraints == "tail")
    _, history = networks.train(problem, TINY, variant, 0, tmp_path)
    assert set(history.violation) == set(history.multipliers) == {"mean", "tail"}
    assert history.multipliers["mean"].shape == (7, TINY.num_layers)
    assert np.max(history.multipliers["mean"]) > 0


def test_evaluation_agrees_with_a_direct_computation(problem):
    network = networks.make_network(problem.task, TINY, networks.VARIANTS[0], seed=0)
    shifts = evaluation.make_shifts(problem, TINY, seed=1)
    found = evaluation.evaluate(network, problem, TINY, shifts)
    codes = np.asarray(networks.run(network, problem.task, problem.held_out.x))
    labels = np.asarray(problem.held_out.y)
    distance = np.linalg.norm(codes - labels[:, None], axis=-1)
    np.testing.assert_allclose(found.layers.distance, distance, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.nmse, np.sum(distance[:, -1] ** 2) / np.sum(labels**2), rtol=1e-4)
    np.testing.assert_allclose(found.layers.l1_norm, np.sum(np.abs(codes), axis=-1), rtol=1e-4, atol=1e-5)
    assert found.noise_error.shape == (2, len(labels))
    np.testing.assert_allclose(found.shift_error[0], distance[:50, -1], rtol=1e-4, atol=1e-5)
    # the labels minimize: no code lies below them by more than the gap allows
    assert np.min(found.layers.excess) > -1e-4


def test_shifted_patches_have_labels_of_their_own(problem):
    clean, *shifted = evaluation.make_shifts(problem, TINY, seed=1)
    assert [shift.level for shift in shifted] == [0.1, 0.5]
    for shift in shifted:
        assert shift.examples.x.shape == clean.examples.x.shape
        assert jnp.max(jnp.abs(shift.examples.y - clean.examples.y)) > 0.01


def test_the_command_writes_a_complete_run_folder(finished_run, tiny, capsys):
    out, printed = finished_run
    assert "descent-tail" in printed and "NMSE dB" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["networks"]) == {variant.name for variant in networks.VARIANTS}
    assert metrics["settings"]["num_steps"] == TINY.num_steps
    report = (out / "report.md").read_text()
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == [
        "descent.png", "distance.png", "multipliers.png", "noise.png", "objective.png", "shift.png", "sparsity.png"
    ]  # fmt: skip
    assert all(f"figures/{name}" in report for name in figures)
    assert [figure["path"] for figure in metrics["figures"]] and len(metrics["figures"]) == len(figures)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "figures", "metrics.json", "report.md", "solvers", "training"
    ]  # fmt: skip

    # a stranger can load a trained solver
    like = jax.eval_shape(
        lambda: (
            uj.unroll(
                uj.algorithms.lista(), 3, uj.algorithms.lista_params(uj.operators.Dense(jnp.eye(16, 19)), 0.1)
            ).params
        )
    )
    params = uj.export.load_params(out / "solvers" / "descent-tail.npz", like)
    network = uj.Unrolled(uj.algorithms.lista(), 3, params)

    # or take it as one file that needs no more than jax
    solver = uj.export.load(out / "solvers" / "descent-tail.zip")
    matrix = uj.export.load_params(
        out / "solvers" / "dictionary.npz", {"matrix": jax.ShapeDtypeStruct((16, 19), jnp.float32)}
    )["matrix"]
    x = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    codes = jax.vmap(lambda x: network(uj.objectives.LeastSquares(uj.operators.Dense(matrix), x)).x)(x)
    np.testing.assert_allclose(solver(x), codes, atol=1e-6)
    certified = metrics["networks"]["descent-tail"]["certificate"]["mean_violation"]
    np.testing.assert_allclose(solver.metadata["user"]["certificate"]["mean_violation"], certified, rtol=1e-5)

    # and a second run into the same folder leaves it alone
    assert cli.main(["sparse-coding", "--out", str(out)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "`--seed` must be non-negative"),
        (["--num-steps", "0"], "`--num-steps` must be positive"),
        (["--num-train", "3"], "`--num-train` must be at least the batch size"),
        (["--num-held-out", "1"], "`--num-held-out` must be at least 2"),
        (["--learning-rate", "-0.1"], "`--learning-rate` must be positive"),
        (["--data", "/no/such/folder"], "nothing lies at /no/such/folder"),
    ],
)
def test_misuse_is_told_in_one_line_and_writes_nothing(tiny, tmp_path, capsys, arguments, message):
    assert cli.main(["sparse-coding", "--out", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_unknown_preset_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["sparse-coding", "--preset", "huge"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "--preset" in error and "quick" in error and "paper" in error


def test_images_too_small_for_a_patch_are_named(tiny, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        PillowImage.fromarray(np.zeros((3, 3), np.uint8)).save(folder / f"{index}.png")
    assert cli.main(["sparse-coding", "--data", str(folder), "--out", str(tmp_path / "run")]) == 1
    assert "--data" in capsys.readouterr().err


def test_flat_images_are_refused(tiny, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        PillowImage.fromarray(np.full((64, 64), 9, np.uint8)).save(folder / f"{index}.png")
    assert cli.main(["sparse-coding", "--data", str(folder), "--out", str(tmp_path / "run")]) == 1
    assert "flat" in capsys.readouterr().err


def test_training_that_diverges_is_stopped_and_named(problem, tmp_path):
    settings = dataclasses.replace(TINY, learning_rate=1e30, gradient_clip=1e30)
    with pytest.raises(FloatingPointError, match=r"Training 'plain': Step \d+ met a number that is not"):
        networks.train(problem, settings, networks.VARIANTS[0], 0, tmp_path)


def test_a_run_interrupted_before_it_has_anything_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.sparse_coding.command.make_problem", interrupt)
    assert cli.main(["sparse-coding", "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


def without_times(metrics):
    for network in metrics["networks"].values():
        del network["training_seconds"]
    return {name: metrics[name] for name in ("settings", "problem", "networks", "tables")}


def test_an_interrupted_run_goes_on_to_the_same_results(finished_run, tiny, tmp_path, monkeypatch, capsys):
    (whole, _), stopped = finished_run, tmp_path / "stopped"

    # Ctrl-C in the middle of the second network
    progress_bar = uj.training.progress_bar

    def interrupting_bar(name):
        draw = progress_bar(name)

        def draw_and_interrupt(event):
            draw(event)
            if name == "noisy" and event["step"] == 14:
                os.kill(os.getpid(), signal.SIGINT)

        return draw_and_interrupt

    with monkeypatch.context() as patched:
        patched.setattr(uj.training, "progress_bar", interrupting_bar)
        assert cli.main(["sparse-coding", "--out", str(stopped), "--seed", "3"]) == 130
    error = capsys.readouterr().err
    assert f"The run so far lies in {stopped}; `--resume {stopped}` goes on with it." in error
    assert not (stopped / "metrics.json").exists()

    # nothing that was done is done again
    monkeypatch.setattr("experiments.sparse_coding.command.make_problem", None)
    assert cli.main(["sparse-coding", "--resume", str(stopped)]) == 0
    results = [without_times(json.loads((folder / "metrics.json").read_text())) for folder in (whole, stopped)]
    assert results[0] == results[1]
    assert (stopped / "report.md").exists() and not (stopped / "work").exists()

    # a finished run is not resumed
    assert cli.main(["sparse-coding", "--resume", str(stopped)]) == 1
    assert "is a finished run" in capsys.readouterr().err


def test_layers_may_compute_in_lower_precision(problem, tmp_path):
    settings = dataclasses.replace(TINY, precision="bfloat16")
    variant = next(v for v in networks.VARIANTS if v.name == "descent-tail")
    network, history = networks.train(problem, settings, variant, 0, tmp_path / "low")
    full, full_history = networks.train(problem, TINY, variant, 0, tmp_path / "full")
    assert network.compute_dtype == jnp.bfloat16 and full.compute_dtype is None
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(network))
    np.testing.assert_allclose(history.loss, full_history.loss, rtol=0.05)
    assert np.any(history.loss != full_history.loss)


def test_report_is_a_sub_command(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "no")]) == 1
    assert "nothing lies at" in capsys.readouterr().err


def test_few_images_are_split_by_tiles_and_tiny_ones_whole(folder_of_photographs):
    images = data.load_images(folder_of_photographs, progress=False)
    assert len(problems.make_problem(TINY, images, seed=0).train.x) == TINY.num_train
    whole = [data.Image(image.name, image.pixels[:7, :7]) for image in images]
    assert len(problems.make_problem(TINY, whole, seed=0).held_out.x) == TINY.num_held_out
