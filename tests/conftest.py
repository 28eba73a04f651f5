"""Settings of every test here: rank promotion is an error, and `x64` asks for float64."""

import jax
import pytest


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """An implicit `(n,) + (m, n)` is an error: so a missing `jax.vmap` shows."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """A test with this fixture runs in float64: arrays made inside it are 64 bits wide by default.

    `@pytest.mark.usefixtures("x64")` does the same for a test that needs no value from it.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """The name of the default floating-point type; a test with this fixture runs once in each."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param
