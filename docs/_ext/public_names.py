"""The public names of the library, read from its source: what the API pages list.

In an `__init__.py`, a comment on a line of its own is the heading of the names that follow it.
"""

import ast
import functools
import importlib
import inspect
import io
import pkgutil
import tokenize
from types import ModuleType

ROOT = "unroll_jax"


def grouped_names(module: ModuleType) -> dict[str, list[str]]:
    """The names of the module's public functions and classes by heading; "" before the first one."""
    source = inspect.getsource(module)
    headings = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.line.startswith("#")
    }
    groups: dict[str, list[str]] = {}
    is_package = hasattr(module, "__path__")
    # what a module defines itself comes before what it only names
    for statement in sorted(ast.parse(source).body, key=lambda node: isinstance(node, ast.ImportFrom)):
        if isinstance(statement, ast.ImportFrom):
            # `import x as x` is how a name is made public
            names = [alias.name for alias in statement.names if alias.asname == alias.name]
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = [statement.name]
        else:
            continue
        # the last heading above; in a module, comments are about its code
        above = [line for line in headings if line < statement.lineno] if is_package else []
        heading = headings[max(above)] if above else ""
        group = groups.setdefault(heading[:1].upper() + heading[1:], [])
        group += [name for name in names if _is_documented_here(module, name)]
    return {heading: names for heading, names in groups.items() if names}


def names_at_the_top(module: ModuleType) -> list[str]:
    """The module's own functions and classes that `unroll_jax` itself gives."""
    top = vars(importlib.import_module(ROOT))
    return [
        name
        for name, value in vars(module).items()
        if module.__name__ != ROOT
        and top.get(name) is value
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def public_modules() -> list[str]:
    """`unroll_jax` and the modules and packages in it whose names have no underscore; a package speaks for its own."""
    path = importlib.import_module(ROOT).__path__
    names = [info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_")]
    return [ROOT, *(f"{ROOT}.{name}" for name in names)]


@functools.cache
def short_names() -> dict[str, str]:
    """The full name by the last part of it, and by what follows `unroll_jax.`; a part that names two is left out."""
    full = [
        f"{module}.{name}"
        for module in public_modules()
        for names in grouped_names(importlib.import_module(module)).values()
        for name in names
    ]
    by_last: dict[str, list[str]] = {}
    for name in full:
        by_last.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    short = {last: names[0] for last, names in by_last.items() if len(names) == 1}
    return short | {name.removeprefix(ROOT + "."): name for name in full} | {name: name for name in full}


def _is_documented_here(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    return module.__name__ == ROOT or getattr(importlib.import_module(ROOT), name, None) is not value
