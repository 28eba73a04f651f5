"""The experiment with Lipschitz denoisers, end to end at a small size, and its parts."""

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
from PIL import Image as PillowImage

import unroll_jax as uj
from experiments import cli
from experiments.data import Image
from experiments.lipschitz_denoiser import blocks, measuring, networks, restoration, settings
from experiments.lipschitz_denoiser.optimizer import scale_by_spline_adam
from experiments.lipschitz_denoiser.problem import make_problem

TINY = dataclasses.replace(
    settings.DEFAULTS,
    num_blocks=1,
    num_filters=4,
    kernel_size=3,
    num_knots=11,
    patch_size=12,
    num_patches=64,
    held_out_size=40,
    num_steps=25,
    batch_size=4,
    steps_per_row=5,
    checkpoint_every=10,
    num_measured=1,
    measured_size=24,
    power_steps=10,
    blur_size=5,
    blur_std=1.0,
    restored_size=32,
    step_sizes=(1.0, 1.9),
    relaxations=(1.0,),
    tuning_size=32,
    tuning_steps=40,
    max_steps=40,
)


PAIR = dataclasses.replace(TINY, num_blocks=2)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(settings, "DEFAULTS", TINY)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 4 images with edges and texture, small ones."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40] / 40
    for index in range(4):
        waves = sum(np.sin(rng.uniform(-20, 20) * rows + rng.uniform(-20, 20) * columns) for _ in range(3))
        pixels = 0.5 + 0.3 * np.sign(waves) + 0.05 * waves
        PillowImage.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, photographs):
    """The folder of a run that Ctrl-C stopped in its second network and that went on, and what it printed."""
    out, printed, told = tmp_path_factory.mktemp("lipschitz-denoiser") / "run", io.StringIO(), io.StringIO()
    progress_bar = uj.training.progress_bar

    def interrupting_bar(name):
        draw = progress_bar(name)

        def draw_and_interrupt(event):
            draw(event)
            if name == "relu" and event["event"] == "train" and event["step"] == 13:
                os.kill(os.getpid(), signal.SIGINT)

        return draw_and_interrupt

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(settings, "DEFAULTS", TINY)
        with pytest.MonkeyPatch.context() as interrupted, contextlib.redirect_stderr(told):
            interrupted.setattr(uj.training, "progress_bar", interrupting_bar)
            options = ["--out", str(out), "--seed", "3", "--data", str(photographs)]
            assert cli.main(["lipschitz-denoiser", *options]) == 130
        assert f"`--resume {out}` goes on with it" in told.getvalue()
        assert cli.main(["lipschitz-denoiser", "--resume", str(out)]) == 0
    return out, printed.getvalue()


def wild(denoiser, key):
    """The denoiser with all its parameters somewhere else."""
    leaves, structure = jax.tree.flatten(denoiser)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [leaf + jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.fixture(scope="module", params=[networks.SPLINE, networks.RELU], ids=lambda variant: variant.name)
def wild_denoiser(request):
    make = jax.jit(lambda: wild(networks.make_denoiser(PAIR, request.param, 0), jax.random.key(1)))
    return make()


def test_cosine_filters_are_a_tight_frame_with_the_constant_one():
    filters = blocks.cosine_filters(3, 8)
    matrix = filters.reshape(9, 8)
    np.testing.assert_allclose(np.sum(matrix, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(9 * matrix @ matrix.T, np.eye(9) - 1 / 9, atol=1e-6)
    with pytest.raises(ValueError, match="`num_filters` must lie between 1 and 8"):
        blocks.cosine_filters(3, 9)


def test_a_block_is_the_step_that_it_says(wild_denoiser):
    block, x = wild_denoiser.layers[0], np.asarray(jax.random.uniform(jax.random.key(2), (6, 7, 1)))
    kernel = np.asarray(jax.jit(lambda block: block.kernel)(block), np.float64)
    matrix = np.zeros((6, 7, 4, 6, 7))  # W, as a loop over pixels
    for i, j, di, dj in np.ndindex(6, 7, 3, 3):
        if 0 <= i + di - 1 < 6 and 0 <= j + dj - 1 < 7:
            matrix[i, j, :, i + di - 1, j + dj - 1] = kernel[di, dj, 0]
    response = np.einsum("ijckl,kl->ijc", matrix, x[..., 0])
    if block.conv.bias is not None:
        response += np.asarray(block.conv.bias[...])
    values = np.asarray(jax.jit(lambda block, z: block.activation(z))(block, jnp.asarray(response, jnp.float32)))
    expected = x[..., 0] - 2 * block.averagedness * np.einsum("ijckl,ijc->kl", matrix, values)
    np.testing.assert_allclose(jax.jit(block.__call__)(x)[..., 0], expected, atol=2e-5)
    assert np.linalg.norm(matrix.reshape(168, 42), 2) <= 1 + 1e-6


def test_a_block_is_averaged_whatever_is_learned(wild_denoiser):
    """Its derivative is symmetric with eigenvalues in [1 - 2 a, 1], and far images come no farther apart."""
    block = wild_denoiser.layers[0]
    assert block.is_averaged and block.lipschitz == 1
    x, y = 0.3 * jax.random.normal(jax.random.key(3), (2, 50, 6, 6, 1))
    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacobian(block)))(x[:8])).reshape(8, 36, 36)
    np.testing.assert_allclose(jacobians, np.swapaxes(jacobians, 1, 2), atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(jacobians)
    assert 1 - 2 * block.averagedness - 1e-5 <= np.min(eigenvalues) < 0.5 and np.max(eigenvalues) <= 1 + 1e-5

    def squares(image):
        return jnp.sum(image**2, axis=(1, 2, 3))

    mapped_x, mapped_y = (jax.jit(jax.vmap(block))(image) for image in (x, y))
    needed = (1 / block.averagedness - 1) * squares((x - mapped_x) - (y - mapped_y))
    assert jnp.all(needed <= squares(x - y) - squares(mapped_x - mapped_y) + 1e-5)


def test_constants_are_those_of_the_structure(wild_denoiser):
    free = jax.jit(lambda: networks.make_denoiser(PAIR, networks.UNCONSTRAINED, 0))()
    assert uj.splines.lipschitz_bound(wild_denoiser) == 1
    assert uj.splines.lipschitz_bound(free) == np.inf and blocks.averagedness_of(free) is None
    # two 0.9-averaged operators, the formula for two of Ogura and Yamada
    expected = (0.9 + 0.9 - 2 * 0.81) / (1 - 0.81)
    assert blocks.averagedness_of(wild_denoiser) == pytest.approx(expected, rel=1e-12)


def test_frozen_denoisers_are_the_same_map(wild_denoiser):
    fixed, x = blocks.frozen(wild_denoiser), jax.random.uniform(jax.random.key(2), (9, 8, 1))
    np.testing.assert_allclose(jax.jit(fixed.__call__)(x), jax.jit(wild_denoiser.__call__)(x), atol=1e-5)
    assert uj.splines.lipschitz_bound(fixed) == 1


def test_local_constant_is_the_norm_of_the_jacobian(wild_denoiser):
    x = jax.random.uniform(jax.random.key(2), (5, 6, 1))
    jacobian = jax.jit(jax.jacobian(wild_denoiser.__call__))(x).reshape(30, 30)
    found = jax.jit(measuring.local_lipschitz, static_argnums=2)(wild_denoiser, x, 300)
    np.testing.assert_allclose(found, np.linalg.norm(jacobian, 2), rtol=1e-3)
    assert found <= 1 + 1e-5


def test_steps_of_plug_and_play_get_no_longer_whatever_is_learned(wild_denoiser):
    image = Image("noise", np.random.default_rng(0).random((16, 16)).astype(np.float32))
    blurred = restoration.make_blurred(image, 16, TINY, index=0)
    fixed = blocks.frozen(wild_denoiser)
    found = restoration.restore(fixed, blurred, restoration.Parameters(1.9, 1.0), tolerance=0.0, max_steps=40)
    assert len(found.changes) == 40 and 0.3 < found.largest_growth <= 1 + 1e-5

    # the two lines, by hand
    kernel = np.asarray(uj.operators.gaussian_kernel(TINY.blur_size, TINY.blur_std))
    transfer = np.fft.fft2(np.roll(np.pad(kernel, ((0, 11), (0, 11))), (-2, -2), (0, 1)))
    y = np.asarray(blurred.problem.measurement)[..., 0]
    x, changes = y, []
    denoise = jax.jit(fixed.__call__)
    for _ in range(5):
        residual = np.fft.fft2(x) * transfer - np.fft.fft2(y)
        step = x - 1.9 * np.real(np.fft.ifft2(np.conj(transfer) * residual)) / np.max(np.abs(transfer)) ** 2
        x_next = np.asarray(denoise(jnp.asarray(step, jnp.float32)[..., None]))[..., 0]
        changes.append(np.linalg.norm(x_next - x))
        x = x_next
    np.testing.assert_allclose(found.changes[:5], changes, rtol=1e-3)


def test_growth_leaves_out_rounding():
    changes = np.array([1.0, 0.5, 0.4, 1e-7, 3e-7])
    np.testing.assert_allclose(restoration._largest_growth(changes, 1.0), 0.8)


def test_spline_adam_finds_the_minimum_in_a_box():
    """Isotonic regression: three knots that want to fall are pooled at their weighted mean."""
    weights, targets = jnp.array([100.0, 1.0, 1.0]), jnp.array([0.0, -1.0, -1.0])
    grid, box = uj.splines.UniformGrid(0.0, 2.0, 3), uj.splines.SlopeBox(0.0, 1.0)
    schedule = optax.exponential_decay(3e-2, 1, 0.98)

    def fitted(scaling):
        keep = uj.splines.keep_feasible(grid, box, project=uj.splines.project_slopes)
        optimizer = optax.chain(scaling, optax.scale_by_learning_rate(schedule), keep)

        def step(carry, _):
            coefficients, state = carry
            updates, state = optimizer.update(weights * (coefficients - targets), state, coefficients)
            return (optax.apply_updates(coefficients, updates), state), None

        start = jnp.array([-0.5, -0.4, 0.1])
        return jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=300)[0][0])()

    np.testing.assert_allclose(fitted(scale_by_spline_adam(square_decay=0.95)), -2 / 102, atol=1e-3)
    # what a second moment for every knot makes of it
    assert np.max(np.abs(fitted(optax.scale_by_adam(b2=0.95)) + 2 / 102)) > 0.05


def test_held_out_images_share_nothing_with_the_patches(photographs):
    problem = make_problem(TINY, photographs, (), seed=0)
    held_out = problem.tests["held out"]
    assert {image.name for image in problem.train_images}.isdisjoint(image.name for image in held_out)
    assert len(problem.train_images) + len(held_out) == 4
    assert problem.patches.shape == (64, 12, 12, 1) and problem.patches.dtype == np.float32


def test_the_command_writes_a_complete_run_folder(finished_run):
    out, printed = finished_run
    assert json.loads((out / "config.json").read_text())["command"]["seed"] == 3
    for name in ("spline", "relu", "unconstrained"):
        lines = [json.loads(line) for line in (out / "training" / f"{name}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["event"] == "train"] == list(range(1, 26))
    assert "PSNR held out" in printed and "Plug-and-play" in printed
    metrics, report = json.loads((out / "metrics.json").read_text()), (out / "report.md").read_text()
    figures = ["activations.png", "images.png", "residuals.png", "training.png"]
    assert sorted(path.name for path in (out / "figures").iterdir()) == figures
    assert all(f"figures/{name}" in report for name in figures)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "figures", "metrics.json", "report.md", "solvers", "training"
    ]  # fmt: skip
    assert [table["title"] for table in metrics["tables"]] == [
        "Denoisers", "Local Lipschitz constants", "Plug-and-play"
    ]  # fmt: skip

    for name in ("spline", "relu"):
        found = metrics["denoisers"][name]
        assert found["lipschitz"] == 1 and found["averagedness"] == 0.9
        assert all(np.max(values) <= 1 + 1e-5 for values in found["local_constants"].values())
        for run in found["plug_and_play"].values():
            assert run["largest_growth"] <= 1 + 1e-4
    spline, noisy = metrics["denoisers"]["spline"]["psnr"]["held out"], metrics["noisy_psnr"]["held out"]
    assert np.mean(spline) > np.mean(noisy)

    # a stranger can load a trained denoiser, and its slopes are in the box
    trained = networks.load_denoiser(out / "solvers" / "spline.npz", TINY, networks.SPLINE)
    for spline in networks.splines_of(trained):
        np.testing.assert_allclose(spline.coefficients[...], spline.feasible_coefficients, atol=1e-8)
        assert jnp.all((spline.slopes() >= 0) & (spline.slopes() <= 1 + 1e-5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "`--seed` must be non-negative"),
        (["--num-steps", "0"], "`--num-steps` must be positive"),
        (["--num-filters", "9"], "`num_filters` must lie between 1 and 8"),
        (["--data", "/no/such/folder"], "nothing lies at /no/such/folder"),
        (["--test-data", "/no/such/folder"], "nothing lies at /no/such/folder"),
    ],
)
def test_misuse_is_told_in_one_line_and_writes_nothing(tiny, photographs, tmp_path, capsys, arguments, message):
    data = [] if "--data" in arguments else ["--data", str(photographs)]
    assert cli.main(["lipschitz-denoiser", "--out", str(tmp_path / "run"), *data, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_too_small_or_of_one_name_are_refused(photographs, tmp_path):
    (tmp_path / photographs.name).mkdir()
    PillowImage.fromarray(np.zeros((20, 90), np.uint8)).save(tmp_path / photographs.name / "flat.png")
    with pytest.raises(ValueError, match="at least 32 x 32, but one has a side of 20"):
        make_problem(TINY, photographs, (tmp_path / photographs.name,), 0)
    with pytest.raises(ValueError, match="need one of at least 32 x 32"):
        make_problem(TINY, tmp_path / photographs.name, (photographs,), 0)
    with pytest.raises(ValueError, match="folders of different names"):
        make_problem(TINY, photographs, (photographs, tmp_path / photographs.name), 0)


def test_several_sets_to_test_on_are_kept_for_a_resume(photographs, tmp_path, tiny, monkeypatch):
    out, other, found = tmp_path / "run", tmp_path / "other", []

    def stop(*arguments):
        found.append(arguments)
        (out / "work" / "something").touch()  # keeps the folder
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.lipschitz_denoiser.command.make_problem", stop)
    monkeypatch.chdir(photographs.parent)
    options = ["--out", str(out), "--data", photographs.name, "--test-data", photographs.name, str(other)]
    assert cli.main(["lipschitz-denoiser", *options]) == 130
    assert cli.main(["lipschitz-denoiser", "--resume", str(out)]) == 130
    _, data, test_data, seed = found[1]
    assert data == photographs.resolve() and test_data == (photographs.resolve(), other) and seed == 0
