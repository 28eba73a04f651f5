import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import unroll_jax as uj

KEY = jax.random.key(0)
HALVING = uj.Algorithm(lambda problem: problem, lambda params, x, problem: params * x)
WEIGHTS = {"plain": uj.linear_weight, "augmented": uj.augmented_weight(1.0)}
every_weight = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)


class Point(nnx.Module):
    """A model that is nothing but its parameter."""

    def __init__(self, x):
        self.x = nnx.Param(jnp.asarray(x))


def train(terms, model, num_steps, primal=None, dual=None, weight=uj.linear_weight):
    """The state after `num_steps` steps, and the reports of all of them."""
    trainer = uj.primal_dual(terms, primal or optax.sgd(0.05), dual or optax.sgd(0.1), weight=weight)
    state = trainer.init(model, jnp.zeros(()), KEY)
    return jax.jit(trainer.steps)(state, jnp.zeros(num_steps))


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def as_numpy(tree):
    """Copies of the leaves, and the data of random keys, as numpy arrays."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return [np.array(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(actual, expected):
    for a, b in zip(as_numpy(actual), as_numpy(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# --- problems with known multipliers ------------------------------------------------------------------------


class Projection:
    """The program  min ||x - c||^2 / 2  subject to  A x <= b, with three of six constraints active."""

    def __init__(self):
        rng = np.random.default_rng(11)
        self.matrix = rng.standard_normal((6, 4))
        self.matrix /= np.linalg.norm(self.matrix, axis=1, keepdims=True)
        self.feasible = rng.standard_normal(4)
        self.bound = self.matrix @ self.feasible + rng.uniform(0.1, 1.0, 6)
        self.center = self.feasible + 3 * rng.standard_normal(4)
        self.x, self.multipliers = self.solve()

    def solve(self):
        """The point and multipliers of the KKT conditions, by trying every set of active constraints."""
        found = []
        for size in range(5):
            for active in map(list, itertools.combinations(range(6), size)):
                rows, multipliers = self.matrix[active], np.zeros(6)
                multipliers[active] = np.linalg.solve(rows @ rows.T, rows @ self.center - self.bound[active])
                x = self.center - self.matrix.T @ multipliers
                if np.all(multipliers >= 0) and np.all(self.matrix @ x <= self.bound + 1e-9):
                    found.append((x, multipliers))
        assert len(found) == 1
        return found[0]

    def terms(self, model, batch, key):
        x = model.x[...]
        slack = jnp.asarray(self.matrix, x.dtype) @ x - jnp.asarray(self.bound, x.dtype)
        # two names, of different lengths
        return jnp.sum((x - jnp.asarray(self.center, x.dtype)) ** 2) / 2, {
            "first": slack[:2],
            "last": slack[2:],
        }


def joined(by_name):
    return np.concatenate([by_name["first"], by_name["last"]], axis=-1)


@pytest.fixture(scope="module")
def projection():
    problem = Projection()
    assert np.count_nonzero(problem.multipliers > 0.1) == 3
    assert np.count_nonzero(problem.matrix @ problem.center > problem.bound) >= 2
    return problem


@every_weight
@pytest.mark.parametrize("start", ["feasible", "center", "far"])
def test_projection_on_a_polyhedron(projection, weight, start):
    starts = {"feasible": projection.feasible, "center": projection.center, "far": np.full(4, 20.0)}
    model = Point(jnp.asarray(starts[start], jnp.float32))
    is_feasible = np.all(projection.matrix @ starts[start] <= projection.bound)
    assert is_feasible == (start == "feasible")
    state, reports = train(projection.terms, model, 5000, optax.sgd(0.1), optax.sgd(0.1), weight)
    multipliers = joined(state.multipliers)
    assert_close(state.model.x[...], projection.x, atol=1e-4)
    assert_close(multipliers, projection.multipliers, atol=1e-4)
    assert_close(multipliers * joined(jax.tree.map(lambda v: v[-1], reports.violation)), np.zeros(6), atol=1e-4)
    assert np.all(joined(reports.multipliers) >= 0)
    assert np.all(reports.is_finite)
    assert state.step == 5000


@pytest.mark.parametrize("start", [-2.0, 5.0])
@every_weight
def test_one_bound(weight, start):
    at_least_one = lambda model: {"at_least_one": 1 - model.x}
    # inactive at the solution: squared slacks stall at 1 when started at -2
    inactive = lambda model, batch, key: (jnp.sum((model.x - 3) ** 2), at_least_one(model))
    state, _ = train(inactive, Point([start]), 1000, weight=weight)
    assert_close(state.model.x, jnp.array([3.0]), atol=1e-4)
    assert_close(state.multipliers, jnp.zeros(1), atol=1e-4)
    active = lambda model, batch, key: (jnp.sum(model.x**2), at_least_one(model))
    state, _ = train(active, Point([start]), 1000, weight=weight)
    assert_close(state.model.x, jnp.array([1.0]), atol=1e-4)
    assert_close(state.multipliers, jnp.array([2.0]), atol=1e-4)


def test_augmented_weight_settles_where_the_plain_lagrangian_does_not():
    # a linear loss: nothing damps the circles of the plain method
    terms = lambda model, batch, key: (jnp.sum(model.x), {"at_least_zero": -model.x})
    plain, _ = train(terms, Point([1.0]), 4000, optax.sgd(0.05), optax.sgd(0.05))
    augmented, _ = train(terms, Point([1.0]), 4000, optax.sgd(0.05), optax.sgd(0.05), uj.augmented_weight(1.0))
    assert_close(augmented.model.x, jnp.zeros(1), atol=1e-4)
    assert_close(augmented.multipliers, jnp.ones(1), atol=1e-4)
    assert abs(plain.multipliers["at_least_zero"][0] - 1) + abs(plain.model.x[0]) > 1e-2


# --- the weights --------------------------------------------------------------------------------------------


def powell_hestenes_rockafellar(multiplier, penalty, violation):
    slack = jnp.maximum(violation, -multiplier / jnp.maximum(penalty, 1e-30))
    return jnp.sum(multiplier * slack + penalty * slack**2 / 2)


MULTIPLIER, VIOLATION = (
    jnp.asarray(grid.ravel(), jnp.float32)
    for grid in np.meshgrid([0.0, 1e-3, 0.7, 30.0], [-8.0, -0.9, -1e-4, 0.0, 2e-3, 0.4, 50.0])
)


@pytest.mark.parametrize("penalty", [0, 0.0, 1e-6, 0.3, 2.0, 1e4])
def test_augmented_weight_is_the_slope_of_the_augmented_lagrangian(penalty):
    weight = uj.augmented_weight(penalty)(MULTIPLIER, VIOLATION)
    slope = jax.grad(powell_hestenes_rockafellar, argnums=2)(MULTIPLIER, penalty, VIOLATION)
    # at the kink autodiff takes the mean of both sides, which agree in the limit
    assert_close(weight, slope, rtol=1e-5, atol=1e-6 * max(1, penalty))
    assert np.all(np.isfinite(weight))
    assert np.all(weight >= 0)
    assert weight.dtype == jnp.float32


def test_augmented_weight_without_penalty_is_the_linear_weight():
    np.testing.assert_array_equal(uj.augmented_weight(0.0)(MULTIPLIER, VIOLATION), MULTIPLIER)
    np.testing.assert_array_equal(uj.linear_weight(MULTIPLIER, VIOLATION), MULTIPLIER)


def test_penalty_may_be_an_array_of_the_shape_of_the_multipliers():
    penalty = jnp.linspace(0.0, 3.0, MULTIPLIER.size)
    weight = uj.augmented_weight(penalty)(MULTIPLIER, VIOLATION)
    by_entry = [uj.augmented_weight(float(p))(m, v) for p, m, v in zip(penalty, MULTIPLIER, VIOLATION, strict=True)]
    assert_close(weight, jnp.stack(by_entry))
    with pytest.raises(ValueError, match="`penalty` must be non-negative"):
        uj.augmented_weight(jnp.array([1.0, -1.0]))


def test_penalty_may_be_traced():
    weight = jax.jit(lambda penalty: uj.augmented_weight(penalty)(MULTIPLIER, VIOLATION))
    assert_close(weight(2.0), uj.augmented_weight(2.0)(MULTIPLIER, VIOLATION))


@pytest.mark.parametrize("penalty", [-1.0, -1e-9, float("nan")])
def test_penalty_is_checked(penalty):
    with pytest.raises(ValueError, match="`penalty` must be non-negative, got"):
        uj.augmented_weight(penalty)


# --- one step -----------------------------------------------------------------------------------------------


class Net(nnx.Module):
    """A small nonlinear model with everything a model may hold besides its parameters."""

    def __init__(self):
        self.linear = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        self.scale = nnx.Param(jnp.array(0.5, jnp.float32))
        self.fixed = nnx.Variable(jnp.array([0.3, -0.2]))
        self.statistic = nnx.BatchStat(jnp.ones(2))
        self.raw = jnp.array([1.0, 2.0])
        self.index = jnp.arange(2)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1), deterministic=True)

    def __call__(self, x):
        return jnp.tanh(self.dropout(self.linear(x))) * self.scale * self.raw + self.fixed * self.statistic


BATCH = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), jnp.float32)


def net_terms(model, batch, key):
    y = jax.vmap(model)(batch)
    return jnp.mean(y**2), {"sum": jnp.mean(y, axis=0), "square": jnp.mean(y**2, axis=0) - 0.3}


MULTIPLIERS = {"sum": jnp.array([0.4, 0.0]), "square": jnp.array([2.0, 0.1])}


@every_weight
def test_one_step_worked_by_hand(weight):
    trainer = uj.primal_dual(net_terms, optax.sgd(1.0), optax.sgd(0.5), weight=weight)
    before = trainer.init(Net(), BATCH, KEY)._replace(multipliers=MULTIPLIERS)
    after, report = jax.jit(trainer.step)(before, BATCH)

    loss, violation = net_terms(before.model, BATCH, None)
    multipliers = jax.tree.map(lambda m, v: jnp.maximum(m + 0.5 * v, 0), MULTIPLIERS, violation)
    weights = jax.tree.map(weight, multipliers, violation)
    graph, params, rest = nnx.split(before.model, nnx.Param, ...)

    def lagrangian(params):
        loss, violation = net_terms(nnx.merge(graph, params, rest), BATCH, None)
        return loss + sum(jnp.sum(jax.lax.stop_gradient(weights[name]) * violation[name]) for name in weights)

    gradient = jax.grad(lagrangian)(params)
    assert_close(nnx.state(after.model, nnx.Param), jax.tree.map(jnp.subtract, params, gradient))
    assert_close((after.multipliers, report.multipliers), (multipliers, multipliers))
    assert_close((report.loss, report.violation), (loss, violation))
    assert_close(report.gradient_norm, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    assert report.is_finite
    assert after.step == 1
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))


def test_augmented_step_is_the_gradient_of_the_augmented_lagrangian():
    trainer = uj.primal_dual(net_terms, optax.sgd(1.0), optax.set_to_zero(), weight=uj.augmented_weight(3.0))
    before = trainer.init(Net(), BATCH, KEY)._replace(multipliers=MULTIPLIERS)
    after, _ = jax.jit(trainer.step)(before, BATCH)
    graph, params, rest = nnx.split(before.model, nnx.Param, ...)

    def lagrangian(params):
        loss, violation = net_terms(nnx.merge(graph, params, rest), BATCH, None)
        return loss + sum(powell_hestenes_rockafellar(MULTIPLIERS[name], 3.0, violation[name]) for name in MULTIPLIERS)

    expected = jax.tree.map(jnp.subtract, params, jax.grad(lagrangian)(params))
    assert_close(nnx.state(after.model, nnx.Param), expected)
    assert_same(after.multipliers, MULTIPLIERS)


@pytest.mark.parametrize("dual", [optax.sgd(0.3), optax.sgd(0.3, momentum=0.9), optax.adam(0.3)])
def test_multipliers_of_satisfied_constraints_stay_at_zero(dual):
    terms = lambda model, batch, key: (jnp.sum(model.x**2), {"satisfied": -1 - model.x**2})
    _, reports = train(terms, Point(jnp.ones(3)), 20, dual=dual)
    np.testing.assert_array_equal(reports.multipliers["satisfied"], np.zeros((20, 3)))


def test_multipliers_come_down_to_zero_and_no_further():
    terms = lambda model, batch, key: (jnp.sum(model.x**2), {"satisfied": -jnp.ones(1)})
    trainer = uj.primal_dual(terms, optax.sgd(0.1), optax.sgd(0.25))
    state = trainer.init(Point(1.0), None, KEY)._replace(multipliers={"satisfied": jnp.array([0.6])})
    _, reports = trainer.steps(state, jnp.zeros(4))
    assert_close(reports.multipliers["satisfied"], np.array([[0.35], [0.1], [0], [0]]))


@pytest.mark.parametrize(
    "primal", [optax.sgd(0.1), optax.adamw(0.1, weight_decay=0.5)], ids=["sgd", "adamw with weight decay"]
)
def test_only_parameters_change(primal):
    trainer = uj.primal_dual(net_terms, primal, optax.sgd(1.0))
    before = trainer.init(Net(), BATCH, KEY)
    after, _ = jax.jit(trainer.steps)(before, jnp.stack([BATCH] * 3))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    _, old_params, old_rest = nnx.split(before.model, nnx.Param, ...)
    _, params, rest = nnx.split(after.model, nnx.Param, ...)
    assert_same(rest, old_rest)
    assert len(jax.tree.leaves(params)) == 3
    jax.tree.map(lambda new, old: np.testing.assert_array_less(0, np.abs(new - old)), params, old_params)
    assert [leaf.dtype for leaf in jax.tree.leaves(after.model)] == [
        leaf.dtype for leaf in jax.tree.leaves(before.model)
    ]


def test_only_parameters_of_an_unrolled_network_change():
    layer = {"step": 0.1, "fixed": nnx.Variable(jnp.array(0.1)), "index": jnp.array(2)}
    step = lambda params, x, problem: x - (params["step"] + params["fixed"]) * params["index"] * (x - problem)
    model = uj.unroll(uj.Algorithm(lambda problem: 0 * problem, step), 3, layer)
    terms = lambda model, batch, key: (jnp.sum((model(batch) - batch) ** 2), {})
    trainer = uj.primal_dual(terms, optax.sgd(0.1), optax.sgd(0.1))
    params = trainer.step(trainer.init(model, jnp.ones(2), KEY), jnp.ones(2))[0].model.params
    np.testing.assert_array_equal(params["fixed"], model.params["fixed"])
    np.testing.assert_array_equal(params["index"], model.params["index"])
    assert np.all(np.asarray(params["step"]) > np.asarray(model.params["step"]))


# --- precision and complex numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_models_keep_their_multipliers_in_float32(dtype):
    # a multiplier of 1 in bfloat16 would not move by 1e-3
    terms = lambda model, batch, key: (jnp.sum(model.x**2), {"violated": jnp.ones(2, dtype) + 0 * model.x})
    trainer = uj.primal_dual(terms, optax.adam(1e-3), optax.sgd(1e-3), weight=uj.augmented_weight(0.5))
    state = trainer.init(Point(jnp.ones(2, dtype)), None, KEY)
    start = state._replace(multipliers={"violated": jnp.ones(2, jnp.float32)})
    after, reports = jax.jit(trainer.steps)(start, jnp.zeros(500))
    assert state.multipliers["violated"].dtype == after.multipliers["violated"].dtype == jnp.float32
    assert after.model.x.dtype == dtype
    assert reports.violation["violated"].dtype == dtype
    assert_close(after.multipliers["violated"], np.full(2, 1.5), rtol=1e-3)
    assert np.all(reports.is_finite)


def test_gradient_norm_of_a_float16_model_does_not_overflow():
    # 300^2 is beyond float16, 300 and the norm 600 are not
    terms = lambda model, batch, key: (jnp.sum(300 * model.x), {})
    _, reports = train(terms, Point(jnp.ones(4, jnp.float16)), 1)
    assert_close(reports.gradient_norm, jnp.array([600.0]))
    assert np.all(reports.is_finite)


def test_float64_models_have_float64_multipliers(projection, x64):
    model = Point(jnp.asarray(projection.feasible))
    state, reports = train(projection.terms, model, 5000, optax.sgd(0.1), optax.sgd(0.1))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.model, state.multipliers))} == {jnp.dtype("float64")}
    assert reports.loss.dtype == jnp.float64
    assert_close(state.model.x[...], projection.x, atol=1e-9)
    assert_close(joined(state.multipliers), projection.multipliers, atol=1e-9)


@every_weight
def test_complex_parameters_descend(weight):
    target = jnp.array([3 + 4j, 0.3 - 0.1j])

    def terms(model, batch, key):
        x = model.x[...]
        return jnp.sum(jnp.abs(x - target) ** 2) / 2, {"in_unit_disk": (jnp.abs(x) ** 2 - 1) / 2}

    state, _ = train(terms, Point(jnp.array([-1 + 1j, 0.5j])), 2000, weight=weight)
    # x (1 + multiplier) = target where the constraint is active
    assert state.model.x.dtype == jnp.complex64
    assert_close(state.model.x[...], jnp.array([0.6 + 0.8j, 0.3 - 0.1j]), atol=1e-4)
    assert_close(state.multipliers["in_unit_disk"], jnp.array([4.0, 0.0]), atol=1e-4)


# --- optimizers ---------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": lambda rate: optax.adam(rate),
    "sgd with momentum": lambda rate: optax.sgd(rate, momentum=0.5),
    "clipped": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
    "scheduled": lambda rate: optax.sgd(optax.cosine_decay_schedule(2 * rate, 10_000)),
    "every second step": lambda rate: optax.MultiSteps(optax.sgd(rate), every_k_schedule=2),
    "schedule free": lambda rate: optax.contrib.schedule_free_sgd(rate),
    "by labels": lambda rate: optax.partition(
        {"all": optax.sgd(rate)}, lambda tree: jax.tree.map(lambda _: "all", tree)
    ),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@every_optimizer
def test_any_optimizer_moves_the_parameters(projection, name):
    model = Point(jnp.asarray(projection.feasible, jnp.float32))
    state, reports = train(projection.terms, model, 3000, OPTIMIZERS[name](0.05), optax.sgd(0.05), WEIGHTS["augmented"])
    assert np.all(reports.is_finite)
    assert_close(state.model.x[...], projection.x, atol=2e-2)


@every_optimizer
def test_any_optimizer_moves_the_multipliers(projection, name):
    model = Point(jnp.asarray(projection.feasible, jnp.float32))
    _, reports = train(projection.terms, model, 3000, optax.sgd(0.1), OPTIMIZERS[name](0.05), WEIGHTS["augmented"])
    assert np.all(joined(reports.multipliers) >= 0)
    # Adam's steps keep their size: it circles about the multipliers
    assert_close(np.mean(joined(reports.multipliers)[-1000:], axis=0), projection.multipliers, atol=5e-2)


def test_the_dual_optimizer_may_wait_for_several_steps():
    terms = lambda model, batch, key: (0 * model.x, {"batch": batch + 0 * model.x[None]})
    violation = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (6, 1)), jnp.float32)
    trainer = uj.primal_dual(terms, optax.sgd(0.1), optax.MultiSteps(optax.sgd(0.5), every_k_schedule=3))
    _, reports = trainer.steps(trainer.init(Point(1.0), violation[0], KEY), violation)
    first, second = 0.5 * violation[:3].mean(), 0.5 * violation[3:].mean()
    assert_close(reports.multipliers["batch"][:, 0], jnp.array([0, 0, *[first] * 3, first + second]))


def test_parameters_may_have_optimizers_of_their_own():
    def labels(params):
        by_path = lambda path, _: "frozen" if "bias" in jax.tree_util.keystr(path) else "trained"
        return jax.tree_util.tree_map_with_path(by_path, params)

    primal = optax.partition({"frozen": optax.set_to_zero(), "trained": optax.adam(1e-2)}, labels)
    trainer = uj.primal_dual(net_terms, primal, optax.sgd(0.1))
    before = trainer.init(Net(), BATCH, KEY)
    after, _ = jax.jit(trainer.steps)(before, jnp.stack([BATCH] * 3))
    np.testing.assert_array_equal(after.model.linear.bias, before.model.linear.bias)
    assert np.all(np.asarray(after.model.linear.kernel) != np.asarray(before.model.linear.kernel))
    assert after.model.scale[...] != before.model.scale[...]


def test_without_constraints_it_is_plain_training():
    optimizer = optax.adam(1e-2)
    trainer = uj.primal_dual(lambda *args: (net_terms(*args)[0], {}), optimizer, optax.sgd(0.1))
    state = trainer.init(Net(), BATCH, KEY)
    graph, params, rest = nnx.split(Net(), nnx.Param, ...)
    optimizer_state = optimizer.init(params)
    value_and_grad = jax.value_and_grad(lambda params: net_terms(nnx.merge(graph, params, rest), BATCH, None)[0])
    step = jax.jit(trainer.step)
    for _ in range(5):
        state, report = step(state, BATCH)
        loss, gradient = value_and_grad(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        assert_close(report.loss, loss)
        assert report.violation == report.multipliers == state.multipliers == {}
    assert_close(nnx.state(state.model, nnx.Param), params)


# --- the trainer as pure functions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2),
        optax.contrib.schedule_free_sgd(0.1),
        optax.contrib.prodigy(0.1),  # whose state refers to the very parameters that it was given
    ],
    ids=["adam", "MultiSteps", "schedule_free", "prodigy"],
)
def test_donating_the_state_leaves_the_users_values_alone(optimizer):
    model, key = Net(), jax.random.key(3)
    values = as_numpy((model, key))
    trainer = uj.primal_dual(net_terms, optimizer, optimizer)
    state = trainer.init(model, BATCH, key)
    step = jax.jit(trainer.step, donate_argnums=0)
    for _ in range(2):
        state, report = step(state, BATCH)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((model, key, BATCH, state, report)))
    assert_same((model, key), values)
    trainer.init(model, BATCH, key)


def test_step_is_traced_once():
    traces = []

    def terms(model, batch, key):
        traces.append(None)
        return net_terms(model, batch, key)

    trainer = uj.primal_dual(terms, optax.adam(1e-2), optax.adam(1e-2), weight=uj.augmented_weight(1.0))
    state = trainer.init(Net(), BATCH, KEY)
    assert len(traces) == 1
    step = jax.jit(trainer.step)
    for scale in range(5):
        state, _ = step(state, scale * BATCH)
    assert len(traces) == 2
    jax.jit(trainer.steps)(state, jnp.stack([BATCH] * 3))
    assert len(traces) == 3


@pytest.mark.parametrize("kind", ["own", "shared", "module"])
def test_weakly_typed_parameters_do_not_compile_the_step_twice(kind):
    # jnp.array(0.5) is weakly typed; what the optimizer makes of it is not
    halving = uj.Algorithm(lambda problem: problem, lambda params, x, problem: params * x)
    networks = {
        "own": lambda: uj.unroll(halving, 2, jnp.array(0.5)),
        "shared": lambda: uj.unroll(halving, 2, jnp.array(0.5), layer_axes=None),
        "module": lambda: Point(jnp.array(0.5)),
    }
    params_of = lambda model: jax.tree.leaves(nnx.state(model, nnx.Param))
    traces = []

    def terms(model, batch, key):
        traces.append(None)
        return jnp.sum(params_of(model)[0] ** 2), {}

    trainer = uj.primal_dual(terms, optax.adam(1e-2), optax.sgd(1e-2))
    state = trainer.init(networks[kind](), None, KEY)
    traces.clear()
    step = jax.jit(trainer.step)
    for _ in range(4):
        state, _ = step(state, None)
    assert len(traces) == 1


def test_steps_is_a_loop_of_step():
    batches = jnp.stack([scale * BATCH for scale in (1.0, 0.5, -1.0, 2.0)])
    noisy = lambda model, batch, key: net_terms(model, batch + 0.1 * jax.random.normal(key, batch.shape), key)
    trainer = uj.primal_dual(noisy, optax.adam(1e-2), optax.sgd(0.1))
    start = trainer.init(Net(), BATCH, KEY)
    state, reports, step = start, [], jax.jit(trainer.step)
    for batch in batches:
        state, report = step(state, batch)
        reports.append(report)
    scanned, stacked = jax.jit(trainer.steps)(start, batches)
    assert_close(as_numpy(scanned), as_numpy(state))
    assert_close(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *reports))


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_randomness_comes_from_the_key(make_key):
    terms = lambda model, batch, key: (jax.random.normal(key) + 0 * model.x, {})
    trainer = uj.primal_dual(terms, optax.sgd(0.1), optax.sgd(0.1))
    losses = [trainer.steps(trainer.init(Point(0.0), None, make_key(seed)), jnp.zeros(4))[1].loss for seed in (0, 0, 1)]
    np.testing.assert_array_equal(losses[0], losses[1])
    # no two steps, and no two seeds, see the same noise
    assert len(np.unique([losses[0], losses[2]])) == 8


def test_state_goes_on_where_it_was_left():
    trainer = uj.primal_dual(net_terms, optax.adam(1e-2), optax.sgd(0.1))
    step = jax.jit(trainer.step)
    state, _ = step(trainer.init(Net(), BATCH, KEY), BATCH)
    copy = jax.tree.unflatten(jax.tree.structure(state), map(jnp.copy, jax.tree.leaves(state)))
    assert_same(step(copy, BATCH)[1], step(state, BATCH)[1])


# --- values that are not finite -----------------------------------------------------------------------------


def test_values_that_are_not_finite_are_reported():
    def terms(model, batch, key):
        # at 0 the square root is finite and its slope is not
        return batch["loss"] * model.x, {"root": (batch["violation"] + jnp.sqrt(batch["root"] * model.x))[None]}

    trainer = uj.primal_dual(terms, optax.sgd(0.1), optax.sgd(0.1))
    fine = {"loss": 1.0, "violation": 1.0, "root": 1.0}
    state = trainer.init(Point(1.0), fine, KEY)
    step = jax.jit(trainer.step)
    for change, is_finite in [
        ({}, True),
        ({"loss": np.nan}, False),
        ({"loss": np.inf}, False),
        ({"violation": np.nan}, False),
        ({"violation": -np.inf}, False),
        ({"root": 0.0}, False),
    ]:
        _, report = step(state, fine | change)
        assert bool(report.is_finite) == is_finite, change
        assert report.is_finite.dtype == bool
    assert np.isfinite(report.loss)
    assert np.all(np.isfinite(report.violation["root"]))


# --- a network under descent constraints --------------------------------------------------------------------


def test_constrained_network_descends_where_the_unconstrained_one_does_not():
    rng = np.random.default_rng(0)
    operator = uj.operators.Dense(jnp.asarray(rng.standard_normal((6, 8)) / np.sqrt(6), jnp.float32))
    codes = rng.standard_normal((32, 8)) * (rng.random((32, 8)) < 0.2)
    batch = {"x": jnp.asarray(codes, jnp.float32)}
    batch["y"] = jax.vmap(operator)(batch["x"])
    keys = jax.random.split(jax.random.key(0), 4)
    layers = jax.vmap(lambda key: uj.algorithms.random_lista_params(key, 6, 8))(keys)
    model = uj.Unrolled(uj.algorithms.lista(), 4, layers)
    closer = uj.constraints.descent(uj.constraints.distance_to(lambda example: example["x"]), rate=0.05)

    def terms(model, batch, key):
        solve = lambda y: model.trajectory(uj.objectives.LeastSquares(operator, y), record=lambda s: s.x)
        xs = jax.vmap(solve)(batch["y"])
        loss = jnp.mean(jnp.sum((xs[:, -1] - batch["x"]) ** 2, axis=-1))
        return loss, {"closer": jnp.mean(jax.vmap(closer)(xs, batch), axis=0)}

    final = {}
    for name, rate in {"constrained": 0.3, "unconstrained": 0.0}.items():
        trainer = uj.primal_dual(terms, optax.adam(1e-2), optax.sgd(rate))
        state = trainer.init(model, batch, KEY)
        repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (400, *leaf.shape)), batch)
        _, reports = jax.jit(trainer.steps)(state, repeated)
        final[name] = jax.tree.map(lambda leaf: leaf[-1], reports)
        assert final[name].loss < 0.5 * reports.loss[0]
        assert np.any(reports.multipliers["closer"] > 0) == (name == "constrained")
    assert np.all(final["constrained"].violation["closer"] < 0.02)
    assert np.any(final["unconstrained"].violation["closer"] > 0.05)


# --- misuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (
            lambda x: jnp.sum(x),
            r"`terms` must return \(loss, {name: violation}\), got \w+: .*empty dictionary",
        ),
        (lambda x: (jnp.sum(x), x), r"`terms` must return \(loss, {name: violation}\), got tuple"),
        (lambda x: (jnp.sum(x), {}, {}), r"`terms` must return \(loss, {name: violation}\), got tuple"),
        (lambda x: [jnp.sum(x), {}], r"`terms` must return \(loss, {name: violation}\), got list"),
        (lambda x: (x, {}), r"a loss of shape \(\), got \(3,\): take its mean over the batch"),
        (
            lambda x: (jnp.sum(x), {"closer": jnp.ones((2, 3))}),
            r"violations of shape \(num_layers,\), got \(2, 3\) for 'closer': take the mean",
        ),
        (
            lambda x: (jnp.sum(x), {"closer": jnp.sum(x)}),
            r"violations of shape \(num_layers,\), got \(\) for 'closer'",
        ),
    ],
)
def test_terms_are_checked(result, match):
    trainer = uj.primal_dual(lambda model, batch, key: result(model.x[...]), optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match=match):
        trainer.init(Point(jnp.ones(3)), None, KEY)


def test_a_model_without_parameters_is_refused():
    class Fixed(nnx.Module):
        def __init__(self):
            self.x = nnx.Variable(jnp.ones(3))
            self.raw = jnp.ones(3)

    doubling = uj.Algorithm(lambda problem: problem, lambda params, x, problem: x * params)
    trainer = uj.primal_dual(lambda model, batch, key: (jnp.zeros(()), {}), optax.sgd(0.1), optax.sgd(0.1))
    for model in (Fixed(), uj.unroll(doubling, 3, jnp.array(2))):
        with pytest.raises(ValueError, match=r"`model` has no nnx\.Param to train"):
            trainer.init(model, None, KEY)


def test_an_optimizer_that_takes_the_loss_is_given_it():
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
    trainer = uj.primal_dual(lambda model, batch, key: (jnp.sum(model(batch) * 0) + 1.0, {}), optimizer, optax.sgd(0.1))
    state = trainer.init(uj.unroll(HALVING, 1, jnp.array(0.5)), jnp.ones(()), jax.random.key(0))
    for _ in range(4):
        state, _ = trainer.step(state, jnp.ones(()))
    assert optax.tree.get(state.primal_state, "scale") < 1  # the loss stays where it is


def test_a_parameter_at_two_places_is_refused():
    weight = nnx.Param(jnp.ones(()))
    trainer = uj.primal_dual(
        lambda model, batch, key: (model["a"][...] + model["b"][...], {}), optax.sgd(0.1), optax.sgd(0.1)
    )
    with pytest.raises(ValueError, match=r"`model` holds one nnx.Variable at two places"):
        trainer.init({"a": weight, "b": weight}, None, jax.random.key(0))
