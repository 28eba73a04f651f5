"""Fields of states, for wrappers that move some of them."""

from collections.abc import Iterable

from unroll_jax._types import PyTree, State


def check_fields(state: State, fields: Iterable[str], what_for: str) -> None:
    """Raise unless `state` is a NamedTuple with `fields`."""
    for field in fields:
        if field not in getattr(state, "_fields", ()):
            raise ValueError(
                f"`algorithm` must have a NamedTuple with a field `{field}` as its state, "
                f"got {type(state).__name__}: {what_for}."
            )


def fields_of(state: State, fields: Iterable[str]) -> dict[str, PyTree]:
    """The `fields` of `state` by name."""
    return {field: getattr(state, field) for field in fields}
