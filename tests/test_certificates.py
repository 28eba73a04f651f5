import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unroll_jax import _confidence, constraints
from unroll_jax._confidence import clopper_pearson_lower
from unroll_jax.certificates import certify, geometric_envelope

REPETITIONS = 1000  # of every simulated experiment; they run as columns, side by side
NOMINAL, COVERED = 0.95, 0.94

HAND = np.array([[4.0, 2.0, 1.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [8.0, 2.0, 1.0]])

# draws in [0, 1] by shape, and their mean
BOUNDED = {
    "uniform": (lambda rng, shape: rng.uniform(size=shape), 0.5),
    "u-shaped": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5),
    "skewed right": (lambda rng, shape: rng.beta(1, 9, shape), 0.1),
    "skewed left": (lambda rng, shape: rng.beta(9, 1, shape), 0.9),
    "rarely one": (lambda rng, shape: 1.0 * (rng.random(shape) < 0.03), 0.03),
    "rarely zero": (lambda rng, shape: 1.0 * (rng.random(shape) < 0.97), 0.97),
    "narrow": (lambda rng, shape: rng.uniform(0.47, 0.49, shape), 0.48),
}


def maurer_pontil_upper(unit, confidence):
    """The empirical Bernstein bound (Maurer and Pontil 2009, theorem 4)."""
    num_samples, log = len(unit), np.log(2 / (1 - confidence))
    deviation = np.sqrt(2 * np.var(unit, axis=0, ddof=1) * log / num_samples)
    return np.mean(unit, axis=0) + deviation + 7 * log / (3 * (num_samples - 1))


def loop_betting_upper(samples, confidence):
    """The bound by betting of one column, written as the paper says it: one sample after the other."""

    def capital(candidate):
        wealth, total, squares, variance = 1.0, 0.5, 0.25, 0.25
        for index, x in enumerate(samples):
            bet = np.sqrt(2 * np.log(1 / (1 - confidence)) / (len(samples) * variance))
            wealth *= 1 + min(bet, 0.75 / (1 - candidate)) * (candidate - x)
            total += x
            squares += (x - total / (index + 2)) ** 2
            variance = squares / (index + 2)
        return wealth

    grid = np.linspace(0, 1, 20_001)[:-1]
    passed = [candidate for candidate in grid if capital(candidate) >= 1 / (1 - confidence)]
    return passed[0] if passed else 1.0


# --- the exact values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_certificate_worked_by_hand(convert):
    certificate = certify(convert(HAND), rate=0.5)
    expect = SimpleNamespace(
        mean_value=[3.5, 1.5, 0.5],
        saturated_frequency=[0, 0, 0],
        mean_violation=[-0.25, -0.25],  # of (0, 1, 0, -2) and (0, -1, 0, 0)
        violation_bound=-0.25 + 2.3533634 * np.sqrt([4.75 / 3 / 4, 0.75 / 3 / 4]),  # t quantile, 3 degrees of freedom
        descent_frequency=[0.75, 1],  # the third sample rests at zero
        descent_bound=[0.2486046, 0.05**0.25],  # 4 p^3 (1 - p) + p^4 = 0.05, p^4 = 0.05
        satisfied_frequency=[0.75, 1],
        satisfied_bound=[0.2486046, 0.05**0.25],
        monotone_frequency=0.75,
        monotone_bound=0.2486046,
    )
    for name, value in vars(expect).items():
        np.testing.assert_allclose(getattr(certificate, name), value, atol=1e-7, err_msg=name)
    slack = certificate.violation_bound[0]
    np.testing.assert_allclose(certificate.value_envelope, [3.5, 1.75 + slack, 0.875 + 1.5 * slack])
    np.testing.assert_allclose(certificate.value_limit, 2 * slack)
    assert not certificate.holds.any()
    assert (certificate.rate, certificate.confidence, certificate.num_samples) == (0.5, 0.95, 4)
    assert certificate.value_bound is None
    assert not certificate.is_rigorous


def test_fields_have_the_documented_shapes_and_types():
    certificate = certify(HAND.astype(np.float32), rate=0.1, value_bound=8.0)
    shapes = dict.fromkeys(("mean_value", "saturated_frequency", "value_envelope"), (3,)) | dict.fromkeys(
        (
            "mean_violation",
            "violation_bound",
            "holds",
            "descent_frequency",
            "descent_bound",
            "satisfied_frequency",
            "satisfied_bound",
        ),
        (2,),
    )
    for name, shape in shapes.items():
        value = getattr(certificate, name)
        assert value.shape == shape, name
        assert value.dtype == (bool if name == "holds" else np.float64), name
    for name in ("monotone_frequency", "monotone_bound", "value_limit"):
        assert isinstance(getattr(certificate, name), float), name
    assert certificate.is_rigorous
    assert certificate.value_bound == 8.0


def test_low_precision_values_are_taken_as_they_are():
    values = jnp.asarray(HAND, jnp.bfloat16)  # powers of two: exact
    np.testing.assert_array_equal(certify(values, rate=0.5).mean_value, [3.5, 1.5, 0.5])


def test_mean_violation_is_the_constraint_that_training_imposes():
    values = np.random.default_rng(0).uniform(size=(20, 5))
    constraint = constraints.descent(lambda estimate, example: estimate, rate=0.2)
    violation = [constraint(jnp.asarray(row), None) for row in values]
    certificate = certify(values, rate=0.2)
    np.testing.assert_allclose(certificate.mean_violation, np.mean(violation, axis=0), atol=1e-6)
    np.testing.assert_allclose(certificate.satisfied_frequency, np.mean(np.asarray(violation) <= 0, axis=0))


def test_satisfied_asks_for_the_rate_and_descent_for_any_decrease():
    certificate = certify(np.array([[1.0, 0.9], [1.0, 0.5]]), rate=0.3)
    assert certificate.descent_frequency == 1
    assert certificate.satisfied_frequency == 0.5


def test_standing_still_is_no_descent_except_at_zero():
    certificate = certify(np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]), rate=0.0)
    np.testing.assert_array_equal(certificate.descent_frequency, [0, 1, 0.5])
    assert certificate.monotone_frequency == 0


def test_saturation_makes_the_certificate_speak_of_the_saturated_measure():
    values = np.array([[9.0, 2.0], [1.0, 7.0], [1.0, 0.5], [1.0, 0.5]])
    certificate = certify(values, rate=0.5, value_bound=4.0)
    np.testing.assert_allclose(certificate.mean_value, [7 / 4, 7 / 4])
    np.testing.assert_allclose(certificate.mean_violation, (0 + 3.5 + 0 + 0) / 4)
    np.testing.assert_array_equal(certificate.saturated_frequency, [0.25, 0.25])
    np.testing.assert_array_equal(certificate.value_envelope[0], 7 / 4)
    np.testing.assert_array_equal(certificate.descent_frequency, [0.75])  # of the values as they came


def test_a_layer_that_works_only_above_the_value_bound_is_not_certified():
    certificate = certify(np.tile([100.0, 10.0], (10_000, 1)), rate=0.05, value_bound=5.0)
    np.testing.assert_allclose(certificate.mean_violation, 0.05 * 5)
    assert not certificate.holds.any()
    assert certificate.descent_frequency == 1


def test_the_order_of_the_samples_matters_to_the_betting_bound_only_a_little():
    values = np.random.default_rng(0).uniform(size=(500, 2)) * [1.0, 0.8]
    by_gain = values[np.argsort(values[:, 1] - 0.9 * values[:, 0])]
    bounds = [certify(v, rate=0.1, value_bound=1.0).violation_bound[0] for v in (values, by_gain, by_gain[::-1])]
    margin = bounds[0] - np.mean(values[:, 1] - 0.9 * values[:, 0])
    np.testing.assert_allclose(bounds, bounds[0], atol=0.1 * margin)


# --- Clopper-Pearson ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("num_trials", [1, 2, 30, 1000])
def test_clopper_pearson_equals_scipy(num_trials, confidence):
    successes = np.unique(np.linspace(0, num_trials, 7).astype(int))
    bound = clopper_pearson_lower(successes, num_trials, confidence)
    for k, lower in zip(successes, bound, strict=True):
        test = stats.binomtest(int(k), num_trials, alternative="greater")
        np.testing.assert_allclose(lower, test.proportion_ci(confidence, method="exact").low, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(
        bound[1:], stats.beta.ppf(1 - confidence, successes[1:], num_trials - successes[1:] + 1), rtol=1e-9
    )
    # the defining equation
    np.testing.assert_allclose(stats.binom.sf(successes[1:] - 1, num_trials, bound[1:]), 1 - confidence, rtol=1e-6)


def test_clopper_pearson_at_its_ends():
    assert clopper_pearson_lower(0, 10, 0.95) == 0
    np.testing.assert_allclose(clopper_pearson_lower(10, 10, 0.95), 0.05 ** (1 / 10), rtol=1e-12)
    np.testing.assert_allclose(clopper_pearson_lower(59, 59, 0.95), 0.95049, atol=1e-5)
    assert clopper_pearson_lower(58, 58, 0.95) < 0.95
    assert clopper_pearson_lower(np.zeros((2, 3)), 4, 0.9).shape == (2, 3)


@pytest.mark.parametrize("probability", [0.02, 0.3, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("num_trials", [20, 100, 1000])
def test_clopper_pearson_covers(probability, num_trials):
    successes = np.random.default_rng(0).binomial(num_trials, probability, REPETITIONS)
    assert np.mean(clopper_pearson_lower(successes, num_trials, NOMINAL) <= probability) >= COVERED


# --- the bound by betting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.03, 0.2, 0.5, 0.9, 0.99])
def test_capital_at_the_true_mean_is_a_martingale(probability):
    # every outcome of ten coins, with its probability: no sampling error
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=10))).T
    weight = np.prod(np.where(outcomes == 1, probability, 1 - probability), axis=0)
    bets = _confidence.plug_in_bets(outcomes, NOMINAL)
    capital = np.exp(_confidence.log_capital(outcomes, bets, np.full(1024, probability)))
    np.testing.assert_allclose(weight @ capital, 1, rtol=1e-9)
    assert np.all(capital > 0)
    bound = _confidence.betting_upper(outcomes, NOMINAL)
    assert weight @ (bound >= probability) >= NOMINAL


def test_capital_grows_with_the_candidate():
    unit = np.random.default_rng(0).beta(0.5, 0.5, (12, 50))
    bets = _confidence.plug_in_bets(unit, NOMINAL)
    grid = np.linspace(0, 1, 200, endpoint=False)
    capital = np.stack([_confidence.log_capital(unit, bets, np.full(50, m)) for m in grid])
    assert np.all(np.diff(capital, axis=0) >= 0)


@pytest.mark.parametrize("name", ["u-shaped", "skewed right", "skewed left", "narrow"])
def test_betting_bound_equals_the_loop(name):
    samples = BOUNDED[name][0](np.random.default_rng(1), 15)
    bound = _confidence.betting_upper(samples[:, None], 0.9)[0]
    assert 0 <= loop_betting_upper(samples, 0.9) - bound <= 1 / 20_000 + 1e-12


@pytest.mark.parametrize("num_samples", [10, 50, 200])
@pytest.mark.parametrize("name", BOUNDED)
def test_betting_bound_covers(name, num_samples):
    draw, mean = BOUNDED[name]
    unit = draw(np.random.default_rng(0), (num_samples, REPETITIONS))
    assert np.mean(_confidence.betting_upper(unit, NOMINAL) >= mean) >= COVERED


@pytest.mark.parametrize("num_samples", [20, 200, 2000])
@pytest.mark.parametrize("name", BOUNDED)
def test_betting_bound_is_tighter_than_empirical_bernstein(name, num_samples):
    unit = BOUNDED[name][0](np.random.default_rng(0), (num_samples, 100))
    for confidence in (0.9, 0.95, 0.995):
        betting = _confidence.betting_upper(unit, confidence)
        bernstein = np.minimum(maurer_pontil_upper(unit, confidence), 1)
        assert np.all(betting <= bernstein)


def test_betting_bound_of_constant_columns_closes_in():
    for num_samples in (10, 1000):
        unit = np.tile([0.0, 0.3, 0.5, 1.0], (num_samples, 1))
        excess = _confidence.betting_upper(unit, NOMINAL) - unit[0]
        assert np.all(excess >= 0)
        assert np.all(excess <= 8 / num_samples)
        assert excess[-1] == 0


def test_bounds_through_certify_cover():
    # many layers stand for repetitions: min(value, 2) of an exponential draw has mean 1 - exp(-2)
    rate, bound = 0.2, 2.0
    values = np.random.default_rng(0).exponential(size=(100, REPETITIONS + 1))
    certificate = certify(values, rate=rate, value_bound=bound)
    assert np.mean(certificate.violation_bound >= rate * (1 - np.exp(-bound))) >= COVERED
    assert np.mean(certificate.descent_bound <= 0.5) >= COVERED
    assert np.mean(certificate.satisfied_bound <= (1 - rate) / (2 - rate)) >= COVERED
    np.testing.assert_allclose(certificate.saturated_frequency.mean(), np.exp(-bound), atol=5e-3)


def test_more_samples_and_less_confidence_tighten_the_bound():
    values = np.random.default_rng(0).uniform(size=(2000, 2)) * [1.0, 0.8]
    for value_bound in (None, 1.0):
        few = certify(values[:200], rate=0.1, value_bound=value_bound)
        many = certify(values, rate=0.1, value_bound=value_bound)
        sure = certify(values, rate=0.1, value_bound=value_bound, confidence=0.999)
        excess = [c.violation_bound - c.mean_violation for c in (many, sure, few)]
        assert 0 < excess[0] < excess[1] < excess[2]
        gaps = [c.descent_frequency - c.descent_bound for c in (many, sure, few)]
        assert 0 < gaps[0] < gaps[1] < gaps[2]


def test_certify_is_free_of_the_unit():
    values = np.random.default_rng(0).uniform(size=(100, 4))
    small, large = (certify(c * values, rate=0.1, value_bound=c) for c in (1.0, 1e6))
    np.testing.assert_allclose(large.violation_bound, 1e6 * small.violation_bound, rtol=1e-9)
    np.testing.assert_array_equal(large.holds, small.holds)


# --- Student's bound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [30, 200])
def test_student_bound_covers_mild_distributions(num_samples):
    rng, shape = np.random.default_rng(0), (num_samples, 4 * REPETITIONS)
    half_normal = lambda: np.abs(rng.standard_normal(shape))
    violation = half_normal() - 0.8 * half_normal()
    bound = _confidence.student_upper(violation, NOMINAL)
    assert np.mean(bound >= 0.2 * np.sqrt(2 / np.pi)) >= COVERED
    normal = _confidence.student_upper(rng.standard_normal(shape), NOMINAL)
    assert abs(np.mean(normal >= 0) - NOMINAL) < 0.01


def test_student_bound_equals_scipy():
    samples = np.random.default_rng(0).standard_normal((12, 3))
    test = stats.ttest_1samp(samples, 0, axis=0, alternative="less")
    expected = test.confidence_interval(0.9).high
    np.testing.assert_allclose(_confidence.student_upper(samples, 0.9), expected, rtol=1e-9)


def test_student_bound_can_be_fooled_where_betting_is_not():
    # one sample in a hundred diverges to 50: the mean ascends, and thirty samples often do not show it
    rng, rate = np.random.default_rng(0), 0.1
    current = np.where(rng.random((30, REPETITIONS)) < 0.01, 50.0, 0.5 + 0.01 * rng.random((30, REPETITIONS)))
    truth = 0.01 * 50 + 0.99 * 0.505 - (1 - rate)
    assert truth > 0
    student = _confidence.student_upper(current - (1 - rate), NOMINAL)
    assert np.mean(student >= truth) < 0.5
    betting = 50 * _confidence.betting_upper(current / 50, NOMINAL) - (1 - rate)
    assert np.mean(betting >= truth) >= COVERED


def test_constant_violations_have_a_student_bound_at_their_mean():
    certificate = certify(np.tile([1.0, 0.5, 0.5], (8, 1)), rate=0.25)
    np.testing.assert_array_equal(certificate.violation_bound, [-0.25, 0.125])
    np.testing.assert_array_equal(certificate.holds, [True, False])


def test_samples_at_the_solution_hold():
    certificate = certify(np.zeros((5, 3)), rate=0.1)
    assert certificate.holds.all()
    assert certificate.monotone_frequency == 1
    np.testing.assert_array_equal(certificate.value_envelope, 0)


# --- the envelope -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "slack", "delta"), [(0.05, 0, 0), (0.1, 0.02, 0), (0.1, 0.02, 0.1), (0, 0.3, 0)])
def test_envelope_is_the_affine_recursion(rate, slack, delta):
    largest = 5.0
    expected = [2.0]
    for _ in range(12):
        expected.append((1 - delta) * ((1 - rate) * expected[-1] + slack) + delta * largest)
    envelope = geometric_envelope(
        2.0, rate=rate, slack=slack, num_layers=12, failure_probability=delta, largest=largest
    )
    np.testing.assert_allclose(envelope, expected, rtol=1e-12)
    if rate > 0 and delta == 0:
        np.testing.assert_allclose(
            envelope, (1 - rate) ** np.arange(13) * 2 + slack * (1 - (1 - rate) ** np.arange(13)) / rate
        )


def test_envelope_without_slack_is_geometric():
    np.testing.assert_allclose(geometric_envelope(3.0, rate=0.05, num_layers=10), 3 * 0.95 ** np.arange(11))
    np.testing.assert_array_equal(geometric_envelope(3.0, rate=0.05, num_layers=0), [3.0])


def test_envelope_bounds_a_process_that_meets_its_assumptions():
    # attained with equality (`tight`), and above a process that does better than it must
    rng, num_paths, num_layers = np.random.default_rng(0), 200_000, 15
    rate, slack, delta, largest = 0.1, 0.01, 0.02, 1.0
    for tight in (True, False):
        value = rng.uniform(0.2, 1.0, num_paths)
        means = [value.mean()]
        for _ in range(num_layers):
            share = (1 - rate) if tight else rng.uniform(0.3, 1) * (1 - rate)
            good = share * value + slack * rng.choice([0.0, 2.0], num_paths)
            bad = largest if tight else rng.uniform(0, largest, num_paths)
            value = np.where(rng.random(num_paths) < delta, bad, good)
            means.append(value.mean())
        envelope = geometric_envelope(
            means[0],
            rate=rate,
            slack=slack,
            num_layers=num_layers,
            failure_probability=delta,
            largest=largest,
        )
        error = 5 * largest / np.sqrt(num_paths)
        assert np.all(np.asarray(means) <= envelope + error)
        if tight:
            np.testing.assert_allclose(means, envelope, atol=error)
        else:
            assert np.all(np.asarray(means[3:]) < 0.9 * envelope[3:])


def test_certified_envelope_bounds_the_expected_measure():
    # d[l + 1] = 0.7 d[l] u + noise with E u = 1; certified at rate 0.2, where the noise ends the descent
    rng, num_samples, num_layers, noise = np.random.default_rng(0), 1000, 12, 0.05
    value = rng.uniform(0.5, 1.5, num_samples)
    columns, expected = [value], [1.0]
    for _ in range(num_layers):
        value = 0.7 * value * rng.uniform(0.5, 1.5, num_samples) + noise * rng.uniform(0, 2, num_samples)
        columns.append(value)
        expected.append(0.7 * expected[-1] + noise)
    certificate = certify(np.stack(columns, 1), rate=0.2, value_bound=4.0, confidence=1 - 0.05 / num_layers)
    np.testing.assert_array_equal(certificate.saturated_frequency, 0)
    assert certificate.holds[0]
    assert not certificate.holds[-1]
    error = 0.8 ** np.arange(num_layers + 1) * abs(certificate.mean_value[0] - 1)
    assert np.all(expected <= certificate.value_envelope + error)
    assert certificate.value_limit >= noise / 0.3
    slack = certificate.violation_bound.max()
    np.testing.assert_allclose(
        certificate.value_envelope,
        geometric_envelope(certificate.mean_value[0], rate=0.2, slack=slack, num_layers=num_layers),
    )
    long = geometric_envelope(certificate.mean_value[0], rate=0.2, slack=slack, num_layers=300)
    np.testing.assert_allclose(certificate.value_limit, long[-1])


def test_limit_at_rate_zero():
    still = certify(np.tile([1.0, 1.0], (9, 1)), rate=0.0)
    assert still.value_limit == 1.0
    np.testing.assert_array_equal(still.value_envelope, [1.0, 1.0])
    rising = certify(np.tile([1.0, 1.5, 2.0], (9, 1)), rate=0.0)
    assert rising.value_limit == np.inf
    np.testing.assert_allclose(rising.value_envelope, [1.0, 1.5, 2.0])
    assert certify(np.tile([1.0, 0.5], (9, 1)), rate=0.25).value_limit == 0.0


# --- misuse -------------------------------------------------------------------------------------------------


def with_entry(row, column, entry):
    values = np.ones((5, 3))
    values[row, column] = entry
    return values


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.ones(3), {}, r"`values` must have shape \(num_samples, num_layers \+ 1\).*got \(3,\).*jax\.vmap"),
        (np.ones((4, 3, 2)), {}, r"`values` must have shape.*got \(4, 3, 2\)"),
        (np.ones((1, 3)), {}, r"`values` .* at least 2 samples and 1 layer, got \(1, 3\)"),
        (np.ones((5, 1)), {}, r"`values` .* at least 2 samples and 1 layer, got \(5, 1\)"),
        (
            with_entry([0, 0, 2], [0, 1, 1], np.nan),
            {},
            r"`values` must be finite.*in 2 of 5 samples.*no certificate",
        ),
        (with_entry(1, 1, np.inf), {"value_bound": 2.0}, r"`values` must be finite.*in 1 of 5 samples"),
        (with_entry(1, 1, -0.5), {}, r"`values` must be non-negative, got -0\.5.*gap to its minimum"),
        (np.ones((5, 3)), {"rate": 1.0}, r"`rate` must lie in \[0, 1\), got 1\.0"),
        (np.ones((5, 3)), {"rate": -0.1}, r"`rate` must lie in \[0, 1\), got -0\.1"),
        (np.ones((5, 3)), {"confidence": 95}, r"`confidence` must lie in \(0, 1\), got 95: 0\.95 is 95 %"),
        (np.ones((5, 3)), {"confidence": 0.0}, r"`confidence` must lie in \(0, 1\), got 0\.0"),
        (
            np.ones((5, 3)),
            {"value_bound": 0.0},
            r"`value_bound` must be positive and finite, got 0\.0.*training set",
        ),
        (np.ones((5, 3)), {"value_bound": np.inf}, r"`value_bound` must be positive and finite, got inf"),
        (np.ones((5, 3)), {"value_bound": np.nan}, r"`value_bound` must be positive and finite, got nan"),
    ],
)
def test_misuse_of_certify(values, options, message):
    with pytest.raises(ValueError, match=message):
        certify(values, **({"rate": 0.1} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.5}, r"`rate` must lie in \[0, 1\), got 1\.5"),
        ({"num_layers": -1}, "`num_layers` must be non-negative, got -1"),
        ({"initial": -1.0}, r"`initial` must be non-negative and finite, got -1\.0"),
        ({"slack": np.nan}, "`slack` must be non-negative and finite, got nan"),
        ({"failure_probability": 1.1}, r"`failure_probability` must lie in \[0, 1\], got 1\.1"),
        ({"failure_probability": 0.1}, r"`largest` must be finite.* got None: where a layer"),
        ({"failure_probability": 0.1, "largest": 0.5}, r"at least `initial` = 1\.0 .*, got 0\.5"),
        ({"failure_probability": 0.1, "largest": np.inf}, r"`largest` must be finite.* got inf"),
        (
            {"failure_probability": 0.1, "largest": 2.0, "slack": 0.3},
            r"at least `slack` / `rate` = 0\.3 / 0\.1, got 2\.0",
        ),
    ],
)
def test_misuse_of_geometric_envelope(options, message):
    with pytest.raises(ValueError, match=message):
        geometric_envelope(**({"initial": 1.0, "rate": 0.1, "num_layers": 3} | options))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0), ([1, 9], 5)])
def test_misuse_of_clopper_pearson(successes, trials):
    with pytest.raises(ValueError, match="`num_successes` must lie between 0 and `num_trials`"):
        clopper_pearson_lower(successes, trials, 0.95)
    with pytest.raises(ValueError, match="`confidence` must lie in"):
        clopper_pearson_lower(1, 2, 1.0)
