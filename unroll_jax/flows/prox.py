"""Flows as priors: shrinkage in latent space, and GLOW-Prox, the proximal gradient method with a flow in every layer.

A flow is here anything with `forward(x) -> (latents, log_det)` and `inverse(latents) -> x`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_function, check_inside, check_non_negative, check_positive
from unroll_jax._types import Algorithm, Array, Problem


class Flow(Protocol):
    """What all flows have: an invertible map from an array to latents, one array for each level."""

    def forward(self, x: Array) -> tuple[tuple[Array, ...], Array]:
        """The latents and the log-determinant, `()`."""
        ...

    def inverse(self, latents: tuple[Array, ...]) -> Array:
        """The `x` with these latents."""
        ...


def shrink(latents: tuple[Array, ...], strength: Array | float) -> tuple[Array, ...]:
    """The latents divided by 1 + strength: the proximal operator of strength * ||z||^2 / 2.

    Args:
        latents: one array for each level.
        strength: `()` for all levels, or `(num_levels,)`; non-negative.

    Raises:
        ValueError: for another shape, or a known negative strength.

    >>> shrink((jnp.array([3.0]), jnp.array([4.0])), jnp.array([2.0, 1.0]))
    (Array([1.], dtype=float32), Array([2.], dtype=float32))
    """
    check_non_negative("strength", strength)
    if jnp.shape(strength) not in ((), (len(latents),)):
        raise ValueError(
            f"`strength` must have shape () or ({len(latents)},), one number a level, got {jnp.shape(strength)}."
        )
    strengths = [strength] * len(latents) if jnp.ndim(strength) == 0 else list(jnp.asarray(strength))
    return tuple(z / (1 + jnp.asarray(s, z.dtype)) for z, s in zip(latents, strengths, strict=True))


def flow_prox(flow: Flow, x: Array, strength: Array | float) -> Array:
    """`x` with its latents shrunk: flow.inverse(flow.forward(x) / (1 + strength)) (arXiv 2312.15788).

    Shrinking is the proximal operator of strength * ||z||^2 / 2, the negative logarithm of the latents' density, taken
    in the latents' space. At strength 0 it is `x` itself, up to rounding; at infinity the most probable latents' image.
    It is a proximal operator in x too where the flow is an isometry, and else takes the place of one.

    Args:
        flow: such as a `Glow`.
        x: what the flow takes.
        strength: `()`, or `(num_levels,)`; non-negative.

    Raises:
        ValueError: as `shrink`, or what the flow raises.

    >>> class Doubling:
    ...     def forward(self, x):
    ...         return (2 * x,), jnp.log(2.0)
    ...     def inverse(self, latents):
    ...         return latents[0] / 2
    >>> flow_prox(Doubling(), jnp.array(3.0), 0.5)
    Array(2., dtype=float32)
    """
    check_attributes("flow", flow, ("forward", "inverse"), "a Glow, say")
    return flow.inverse(shrink(flow.forward(x)[0], strength))


class GlowProxParams(NamedTuple):
    """Parameters of one layer of `glow_prox`.

    Attributes:
        flow: any flow that is a pytree, such as a `Glow`.
        step_logit: `()`; the step size is 2 / (1 + exp(-step_logit)), which always lowers the fidelity of an operator
            of norm at most 1.
        log_strength: `()`, or `(num_levels,)`; the strength of the shrinkage is exp(log_strength).
    """

    flow: Any
    step_logit: Array
    log_strength: Array

    @property
    def step_size(self) -> Array:
        """`()`, in (0, 2), for an operator of norm 1."""
        return 2 * jax.nn.sigmoid(jnp.asarray(self.step_logit))

    @property
    def strength(self) -> Array:
        """The shape of `log_strength`, positive."""
        return jnp.exp(jnp.asarray(self.log_strength))


class GlowProxState(NamedTuple):
    """State of `glow_prox`.

    Attributes:
        x: the estimate, in [0, 1].
        latents: `(height * width * channels,)`, those that `x` was made of, all levels one after the other; zero at the
            start. They are the gradient of the prior term ||z||^2 / 2.
    """

    x: Array
    latents: Array


def glow_prox_params(flow: Any, *, step_size: Array | float = 1.0, strength: Array | float = 0.1) -> GlowProxParams:
    """One layer's parameters with this flow.

    Args:
        flow: a pytree with `forward` and `inverse`.
        step_size: `()`, in (0, 2); 1 sets known pixels to what was measured.
        strength: `()`, or `(num_levels,)`, positive.

    Raises:
        ValueError: for another shape or number, or what is no flow.

    >>> params = glow_prox_params(None, step_size=1.0, strength=0.5)
    Traceback (most recent call last):
        ...
    ValueError: `flow` must have `.forward` and `.inverse`, got NoneType. Give a Glow, say.
    """
    check_attributes("flow", flow, ("forward", "inverse"), "a Glow, say")
    check_inside("step_size", step_size, 0.0, 2.0)
    check_positive("strength", strength)
    for name, value, most in (("step_size", step_size, 0), ("strength", strength, 1)):
        if jnp.ndim(value) > most:
            raise ValueError(
                f"`{name}` must have shape (){' or (num_levels,)' * most}, got {jnp.shape(value)}. `unroll` gives "
                "every layer its own."
            )
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(flow) if jnp.issubdtype(leaf.dtype, jnp.floating)), None)
    ratio = jnp.asarray(step_size, dtype) / 2
    return GlowProxParams(flow, jnp.log(ratio) - jnp.log1p(-ratio), jnp.log(jnp.asarray(strength, dtype)))


def _flow_itself(flow: Any, problem: Problem) -> Any:
    del problem
    return flow


def _measured(problem: Problem) -> Array:
    return problem.measurement


def glow_prox(
    start: Callable[[Problem], Array] = _measured,
    flow_of: Callable[[Any, Problem], Flow] = _flow_itself,
) -> Algorithm:
    """GLOW-Prox (arXiv 2312.15788): a gradient step on the data term, then shrinkage in a flow's latent space.

        y  = x - step_size * gradient(x),   z = flow.forward(y) / (1 + strength),   x+ = clip(flow.inverse(z), 0, 1).

    Unrolled, every layer has a flow, a step size and a strength of its own; with the layer axes
    `GlowProxParams(None, 0, 0)` all share one flow, which is the proximal gradient method with a learned prior. The
    step size lies in (0, 2), so the gradient step lowers the fidelity of an operator of norm 1, such as a mask. (The
    published code adds the gradient, does not hand the mask to its network, and does not invert its flow.)

    Args:
        start: `problem -> x`, the start; by default the measurement, for problems that have the shape of an image.
        flow_of: `(flow, problem) -> flow`, for flows that see more of the problem than x:
            `lambda flow, problem: flow.given(problem.mask)`.

    Returns:
        An algorithm with `GlowProxParams` and `GlowProxState`, on problems with a `gradient(x)`, such as
        `inpainting(...)` or a `LeastSquares`.

    Raises:
        ValueError: for what is no function; from `init`, for a problem without a gradient.

    >>> import unroll_jax as uj
    >>> from unroll_jax.flows import glow_preset, inpainting
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    >>> problem = inpainting(image, jnp.ones((8, 8)).at[2:5, 2:5].set(0))
    >>> flow = glow_preset("small", jax.random.key(1), num_levels=2, num_steps=1, width=4)
    >>> network = uj.unroll(glow_prox(), 2, glow_prox_params(flow))
    >>> jax.jit(network)(problem).x.shape
    (8, 8, 3)
    """
    check_function("start", start, "lambda problem: problem.measurement")
    check_function("flow_of", flow_of, "lambda flow, problem: flow.given(problem.mask)")

    def init(problem: Problem) -> GlowProxState:
        check_attributes("problem", problem, ("gradient", "measurement"), "inpainting(measurement, mask), say")
        x = start(problem)
        return GlowProxState(x, jnp.zeros(x.size, x.dtype))

    def step(params: GlowProxParams, state: GlowProxState, problem: Problem) -> GlowProxState:
        flow = flow_of(params.flow, problem)
        descended = state.x - params.step_size.astype(state.x.dtype) * problem.gradient(state.x)
        latents = shrink(flow.forward(descended)[0], params.strength)
        x = jnp.clip(flow.inverse(latents), 0, 1)
        return GlowProxState(x, jnp.concatenate([z.ravel() for z in latents]))

    return Algorithm(init, step)
