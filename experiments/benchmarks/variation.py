"""Total variation denoising of a photograph: its proximal operator, and general methods on the same objective."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unroll_jax as uj
from experiments.benchmarks.harness import Side, compare, peer
from experiments.benchmarks.lasso_peers import quiet_scico
from experiments.benchmarks.rows import Row, ratio_row, seconds_row

WEIGHT, NOISE = 0.1, 0.1
EXCESS = 1e-4
"""Of the objective's minimum."""

COUNTS = [round(10 * 1.25**power) for power in range(24)]
NUM_ITERATIONS = 100

DIFFERENCES = uj.operators.FiniteDifferences()
_to_data: Callable[..., Any] = lambda x, strength, problem: problem.prox(x, strength)
_noisy_start: Callable[..., Any] = lambda problem: problem.measurement
PDHG = uj.algorithms.chambolle_pock(
    lambda problem: DIFFERENCES, _to_data, lambda y, strength, problem: uj.prox.group_l21(y, strength), _noisy_start
)
LINEARIZED_ADMM = uj.algorithms.linearized_admm(lambda problem: DIFFERENCES, uj.prox.group_l21, _to_data, _noisy_start)


def measure(quick: bool) -> list[Row]:
    """The rows of both."""
    noisy, rounds = make_image(16 if quick else 256), 2 if quick else 10
    return [*_to_accuracy(noisy, rounds), *_iterations(noisy, 30 if quick else NUM_ITERATIONS, rounds)]


def make_image(side: int) -> np.ndarray:
    """Disks and a ramp with noise, `(side, side)`: as sharp and as smooth as photographs, without a file."""
    rows, columns = np.mgrid[:side, :side] / side
    clean = 0.3 * rows + 0.4 * (np.hypot(rows - 0.4, columns - 0.5) < 0.3) + 0.2 * (np.hypot(rows - 0.8, columns) < 0.4)
    clean = clean + 0.1 * np.sin(40 * columns) * (rows > 0.6)
    return (clean + NOISE * np.random.default_rng(0).standard_normal((side, side))).astype(np.float32)


def objective(image: np.ndarray, noisy: np.ndarray) -> float:
    """||image - noisy||^2 / 2 + WEIGHT * TV(image), in double precision."""
    image = np.asarray(image, float)
    down, right = np.zeros_like(image), np.zeros_like(image)
    down[:-1], right[:, :-1] = np.diff(image, axis=0), np.diff(image, axis=1)
    return float(((image - noisy) ** 2).sum() / 2 + WEIGHT * np.hypot(down, right).sum())


def _to_accuracy(noisy: np.ndarray, rounds: int) -> list[Row]:
    """Fast gradient projection against the projection method of scikit-image, to one accuracy."""
    best = objective(np.asarray(_library(noisy, 5_000)()), noisy)
    excess = lambda image: objective(np.asarray(image), noisy) / best - 1
    own = {"library": Side(_loosest(excess, lambda count: _library(noisy, count)))}

    def scikit_image() -> Side:
        restoration = peer("skimage.restoration")

        def make(count: int) -> Callable[[], Any]:
            return lambda: restoration.denoise_tv_chambolle(noisy, weight=WEIGHT, eps=0.0, max_num_iter=count)

        return Side(_loosest(excess, make), "library", 1.1 * EXCESS, difference=lambda image, _: excess(image))

    compared = compare(own, {"scikit-image": scikit_image}, rounds=rounds)
    return [
        seconds_row("total variation, to one accuracy", compared, "library"),
        ratio_row("total variation, to one accuracy: scikit-image / library", compared, "scikit-image", "library"),
    ]


def _library(noisy: np.ndarray, num_steps: int) -> Callable[[], Any]:
    image = jnp.asarray(noisy)
    denoise = jax.jit(lambda image: uj.prox.total_variation(image, WEIGHT, num_steps=num_steps))
    return lambda: denoise(image)


def _loosest(
    excess: Callable[[Any], float], make: Callable[[int], Callable[[], Any]], counts: Sequence[int] = COUNTS
) -> Callable[[], Any]:
    """What `make` makes of the smallest count that is accurate enough."""
    for count in counts:
        run = make(count)
        if excess(run()) <= EXCESS:
            return run
    raise ValueError(f"{counts[-1]} iterations do not reach {EXCESS} of the objective")


def _iterations(noisy: np.ndarray, num: int, rounds: int) -> list[Row]:
    """As many iterations of one method, at the same parameters."""
    operator = uj.operators.Diagonal(jnp.ones(noisy.shape))
    problem = uj.objectives.LeastSquares(operator, jnp.asarray(noisy))
    like = problem.measurement
    saddle = uj.algorithms.chambolle_pock_params(DIFFERENCES, like, dual_strength=WEIGHT)
    linearized = uj.algorithms.linearized_admm_params(DIFFERENCES, WEIGHT, like)

    def side(algorithm: uj.Algorithm, params: Any) -> Side:
        @jax.jit
        def solve(problem: uj.objectives.LeastSquares) -> jax.Array:
            start = algorithm.init(problem)
            return uj.scan_layers(algorithm.step, params, start, problem, num_layers=num, layer_axes=None)[0].x

        return Side(lambda: solve(problem))

    def scico(name: str, **parameters: float) -> Side:
        functional, linop, loss, optimize = (
            peer(f"scico.{each}") for each in ("functional", "linop", "loss", "optimize")
        )
        differences = linop.FiniteDifference(noisy.shape, append=0)

        def run() -> Any:
            return getattr(optimize, name)(
                f=loss.SquaredL2Loss(y=like),
                g=WEIGHT * functional.L21Norm(),
                C=differences,
                x0=like,
                maxiter=num,
                **parameters,
                **quiet_scico(),
            ).solve()

        # the two begin an iteration at different halves of it
        return Side(run, same_as=name, tolerance=5e-3)

    own = {"PDHG": side(PDHG, saddle), "LinearizedADMM": side(LINEARIZED_ADMM, linearized)}
    penalty = float(linearized.penalty)
    peers = {
        "scico PDHG": lambda: scico("PDHG", tau=float(saddle.primal_step), sigma=float(saddle.dual_step)),
        "scico LinearizedADMM": lambda: scico("LinearizedADMM", mu=float(linearized.step_size), nu=1 / penalty),
    }
    compared = compare(own, peers, rounds=rounds, warm_up=2)
    rows = []
    for name in own:
        rows.append(seconds_row(f"total variation, {num} iterations of {name}", compared, name))
        rows.append(ratio_row(f"total variation, {num} iterations: scico / {name}", compared, f"scico {name}", name))
    return rows
