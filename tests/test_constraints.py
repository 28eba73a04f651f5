from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, assert_finite, data_of, draw, enabled, lasso_minimizer, searched
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unroll_jax import constraints
from unroll_jax.constraints import (
    conditional_value_at_risk,
    descent,
    descent_violation,
    distance_to,
    expected_hinge,
    gradient_norm,
    measure_layers,
    objective,
    prox_gradient_residual,
    ratio_of_means,
)
from unroll_jax.objectives import Lasso, LeastSquares
from unroll_jax.operators import Dense, operator_norm
from unroll_jax.prox import soft_threshold

FORMS: tuple[Literal["difference", "ratio"], ...] = ("difference", "ratio")
identity = objective(lambda estimate, example: estimate)  # a measure that is the trajectory itself

positive = st.floats(1e-3, 1e3)
batches = arrays(np.float64, (4, 3), elements=positive)


def tail_mean(violation, level):
    """The conditional value at risk by its minimization formula (Rockafellar and Uryasev 2000).

    The function of t is convex with its kinks at the samples, so that one of them is a minimizer.
    """
    return min(t + np.mean(np.maximum(violation - t, 0)) / (1 - level) for t in violation)


# --- measures ---


def lasso_at_its_solution():
    rng = np.random.default_rng(0)
    problem = Lasso(Dense(draw(rng, (8, 12), "float64")), draw(rng, (8,), "float64"), 0.5)
    x = jnp.asarray(lasso_minimizer(*data_of(problem), 0.5))
    return problem, x, 1 / operator_norm(problem.operator) ** 2


def lasso_residual(step_size):
    return prox_gradient_residual(
        lambda x, problem: problem.gradient(x), soft_threshold, step_size=step_size, strength=0.5
    )


def test_measures_worked_by_hand():
    example = {"x": jnp.zeros(2)}
    x = jnp.array([3.0, 4.0])
    assert distance_to(lambda example: example["x"])(x, example) == 5
    assert gradient_norm(lambda x, example: 2 * x)(x, example) == 10
    assert objective(lambda x, example: x[0] - example["x"][0])(x, example) == 3
    # one step from (3, 4) along the gradient (3, 4), half as far, then 0.5 toward zero: (1, 1.5)
    residual = prox_gradient_residual(lambda x, example: x, soft_threshold, step_size=0.5, strength=1.0)
    np.testing.assert_allclose(residual(x, example), np.hypot(2, 2.5) / 0.5, rtol=1e-6)


def test_measures_of_an_estimate_of_several_arrays():
    x = {"a": jnp.array([3.0]), "b": jnp.array([[0.0, 4.0]])}
    zero = jax.tree.map(jnp.zeros_like, x)
    assert distance_to(lambda example: example)(x, zero) == 5
    assert gradient_norm(lambda x, example: x)(x, zero) == 5


def test_measures_of_complex_estimates_are_real():
    x = jnp.array([3.0 + 0j, 4j])
    value = distance_to(lambda example: example)(x, jnp.zeros(2, x.dtype))
    assert value == 5
    assert value.dtype == jnp.float32


def test_prox_gradient_residual_is_zero_at_the_solution_of_a_lasso_and_only_there():
    with enabled("float64"):
        problem, x, step_size = lasso_at_its_solution()
        for factor in (1.0, 0.1):
            measure = lasso_residual(factor * step_size)
            assert measure(x, problem) <= 1e-10
            for scale in (1e-6, 1.0):
                assert measure(x + scale, problem) > 1e-8
        # the gradient of the smooth part is not
        assert gradient_norm(lambda x, problem: problem.gradient(x))(x, problem) > 0.1


def test_prox_gradient_residual_without_a_kink_is_the_gradient_norm():
    with enabled("float64"):
        problem, x, step_size = lasso_at_its_solution()
        gradient = lambda x, problem: problem.gradient(x)
        smooth = prox_gradient_residual(gradient, lambda x, strength: x, step_size=step_size, strength=0.0)
        np.testing.assert_allclose(smooth(x, problem), gradient_norm(gradient)(x, problem), rtol=1e-12)


@pytest.mark.parametrize("start", [0.0, 2.0])
def test_measures_at_the_solution_are_zero_with_a_finite_gradient(start):
    # least squares with the identity, whose solution is the measurement
    solution = jnp.full(3, start)
    problem = LeastSquares(Dense(jnp.eye(3)), solution)
    gradient = lambda x, problem: problem.gradient(x)
    measures = {
        "distance_to": distance_to(lambda problem: problem.measurement),
        "gradient_norm": gradient_norm(gradient),
        "prox_gradient_residual": prox_gradient_residual(gradient, soft_threshold, step_size=0.5, strength=0.0),
        "objective": objective(lambda x, problem: problem.value(x)),
    }
    assert set(measures) <= set(vars(constraints))
    resting = jnp.stack([solution] * 3)

    @jax.jit
    def at_rest(problem):
        values = {name: jax.value_and_grad(measure)(solution, problem) for name, measure in measures.items()}
        worst = lambda xs, measure, form: jnp.max(descent(measure, rate=0.1, form=form)(xs, problem))
        layers = {
            (name, form): jax.value_and_grad(worst)(resting, measure, form)
            for name, measure in measures.items()
            for form in FORMS
        }
        return values, layers

    values, layers = at_rest(problem)
    for name, (value, derivative) in values.items():
        assert value == 0, name
        np.testing.assert_array_equal(derivative, 0, err_msg=name)
    for name, (violation, derivative) in layers.items():
        assert violation <= 0, name
        assert np.all(np.isfinite(derivative)), name


def test_measure_layers_is_a_loop():
    trajectory, example = draw(np.random.default_rng(0), (5, 3)), jnp.ones(3)
    measure = distance_to(lambda example: example)
    looped = jnp.stack([measure(x, example) for x in trajectory])
    assert_close(measure_layers(measure, trajectory, example), looped, 1e-6)


# --- descent ---


@pytest.mark.parametrize(
    ("form", "expected"),
    [("difference", [4 - 4, 3 - 2, 0 - 1.5]), ("ratio", [0.5 - 0.5, 0.75 - 0.5, 0 - 0.5])],
)
def test_violations_worked_by_hand(form, expected):
    constraint = descent(identity, rate=0.5, form=form)
    np.testing.assert_allclose(constraint(jnp.array([8.0, 4.0, 3.0, 0.0]), None), expected)


def test_a_step_away_from_a_solution_is_violated_in_every_form():
    for form in FORMS:
        violation = descent(identity, rate=0.1, form=form)(jnp.array([0.0, 1.0, 1.0]), None)
        assert np.all(np.asarray(violation) > 0)
        assert_finite(violation)


@searched
@given(values=arrays(np.float64, 5, elements=positive), rate=st.floats(0, 0.99))
def test_both_forms_have_the_same_sign_for_one_example(values, rate):
    with enabled("float64"):
        difference, ratio = (
            np.asarray(descent(identity, rate, form=form)(jnp.asarray(values), None)) for form in FORMS
        )
    np.testing.assert_allclose(difference, ratio * values[:-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [False, True])
def test_stop_gradient_previous(form, stop):
    values = jnp.array([8.0, 4.0, 3.0])
    constraint = descent(identity, rate=0.25, form=form, stop_gradient_previous=stop)
    jacobian = jax.jacobian(constraint)(values, None)
    by_current = {"difference": [1, 1], "ratio": [1 / 8, 1 / 4]}[form]
    by_previous = {"difference": [-0.75, -0.75], "ratio": [-4 / 64, -3 / 16]}[form]
    np.testing.assert_allclose(np.diagonal(jacobian, 1), by_current)
    np.testing.assert_allclose(np.diagonal(jacobian), [0, 0] if stop else by_previous)
    np.testing.assert_array_equal(constraint(values, None), descent(identity, 0.25, form=form)(values, None))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [False, True])
def test_values_measured_on_the_way_give_the_same_violations(form, stop):
    values = jnp.array([8.0, 4.0, 3.0, 0.5])
    options = {"form": form, "stop_gradient_previous": stop}
    direct = jax.value_and_grad(lambda values: jnp.sum(descent_violation(values, 0.25, **options) ** 2))
    measured = jax.value_and_grad(lambda values: jnp.sum(descent(identity, 0.25, **options)(values, None) ** 2))
    for found, expected in zip(direct(values), measured(values), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "rate", "form", "message"),
    [
        (
            jnp.ones((2, 3)),
            0.1,
            "ratio",
            r"`values` must be one example's, of shape \(num_layers \+ 1,\), got \(2, 3\)",
        ),
        (jnp.ones(3), 1.0, "ratio", "`rate` must"),
        (jnp.ones(3), 0.1, "quotient", '`form` must be "difference" or "ratio", got \'quotient\''),
    ],
)
def test_misuse_of_measured_values_is_told(values, rate, form, message):
    with pytest.raises(ValueError, match=message):
        descent_violation(values, rate, form=form)


def test_a_batch_of_constraints_is_a_loop():
    rng = np.random.default_rng(0)
    trajectories, targets = draw(rng, (4, 3, 5)), draw(rng, (4, 5))
    constraint = descent(distance_to(lambda example: example), rate=0.1)
    looped = jnp.stack([constraint(t, x) for t, x in zip(trajectories, targets, strict=True)])
    assert_close(jax.jit(jax.vmap(constraint))(trajectories, targets), looped, 1e-6)


# --- the ratio of the means ---


@searched
@given(values=batches, rate=st.floats(0, 0.99))
def test_ratio_of_means_has_the_sign_of_the_mean_difference(values, rate):
    with enabled("float64"):
        ratio = np.asarray(ratio_of_means(jnp.asarray(values), rate))
        difference = np.asarray(jax.vmap(lambda v: descent(identity, rate)(v, None))(jnp.asarray(values)))
    mean = np.mean(values, axis=0)[:-1]
    np.testing.assert_allclose(ratio * mean, np.mean(difference, axis=0), rtol=1e-9, atol=1e-9)


def test_the_mean_of_ratios_can_disagree_with_the_ratio_of_means():
    # one example ascends from 1 to 2, the other descends from 10 to 1
    values = jnp.array([[1.0, 2.0], [10.0, 1.0]])
    per_example = {form: jax.vmap(descent(identity, 0.0, form=form), in_axes=(0, None))(values, None) for form in FORMS}
    assert jnp.mean(per_example["difference"]) == -4
    np.testing.assert_allclose(ratio_of_means(values, 0.0), [3 / 11 - 1], rtol=1e-6)
    np.testing.assert_allclose(jnp.mean(per_example["ratio"]), (2 + 0.1) / 2 - 1, rtol=1e-5)


@searched
@given(values=batches, scale=st.floats(1e-3, 1e3))
def test_ratio_forms_are_free_of_the_unit(values, scale):
    with enabled("float64"):
        values = jnp.asarray(values)
        per_example = jax.vmap(lambda v: descent(identity, 0.1, form="ratio")(v, None))
        np.testing.assert_allclose(per_example(scale * values), per_example(values), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            ratio_of_means(scale * values, 0.1), ratio_of_means(values, 0.1), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("stop", [False, True])
def test_stop_gradient_previous_of_the_ratio_of_means(stop):
    values = jnp.array([[6.0, 2.0], [2.0, 2.0]])  # means 4 and 2
    jacobian = jax.jacobian(lambda v: ratio_of_means(v, 0.1, stop_gradient_previous=stop))(values)[0]
    np.testing.assert_allclose(jacobian[:, 1], 1 / 4 / 2)
    np.testing.assert_allclose(jacobian[:, 0], 0 if stop else -2 / 16 / 2)


def test_ratio_of_means_is_finite_where_the_measure_has_reached_zero():
    values = jnp.zeros((2, 3))
    np.testing.assert_allclose(ratio_of_means(values, 0.1), -0.9, rtol=1e-6)
    assert_finite(jax.jacobian(lambda v: ratio_of_means(v, 0.1))(values))


# --- statistics of a batch ---


def test_expected_hinge():
    violation = jnp.array([[-4.0, 0.5], [1.0, -3.0], [3.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(expected_hinge(violation), [1, 0.125])
    np.testing.assert_allclose(expected_hinge(violation, allowance=0.5), [0.5, -0.375])
    # the second layer descends in the mean and not in the hinge
    assert jnp.mean(violation[:, 1]) < 0 < expected_hinge(violation)[1]


LEVELS = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.9, 0.999)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_conditional_value_at_risk_equals_its_minimization_formula(batch_size, level):
    violation = np.random.default_rng(0).standard_normal((batch_size, 3))
    expected = [tail_mean(column, level) for column in violation.T]
    with enabled("float64"):
        np.testing.assert_allclose(conditional_value_at_risk(jnp.asarray(violation), level), expected, rtol=1e-9)


def test_conditional_value_at_risk_goes_from_the_mean_to_the_worst_example():
    violation = draw(np.random.default_rng(0), (7, 3))
    risks = np.stack([conditional_value_at_risk(violation, level) for level in LEVELS])
    np.testing.assert_allclose(risks[0], np.mean(violation, axis=0), rtol=1e-5)
    np.testing.assert_allclose(risks[-1], np.max(violation, axis=0), rtol=1e-6)
    assert np.all(np.diff(risks, axis=0) >= -1e-6)


@searched
@given(
    violation=arrays(np.float64, (6, 4), elements=st.integers(-3, 2).map(float)),
    level=st.sampled_from(LEVELS),
)
def test_a_satisfied_tail_means_that_more_than_its_level_of_examples_is_satisfied(violation, level):
    with enabled("float64"):
        satisfied = np.asarray(conditional_value_at_risk(jnp.asarray(violation), level)) <= 0
    assert np.all(np.mean(violation <= 0, axis=0)[satisfied] > level)


def test_only_the_worst_examples_are_trained():
    violation = jnp.array([[-4.0], [-1.0], [0.0], [1.0]])
    gradient = jax.jacobian(lambda v: conditional_value_at_risk(v, 0.625))(violation)[0, :, 0]
    np.testing.assert_allclose(gradient, [0, 0, 1 / 3, 2 / 3], rtol=1e-6)


# --- misuse ---

BATCH = jnp.ones((4, 3))
UNKNOWN: Any = "log"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: descent(identity, rate=-0.1), r"`rate` must lie in \[0, 1\), got -0\.1"),
        (lambda: descent(identity, rate=1.0), r"`rate` must lie in \[0, 1\), got 1\.0: .* 5 % per layer"),
        (lambda: descent(identity, rate=float("nan")), r"`rate` must lie in \[0, 1\), got nan"),
        (
            lambda: descent(identity, rate=0.1, form=UNKNOWN),
            '`form` must be "difference" or "ratio", got \'log\'',
        ),
        (lambda: ratio_of_means(BATCH, rate=1.5), r"`rate` must lie in \[0, 1\), got 1\.5"),
        (
            lambda: ratio_of_means(BATCH[0], rate=0.1),
            r"`values` must have shape \(batch, layers\), got \(3,\).*jax\.vmap",
        ),
        (lambda: expected_hinge(BATCH, allowance=-1.0), r"`allowance` must be non-negative, got -1\.0"),
        (
            lambda: expected_hinge(BATCH[0]),
            r"`violation` must have shape \(batch, layers\), got \(3,\).*jax\.vmap",
        ),
        (lambda: conditional_value_at_risk(BATCH, level=1.0), r"`level` must lie in \[0, 1\), got 1\.0"),
        (lambda: conditional_value_at_risk(BATCH, level=-0.5), r"`level` must lie in \[0, 1\), got -0\.5"),
        (lambda: conditional_value_at_risk(BATCH[0], level=0.5), r"`violation` must have shape .*got \(3,\)"),
        (
            lambda: descent(objective(lambda x, example: x), rate=0.1)(BATCH, None),
            r"`measure` must return one number per estimate, got shape \(3,\)",
        ),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    # a loss is compiled: the same words there
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: (call(), x)[1])(0.0)
