"""Networks of one Lipschitz bound with different activations, trained alike, all targets and seeds at once."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import unroll_jax as uj
from experiments.files import WORK
from experiments.spline_fit.activations import GroupSort, Householder, Pointwise
from experiments.spline_fit.problem import NETWORK_TARGETS
from experiments.spline_fit.settings import Settings
from unroll_jax import splines

_ORTHONORMAL = 12  # iterations: singular values from 0.01 of the largest one on arrive at 1


class Variant(NamedTuple):
    """A kind of networks.

    Attributes:
        name: for tables.
        activation: "spline", "householder", "groupsort", "absolute" or "relu".
        is_wide: whether it is twice as wide, for about as many parameters as the splines have.
    """

    name: str
    activation: str
    is_wide: bool = False


SPLINES = Variant("linear spline", "spline")
VARIANTS = (
    SPLINES,
    Variant("Householder", "householder"),
    Variant("Householder, wide", "householder", is_wide=True),
    Variant("GroupSort", "groupsort"),
    Variant("GroupSort, wide", "groupsort", is_wide=True),
    Variant("absolute value", "absolute"),
    Variant("absolute value, wide", "absolute", is_wide=True),
    Variant("ReLU", "relu"),
)


class Examples(NamedTuple):
    """Functions without noise: `x` is `(num, 1)`, `y` `(num_targets, num, 1)`."""

    x: np.ndarray
    y: np.ndarray


class Trained(NamedTuple):
    """The networks with one activation, `num_seeds` for each target.

    Attributes:
        networks: one stacked module, with an axis of num_targets * num_seeds in front of every parameter.
        rates: `(num_targets,)`, the learning rate with the lowest training error, the median over the seeds.
        train_error: `(num_targets, num_seeds)`, mean squared.
        error: the same, on held-out points.
        predictions: `(num_targets, num_seeds, num_held_out)`.
        steepest: `()`, the largest slope between held-out points, of all networks.
        bound: the Lipschitz constant known from the networks' structure.
        num_params: of one network.
    """

    networks: nnx.Sequential
    rates: np.ndarray
    train_error: np.ndarray
    error: np.ndarray
    predictions: np.ndarray
    steepest: float
    bound: float
    num_params: int


def make_examples(settings: Settings, seed: int) -> tuple[Examples, Examples]:
    """Training examples at random points, held-out ones at even points between their ends."""
    x = np.sort(np.random.default_rng([seed, 1]).uniform(-1, 1, settings.num_train))
    points = np.linspace(x[0], x[-1], settings.num_held_out)
    made = []
    for each in (x, points):
        values = np.stack([function(each) for function in NETWORK_TARGETS.values()])
        made.append(Examples(each[:, None].astype(np.float32), values[..., None].astype(np.float32)))
    return made[0], made[1]


def make_network(variant: Variant, settings: Settings, key: jax.Array) -> nnx.Sequential:
    """Orthonormal linear layers with an activation between each two: 1-Lipschitz, from one number to one."""
    rngs = nnx.Rngs(params=key)
    width = 2 * settings.width if variant.is_wide else settings.width
    layers: list[Any] = [splines.OrthonormalLinear(1, width, num_iterations=_ORTHONORMAL, rngs=rngs)]
    for layer in range(1, settings.num_layers):
        num_outputs = 1 if layer == settings.num_layers - 1 else width
        layers.append(_make_activation(variant.activation, width, settings))
        layers.append(splines.OrthonormalLinear(width, num_outputs, num_iterations=_ORTHONORMAL, rngs=rngs))
    return nnx.Sequential(*layers)


def _make_activation(name: str, width: int, settings: Settings) -> nnx.Module:
    if name == "spline":
        grid = splines.UniformGrid(-1.0, 1.0, settings.num_knots)
        return splines.LinearSpline(grid, width, init="relu", box=splines.SlopeBox.lipschitz())
    if name == "householder":
        return Householder(width)
    return GroupSort() if name == "groupsort" else Pointwise(name)


def train(
    variant: Variant, train_set: Examples, held_out: Examples, settings: Settings, seed: int, run: Path
) -> Trained:
    """Networks for all targets, from several starts, with every learning rate; for each target the best rate's.

    Args:
        variant: which networks.
        train_set: decides the rates too.
        held_out: for the errors.
        settings: of the run.
        seed: decides the starts.
        run: the run's folder; checkpoints go to `work/` in it.
    """
    num_targets, num_rates = len(train_set.y), len(settings.network_rates)
    shape = (num_rates, num_targets, settings.num_seeds)
    # every rate has the same starts
    keys = jax.random.split(jax.random.key(seed), shape[1:]).reshape(-1)
    start = jax.vmap(lambda key: make_network(variant, settings, key))(jnp.tile(keys, num_rates))
    x, y = jnp.asarray(train_set.x), jnp.asarray(np.repeat(np.tile(train_set.y, (num_rates, 1, 1)), shape[2], axis=0))

    def loss(networks: nnx.Sequential, batch: np.ndarray, key: jax.Array) -> jax.Array:
        del batch, key
        total = jnp.sum(jnp.mean((predict(networks, x) - y) ** 2, axis=(1, 2)))
        for layer in spline_layers(networks):
            total += settings.network_tv2_weight * jnp.sum(
                each_spline(layer, lambda spline: spline.second_order_variation())
            )
        return total

    fitted = uj.training.fit(
        uj.training.unconstrained(loss, _optimizer(start, shape, settings)),
        start,
        lambda step: np.zeros(()),  # all data is in the loss
        num_steps=settings.num_network_steps,
        key=jax.random.key(0),
        steps_per_dispatch=250,
        checkpoints=uj.training.Checkpoints(
            run / WORK / re.sub(r"\W+", "-", variant.name), every=settings.num_network_steps, keep=1
        ),
        resume=True,
        callbacks=[uj.training.progress_bar(variant.name)],
    )
    return _choose(fitted.model, train_set, held_out, settings, shape)


def _optimizer(start: nnx.Sequential, shape: tuple[int, ...], settings: Settings) -> optax.GradientTransformation:
    """Adam with a rate for every network, lower for the values of splines and for their scales."""
    rates = jnp.repeat(jnp.asarray(settings.network_rates), shape[1] * shape[2])

    def adam(factor: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(factor, settings.num_network_steps, alpha=1e-2))

    def scaled(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(lambda update: jax.vmap(jnp.multiply)(rates, update), updates)

    parts = [
        optax.multi_transform(
            {"weights": adam(1.0), "coefficients": adam(0.1), "scales": adam(0.5)}, splines.spline_labels
        ),
        optax.stateless(scaled),
    ]
    return optax.chain(*parts, splines.keep_splines_feasible(start)) if spline_layers(start) else optax.chain(*parts)


@jax.jit
def predict(networks: nnx.Sequential, x: jax.Array) -> jax.Array:
    """Of every network of a stack, at all points: `(num_networks, num, 1)`."""
    return jax.vmap(lambda network: network(x))(networks)


def spline_layers(networks: nnx.Sequential) -> list[splines.LinearSpline]:
    """The activations that are splines."""
    return [layer for layer in networks.layers if isinstance(layer, splines.LinearSpline)]


def each_spline(layer: splines.LinearSpline, function: Any) -> jax.Array:
    """`function` of every layer in a stack of them."""
    return jax.vmap(function)(layer)


def _choose(
    networks: nnx.Sequential, train_set: Examples, held_out: Examples, settings: Settings, shape: tuple[int, ...]
) -> Trained:
    seen, unseen = predictions_of(networks, train_set, held_out, shape)
    train_error = mean_squared(seen, train_set)
    best = np.argmin(np.median(train_error, axis=2), axis=0)
    index = np.arange(np.prod(shape)).reshape(shape)[best, np.arange(shape[1])]
    predictions = unseen.reshape(-1, unseen.shape[-1])[index]
    first = jax.tree.map(lambda leaf: leaf[0], networks)
    return Trained(
        networks=jax.tree.map(lambda leaf: leaf[index.ravel()], networks),
        rates=np.asarray(settings.network_rates)[best],
        train_error=train_error.ravel()[index],
        error=mean_squared(predictions, held_out),
        predictions=predictions,
        steepest=float(np.max(np.abs(np.diff(predictions) / np.diff(held_out.x[:, 0].astype(float))))),
        bound=splines.lipschitz_bound(first),
        num_params=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(first, nnx.Param))),
    )


def predictions_of(
    networks: nnx.Sequential, train_set: Examples, held_out: Examples, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """At the points of both, `(*shape, num)` each."""
    # together, as a program for every number of points takes seconds to compile
    x = jnp.concatenate([jnp.asarray(train_set.x), jnp.asarray(held_out.x)])
    values = np.asarray(predict(networks, x), float).reshape(*shape, -1)
    return values[..., : len(train_set.x)], values[..., len(train_set.x) :]


def mean_squared(predictions: np.ndarray, examples: Examples) -> np.ndarray:
    """Errors `(..., num_targets, num_seeds)` of predictions with one more axis."""
    return np.mean((predictions - examples.y[:, None, :, 0]) ** 2, axis=-1)
