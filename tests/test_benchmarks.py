"""The benchmarks' harness on toy functions, and every case at tiny sizes (slow)."""

import json
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import lista_step
from experiments.benchmarks.__main__ import CASES, main, measure
from experiments.benchmarks.harness import (
    Comparison,
    DifferentResultError,
    MissingPeerError,
    Side,
    compare,
    peer,
    relative_difference,
    to_numpy,
)
from experiments.benchmarks.lasso_problems import loosest, make_problems
from experiments.benchmarks.rows import Row, rate_row, ratio_row, seconds_row, table


@pytest.fixture
def clock(monkeypatch):
    """The harness's clock, which stands still but where a test calls its `sleep`."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr("experiments.benchmarks.harness.time", clock)
    return clock


def test_sides_take_turns_and_their_ratio_is_that_of_their_times(clock):
    turns = []

    def run(name, seconds):
        turns.append(name)
        clock.sleep(seconds)
        return np.ones(3)

    own = {"slow": Side(lambda: run("slow", 3.0)), "fast": Side(lambda: run("fast", 1.0), same_as="slow")}
    compared = compare(own, rounds=4, warm_up=2)
    assert turns == ["slow"] * 2 + ["fast"] * 2 + ["slow", "fast"] * 4
    assert compared.seconds == {"slow": pytest.approx([3.0] * 4), "fast": pytest.approx([1.0] * 4)}
    assert compared.ratio("slow", "fast") == pytest.approx((3.0, 3.0, 3.0))
    assert not compared.absent


def test_ratio_is_taken_round_by_round():
    # both sides slow down together in the second round: the ratio does not
    compared = Comparison({"a": [2.0, 20.0, 2.2], "b": [1.0, 10.0, 1.1]}, {})
    assert compared.ratio("a", "b") == pytest.approx((2.0, 2.0, 2.0))
    assert compared.median("a") == 2.2


def test_what_takes_less_than_a_turn_is_called_several_times_and_times_are_per_unit(clock):
    starts = []

    def run():
        starts.append(clock.now)
        clock.sleep(0.003)

    compared = compare({"short": Side(run, num_units=4)}, rounds=3, warm_up=1, turn=0.02)
    assert len(starts) == 1 + 3 * 7  # 7 calls are the first to take 0.02 seconds
    assert compared.seconds["short"] == pytest.approx([0.003 / 4] * 3)


def test_long_rounds_are_fewer_but_at_least_three(clock):
    own = {"long": Side(lambda: clock.sleep(2.0))}
    assert len(compare(own, rounds=50, warm_up=1, budget=21.0).seconds["long"]) == 10
    assert len(compare(own, rounds=50, warm_up=1, budget=1.0).seconds["long"]) == 3
    assert len(compare(own, rounds=2, warm_up=1, budget=1.0).seconds["long"]) == 2


def test_own_side_that_computes_something_else_is_refused():
    own = {"right": Side(lambda: jnp.ones(3)), "wrong": Side(lambda: 1.01 * jnp.ones(3), same_as="right")}
    with pytest.raises(
        DifferentResultError, match=r"wrong computes something else than right: they differ by 1\.0e-02"
    ):
        compare(own, rounds=1)


def test_every_call_of_the_warm_up_is_compared():
    steps = iter(range(100))
    own = {"still": Side(lambda: np.ones(2)), "drifting": Side(lambda: np.ones(2) + next(steps) / 100, same_as="still")}
    with pytest.raises(DifferentResultError, match="drifting"):
        compare(own, rounds=1, warm_up=3)


def test_result_that_is_written_over_by_the_next_call_is_kept():
    place = np.zeros(1)

    def count():
        place[:] += 1
        return place

    numbers = iter([[1.0], [2.0], [3.0], [4.0]])
    own = {"counted": Side(count), "listed": Side(lambda: np.array(next(numbers)), same_as="counted")}
    assert set(compare(own, rounds=1, warm_up=3, turn=0.0).seconds) == {"counted", "listed"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Side(lambda: np.zeros(3), same_as="own"), "refused: other computes something else than own"),
        (lambda: Side(lambda: np.full(3, np.nan), same_as="own"), "refused: other computes something else than own"),
        (lambda: Side(lambda: np.ones(2), same_as="own"), "refused: other computes something else than own"),
        (lambda: Side(peer("no_such_library").run), "not installed: no_such_library cannot be imported"),
        (lambda: Side(lambda: {}["gone"]), "does not run: KeyError: 'gone'"),
    ],
)
def test_peer_that_cannot_stand_is_told(make, reason):
    compared = compare({"own": Side(lambda: np.ones(3))}, {"other": make}, rounds=1)
    assert set(compared.seconds) == {"own"}
    assert compared.absent["other"].startswith(reason)
    row = ratio_row("other / own", compared, "other", "own", ">= 2.0")
    assert row.value is None
    assert row.is_met is None
    assert reason in table("a title", "", [row]).markdown()


def test_missing_peer_names_the_module_and_the_reason():
    with pytest.raises(MissingPeerError, match=r"no_such_library cannot be imported \(ModuleNotFoundError"):
        peer("no_such_library")


def test_compare_refuses_counts_below_one():
    with pytest.raises(ValueError, match="`rounds` and `warm_up` must be at least 1, got 0 and 3"):
        compare({}, rounds=0)


def test_relative_difference_is_that_of_the_worst_array():
    wanted = {"a": np.array([3.0, 4.0]), "b": np.array([100.0])}
    assert relative_difference({"a": np.array([3.0, 4.0]), "b": np.array([101.0])}, wanted) == pytest.approx(0.01)
    assert relative_difference({"a": np.array([0.0, 0.0]), "b": np.array([100.0])}, wanted) == 1.0
    assert relative_difference(np.ones(2), np.ones(3)) == math.inf
    assert relative_difference(np.array([0.5]), np.array([0.0])) == 0.5
    assert math.isnan(relative_difference([np.ones(1), np.array([np.nan])], [np.ones(1), np.ones(1)]))
    assert relative_difference([], []) == math.inf  # nothing was computed


def test_tensors_of_torch_are_read():
    class Tensor:
        def detach(self):
            return self

        def cpu(self):
            return np.arange(3.0)

    np.testing.assert_array_equal(to_numpy(Tensor()), np.arange(3.0))


@pytest.mark.parametrize(
    ("value", "target", "is_met"),
    [(2.0, "<= 2.0", True), (2.1, "<= 2.0", False), (0.95, ">= 0.95", True), (0.9, ">= 0.95", False), (1.0, "", None)],
)
def test_target_is_met_or_not(value, target, is_met):
    assert Row("figure", value, target=target).is_met is is_met


def test_target_of_another_form_is_refused():
    with pytest.raises(ValueError, match="`target` must be '<= NUMBER' or '>= NUMBER', got 'fast'"):
        _ = Row("figure", 1.0, target="fast").is_met


def test_rows_tell_rates_and_milliseconds():
    compared = Comparison({"a": [0.5, 0.25, 1.0]}, {})
    rate = rate_row("product", compared, "a", 10.0, "GFLOP/s")
    assert rate.value == 20.0
    assert rate.spread is not None
    assert rate.spread[0] <= 20.0 <= rate.spread[1]
    assert seconds_row("step", compared, "a").value == 500.0
    assert "20 GFLOP/s" in table("", "", [rate]).markdown()


def test_flop_of_a_step_are_those_of_its_products():
    # 2 layers by hand: 4 products forward, 4 for the matrices' gradients, 1 for the code between the layers
    sizes = lista_step.Sizes(num_pixels=3, num_atoms=5, batch_size=7, num_layers=2)
    square, wide = 2 * 7 * 5 * 5, 2 * 7 * 5 * 3
    assert sizes.flop("none") == sizes.flop("distance") == 2 * 2 * (square + wide) + square
    # and for the gradients at 3 codes: 6 products forward, 4 back to the codes of the 2 layers
    assert sizes.flop("gradient") == sizes.flop("none") + 10 * wide


def test_duality_gap_of_a_batch_is_the_librarys():
    problems = make_problems(2, (4, 6), is_shared=False)
    codes = np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)

    def gap(matrix, measurement, code):
        import unroll_jax as uj

        lasso = uj.objectives.Lasso(uj.operators.Dense(matrix), measurement, problems.l1_weight)
        return lasso.duality_gap(code) / lasso.value(code)

    worst = jnp.max(jax.jit(jax.vmap(gap))(problems.matrices, problems.measurements, codes))
    assert problems.gap(codes) == pytest.approx(float(worst), rel=1e-4)
    shared = make_problems(2, (4, 6), is_shared=True)
    repeated = shared._replace(matrices=np.repeat(shared.matrices, 2, axis=0))
    assert shared.gap(codes) == pytest.approx(repeated.gap(codes))


@pytest.fixture
def toy_case(monkeypatch):
    """A case of two rows, in place of `machine`."""
    rows = [Row("ratio", 2.5, "x", (2.0, 3.0), "<= 2.0", {"a": 0.5, "b": 0.2}), Row("gone", None, note="not installed")]
    monkeypatch.setattr("experiments.benchmarks.machine.measure", lambda quick: rows)
    return rows


def test_command_prints_and_writes_the_tables(toy_case, tmp_path, capsys):
    assert main(["--case", "machine", "--quick", "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (row, missing) = metrics["cases"]["machine"]
    assert (row["value"], row["spread"], row["is_met"], row["seconds"]) == (
        2.5,
        [2.0, 3.0],
        False,
        {"a": 0.5, "b": 0.2},
    )
    assert missing["value"] is None
    assert metrics["environment"]["versions"]["jax"] == jax.__version__
    assert {"torch", "scico"} <= set(metrics["environment"]["versions"])
    assert metrics["environment"]["processor"]
    report = (tmp_path / "run" / "report.md").read_text()
    for text in ("2.5 x", "2 to 3", "<= 2.0", "500 (a) / 200 (b)", "not installed", "A quick run", jax.__version__):
        assert text in report
    assert "2.5 x" in capsys.readouterr().out


def test_command_fails_where_a_side_computes_something_else(tmp_path, monkeypatch, capsys):
    def refuse(quick):
        raise DifferentResultError("a computes something else than b")

    monkeypatch.setattr("experiments.benchmarks.machine.measure", refuse)
    assert main(["--case", "machine", "--quick", "--out", str(tmp_path / "run")]) == 1
    assert "**Not measured:** a computes something else than b" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["failures"] == {
        "machine": "a computes something else than b"
    }


def test_command_goes_on_where_a_case_fails(toy_case, tmp_path, monkeypatch, capsys):
    def fail(quick):
        raise KeyError("gone")

    monkeypatch.setattr("experiments.benchmarks.splines.measure", fail)
    assert main(["--case", "splines", "machine", "--quick", "--out", str(tmp_path / "run")]) == 1
    out = capsys.readouterr().out
    assert "**Not measured:** KeyError: 'gone'" in out
    assert "2.5 x" in out


def test_command_refuses_cases_that_do_not_exist(capsys):
    with pytest.raises(SystemExit):
        main(["--case", "nonsense"])
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_case_runs_at_tiny_sizes(name):
    rows = measure(name, quick=True)
    assert len({row.what for row in rows}) == len(rows)
    assert any(row.value is not None for row in rows)
    for row in rows:
        assert row.value is None or math.isfinite(row.value)
        assert row.value is not None or row.note.startswith(("not installed", "does not run"))


@pytest.mark.parametrize("first", range(12))
def test_the_loosest_setting_is_the_first_that_reaches_the_gap(first):
    tried = []

    def make(choice):
        tried.append(choice)
        return lambda: choice

    judged: Any = SimpleNamespace(gap=lambda choice: 0.0 if choice >= first else 1.0)
    assert loosest(judged, make, range(12))() == first
    assert len(tried) == len(set(tried)) <= 9


def test_no_setting_at_all_is_told():
    judged: Any = SimpleNamespace(gap=lambda choice: 1.0)
    with pytest.raises(ValueError, match="no setting up to 4 reaches"):
        loosest(judged, lambda choice: lambda: choice, range(5))
