"""How things are timed against each other: in turns, in one process, once they have shown that they compute the same.

A round gives every side one turn, A B A B ..., so that whatever else the machine does meets all sides alike; ratios are
taken round by round, and their median and quartiles are reported. Before a side is timed, what it returns is compared
with what the side returns that it stands against: a faster way to compute something else is no result.
"""

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

_PAUSE = 0.01  # after a turn, the threads of another library's pool still spin for some milliseconds


class Side(NamedTuple):
    """One of the things to be timed.

    Attributes:
        run: does the work once; what it returns may still be on its way, if it has `block_until_ready`.
        same_as: the name of the side that must return the same; None where there is nothing to compare, as for a
            machine's ceiling.
        tolerance: how far its results may lie apart, relative to their norm.
        num_units: what one call does, in units of work such as problems: times are per unit.
        difference: `(result, wanted) -> ` how far they lie apart; relative to the norm by default.
    """

    run: Callable[[], Any]
    same_as: str | None = None
    tolerance: float = 1e-4
    num_units: float = 1
    difference: Callable[[Any, Any], float] | None = None


class Ratio(NamedTuple):
    """A median over the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float


class Comparison(NamedTuple):
    """What `compare` measured.

    Attributes:
        seconds: by side, one number per round, in the same order for all.
        absent: by peer, why it was not timed.
    """

    seconds: Mapping[str, Sequence[float]]
    absent: Mapping[str, str]

    def median(self, name: str) -> float:
        """The median seconds of a side."""
        return float(np.median(self.seconds[name]))

    def ratio(self, over: str, under: str) -> Ratio:
        """The seconds of `over` in units of those of `under`, round by round."""
        ratios = np.asarray(self.seconds[over]) / np.asarray(self.seconds[under])
        return Ratio(*(float(np.quantile(ratios, share)) for share in (0.5, 0.25, 0.75)))


class MissingPeerError(ImportError):
    """A library to compare with that cannot be imported."""


class DifferentResultError(ValueError):
    """A side that computes something else than the one it stands against."""


def peer(module: str) -> Any:
    """The module of that name, which is no dependency.

    Raises:
        MissingPeerError: where it cannot be imported, whatever the reason: an old library may fail in many ways.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise MissingPeerError(f"{module} cannot be imported ({type(error).__name__}: {_first_line(error)})") from error


def compare(
    own: Mapping[str, Side],
    peers: Mapping[str, Callable[[], Side]] | None = None,
    *,
    rounds: int = 15,
    warm_up: int = 3,
    budget: float = 60.0,
    turn: float = 0.02,
) -> Comparison:
    """The seconds of all sides, in turns, after each has shown that it computes what it should.

    Args:
        own: by name; the sides that others are compared with come before them.
        peers: by name, functions that make a side of another library, and may fail; why they did is told in `absent`.
        rounds: at least 1; fewer are made, but at least 3, where they would take longer than `budget`.
        warm_up: calls before the first round, at least 1, which compile, and whose results are compared one by one: so
            a training step is compared over so many steps.
        budget: in seconds.
        turn: the least seconds of a turn: what takes less is called several times in it.

    Raises:
        DifferentResultError: for an own side that computes something else.
        ValueError: for counts below 1.
    """
    if rounds < 1 or warm_up < 1:
        raise ValueError(f"`rounds` and `warm_up` must be at least 1, got {rounds} and {warm_up}.")
    sides, results, last, absent = {}, {}, {}, {}
    for name, side in own.items():
        results[name], last[name] = _warmed_up(side, warm_up)
        _check_same(name, side, results)
        sides[name] = side
    for name, make in (peers or {}).items():
        try:
            side = make()
            results[name], last[name] = _warmed_up(side, warm_up)
            _check_same(name, side, results)
            sides[name] = side
        except MissingPeerError as error:
            absent[name] = f"not installed: {error}"
        except DifferentResultError as error:
            absent[name] = f"refused: {error}"
        except Exception as error:  # other people's code, perhaps for another version of jax
            absent[name] = f"does not run: {type(error).__name__}: {_first_line(error)}"
    results.clear()
    calls = {name: max(1, math.ceil(turn / last[name])) for name in sides}
    one_round = sum(calls[name] * last[name] for name in sides)
    num_rounds = min(rounds, max(3, int(budget / one_round)))
    seconds = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, side in sides.items():
            time.sleep(_PAUSE)
            started = time.perf_counter()
            for _ in range(calls[name]):
                jax.block_until_ready(side.run())
            seconds[name].append((time.perf_counter() - started) / (calls[name] * side.num_units))
    return Comparison(seconds, absent)


def relative_difference(found: Any, wanted: Any) -> float:
    """The largest ||found - wanted|| / ||wanted|| of all arrays of two results; infinite where their shapes differ.

    >>> relative_difference({"x": np.array([3.0, 4.5])}, {"x": np.array([3.0, 4.0])})
    0.1
    """
    leaves, expected = ([to_numpy(leaf) for leaf in jax.tree.leaves(tree)] for tree in (found, wanted))
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in expected]:
        return math.inf
    differences = []
    for leaf, other in zip(leaves, expected, strict=True):
        size = np.linalg.norm(np.asarray(other, float).ravel())
        difference = np.linalg.norm(np.asarray(leaf, float).ravel() - np.asarray(other, float).ravel())
        differences.append(float(difference / size) if size else float(difference))
    # numpy's maximum, unlike Python's, is not a number where one entry is none
    return float(np.max(differences)) if differences else math.inf


def to_numpy(leaf: Any) -> np.ndarray:
    """An array of jax, numpy or torch, or a number, as an array of numpy."""
    return np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)


def _warmed_up(side: Side, num_calls: int) -> tuple[list[Any], float]:
    """The results of the first calls, and the seconds of the last one."""
    results, seconds = [], 0.0
    for _ in range(num_calls):
        started = time.perf_counter()
        result = jax.block_until_ready(side.run())
        # a clock may not have moved
        seconds = max(time.perf_counter() - started, 1e-9)
        # copied, as the next call may write where this result lies
        results.append(jax.tree.map(lambda leaf: np.array(to_numpy(leaf)), result))
    return results, seconds


def _check_same(name: str, side: Side, results: Mapping[str, Sequence[Any]]) -> None:
    if side.same_as is None:
        return
    measure = side.difference or relative_difference
    pairs = zip(results[name], results[side.same_as], strict=True)
    found = float(np.max([measure(mine, wanted) for mine, wanted in pairs]))
    if not found <= side.tolerance:  # nor where it is no number
        raise DifferentResultError(
            f"{name} computes something else than {side.same_as}: they differ by {found:.1e}, and "
            f"{side.tolerance:.1e} is allowed"
        )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:150]
