"""How a regularizer is trained: as a denoiser, at its fixed point or in a few steps."""

import dataclasses
import functools
import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import unroll_jax as uj
from experiments.events import read_events, total_seconds
from experiments.files import WORK
from experiments.train_regularizer.settings import Settings
from unroll_jax.regularizers import Ridge, RidgeParams, RidgeRegularizer, prepare_ridge, ridge_gradient
from unroll_jax.splines import second_order_variation

UNIT = 255.0
EVEN = 5.0  # noise below it counts less

Method = Callable[[optax.Schedule], optax.GradientTransformation]


class History(NamedTuple):
    """What a training reported.

    Attributes:
        step: `(num_rows,)`, the steps made.
        loss: `(num_rows,)`, the mean over the steps of a row.
        validation_step: `(num_evaluations,)`.
        validation: by noise level as text, `(num_evaluations,)`, the mean PSNR in dB.
        seconds: that training took, compilation included, over all sittings.
    """

    step: np.ndarray
    loss: np.ndarray
    validation_step: np.ndarray
    validation: dict[str, np.ndarray]
    seconds: float


class _Denoise(NamedTuple):
    noisy: jax.Array
    sigma: jax.Array


def with_curvature(params: RidgeParams, mu: float) -> RidgeParams:
    """`params` with the curvature bound `mu`, and scales in proportion: convex potentials keep their height.

    Training finds the way there slowly, as it has to change both together.
    """
    change = jnp.log(mu) - params.log_mu
    return dataclasses.replace(params, log_mu=params.log_mu + change, scaling=params.scaling + change)


def make_denoiser(settings: Settings) -> Callable[[RidgeParams, jax.Array, jax.Array], jax.Array]:
    """`(params, noisy (height, width, 1), sigma ()) -> denoised`, differentiable as `settings.mode` says."""
    if settings.mode == "unrolled":
        return functools.partial(_unrolled, settings.num_unrolled)
    if settings.mode == "jacobian-free":
        gradient = uj.JacobianFree()
    else:
        gradient = uj.ImplicitGradient("cg", settings.adjoint_tolerance, settings.adjoint_steps)

    def denoiser(params: RidgeParams, noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        # little noise changes an image little, so what counts as little is told in units of the noise
        tolerance = settings.tolerance * UNIT * sigma / settings.max_sigma
        solution = uj.regularizers.ridge_denoise(
            params, noisy, sigma, tolerance=tolerance, max_steps=settings.max_steps, gradient=gradient
        )
        return solution.state.x

    return denoiser


def _unrolled(num_steps: int, params: RidgeParams, noisy: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gradient steps of the length 2 / (2 + mu), from the noisy image: the t-step denoiser of arXiv 2211.12461."""

    def direction(ridge: Ridge, x: jax.Array, problem: _Denoise) -> jax.Array:
        return (x - problem.noisy + ridge_gradient(ridge, x)) * 2 / (2 + ridge.mu)

    algorithm = uj.algorithms.gradient_descent(direction, start=lambda problem: problem.noisy)
    state, _ = uj.scan_layers(
        algorithm.step,
        prepare_ridge(params, sigma),
        algorithm.init(_Denoise(noisy, sigma)),
        _Denoise(noisy, sigma),
        num_layers=num_steps,
        layer_axes=None,
    )
    return state.x


def make_loss(settings: Settings) -> Callable[[RidgeRegularizer, jax.Array, jax.Array], jax.Array]:
    """`(model, clean patches, key) -> ()`: the mean error per pixel, and the TV2.

    Errors are in 8-bit units and weighted by 1 / (sigma + 5), of squares by its square, up to a constant: so that all
    noise levels count alike. Pixels in the margin do not count.
    """
    denoiser = make_denoiser(settings)

    def loss(model: RidgeRegularizer, clean: jax.Array, key: jax.Array) -> jax.Array:
        params = model.params
        sigma_key, noise_key = jax.random.split(key)
        sigmas = jax.random.uniform(sigma_key, clean.shape[:1], maxval=settings.max_sigma / UNIT)
        noise = jax.random.normal(noise_key, clean.shape)
        noisy = clean + sigmas.reshape(-1, 1, 1, 1) * noise
        error = UNIT * (jax.vmap(denoiser, (None, 0, 0))(params, noisy, sigmas) - clean)
        error = _inside(error, settings.margin)
        weights = (settings.max_sigma / 2 + EVEN) / (UNIT * sigmas + EVEN)
        weighted = weights.reshape(-1, 1, 1, 1) * error
        value = jnp.mean(jnp.abs(weighted)) if settings.loss == "l1" else jnp.mean(weighted**2)
        if settings.variation_weight == 0:
            return value
        variation = [jnp.sum(second_order_variation(part, params.grid)) for part in (params.convex, params.concave)]
        return value + settings.variation_weight * sum(variation)

    return loss


def _inside(images: jax.Array, margin: int) -> jax.Array:
    """`(..., height, width, 1)` without the margin."""
    height, width = images.shape[-3:-1]
    return images[..., margin : height - margin, margin : width - margin, :]


def make_evaluate(settings: Settings, images: np.ndarray) -> Callable[[RidgeRegularizer], tuple]:
    """`model -> (-mean PSNR, {}, PSNR by noise level)` on clean `images`, with the same noise every time.

    Pixels in the margin do not count.
    """

    @jax.jit
    def psnr_at(params: RidgeParams, sigma: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), len(images))

        def one(arguments: tuple[jax.Array, jax.Array]) -> jax.Array:
            clean, key = arguments
            noisy = clean + sigma * jax.random.normal(key, clean.shape)
            found = uj.regularizers.ridge_denoise(params, noisy, sigma, tolerance=1e-4, max_steps=200)
            error = _inside(found.state.x - clean, settings.margin)
            return -10 * jnp.log10(jnp.mean(error**2))

        return jnp.mean(jax.lax.map(one, (jnp.asarray(images), keys)))

    def evaluate(model: RidgeRegularizer) -> tuple[float, dict, dict[str, float]]:
        found = {f"{sigma:g}": float(psnr_at(model.params, sigma / UNIT)) for sigma in settings.validation_sigmas}
        return -float(np.mean(list(found.values()))), {}, found

    return evaluate


def train(
    start: RidgeParams, patches: np.ndarray, validation: np.ndarray, settings: Settings, seed: int, run: Path
) -> tuple[RidgeParams, int, History]:
    """The regularizer that was best in validation, its step, and what training reported.

    Args:
        start: where to start from.
        patches: `(num_patches, height, width, 1)`, clean.
        validation: `(num_images, height, width, 1)`, clean.
        settings: of the run.
        seed: decides the batches and the noise.
        run: the run's folder: events go to `training.jsonl` there, checkpoints to `work`, from which training that was
            stopped goes on.

    Raises:
        FloatingPointError: if the loss, the gradient or an update was not finite.
    """
    events = run / "training.jsonl"
    fitted = uj.training.fit(
        uj.training.unconstrained(make_loss(settings), make_optimizer(settings, start)),
        RidgeRegularizer(start),
        uj.training.Minibatches(patches, settings.batch_size, seed=seed),
        num_steps=settings.num_steps,
        key=jax.random.key(seed),
        evaluate=make_evaluate(settings, validation),
        evaluate_every=min(settings.evaluate_every, settings.num_steps),
        patience=settings.patience,
        checkpoints=uj.training.Checkpoints(
            run / WORK / "checkpoints",
            every=settings.checkpoint_every,
            keep=2,
            config={"settings": json.loads(json.dumps(vars(settings))), "seed": seed},
        ),
        resume=True,
        callbacks=[uj.training.json_lines(events), uj.training.progress_bar("regularizer")],
    )
    assert fitted.best is not None  # the last step is evaluated
    return fitted.model.params, fitted.best.step, read_history(events, settings.steps_per_row)


def make_optimizer(settings: Settings, start: RidgeParams) -> optax.GradientTransformation:
    """Muon or Adam for the filters, Adam for the rest, with rates that rise shortly and fall as a cosine."""
    num_frozen = int(settings.frozen_share * settings.num_steps)

    def rated(method: Method, rate: float, num_waiting: int = 0) -> optax.GradientTransformation:
        if rate == 0:
            return optax.set_to_zero()
        steps = max(settings.num_steps - num_waiting, 2)
        warmup = min(settings.warmup_steps, steps // 2)
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps, end_value=rate / 100)
        if num_waiting:
            schedule = optax.join_schedules([optax.constant_schedule(0.0), schedule], [num_waiting])
        return method(schedule)

    rates: dict[Hashable, optax.GradientTransformation] = {
        "filters": rated(_muon if settings.optimizer == "muon" else optax.adam, settings.filter_rate),
        "scaling": rated(optax.adam, settings.scaling_rate),
        "curvature": rated(optax.adam, settings.curvature_rate),
        "mixture": rated(optax.adam, settings.mixture_rate),
        "splines": rated(optax.adam, settings.spline_rate, num_frozen),
    }
    optimizer = optax.multi_transform(rates, uj.regularizers.ridge_labels)
    if settings.spline_rate == 0:
        return optimizer
    return optax.chain(optimizer, uj.regularizers.keep_ridge_feasible(start.grid))


def _muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon, to which a convolution's kernel is the matrix from the values it sees to its channels."""
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return optax.contrib.muon(
        schedule, muon_weight_dimension_numbers=lambda kernels: jax.tree.map(lambda _: axes, kernels)
    )


def read_history(path: Path, steps_per_row: int) -> History:
    """What `train` wrote to `path`."""
    events = read_events(path, "train")
    evaluations = read_events(path, "evaluation")
    rows = [events[start : start + steps_per_row] for start in range(0, len(events), steps_per_row)]
    levels = list(evaluations[0]["metrics"]) if evaluations else []
    return History(
        step=np.array([row[-1]["step"] for row in rows]),
        loss=np.array([np.mean([event["loss"] for event in row]) for row in rows]),
        validation_step=np.array([event["step"] for event in evaluations]),
        validation={name: np.array([event["metrics"][name] for event in evaluations]) for name in levels},
        seconds=total_seconds(events),
    )
