"""Ridge regularizers as nnx modules, which `primal_dual` and `training.fit` train."""

import functools
from typing import Any

import jax
import optax
from flax import nnx

from unroll_jax._types import PyTree
from unroll_jax.regularizers.ridge import RidgeParams
from unroll_jax.splines import Grid, SlopeBox, SplineCoefficients, clip_slopes, flat_ends, keep_feasible


class RidgeRegularizer(nnx.Module):
    """`RidgeParams` to train: each array an `nnx.Param`, those of the splines `SplineCoefficients`.

    Args:
        params: where training starts, such as `ridge_params(key)` or `pretrained("wcrr")`.

    >>> from unroll_jax.regularizers import ridge_params
    >>> module = RidgeRegularizer(ridge_params(jax.random.key(0)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    13763
    """

    def __init__(self, params: RidgeParams):
        self.kernels = nnx.List([nnx.Param(kernel) for kernel in params.kernels])
        self.convex = SplineCoefficients(params.convex)
        self.concave = SplineCoefficients(params.concave)
        self.log_mu = nnx.Param(params.log_mu)
        self.scaling = nnx.Param(params.scaling)
        self.mixture = None if params.mixture is None else nnx.Param(params.mixture)
        # not trained
        self.norm = None if params.norm is None else nnx.Variable(params.norm)
        self.grid = nnx.data(params.grid)
        self.noise_grid = nnx.static(params.noise_grid)
        self.rho = params.rho

    @property
    def params(self) -> RidgeParams:
        """The parameters as they are, as `prepare_ridge` takes them."""
        return RidgeParams(
            kernels=tuple(kernel[...] for kernel in self.kernels),
            convex=self.convex[...],
            concave=self.concave[...],
            log_mu=self.log_mu[...],
            scaling=self.scaling[...],
            norm=None if self.norm is None else self.norm[...],
            mixture=None if self.mixture is None else self.mixture[...],
            grid=self.grid,
            noise_grid=self.noise_grid,
            rho=self.rho,
        )


def ridge_labels(params: PyTree) -> PyTree:
    """A label for every variable of a `RidgeRegularizer`: filters, splines, curvature, scaling or mixture.

    For separate learning rates: optax.multi_transform({"filters": ..., ...}, ridge_labels). The filters take 5e-3 of
    Adam; those of a convex one learn several times faster with 5e-2 of Muon (optax.contrib.muon, where their
    reduction_axis is (0, 1, 2) and their output_axis 3). The scaling takes 1e-2 of Adam, the mixture 5e-2. The
    splines' rate is the sensitive one, as mu multiplies them: at most 1e-6.

    Args:
        params: a `RidgeRegularizer`, or its `nnx.State`.

    >>> from unroll_jax.regularizers import ridge_params
    >>> module = RidgeRegularizer(ridge_params(jax.random.key(0), channels=(2,)))
    >>> ridge_labels(nnx.state(module, nnx.Param))["scaling"]
    'scaling'
    """
    names = {
        "kernels": "filters",
        "convex": "splines",
        "concave": "splines",
        "log_mu": "curvature",
        "scaling": "scaling",
        "mixture": "mixture",
    }

    def label(path: tuple[Any, ...], variable: Any) -> str:
        del variable
        return names[str(getattr(path[0], "key", getattr(path[0], "name", path[0])))]

    return jax.tree_util.tree_map_with_path(label, params, is_leaf=lambda node: isinstance(node, nnx.Variable))


def keep_ridge_feasible(grid: Grid) -> optax.GradientTransformation:
    """After every update both splines of a `RidgeRegularizer` are odd, with slopes in [0, 1] and flat ends: chain last.

    `prepare_ridge` makes them so in any case; written back, no slope is dead. See `splines.keep_feasible`.

    Args:
        grid: of the splines.
    """
    box = flat_ends(SlopeBox.firmly_nonexpansive(), grid)
    project = functools.partial(clip_slopes, keep="odd")

    def is_spline(params: PyTree) -> PyTree:
        return jax.tree.map(lambda label: label == "splines", ridge_labels(params))

    return keep_feasible(grid, box, project=project, mask=is_spline)
