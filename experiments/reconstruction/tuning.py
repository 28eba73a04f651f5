"""The search for parameters on images that are not those of the test: coarse to fine, on a multiplicative grid."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """What a search found.

    Attributes:
        values: the best parameters.
        score: theirs.
        num_tried: how many candidates were tried.
    """

    values: tuple[float, ...]
    score: float
    num_tried: int


def search(
    score: Callable[..., float],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    *,
    first_factor: float,
    last_factor: float,
    max_rounds: int,
) -> Found:
    """The positive parameters with the largest `score(*parameters)`.

    Each round tries the best so far times 1 / factor, 1 and factor in each parameter. Where the best stays, the factor
    becomes its square root. Candidates are tried once.

    Args:
        score: `(*parameters) -> number`, the higher the better.
        start: the first candidate.
        bounds: of each parameter, which are kept.
        first_factor: above 1.
        last_factor: the search ends when the factor falls below it.
        max_rounds: the most rounds.

    >>> found = search(lambda a: -abs(a - 5), [1.0], [(0.1, 100.0)], first_factor=3, last_factor=1.05, max_rounds=20)
    >>> abs(found.values[0] - 5) < 0.3
    True
    """
    known: dict[tuple[float, ...], float] = {}

    def tried(values: Sequence[float]) -> tuple[float, ...]:
        kept = tuple(
            float(f"{min(max(value, low), high):.4g}") for value, (low, high) in zip(values, bounds, strict=True)
        )
        if kept not in known:
            known[kept] = score(*kept)
        return kept

    best, factor = tried(start), first_factor
    for _ in range(max_rounds):
        if factor < last_factor:
            break
        moves = itertools.product((1 / factor, 1.0, factor), repeat=len(best))
        candidates = [tried([value * move for value, move in zip(best, each, strict=True)]) for each in moves]
        new = max([best, *candidates], key=lambda values: known[values])
        if new == best:
            factor = factor**0.5
        best = new
    return Found(best, known[best], len(known))
