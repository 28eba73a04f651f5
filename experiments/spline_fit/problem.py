"""The functions to fit, and noisy samples of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.spline_fit.settings import Settings
from unroll_jax.splines import SlopeBox


class Target(NamedTuple):
    """What a single spline is to fit.

    Attributes:
        name: for tables.
        function: on [-1, 1].
        box_name: what the slopes are held in, in words.
        box: the same in numbers.
    """

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    box_name: str
    box: SlopeBox

    @property
    def title(self) -> str:
        """Name and box."""
        return f"{self.name}, {self.box_name}"


TARGETS = (
    Target("absolute value", np.abs, "1-Lipschitz", SlopeBox.lipschitz()),
    Target("steep sine", lambda x: np.sin(6 * x) / 2, "1-Lipschitz", SlopeBox.lipschitz()),
    Target("cubic", lambda x: 2 * x**3 - 0.5 * x, "monotone", SlopeBox.monotone()),
    Target(
        "shrinkage",
        lambda x: x - np.clip(x, -0.3, 0.3) + 0.1 * np.sin(9 * x),
        "firmly non-expansive",
        SlopeBox.firmly_nonexpansive(),
    ),
)


class Task(NamedTuple):
    """All single-spline fits, every target with every weight.

    Attributes:
        targets: `num_fits` of them.
        weights: `(num_fits,)`, of TV2.
        sites: `(num_sites,)`, increasing; single precision in double.
        values: `(num_fits, num_sites)`, the noisy samples; the same.
        lower: `(num_fits, 1)`, the smallest slope.
        upper: `(num_fits, 1)`, the largest slope.
    """

    targets: tuple[Target, ...]
    weights: np.ndarray
    sites: np.ndarray
    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def objectives(self, coefficients: np.ndarray) -> np.ndarray:
        """The mean of (f(x) - y)^2 / 2  plus  weight * TV2(f)  of splines with knots at the sites: `(num_fits,)`."""
        tv2 = np.sum(np.abs(np.diff(self.slopes(coefficients), axis=1)), axis=1)
        return np.mean((coefficients - self.values) ** 2, axis=1) / 2 + self.weights * tv2

    def slopes(self, coefficients: np.ndarray) -> np.ndarray:
        """Of every cell: `(num_fits, num_sites - 1)`."""
        return np.diff(coefficients, axis=1) / np.diff(self.sites)

    def best_coefficients(self, slopes: np.ndarray) -> np.ndarray:
        """The values at the sites with these slopes and the best mean, that of the samples: `(num_fits, num_sites)`."""
        rises = slopes.astype(float) * np.diff(self.sites)
        values = np.cumsum(np.pad(rises, ((0, 0), (1, 0))), axis=1)
        return values + np.mean(self.values - values, axis=1, keepdims=True)


def make_task(settings: Settings, seed: int) -> Task:
    """Samples of all targets at the same random sites, with Gaussian noise; every target with every TV2 weight."""
    rng = np.random.default_rng(seed)
    sites = np.sort(rng.uniform(-1, 1, settings.num_sites)).astype(np.float32).astype(float)
    clean = np.stack([target.function(sites) for target in TARGETS])
    noisy = (clean + settings.noise * rng.standard_normal(clean.shape)).astype(np.float32).astype(float)
    num_weights = len(settings.tv2_weights)
    targets = tuple(target for target in TARGETS for _ in range(num_weights))
    return Task(
        targets=targets,
        weights=np.tile(settings.tv2_weights, len(TARGETS)),
        sites=sites,
        values=np.repeat(noisy, num_weights, axis=0),
        lower=np.array([[target.box.lower] for target in targets]),
        upper=np.array([[target.box.upper] for target in targets]),
    )


# --- what networks are to fit: 1-Lipschitz functions ---


def _zigzag(x: np.ndarray) -> np.ndarray:
    period = (x + 0.13) / 0.8
    return 0.8 * np.abs(period - np.round(period))


def _wave(x: np.ndarray) -> np.ndarray:
    return np.sin(7 * x) / 7


def _staircase(x: np.ndarray) -> np.ndarray:
    step = (x + 0.9) / 0.5
    return 0.25 * np.floor(step) + np.minimum(0.5 * (step - np.floor(step)), 0.25)


NETWORK_TARGETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "zigzag": _zigzag,  # slopes -1 and 1
    "wave": _wave,  # all slopes between
    "staircase": _staircase,  # slopes 0 and 1
}
