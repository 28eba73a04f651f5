import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.core import Tracer

import unroll_jax as uj

NUM_LAYERS, SIZE = 3, 4
PROBLEM = jnp.array([1.0, -0.5, 2.0, 0.3])
REMATS = [None, "layer", "nested"]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


# --- a small algorithm, with its parameters in every form that is allowed -----------------------------------


class State(NamedTuple):
    x: jax.Array
    velocity: jax.Array


class Affine(NamedTuple):
    """One layer's parameters, or their layer axes."""

    weight: Any
    bias: Any
    damping: Any


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(SIZE, SIZE, rngs=rngs)
        self.damping = nnx.Param(jnp.array(0.5))


def descending(map_of, damping_of):
    """Heavy-ball steps toward the problem through a layer's own nonlinear map."""

    def init(problem):
        return State(0.5 * problem, 0.1 * problem)

    def step(params, state, problem):
        direction = state.x - problem + map_of(params)(state.x)
        velocity = damping_of(params) * state.velocity - 0.3 * direction
        return State(state.x + velocity, velocity)

    return uj.Algorithm(init, step)


def affine(params):
    return lambda x: jnp.tanh(params.weight @ x + params.bias)


def affine_params(seed):
    rng = np.random.default_rng(seed)
    shapes_and_scales = {(SIZE, SIZE): 1.0, (SIZE,): 1.0, (): 0.5}
    return Affine(*(jnp.asarray(c * rng.standard_normal(n), jnp.float32) for n, c in shapes_and_scales.items()))


def nested_params(seed):
    weight, bias, damping = affine_params(seed)
    return {"map": {"weight": weight, "bias": bias}, "rest": [damping, ()]}


def module_params(seed):
    return Layer(nnx.Rngs(seed))


def module_and_number(seed):
    return {"module": module_params(seed), "damping": affine_params(seed).damping}


AFFINE = descending(affine, lambda p: p.damping)
NESTED = descending(lambda p: affine(Affine(**p["map"], damping=None)), lambda p: p["rest"][0])
MODULE = descending(lambda layer: lambda x: jnp.tanh(layer.linear(x)), lambda layer: jax.nn.sigmoid(layer.damping[...]))
MIXED = descending(
    lambda p: lambda x: jnp.tanh(p["module"].linear(x)), lambda p: p["damping"] * p["module"].damping[...]
)

# name: algorithm, one layer's parameters from a seed, layer_axes
CASES = {
    "NamedTuple": (AFFINE, affine_params, 0),
    "NamedTuple, mixed": (AFFINE, affine_params, Affine(None, 0, 0)),
    "dict": (NESTED, nested_params, 0),
    "dict, mixed by a prefix": (NESTED, nested_params, {"map": None, "rest": 0}),
    "dict, mixed to the leaves": (
        NESTED,
        nested_params,
        {"map": {"weight": 0, "bias": None}, "rest": [None, 0]},
    ),
    "module": (MODULE, module_params, 0),
    "module, shared": (MODULE, module_params, None),
    "module and number": (MIXED, module_and_number, 0),
    "shared module, own number": (MIXED, module_and_number, {"module": None, "damping": 0}),
    "own module, shared number": (MIXED, module_and_number, {"module": 0, "damping": None}),
}
LAYER = affine_params(0)
STACKED = uj.stack_layers([affine_params(seed) for seed in range(NUM_LAYERS)])
every_case = pytest.mark.parametrize("case", CASES)


def map_axes(function, layer_axes, params):
    """`function(axis, leaf)` for every leaf, written without the library's own treatment of prefix trees."""
    is_none = lambda node: node is None
    with_axis = lambda axis, subtree: jax.tree.map(lambda leaf: function(axis, leaf), subtree)
    return jax.tree.map(with_axis, layer_axes, params, is_leaf=is_none)


@functools.cache
def stacked_params(case, num_layers=NUM_LAYERS):
    """Different parameters for every layer, but where they are shared."""
    _, make, layer_axes = CASES[case]
    stacked = stack([make(seed) for seed in range(num_layers)])
    return map_axes(lambda axis, leaf: leaf[0] if axis is None else leaf, layer_axes, stacked)


def network(case, num_layers=NUM_LAYERS, **kwargs):
    algorithm, _, layer_axes = CASES[case]
    return uj.Unrolled(algorithm, num_layers, stacked_params(case, num_layers), layer_axes=layer_axes, **kwargs)


def python_loop(algorithm, params, problem, *, num_layers=NUM_LAYERS, layer_axes: Any = 0):
    """The states of a plain loop over the layers, the start first."""
    states = [algorithm.init(problem)]
    for index in range(num_layers):
        layer = map_axes(lambda axis, leaf, i=index: leaf if axis is None else leaf[i], layer_axes, params)
        states.append(algorithm.step(layer, states[-1], problem))
    return states


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def weighted_sum(trajectory):
    """A scalar in which every entry of every state counts differently."""
    leaves = jax.tree.leaves(trajectory)
    weights = lambda leaf: np.cos(np.arange(leaf.size)).reshape(leaf.shape).astype(jnp.abs(leaf).dtype)
    return sum(jnp.sum(weights(leaf) * jnp.abs(leaf) ** 2) for leaf in leaves)


# compiled once for all tests that run the same network


@jax.jit
def trajectory_of(model, problem):
    return model.trajectory(problem)


@jax.jit
def gradient_of(model, problem):
    """The network's trajectory, and value and gradient of its weighted sum."""

    def loss(model):
        trajectory = model.trajectory(problem)
        return weighted_sum(trajectory), trajectory

    (value, trajectory), gradient = jax.value_and_grad(loss, has_aux=True)(model)
    return trajectory, value, gradient.params


@functools.partial(jax.jit, static_argnums=(0, 3))
def loop_of(algorithm, params, problem, num_layers=NUM_LAYERS):
    """The states of a loop in which all layers share `params`."""
    return stack(python_loop(algorithm, params, problem, num_layers=num_layers, layer_axes=None))


@functools.partial(jax.jit, static_argnums=(0, 1))
def case_loop(case, prepare, params, problem):
    """The states of the loop, and value and gradient of their weighted sum."""
    algorithm, _, layer_axes = CASES[case]

    def loss(params):
        prepared = params if prepare is None else prepare(params, problem)
        states = stack(python_loop(algorithm, prepared, problem, layer_axes=layer_axes))
        return weighted_sum(states), states

    (value, states), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return states, value, gradient


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def counted(algorithm):
    """`algorithm`, and the list that grows whenever Python runs its step."""
    calls = []

    def step(params, state, problem):
        calls.append(None)
        return algorithm.step(params, state, problem)

    return uj.Algorithm(algorithm.init, step), calls


# --- the unrolled network is the loop -----------------------------------------------------------------------


def assert_is_the_loop(model, case, prepare=None):
    trajectory, value, gradient = gradient_of(model, PROBLEM)
    expected_trajectory, expected_value, expected_gradient = case_loop(case, prepare, stacked_params(case), PROBLEM)
    assert_close(trajectory, expected_trajectory)
    assert_close(value, expected_value)
    assert_close(gradient, expected_gradient, atol=1e-5)
    # every parameter counts, in every layer
    layers_that_count = lambda axis, leaf: bool(
        jnp.any(leaf != 0) if axis is None else jnp.all(jnp.any(leaf.reshape(NUM_LAYERS, -1) != 0, axis=1))
    )
    assert all(jax.tree.leaves(map_axes(layers_that_count, CASES[case][2], expected_gradient)))


@every_case
def test_network_is_the_python_loop_in_value_and_gradient(case):
    assert_is_the_loop(network(case), case)


@pytest.mark.parametrize("case", ["NamedTuple", "dict, mixed by a prefix", "module, shared"])
def test_scan_layers_is_the_python_loop(case):
    algorithm, _, layer_axes = CASES[case]
    states, _, _ = case_loop(case, None, stacked_params(case), PROBLEM)

    def run(record):
        return uj.scan_layers(
            algorithm.step,
            stacked_params(case),
            algorithm.init(PROBLEM),
            PROBLEM,
            num_layers=NUM_LAYERS,
            layer_axes=layer_axes,
            record=record,
        )

    (final, records), (same, nothing) = jax.jit(lambda: (run(lambda state: state.x), run(None)))()
    assert_close((final, same), (member(states, -1),) * 2)
    assert_close(records, states.x[1:])
    assert nothing is None


@pytest.mark.parametrize("case", ["NamedTuple", "dict", "module", "module and number"])
def test_unroll_copies_one_layer(case):
    algorithm, make, _ = CASES[case]
    layer = make(0)
    own = uj.unroll(algorithm, NUM_LAYERS, layer)
    for leaf, one in zip(jax.tree.leaves(own.params), jax.tree.leaves(layer), strict=True):
        np.testing.assert_array_equal(leaf, np.stack([one] * NUM_LAYERS))
    assert_close(trajectory_of(own, PROBLEM), loop_of(algorithm, layer, PROBLEM))


@pytest.mark.parametrize("case", ["NamedTuple", "module"])
def test_gradient_of_shared_parameters_is_the_sum_over_the_layers(case):
    algorithm, make, _ = CASES[case]
    own, shared = (
        gradient_of(uj.unroll(algorithm, NUM_LAYERS, make(0), layer_axes=axes), PROBLEM)[2] for axes in (0, None)
    )
    assert_close(shared, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), own), atol=1e-5)


def test_params_may_be_a_number_and_so_may_the_state():
    counting = uj.Algorithm(lambda problem: 0.0, lambda params, state, problem: state + params * problem)
    assert_close(uj.unroll(counting, 3, 0.5).trajectory(2.0), jnp.arange(4.0))


def test_params_may_hold_none_for_a_part_that_is_missing():
    algorithm = descending(lambda p: lambda x: p.weight @ x, lambda p: p.damping)
    layer = affine_params(0)._replace(bias=None)
    states = loop_of(algorithm, layer, PROBLEM)
    for layer_axes in (0, None, Affine(0, None, 0), Affine(None, 0, 0)):
        model = uj.unroll(algorithm, NUM_LAYERS, layer, layer_axes=layer_axes, prepare=lambda params, problem: params)
        assert_close(trajectory_of(model, PROBLEM), states)
        assert_same(model.with_algorithm(algorithm), model)


def test_state_may_hold_a_random_key():
    ista, layer, problem = lasso()
    noisy = uj.algorithms.perturbed(ista, lambda x, problem: jnp.linalg.norm(problem.gradient(x)))
    model = uj.unroll(noisy, NUM_LAYERS, layer)
    noisy_problem = lambda seed: uj.algorithms.NoisyProblem(problem, jax.random.key(seed))
    xs = [model.trajectory(noisy_problem(seed)).x for seed in (0, 0, 1)]
    assert_close(trajectory_of(model, noisy_problem(0)).x, xs[0])
    assert np.all(np.isfinite(xs))
    assert_same(xs[0], xs[1])
    assert np.any(xs[0] != xs[2])


# --- classical parameters: the network is the classical algorithm -------------------------------------------


L1_WEIGHT = 1.0  # about a third of the atoms are in use


def lasso(is_complex=False):
    """ISTA, one layer's classical parameters, and a problem, in the default precision."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    matrix, measurement = draw(8, 12), draw(8)
    if not is_complex:
        matrix, measurement = matrix.real, measurement.real
    operator = uj.operators.Dense(matrix)
    problem = uj.objectives.LeastSquares(operator, measurement)
    layer = uj.algorithms.proximal_gradient_params(operator, L1_WEIGHT)
    return uj.algorithms.proximal_gradient(), layer, problem


@pytest.mark.parametrize(
    ("make", "layer_axes"),
    [(uj.algorithms.proximal_gradient, None), (uj.algorithms.fista, 0)],
    ids=["ISTA", "FISTA"],
)
def test_classical_parameters_give_the_iterates_of_solve(make, layer_axes, precision):
    _, layer, problem = lasso()
    algorithm = make()
    solution = uj.solve(algorithm, layer, problem, tolerance=0.0, max_steps=30)
    assert solution.num_steps == 30
    state = uj.unroll(algorithm, 30, layer, layer_axes=layer_axes)(problem)
    assert state.x.dtype == precision
    assert_close(state, solution.state, rtol=0, atol=TOLERANCE[precision])


def test_lista_at_its_classical_start_is_ista(precision):
    ista, layer, problem = lasso()
    assert isinstance(problem.operator, uj.operators.Dense)
    lista_layer = uj.algorithms.lista_params(problem.operator, L1_WEIGHT)
    lista = trajectory_of(uj.unroll(uj.algorithms.lista(), 30, lista_layer), problem)
    expected = trajectory_of(uj.unroll(ista, 30, layer), problem)
    assert lista.x.dtype == precision
    assert_close(lista, expected, rtol=0, atol=TOLERANCE[precision])
    assert 0 < np.count_nonzero(lista.x[-1]) < lista.x[-1].size


@pytest.mark.parametrize("make", [uj.algorithms.proximal_gradient, uj.algorithms.fista])
def test_complex_estimates(make):
    _, layer, problem = lasso(is_complex=True)
    algorithm = make()
    model = uj.unroll(algorithm, NUM_LAYERS, layer)

    @jax.jit
    def gradient(layer, problem):
        return jax.grad(lambda layer: weighted_sum(loop_of(algorithm, layer, problem)))(layer)

    trajectory, _, own = gradient_of(model, problem)
    assert trajectory.x.dtype == jnp.complex64
    assert_close(trajectory, loop_of(algorithm, layer, problem))
    assert_close(jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), own), gradient(layer, problem), rtol=1e-4)


# --- trajectory and record ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2, NUM_LAYERS])
def test_trajectory_starts_at_the_start_and_ends_at_the_output(num_layers):
    model = network("NamedTuple", num_layers)
    trajectory = trajectory_of(model, PROBLEM)
    assert isinstance(trajectory, State)
    assert trajectory.x.shape == trajectory.velocity.shape == (num_layers + 1, SIZE)
    assert_same(member(trajectory, 0), AFFINE.init(PROBLEM))
    assert_close(member(trajectory, -1), model(PROBLEM), rtol=1e-6)


def test_record_keeps_what_it_returns():
    model = network("NamedTuple")
    trajectory = trajectory_of(model, PROBLEM)
    assert_close(model.trajectory(PROBLEM, lambda state: state.x), trajectory.x)
    assert model.trajectory(PROBLEM, record=lambda state: None) is None
    record = lambda state: {"norm": jnp.linalg.norm(state.x), "is_positive": state.x > 0}
    records = model.trajectory(PROBLEM, record)
    assert_close(records["norm"], np.linalg.norm(trajectory.x, axis=-1))
    np.testing.assert_array_equal(records["is_positive"], trajectory.x > 0)


@pytest.mark.parametrize("compute_dtype", [None, jnp.bfloat16])
def test_run_gives_the_last_state_and_the_records(compute_dtype):
    model = network("NamedTuple", compute_dtype=compute_dtype)
    record = lambda state: jnp.sum(state.x)
    state, records = jax.jit(lambda model, problem: model.run(problem, record))(model, PROBLEM)
    assert_same(state, jax.jit(lambda model, problem: model(problem))(model, PROBLEM))
    assert_same(records, jax.jit(lambda model, problem: model.trajectory(problem, record))(model, PROBLEM))


# --- prepare ------------------------------------------------------------------------------------------------


def halved(params, problem):
    return jax.tree.map(lambda leaf: leaf / (2 + jnp.sum(problem**2)), params)


@pytest.mark.parametrize("case", ["NamedTuple", "dict, mixed by a prefix", "own module, shared number"])
def test_prepare_gives_the_loop_with_prepared_layers(case):
    # elementwise, so that the loop may prepare all layers at once
    assert_is_the_loop(network(case, prepare=halved), case, prepare=halved)


@pytest.mark.parametrize(
    ("layer_axes", "is_plain"),
    [(None, True), (0, False), (Affine(None, 0, None), False)],
    ids=["shared", "own", "mixed"],
)
def test_prepare_runs_once_before_the_scan_on_one_layer(layer_axes, is_plain):
    seen, inside = [], []

    def prepare(params, problem):
        seen.append(params)
        # the layers are a mapped axis, so the norm over everything is the norm of one layer
        return params._replace(weight=params.weight / jnp.linalg.norm(params.weight))

    def step(params, state, problem):
        inside.append(jnp.linalg.norm(params.weight))
        return AFFINE.step(params, state, problem)

    params = map_axes(lambda axis, leaf: leaf[0] if axis is None else leaf, layer_axes, STACKED)
    algorithm = uj.Algorithm(AFFINE.init, step)
    model = uj.Unrolled(algorithm, NUM_LAYERS, params, layer_axes=layer_axes, prepare=prepare)
    trajectory = model.trajectory(PROBLEM)
    assert len(seen) == 1
    assert [leaf.shape for leaf in seen[0]] == [(SIZE, SIZE), (SIZE,), ()]
    # outside jit and scan a plain call computes with values; the step sees tracers
    assert is_plain == (not any(isinstance(leaf, Tracer) for leaf in seen[0]))
    assert all(isinstance(norm, Tracer) for norm in inside)

    def normalized_step(layer, state, problem):
        return AFFINE.step(layer._replace(weight=layer.weight / jnp.linalg.norm(layer.weight)), state, problem)

    loop = lambda params: python_loop(
        uj.Algorithm(AFFINE.init, normalized_step), params, PROBLEM, layer_axes=layer_axes
    )
    assert_close(trajectory, stack(jax.jit(loop)(params)))


def test_prepare_may_return_another_structure():
    prepare = lambda params, problem: {"module": Layer(nnx.Rngs(0)), "damping": params["damping"]}
    layer = {"damping": jnp.array(0.3)}
    expected = loop_of(MIXED, prepare(layer, PROBLEM), PROBLEM)
    for layer_axes in (0, None):
        model = uj.unroll(MIXED, NUM_LAYERS, layer, layer_axes=layer_axes, prepare=prepare)
        assert_close(trajectory_of(model, PROBLEM), expected)


# --- remat --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "num_layers"), [("NamedTuple, mixed", n) for n in (1, 7, 12)] + [("module", 7)])
def test_remat_changes_neither_value_nor_gradient(case, num_layers):
    record = lambda state: (state.x, jnp.sum(state.velocity))

    @jax.jit
    def outcome(model):
        def loss(model):
            values = model(PROBLEM), model.trajectory(PROBLEM, record)
            return weighted_sum(values), values

        gradient, values = jax.grad(loss, has_aux=True)(model)
        return values, gradient.params

    expected, layer, nested = (outcome(network(case, num_layers, remat=remat)) for remat in REMATS)
    assert_close(layer, expected, rtol=1e-6, atol=1e-6)
    assert_close(nested, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize("layers_per_iteration", [2, 7])
def test_several_layers_per_iteration_change_neither_value_nor_gradient(layers_per_iteration, remat):
    """7 layers in pairs leave one over; in sevens they leave no loop."""
    loss = lambda model: weighted_sum((model(PROBLEM), model.trajectory(PROBLEM)))
    expected = jax.value_and_grad(loss)(network("NamedTuple, mixed", 7))
    model = network("NamedTuple, mixed", 7, remat=remat, layers_per_iteration=layers_per_iteration)
    value, gradient = jax.value_and_grad(loss)(model)
    assert_close((value, gradient.params), (expected[0], expected[1].params), rtol=1e-6, atol=1e-6)
    assert model.with_algorithm(model.algorithm).layers_per_iteration == layers_per_iteration
    has_loop = "while" in jax.jit(model).lower(PROBLEM).as_text()
    assert has_loop == (layers_per_iteration < 7 or remat == "nested")


def filter_bank(num_layers, remat):
    """An image network whose layers compute eight channels within and hand on one."""

    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=dimensions)[0]

    def step(params, x, problem):
        return x - 0.1 * (x - problem) - convolve(jnp.tanh(convolve(x, params["analysis"])), params["synthesis"])

    algorithm = uj.Algorithm(lambda problem: problem, step)
    params = {"analysis": jnp.ones((3, 3, 1, 8)), "synthesis": jnp.ones((3, 3, 8, 1))}
    return uj.unroll(algorithm, num_layers, params, remat=remat)


def test_remat_saves_memory():
    def temp_bytes(remat):
        loss = lambda model: jnp.sum(model(jnp.ones((32, 32, 1))) ** 2)
        compiled = jax.jit(jax.grad(loss)).lower(filter_bank(64, remat)).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    none, layer, nested = map(temp_bytes, REMATS)
    assert layer <= none / 10
    assert nested <= none / 15
    assert nested <= 0.8 * layer


# --- one program, traced once -------------------------------------------------------------------------------


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize("case", ["NamedTuple, mixed", "module"])
def test_program_size_does_not_depend_on_the_number_of_layers(case, remat):
    algorithm, make, layer_axes = CASES[case]

    def num_lines(num_layers):
        model = uj.unroll(algorithm, num_layers, make(0), layer_axes=layer_axes, remat=remat, prepare=halved)
        return len(gradient_of.lower(model, PROBLEM).as_text().splitlines())

    assert num_lines(4) == num_lines(64) == num_lines(256)


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize("num_layers", [1, 9, 11])
def test_the_step_is_traced_once(num_layers, remat):
    algorithm, calls = counted(AFFINE)
    model = uj.unroll(algorithm, num_layers, affine_params(0), remat=remat)
    runs = {
        "call": lambda model: model(PROBLEM),
        "trajectory": lambda model: model.trajectory(PROBLEM),
        "gradient": jax.grad(lambda model: weighted_sum(model.trajectory(PROBLEM))),
    }
    for name, run in runs.items():
        calls.clear()
        jax.jit(run).lower(model)
        assert len(calls) == 1, name


def test_numbers_without_a_type_of_their_own_do_not_trace_the_step_twice():
    # weakly typed states, which a scan would trace a second time
    calls = []

    def step(params, state, problem):
        calls.append(None)
        return {"x": state["x"] * 0.5, "count": state["count"] + 1}

    model = uj.unroll(uj.Algorithm(lambda problem: {"x": 1.0, "count": 0}, step), 3, 0.5)
    assert_close(model.trajectory(None), {"count": jnp.arange(4), "x": 0.5 ** jnp.arange(4)})
    assert len(calls) == 1


@pytest.mark.parametrize("case", ["NamedTuple, mixed", "module"])
def test_a_second_call_does_not_compile(case):
    algorithm, make, layer_axes = CASES[case]
    algorithm, calls = counted(algorithm)
    run = jax.jit(lambda model, problem: model.trajectory(problem))
    for seed, scale in itertools.product((0, 1), (1.0, 2.0)):
        # two networks made of one algorithm are one program
        model = uj.unroll(algorithm, NUM_LAYERS, make(seed), layer_axes=layer_axes)
        run(model, scale * PROBLEM)
        run(jax.tree.map(lambda leaf: leaf + 1, model), scale * PROBLEM)
    assert len(calls) == 1


def test_weakly_typed_params_do_not_compile_again_after_an_update():
    # jnp.asarray(0.5) is weakly typed, jnp.asarray(0.5) - gradient is not
    halving, calls = counted(uj.Algorithm(lambda problem: problem, lambda params, x, problem: params * x))
    run = jax.jit(lambda model: model(PROBLEM))
    for layer_axes in (0, None):
        calls.clear()
        model = uj.unroll(halving, 3, jnp.asarray(0.5), layer_axes=layer_axes)
        run(model)
        run(jax.tree.map(lambda leaf: (leaf - jnp.ones(leaf.shape)).astype(leaf.dtype), model))
        assert len(calls) == 1


# --- transformations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "remat"), [("NamedTuple, mixed", "nested"), ("module", None)])
def test_vmap_over_problems_is_a_loop(case, remat):
    model = network(case, remat=remat)
    problems = jnp.stack([PROBLEM, 0 * PROBLEM, PROBLEM[::-1]])
    expected = stack([gradient_of(model, problem) for problem in problems])
    assert_close(jax.vmap(gradient_of, in_axes=(None, 0))(model, problems), expected, atol=1e-5)


def test_vmap_over_operators_is_a_loop():
    ista, layer, problem = lasso()
    model = uj.unroll(ista, NUM_LAYERS, layer, prepare=lambda params, problem: params)
    problems = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, -leaf]), problem)
    expected = stack([trajectory_of(model, member(problems, index)) for index in range(3)])
    assert_close(jax.vmap(model.trajectory)(problems), expected)


def test_vmap_over_models_is_a_loop():
    layers = [affine_params(seed) for seed in range(NUM_LAYERS)]
    models = [uj.unroll(AFFINE, 3, layer, layer_axes=Affine(None, 0, 0), prepare=halved) for layer in layers]
    problems = jnp.stack([scale * PROBLEM for scale in range(NUM_LAYERS)])
    expected = stack([trajectory_of(*pair) for pair in zip(models, problems, strict=True)])
    assert_close(jax.vmap(trajectory_of)(stack(models), problems), expected)


@pytest.mark.parametrize("case", ["NamedTuple, mixed", "module"])
def test_jit_changes_nothing(case):
    model = network(case)
    assert_close(jax.jit(model)(PROBLEM), model(PROBLEM))
    assert_close(trajectory_of(model, PROBLEM), model.trajectory(PROBLEM))


@pytest.mark.parametrize(("case", "remat"), [("dict, mixed by a prefix", None), ("module", "nested")])
def test_jvp_is_the_gradient_and_the_finite_difference(case, remat, x64):
    problem = jnp.asarray(PROBLEM, jnp.float64)
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network(case, remat=remat))
    rng = np.random.default_rng(1)
    tangent = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), model)
    loss = jax.jit(lambda model: weighted_sum(model.trajectory(problem)))
    _, directional = jax.jit(lambda model, tangent: jax.jvp(loss, (model,), (tangent,)))(model, tangent)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient_of(model, problem)[2], tangent.params)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), directional, rtol=1e-10)
    moved = [loss(jax.tree.map(lambda a, b, s=s: a + s * b, model, tangent)) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose((moved[0] - moved[1]) / 2e-6, directional, rtol=1e-6)


def test_gradient_in_the_problem():
    model, params = network("NamedTuple"), stacked_params("NamedTuple")
    loss = lambda problem: weighted_sum(trajectory_of(model, problem))
    loop = lambda problem: weighted_sum(stack(python_loop(AFFINE, params, problem)))
    assert_close(jax.jit(jax.grad(loss))(PROBLEM), jax.jit(jax.grad(loop))(PROBLEM), atol=1e-5)


# --- the network as a pytree and as a module ----------------------------------------------------------------


@pytest.mark.parametrize("case", ["NamedTuple, mixed", "dict", "module", "shared module, own number"])
def test_network_survives_flattening_jit_and_split(case):
    model = network(case, prepare=halved, remat="nested")
    expected = trajectory_of(model, PROBLEM)
    copies = {
        "tree": jax.tree.unflatten(*jax.tree.flatten(model)[::-1]),
        "map": jax.tree.map(jnp.copy, model),
        "jit": jax.jit(lambda model: model)(model),
        "put": jax.device_put(model),
        "split": nnx.merge(*nnx.split(model)),
        "split by type": nnx.merge(*nnx.split(model, nnx.Param, ...)),
        "clone": nnx.clone(model),
    }
    for name, copy in copies.items():
        assert isinstance(copy, uj.Unrolled), name
        assert jax.tree.structure(copy) == jax.tree.structure(model), name
        assert (copy.num_layers, copy.remat) == (NUM_LAYERS, "nested"), name
        assert_same(trajectory_of(copy, PROBLEM), expected)


@pytest.mark.parametrize("case", ["NamedTuple, mixed", "dict", "module", "shared module, own number"])
def test_with_algorithm_keeps_everything_else(case):
    algorithm, _, _ = CASES[case]
    model = network(case, prepare=halved, remat="layer")
    slower = uj.Algorithm(
        algorithm.init,
        lambda params, state, problem: jax.tree.map(
            lambda old, new: (old + new) / 2, state, algorithm.step(params, state, problem)
        ),
    )
    other = model.with_algorithm(slower)
    assert_same(jax.tree.leaves(other), jax.tree.leaves(model))
    assert (other.num_layers, other.prepare, other.remat) == (NUM_LAYERS, halved, "layer")
    assert_same(other.with_algorithm(algorithm), model)
    prepared = map_axes(lambda axis, leaf: leaf, CASES[case][2], halved(stacked_params(case), PROBLEM))
    expected = python_loop(slower, prepared, PROBLEM, layer_axes=CASES[case][2])
    assert_close(trajectory_of(other, PROBLEM), stack(expected))


def test_with_algorithm_wraps_a_trained_network_in_noise():
    ista, layer, problem = lasso()
    model = uj.unroll(ista, NUM_LAYERS, layer)
    silent = model.with_algorithm(uj.algorithms.perturbed(ista, lambda x, problem: jnp.zeros(())))
    actual = silent.trajectory(uj.algorithms.NoisyProblem(problem, jax.random.PRNGKey(0)), lambda state: state.x)
    assert_close(actual, model.trajectory(problem).x)


def trained_paths(model):
    return {path[1:] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def test_only_inexact_arrays_become_parameters():
    layer = {
        "real": jnp.ones(2),
        "complex": jnp.ones(2, jnp.complex64),
        "half": jnp.ones(2, jnp.bfloat16),
        "number": 0.5,
        "numpy": np.ones(2, np.float32),
        "own": nnx.Param(jnp.ones(2)),
        "integer": jnp.arange(2),
        "boolean": jnp.array([True, False]),
        "fixed": nnx.Variable(jnp.ones(2)),
    }
    seen = {}

    def step(params, x, problem):
        seen.update(params)
        return x + params["real"] * params["fixed"] * params["integer"]

    algorithm = uj.Algorithm(lambda problem: problem, step)
    for layer_axes in (0, None):
        model = uj.unroll(algorithm, 3, layer, layer_axes=layer_axes)
        trained = {"real", "complex", "half", "number", "numpy", "own"}
        assert trained_paths(model) == {(name,) for name in trained}
        assert_close(model(jnp.zeros(2)), jnp.array([0.0, 3.0]))
        # the step sees arrays, whatever holds them
        assert all(isinstance(leaf, jax.Array) and not isinstance(leaf, nnx.Variable) for leaf in seen.values())
        assert all(jnp.shape(leaf) == jnp.shape(layer[name]) for name, leaf in seen.items())
        dtypes = {name: leaf.dtype for name, leaf in seen.items()}
        assert dtypes["integer"] == jnp.int32
        assert dtypes["half"] == jnp.bfloat16
        assert dtypes["complex"] == jnp.complex64


def test_modules_stay_as_they_are():
    class Filter(nnx.Module):
        def __init__(self):
            self.trained = nnx.Param(jnp.ones(SIZE))
            self.fixed = nnx.Variable(jnp.ones(SIZE))
            self.raw = jnp.ones(SIZE)

        def __call__(self, x):
            return x * self.trained * self.fixed * self.raw

    algorithm = uj.Algorithm(lambda problem: problem, lambda layer, x, problem: layer(x))
    model = uj.unroll(algorithm, 3, Filter())
    assert isinstance(model.params, Filter)
    assert trained_paths(model) == {("trained",)}
    np.testing.assert_array_equal(model(PROBLEM), PROBLEM)


# --- stack_layers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["NamedTuple", "dict", "module", "module and number"])
def test_stack_layers_is_the_loop_over_the_layers(case):
    algorithm, make, _ = CASES[case]
    layers = [make(seed) for seed in range(NUM_LAYERS)]
    stacked = uj.stack_layers(layers)

    @jax.jit
    def loop(layers):
        state = algorithm.init(PROBLEM)
        for layer in layers:
            state = algorithm.step(layer, state, PROBLEM)
        return state

    model = uj.Unrolled(algorithm, NUM_LAYERS, stacked)
    assert_close(member(trajectory_of(model, PROBLEM), -1), loop(layers))


def test_modules_are_stacked_by_vmap_over_keys():
    keys = jax.random.split(jax.random.key(0), NUM_LAYERS)
    make = lambda key: Layer(nnx.Rngs(key))
    stacked = jax.vmap(make)(keys)
    assert_close(uj.stack_layers([make(key) for key in keys]), stacked)
    states = jax.jit(lambda stacked: stack(python_loop(MODULE, stacked, PROBLEM)))(stacked)
    assert_close(trajectory_of(uj.Unrolled(MODULE, NUM_LAYERS, stacked), PROBLEM), states)


def test_stack_layers_of_one_layer():
    layer = affine_params(0)
    assert_same(member(uj.stack_layers([layer]), 0), layer)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([], "`layers` needs at least one layer's parameters, got none"),
        ([{"a": 1.0}, {"b": 1.0}], "must share one structure: layer 0 has .*'a'.*layer 1 has .*'b'"),
        ([{"a": 1.0}, {"a": 1.0}, {"a": (1.0, 2.0)}], "must share one structure: .*layer 2 has"),
        (
            [{"a": jnp.ones(2)}, {"a": jnp.ones(3)}],
            r"must share their shapes, but `params\['a'\]` has \[\(2,\), \(3,\)\]",
        ),
    ],
)
def test_stack_layers_refuses_layers_that_differ(layers, match):
    with pytest.raises(ValueError, match=match):
        uj.stack_layers(layers)


# --- misuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [0, -1, 1.5, None, "3"])
@pytest.mark.parametrize("make", [uj.unroll, uj.Unrolled])
def test_num_layers_is_checked(make, num_layers):
    with pytest.raises(ValueError, match=f"`num_layers` must be a whole number of at least 1, got {num_layers!r}"):
        make(AFFINE, num_layers, STACKED)
    with pytest.raises(ValueError, match="`num_layers` must be a whole number"):
        uj.scan_layers(AFFINE.step, STACKED, AFFINE.init(PROBLEM), PROBLEM, num_layers=num_layers)


@pytest.mark.parametrize(
    ("params", "layer_axes", "match"),
    [
        (
            LAYER,
            0,
            r"`params` must be stacked: `params.weight` needs a leading axis of 3 layers, got shape \(4, 4\)",
        ),
        (
            STACKED._replace(damping=jnp.ones(())),
            0,
            r"`params.damping` needs a leading axis .* got shape \(\)",
        ),
        (
            LAYER,
            Affine(None, None, 0),
            r"`params.damping` needs a leading axis .*give this leaf the layer axis None",
        ),
        (member(STACKED, slice(2)), 0, r"a leading axis of 3 layers, got shape \(2, 4, 4\)"),
        (Layer(nnx.Rngs(0)), 0, r"`params\S*damping\S*` needs a leading axis .* got shape \(\)"),
        (
            STACKED,
            2,
            r"`layer_axes` takes 0 \(own value per layer\) and None \(shared by all layers\), got 2",
        ),
        (STACKED, Affine(0, 0, -1), "`layer_axes` takes 0 .*got -1"),
        (
            STACKED,
            {"weight": 0},
            "`layer_axes` must be 0, None or a prefix tree of `params`, got {'weight': 0}",
        ),
        (STACKED, (0, 0), r"`layer_axes` must be 0, None or a prefix tree of `params`, got \(0, 0\)"),
    ],
)
def test_stacked_params_and_layer_axes_are_checked(params, layer_axes, match):
    with pytest.raises(ValueError, match=match):
        uj.Unrolled(AFFINE, NUM_LAYERS, params, layer_axes=layer_axes)
    state = AFFINE.init(PROBLEM)
    with pytest.raises(ValueError, match=match):
        uj.scan_layers(AFFINE.step, params, state, PROBLEM, num_layers=NUM_LAYERS, layer_axes=layer_axes)


@pytest.mark.parametrize("layer_axes", [2, Affine(0, 0, -1), {"weight": 0}, (0, 0)])
def test_unroll_checks_layer_axes(layer_axes):
    with pytest.raises(ValueError, match="`layer_axes`"):
        uj.unroll(AFFINE, NUM_LAYERS, LAYER, layer_axes=layer_axes)


def test_unknown_remat():
    remat: Any = "all"
    with pytest.raises(ValueError, match='`remat` must be None, "layer" or "nested", got \'all\''):
        uj.unroll(AFFINE, NUM_LAYERS, LAYER, remat=remat)(PROBLEM)


@pytest.mark.parametrize("name", ["fails inside the step", "changes the state"])
def test_params_stacked_twice_are_explained(name):
    weigh = {
        "fails inside the step": lambda weight, x: weight * x,
        "changes the state": lambda weight, x: weight @ x,
    }
    algorithm = uj.Algorithm(lambda problem: problem, lambda params, x, problem: weigh[name](params, x))
    model = uj.unroll(algorithm, NUM_LAYERS, jnp.ones((NUM_LAYERS, SIZE, SIZE)))
    with pytest.raises((TypeError, ValueError), match=r"`unroll` takes the params of one layer"):
        model(PROBLEM)


def test_batched_problems_are_explained():
    with pytest.raises((TypeError, ValueError), match=r"batches go through jax\.vmap"):
        uj.unroll(AFFINE, NUM_LAYERS, LAYER)(jnp.ones((7, SIZE)))


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (
            lambda params, state, problem: state.x,
            r"must keep the structure of its state: it got .* and returned .*\*",
        ),
        (lambda params, state, problem: (*state, 1.0), "must keep the structure of its state"),
        (
            lambda params, state, problem: state._replace(velocity=state.velocity[:2]),
            r"turned `state.velocity` from float32\[4\] into float32\[2\]",
        ),
        (
            lambda params, state, problem: state._replace(x=state.x.astype(jnp.bfloat16)),
            r"turned `state.x` from float32\[4\] into bfloat16\[4\]",
        ),
        (
            lambda params, state, problem: state._replace(x=state.x + 1j),
            r"turned `state.x` from float32\[4\] into complex64\[4\]",
        ),
    ],
)
@pytest.mark.parametrize("remat", REMATS)
def test_a_step_that_changes_its_state_is_named(step, match, remat):
    model = uj.unroll(uj.Algorithm(AFFINE.init, step), NUM_LAYERS, LAYER, remat=remat)
    with pytest.raises(ValueError, match=match):
        model(PROBLEM)
    with pytest.raises(ValueError, match=match):
        model.trajectory(PROBLEM)


def test_errors_of_the_step_keep_their_type():
    def step(params, state, problem):
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        uj.unroll(uj.Algorithm(AFFINE.init, step), NUM_LAYERS, LAYER)(PROBLEM)


# --- mixed precision ---


def lista_setup(compute_dtype):
    rng = np.random.default_rng(0)
    operator = uj.operators.Dense(jnp.asarray(rng.standard_normal((12, 16)) / 4, jnp.float32))
    params = uj.algorithms.lista_params(operator, l1_weight=0.05)
    network = uj.unroll(uj.algorithms.lista(), 8, params, compute_dtype=compute_dtype)
    problem = uj.objectives.LeastSquares(operator, jnp.asarray(rng.standard_normal(12), jnp.float32))
    return network, problem


def test_mixed_precision_computes_low_and_keeps_parameters_states_and_records_full():
    seen = []

    def step(params, state, problem):
        seen.append((params["a"].dtype, state.dtype, problem.dtype))
        # a constant of full precision must not raise the state
        return params["a"] * state + problem * jnp.float32(0.5)

    def record(state):
        seen.append(state.dtype)
        return state

    algorithm = uj.Algorithm(init=lambda problem: jnp.zeros_like(problem), step=step)
    network = uj.unroll(algorithm, 3, {"a": jnp.float32(0.3)}, compute_dtype=jnp.bfloat16)
    problem = jnp.ones(4, jnp.float32)
    trajectory = network.trajectory(problem, record=record)
    low, full = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert set(seen) == {(low, low, low), full}
    assert trajectory.dtype == network(problem).dtype == jnp.float32
    assert network.params["a"][...].dtype == jnp.float32
    gradient = jax.grad(lambda network: jnp.sum(network(problem)))(network)
    assert gradient.params["a"][...].dtype == jnp.float32
    # bfloat16 has 8 bits
    full = uj.unroll(algorithm, 3, {"a": jnp.float32(0.3)}).trajectory(problem)
    error = jnp.max(jnp.abs(trajectory - full))
    assert 0 < error < 0.01


@pytest.mark.parametrize("compute_dtype", [jnp.bfloat16, jnp.float16, "float16"])
def test_mixed_precision_of_lista_agrees_to_its_precision(compute_dtype):
    network, problem = lista_setup(compute_dtype)
    full, _ = lista_setup(None)
    close = {"bfloat16": 0.05, "float16": 0.01}[jnp.dtype(compute_dtype).name]
    got = network.trajectory(problem, record=lambda state: state.x)
    want = full.trajectory(problem, record=lambda state: state.x)
    assert jnp.linalg.norm(got - want) < close * jnp.linalg.norm(want)
    assert network.with_algorithm(uj.algorithms.lista()).compute_dtype == jnp.dtype(compute_dtype)


def test_mixed_precision_leaves_integers_keys_and_complex_numbers_alone():
    def init(problem):
        return {"z": problem["z"], "key": problem["key"], "count": jnp.int32(0), "x": jnp.float32(0)}

    def step(params, state, problem):
        assert params.dtype == state["x"].dtype == jnp.bfloat16 and problem["z"].dtype == jnp.complex64
        z = state["z"] * jnp.complex64(0.5)
        key = jax.random.split(state["key"])[0]
        return {"z": z, "key": key, "count": state["count"] + 1, "x": state["x"] + params}

    network = uj.unroll(uj.Algorithm(init, step), 3, jnp.float32(1), compute_dtype=jnp.bfloat16)
    final = network({"z": jnp.complex64(1 + 1j), "key": jax.random.key(0)})
    assert final["z"] == 0.125 + 0.125j and final["count"] == 3
    assert final["x"].dtype == jnp.float32 and final["x"] == 3


def test_prepare_works_in_full_precision():
    def prepare(params, problem):
        assert params.dtype == problem.dtype == jnp.float32
        return params / 3

    algorithm = uj.Algorithm(init=lambda problem: problem, step=lambda params, state, problem: params * state)
    network = uj.unroll(algorithm, 2, jnp.float32(1), prepare=prepare, compute_dtype=jnp.bfloat16, layer_axes=None)
    assert network(jnp.float32(9)) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("compute_dtype", [jnp.int32, "half", jnp.complex64, 16])
def test_mixed_precision_takes_floating_types_only(compute_dtype):
    if compute_dtype == "half":  # a name of float16
        assert lista_setup(compute_dtype)[0].compute_dtype == jnp.float16
        return
    with pytest.raises(ValueError, match=r"`compute_dtype` must be a floating-point type such as jnp.bfloat16"):
        lista_setup(compute_dtype)
