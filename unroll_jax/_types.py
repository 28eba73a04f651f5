"""The shapes of the parts: what an algorithm, an operator, a measure and a constraint are."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any

# Pytrees of the user's own making. By convention a state carries its estimate as `.x`.
Problem: TypeAlias = Any
Params: TypeAlias = Any
State: TypeAlias = Any
Estimate: TypeAlias = Any
Example: TypeAlias = Any
Trajectory: TypeAlias = Any

Measure: TypeAlias = Callable[[Estimate, Example], Array]
"""`(estimate, example) -> ()`: how far an estimate is from where it should be; 0 is best."""

Constraint: TypeAlias = Callable[[Trajectory, Example], Array]
"""`((num_layers + 1, ...), example) -> (num_layers,)`: one violation per layer, `<= 0` is satisfied."""

X = TypeVar("X")


class Algorithm(NamedTuple):
    """An iterative algorithm as a pair of pure functions, for one problem.

    Attributes:
        init: `problem -> state`, the state before the first iteration.
        step: `(params, state, problem) -> state`, one iteration, which is one layer of the network that
            `unroll` makes. It must keep the structure, shapes and dtypes of its state.
    """

    init: Callable[[Problem], State]
    step: Callable[[Params, State, Problem], State]


class LinearOperator(Protocol):
    """A linear map on one example: any registered pytree with these two methods."""

    def __call__(self, x: Any) -> Any:
        """The map applied to `x`."""
        ...

    def adjoint(self, y: Any) -> Any:
        """The conjugate transpose applied to `y`."""
        ...


def estimate_of(state: State) -> Estimate:
    """The estimate that `state` carries: its `.x` where it has one, else all of it."""
    return getattr(state, "x", state)
