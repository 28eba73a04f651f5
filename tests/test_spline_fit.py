"""The spline fit experiment, end to end at a small size, and its parts."""

import contextlib
import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from experiments import cli
from experiments.spline_fit import command, convex, fitting, networks, problem
from experiments.spline_fit.activations import GroupSort, Householder, Pointwise
from experiments.spline_fit.settings import Settings
from unroll_jax import splines

SHOWN = (networks.SPLINES, networks.Variant("GroupSort", "groupsort"))

TINY = Settings(
    num_sites=20,
    tv2_weights=(1e-5, 1e-3, 1e-1, 10.0),
    num_steps=20,
    num_layers=2,
    width=4,
    num_knots=9,
    num_train=30,
    num_held_out=31,
    num_seeds=2,
    num_network_steps=20,
)


@pytest.fixture(scope="module")
def task():
    return problem.make_task(TINY, seed=1)


@pytest.fixture(scope="module")
def optimum(task):
    return convex.optimum_of(task)


@pytest.fixture(scope="module")
def trained(task):
    return fitting.proximal_fits(task, tolerance=1e-6, max_iterations=3_000)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(command, "Settings", lambda: TINY)
    monkeypatch.setattr(networks, "VARIANTS", SHOWN)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The folder of a run, and what it printed."""
    out, printed = tmp_path_factory.mktemp("spline-fit") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(command, "Settings", lambda: TINY)
        patched.setattr(networks, "VARIANTS", SHOWN)
        assert cli.main(["spline-fit", "--out", str(out), "--seed", "3"]) == 0
    return out, printed.getvalue()


# --- single splines ---


def test_the_quadratic_program_agrees_with_another_solver(task):
    """Kinks as differences of two non-negative numbers make the program smooth but for bounds."""
    sites, y, weight = task.sites, task.values[0], 1e-3
    free = convex.convex_fit(sites, y, -np.inf, np.inf, weight)
    design = np.maximum(sites[:, None] - sites[None, 1:-1], 0)
    affine = np.stack([np.ones_like(sites), sites], axis=1)
    columns = np.concatenate([affine, -affine, design, -design], axis=1)
    cost = np.concatenate([np.zeros(4), np.full(2 * design.shape[1], weight)])

    def value_and_gradient(z):
        residual = columns @ z - y
        return residual @ residual / 2 / len(y) + cost @ z, columns.T @ residual / len(y) + cost

    found = minimize(
        value_and_gradient,
        np.zeros(columns.shape[1]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * columns.shape[1],
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-12},
    )
    tv2 = np.sum(np.abs(np.diff(np.diff(free) / np.diff(sites))))
    objective = np.mean((free - y) ** 2) / 2 + weight * tv2
    np.testing.assert_allclose(objective, found.fun, rtol=1e-4)
    assert objective <= found.fun * (1 + 1e-8)


def test_no_feasible_spline_beats_the_optimum(task, optimum):
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):
        slopes = task.slopes(optimum.coefficients)
        moved = np.clip(slopes + size * rng.standard_normal(slopes.shape), task.lower, task.upper)
        assert np.all(task.objectives(task.best_coefficients(moved)) >= optimum.objective * (1 - 1e-9))


def test_training_reaches_the_convex_optimum_in_the_box_with_at_most_m_minus_2_knots(task, optimum, trained):
    coefficients, iterations = trained
    np.testing.assert_allclose(task.objectives(coefficients), optimum.objective, rtol=1e-6)
    assert np.max(iterations) < 3_000
    slopes = task.slopes(coefficients)
    assert np.all((slopes >= task.lower - 1e-12) & (slopes <= task.upper + 1e-12))

    pruned = fitting.prune(task, coefficients, 1e-4)
    np.testing.assert_allclose(task.objectives(pruned), optimum.objective, rtol=1.1e-4)
    slopes = task.slopes(pruned)
    assert np.all((slopes >= task.lower - 1e-12) & (slopes <= task.upper + 1e-12))
    num_knots = convex.count_kinks(task, pruned)
    assert np.all(num_knots <= optimum.num_kinks) and np.all(num_knots <= TINY.num_sites - 2)
    # more weight, fewer knots
    by_weight = num_knots.reshape(len(problem.TARGETS), -1)
    assert np.all(by_weight[:, 0] > by_weight[:, -1])


def test_with_a_large_weight_the_fit_is_the_best_line_with_its_slope_clipped(task, trained):
    coefficients, _ = trained
    for fitted, values, weight, (lower,), (upper,) in zip(
        coefficients, task.values, task.weights, task.lower, task.upper, strict=True
    ):
        if weight == max(task.weights):
            slope = np.clip(np.polyfit(task.sites, values, 1)[0], lower, upper)
            line = np.mean(values) + slope * (task.sites - np.mean(task.sites))
            np.testing.assert_allclose(fitted, line, atol=1e-5)


# --- networks ---


def test_activations_are_nonexpansive_and_reflections_and_sorting_keep_norms():
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    house = Householder(6)
    house.angle[...] = jnp.array([0.3, 2.0, -1.0])
    activations = (house, GroupSort(), Pointwise("absolute"), Pointwise("relu"))
    for activation in activations:
        y = np.asarray(activation(jnp.asarray(x)))
        growth = np.linalg.norm(y[1:] - y[:-1], axis=1) / np.linalg.norm(x[1:] - x[:-1], axis=1)
        assert np.max(growth) <= 1 + 1e-5
        if activation in activations[:3]:
            np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(GroupSort()(jnp.asarray(x[:, :2])), np.sort(x[:, :2], axis=1))


def test_householder_starts_as_sorting_and_mirrors_at_its_line():
    x = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    in_order = np.asarray(Householder(4)(jnp.asarray(x)))
    np.testing.assert_allclose(np.sort(in_order.reshape(50, 2, 2)), np.sort(x.reshape(50, 2, 2)), atol=1e-6)
    assert np.all(in_order[:, 0::2] >= in_order[:, 1::2] - 1e-6)
    house = Householder(2)
    house.angle[...] = jnp.array([0.6])
    on_line = 2 * jnp.array([jnp.cos(0.3), jnp.sin(0.3)])
    np.testing.assert_allclose(house(on_line), on_line, atol=1e-6)
    outside = jnp.array([-jnp.sin(0.3), jnp.cos(0.3)])
    np.testing.assert_allclose(house(outside), -outside, atol=1e-6)


def test_every_network_is_known_to_be_1_lipschitz_and_is():
    x = jnp.linspace(-1, 1, 50)[:, None]
    for variant in networks.VARIANTS:
        if not variant.is_wide:
            network = networks.make_network(variant, TINY, jax.random.key(0))
            assert splines.lipschitz_bound(network) == 1
            rises = jnp.abs(jnp.diff(network(x)[:, 0]))
            assert jnp.max(rises) <= 2 / 49 * (1 + 1e-4) and jnp.max(rises) > 1e-3


def test_network_targets_are_1_lipschitz():
    x = np.linspace(-1, 1, 10_001)
    for function in problem.NETWORK_TARGETS.values():
        assert np.max(np.abs(np.diff(function(x)) / np.diff(x))) <= 1 + 1e-9


# --- the command ---


def test_the_command_writes_a_complete_run_folder(finished_run, tiny, capsys):
    out, printed = finished_run
    assert "proximal gradient" in printed and "GroupSort" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"] == json.loads(json.dumps(vars(TINY)))
    assert [table["title"] for table in metrics["tables"]] == [
        "Against the exact optimum", "Networks", "Learned activations", "Single splines"
    ]  # fmt: skip
    assert len(metrics["fits"]) == len(problem.TARGETS) * len(TINY.tv2_weights)
    for fit in metrics["fits"]:
        assert abs(fit["proximal gradient"]["excess"]) < 1e-6
        assert fit["proximal gradient"]["pruned_excess"] < 1e-3
        for method in fitting.METHODS:
            # however far training has come, in the box and not below the optimum
            assert fit[method]["violation"] < 1e-4
            assert fit[method]["excess"] > -1e-6 and fit[method]["pruned_excess"] > -1e-6
            assert fit[method]["num_knots"] <= TINY.num_sites - 2
    for network in metrics["networks"].values():
        assert network["steepest"] <= 1 + 1e-4
        assert set(network["error"]) == set(problem.NETWORK_TARGETS)
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == ["activations.png", "errors.png", "fits.png", "knots.png", "networks.png", "optimum.png"]
    report = (out / "report.md").read_text()
    assert all(f"figures/{name}" in report for name in figures)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "figures", "metrics.json", "report.md"]

    assert cli.main(["spline-fit", "--out", str(out)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "`--seed` must be non-negative"),
        (["--num-sites", "2"], "`--num-sites` must be at least 3"),
        (["--num-steps", "0"], "`--num-steps` must be at least 1"),
        (["--num-networks", "0"], "`--num-networks` must be at least 1"),
    ],
)
def test_misuse_is_told_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    assert cli.main(["spline-fit", "--out", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_options_replace_the_defaults():
    settings = command.SplineFitCommand(num_sites=9, num_steps=7, num_networks=2).settings()
    assert settings == dataclasses.replace(Settings(), num_sites=9, num_steps=7, num_network_steps=7, num_seeds=2)
