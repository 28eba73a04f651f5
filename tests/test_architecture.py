"""The floors of the architecture, read from the imports; and what importing the library does."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import unroll_jax

ROOT = Path(unroll_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file stands on the floor of the longest entry that its name starts with.
FLOORS = {
    "_types": 0,
    "_tree": 0,
    "_checks": 0,
    "_special": 0,
    "operators": 1,
    "prox": 1,
    "objectives": 1,
    "noise": 1,
    "algorithms": 1,
    "constraints": 1,
    "splines": 1,
    "regularizers": 1,
    "flows": 1,
    "stopping": 1,
    "_scan": 2,
    "_unroll": 2,
    "_confidence": 2,
    "_solve": 2,
    "_equilibrium": 2,
    "_primal_dual": 2,
    "certificates": 2,
    "splines.modules": 3,
    "splines.layers": 3,
    "splines.residual": 3,
    "splines.training": 3,
    "regularizers.solvers": 3,
    "regularizers.modules": 3,
    "regularizers._pretrained": 3,
    "flows.glow": 3,
    "training": 4,
    "export": 4,
    "_export_loader": 4,
    "_export_params": 4,
    "testing": 4,
    "adapters": 4,
    "": 5,  # unroll_jax/__init__.py, which only names what is public
}

# Who may import whom on the same floor, beside the files of one package.
SAME_FLOOR = {
    ("algorithms", "operators"),
    ("algorithms", "prox"),
    ("objectives", "operators"),
    ("splines", "operators"),
    ("_tree", "_types"),
    ("_special", "_types"),
    ("flows", "splines"),
    ("regularizers", "operators"),
    ("regularizers", "splines"),
    ("_unroll", "_scan"),
    ("_equilibrium", "_solve"),
    ("certificates", "_confidence"),
    ("export", "_export_loader"),
    ("export", "_export_params"),
}

# These drive any algorithm, so they know none.
DRIVERS = {"_scan", "_unroll", "_solve", "_equilibrium", "_primal_dual", "certificates"}

CORE = {"jax", "flax", "optax", "numpy"}
OUTSIDE = {0: {"jax"}, 1: {"jax"}, 2: CORE, 3: CORE, 4: CORE, 5: set()}


def module_name(path):
    """`operators.norms` for operators/norms.py, `operators` for operators/__init__.py, "" for the top one."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module):
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in FLOORS:
            return FLOORS[prefix]
    return None


def imports_of(source, module, *, is_package=False):
    """`(full name, is it inside a function?)` for every import; relative ones resolved."""
    package = ["unroll_jax", *(module.split(".") if module else [])]
    if not is_package:
        package = package[:-1]

    def visit(node, is_lazy):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, is_lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) + 1 - child.level] if child.level else []
                base = [*base, *(child.module.split(".") if child.module else [])]
                if base == ["unroll_jax"]:  # its submodules, or a name of the top floor
                    yield from ((f"unroll_jax.{alias.name}", is_lazy) for alias in child.names)
                else:
                    yield ".".join(base), is_lazy
            yield from visit(child, is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(visit(ast.parse(source), False))


def faults(source, module, *, is_package=False):
    """What the imports of one file break, in words."""
    floor = floor_of(module)
    if floor is None:
        return [f"{module} has no floor: give it one in FLOORS"]
    own = module.split(".")[0]
    found = []
    for name, is_lazy in imports_of(source, module, is_package=is_package):
        top, *rest = name.split(".")
        if top != "unroll_jax":
            # extras may be imported where they are used, but not by the pure floors
            if top not in OUTSIDE[floor] | sys.stdlib_module_names and not (is_lazy and floor >= 2):
                found.append(f"{module} (floor {floor}) imports {name}")
            continue
        target, target_floor = ".".join(rest), floor_of(".".join(rest))
        if target_floor is None or target_floor == FLOORS[""] or not rest:
            found.append(f"{module} imports {name}, which is on no floor below it")
        elif module and own in DRIVERS and rest[0] == "algorithms":
            found.append(f"{module} drives any algorithm, and imports {name}")
        elif target_floor > floor and not is_package:
            found.append(f"{module} (floor {floor}) imports {name} (floor {target_floor})")
        elif target_floor == floor and own != rest[0] and (own, rest[0]) not in SAME_FLOOR:
            found.append(f"{module} imports {name} on its own floor {floor}")
        elif is_package and module and own != rest[0]:
            found.append(f"the package {module} names {target}, which is not its own")
    return found


# --- floors ---


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_the_floors(path):
    assert faults(path.read_text(), module_name(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("_tree", "import numpy as np", r"_tree (floor 0) imports numpy"),
        ("_tree", "def f():\n    import numpy", "_tree (floor 0) imports numpy"),
        ("_tree", "from unroll_jax.prox import box", "_tree (floor 0) imports unroll_jax.prox (floor 1)"),
        ("prox.sets", "import optax", "prox.sets (floor 1) imports optax"),
        (
            "prox.sets",
            "from unroll_jax import operators",
            "prox.sets imports unroll_jax.operators on its own floor 1",
        ),
        (
            "prox.sets",
            "from ..algorithms import fista",
            "prox.sets imports unroll_jax.algorithms on its own floor 1",
        ),
        (
            "operators.norms",
            "from .._solve import solve",
            "operators.norms (floor 1) imports unroll_jax._solve (floor 2)",
        ),
        (
            "constraints",
            "from unroll_jax import solve",
            "constraints imports unroll_jax.solve, which is on no floor below it",
        ),
        (
            "_solve",
            "from unroll_jax.algorithms import fista",
            "_solve drives any algorithm, and imports unroll_jax.algorithms",
        ),
        ("_solve", "import unroll_jax as uj", "_solve imports unroll_jax, which is on no floor below it"),
        ("_solve", "import experiments.data", "_solve (floor 2) imports experiments.data"),
        ("certificates", "import scipy.stats", "certificates (floor 2) imports scipy.stats"),
        ("certificates", "from . import _solve", "certificates imports unroll_jax._solve on its own floor 2"),
        (
            "splines.linear",
            "from .modules import Spline",
            "splines.linear (floor 1) imports unroll_jax.splines.modules (floor 3)",
        ),
        ("newcomer", "", "newcomer has no floor: give it one in FLOORS"),
    ],
)
def test_an_arrow_that_runs_up_is_found(module, source, fault):
    assert faults(source, module) == [fault]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "algorithms.learned",
            "from unroll_jax.operators import Dense\nfrom unroll_jax.prox import soft_threshold",
        ),
        ("algorithms.learned", "from .proximal import zero_start\nimport functools, jax.numpy as jnp"),
        ("_solve", "from unroll_jax._types import Algorithm\nimport optax"),
        ("export", "def save():\n    import flatbuffers"),
        ("splines.modules", "from unroll_jax.splines.linear import linear_spline\nfrom flax import nnx"),
    ],
)
def test_an_arrow_that_runs_down_is_not(module, source):
    assert faults(source, module) == []


# --- public names ---


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.name == "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_packages_only_name_what_is_public(path):
    docstring, *statements = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for statement in statements:
        assert isinstance(statement, ast.ImportFrom), ast.unparse(statement)
        for alias in statement.names:
            assert alias.asname == alias.name, f"write {alias.name} as {alias.name}"
            assert not alias.name.startswith("_")


def public_modules():
    names = [info.name for info in pkgutil.walk_packages([str(ROOT)], "unroll_jax.")]
    return [unroll_jax, *(importlib.import_module(name) for name in names if "._" not in name)]


def public_objects():
    for module in public_modules():
        yield module.__name__, module
        for name, value in vars(module).items():
            if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            if not value.__module__.startswith("unroll_jax"):
                continue
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    function = function.fget if isinstance(function, property) else function
                    is_public = not method.startswith("_") or method == "__call__"
                    if is_public and inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{method}", function


def test_every_public_name_has_a_docstring():
    objects = dict(public_objects())
    assert {
        "unroll_jax.solve",
        "unroll_jax.operators.Dense.adjoint",
        "unroll_jax.algorithms.PerturbedState.x",
    } <= set(objects)
    for name, value in objects.items():
        text = value.__doc__ or ""
        # classes of fields get their signature as a docstring where they have none
        is_written = text and not text.startswith(f"{name.rsplit('.', 1)[-1]}(")
        assert is_written, f"{name} needs a docstring"


# --- importing ---

PROBE = """
import json, logging, sys, warnings

import flax.nnx, jax, numpy, optax

def settings():
    return {name: repr(value) for name, value in jax.config.values.items()}

def handlers():
    return [repr(handler) for handler in logging.getLogger().handlers]

before = set(sys.modules), settings(), handlers()
warnings.simplefilter("error")
import unroll_jax
import unroll_jax.certificates

print(json.dumps({
    "modules": sorted(set(sys.modules) - before[0]),
    "settings": settings() == before[1],
    "handlers": handlers() == before[2],
}))
"""


def test_importing_takes_nothing_along_and_sets_nothing():
    # without a platform of this name, anything that starts a device while importing fails
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        check=True,
        env={"JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(ROOT.parent)},
    )
    seen = json.loads(result.stdout)
    # what jax, flax and optax have not imported before; parts of jax are cheap
    assert {name.split(".")[0] for name in seen["modules"]} - sys.stdlib_module_names - {"jax"} == {"unroll_jax"}
    assert seen["settings"], "importing changes the configuration of jax"
    assert seen["handlers"], "importing installs a log handler"
