"""Settings of every test here: rank promotion is an error, `x64` asks for float64, and precisions take turns.

What tests compile runs a few times at small sizes, so the compiler is told to hurry. Any XLA_FLAGS of your own replace
this: `XLA_FLAGS= pytest` compiles as users do.
"""

import os

import jax
import jaxlib
import pytest

QUICK = ["--xla_backend_optimization_level=0"]
if jaxlib.version.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process
    QUICK += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
# XLA reads this with its first program, after the tests are collected
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test that runs in several precisions, one is met by default, in turn, and the others as slow.

    So all precisions are met in a few minutes; `pytest -m "slow or not slow"` runs every test in each.
    """
    variants = {}
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        dtype = params.get("dtype", params.get("precision"))
        if isinstance(dtype, str) and item.get_closest_marker("slow") is None:
            variants.setdefault(item.nodeid.replace(dtype, "*"), []).append(item)
    for number, own in enumerate(variants.values()):
        for index, item in enumerate(own):
            if index != number % len(own):
                item.add_marker(pytest.mark.slow)


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
