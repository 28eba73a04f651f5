"""What the networks do on held-out patches: layer by layer, under noise between layers, under shifted data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.sparse_coding import networks
from experiments.sparse_coding.problem import Examples, SparseCoding, Task, prepare_patches, sparse_codes
from experiments.sparse_coding.settings import Settings

_CHUNK = 2_000  # patches evaluated at once
_NOISE_KEY = 1_000  # every network meets the same noise


class Layers(NamedTuple):
    """One network on the held-out patches, after every layer, the start first.

    Attributes:
        distance: `(num, num_layers + 1)`, to the label.
        excess: `(num, num_layers + 1)`, the Lasso objective above the label's.
        l1_norm: `(num, num_layers + 1)`, of the code.
    """

    distance: np.ndarray
    excess: np.ndarray
    l1_norm: np.ndarray


class Shift(NamedTuple):
    """Held-out patches of one level of pixel noise, with labels of their own.

    Attributes:
        level: standard deviation of the pixel noise, in intensities of [0, 1]; 0 is the clean data.
        examples: the patches, prepared as always, and their codes.
    """

    level: float
    examples: Examples


class Evaluation(NamedTuple):
    """Everything measured of one network.

    Attributes:
        layers: on clean held-out patches.
        certificate: of descent in the distance, on the same.
        nmse: of the last layer, E||y_L - y||^2 / E||y||^2.
        noise_error: `(num_levels, num)`, the last layer's distance under noise between the layers.
        noise_descent: `(num_levels, num_layers)`, the share of patches that descend at each layer under it.
        shift_error: `(num_levels, num)`, the last layer's distance on shifted patches, the clean ones first.
    """

    layers: Layers
    certificate: uj.Certificate
    nmse: float
    noise_error: np.ndarray
    noise_descent: np.ndarray
    shift_error: np.ndarray


def make_shifts(problem: SparseCoding, settings: Settings, seed: int) -> list[Shift]:
    """The clean held-out patches and the same under clip(pixels + level * noise, 0, 1), each with labels."""
    rng = np.random.default_rng(seed)
    num = min(settings.num_shifted, len(problem.held_out.x))
    pixels = problem.held_out_pixels[:num]
    shifted = [
        np.clip(pixels + level * rng.standard_normal(pixels.shape).astype(np.float32), 0, 1)
        for level in settings.shift_levels
    ]
    x = prepare_patches(np.concatenate(shifted), settings.normalize, problem.unit)
    y, _ = sparse_codes(problem.task, x, settings.label_gap, "labels, shifted")
    num_levels = len(settings.shift_levels)
    clean = Shift(0.0, Examples(problem.held_out.x[:num], problem.held_out.y[:num]))
    return [clean] + [
        Shift(level, Examples(x, y))
        for level, x, y in zip(settings.shift_levels, jnp.split(x, num_levels), jnp.split(y, num_levels), strict=True)
    ]


def evaluate(network: uj.Unrolled, problem: SparseCoding, settings: Settings, shifts: list[Shift]) -> Evaluation:
    """The network on held-out patches, clean, under noise between its layers, and shifted."""

    def run_layers(examples: Examples) -> Layers:
        return Layers(*_chunked(lambda batch, _: _run_layers(network, problem.task, batch), examples))

    def run_noisy(level: float) -> np.ndarray:
        def run(batch: Examples, key: jax.Array) -> tuple[jax.Array]:
            return (_run_noisy(network, problem.task, batch, key, level),)

        return _chunked(run, problem.held_out)[0]

    layers = run_layers(problem.held_out)
    # where the certificate saturates may depend on the training set only
    num_seen = len(problem.held_out.x)
    seen = run_layers(Examples(problem.train.x[:num_seen], problem.train.y[:num_seen]))
    noisy = [run_noisy(level) for level in settings.noise_levels]
    shifted = [run_layers(shift.examples).distance[:, -1] for shift in shifts]
    label_norms = np.linalg.norm(problem.held_out.y, axis=1)
    return Evaluation(
        layers=layers,
        certificate=uj.certify(
            layers.distance,
            rate=settings.rate,
            confidence=settings.confidence,
            value_bound=float(np.max(seen.distance)),
        ),
        nmse=float(np.mean(layers.distance[:, -1] ** 2) / np.mean(label_norms**2)),
        noise_error=np.stack([distances[:, -1] for distances in noisy]),
        noise_descent=np.stack([np.mean(distances[:, 1:] < distances[:, :-1], axis=0) for distances in noisy]),
        shift_error=np.stack(shifted),
    )


@jax.jit
def _run_layers(network: uj.Unrolled, task: Task, batch: Examples) -> tuple[jax.Array, ...]:
    codes = networks.run(network, task, batch.x)

    def objective(codes: jax.Array, x: jax.Array) -> jax.Array:
        return jax.vmap(task.lasso(x).value)(codes)

    best = jax.vmap(lambda y, x: task.lasso(x).value(y))(batch.y, batch.x)
    return (
        _distances(codes, batch),
        jax.vmap(objective)(codes, batch.x) - best[:, None],
        jnp.sum(jnp.abs(codes), axis=-1),
    )


@jax.jit
def _run_noisy(network: uj.Unrolled, task: Task, batch: Examples, key: jax.Array, level: jax.Array) -> jax.Array:
    return _distances(networks.run_perturbed(network, task, batch.x, key, level), batch)


def _distances(codes: jax.Array, batch: Examples) -> jax.Array:
    return jax.vmap(lambda c, e: uj.constraints.measure_layers(networks.distance, c, e))(codes, batch)


def _chunked(function, examples: Examples) -> list[np.ndarray]:
    """`function(examples, key)` over chunks of the examples, its results joined."""
    parts = []
    for index, start in enumerate(range(0, len(examples.x), _CHUNK)):
        chunk = Examples(*(a[start : start + _CHUNK] for a in examples))
        key = jax.random.fold_in(jax.random.key(_NOISE_KEY), index)
        parts.append(jax.device_get(function(chunk, key)))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
