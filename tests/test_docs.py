"""The documentation names everything that is public, and builds without a warning."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unroll_jax

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def names(monkeypatch):
    """`docs/_ext/public_names.py`, which finds what the API pages list."""
    monkeypatch.syspath_prepend(DOCS / "_ext")
    return importlib.import_module("public_names")


def modules_on_pages():
    """The modules that the pages in the API's table of contents document."""
    index = (DOCS / "api" / "index.rst").read_text(encoding="utf-8")
    toctree = index.split(".. toctree::")[1].split("\n\n", 2)[1]
    pages = [(DOCS / "api" / f"{page.strip()}.rst").read_text(encoding="utf-8") for page in toctree.splitlines()]
    return [name for page in pages for name in re.findall(r"^\.\. public:: (\S+)$", page, flags=re.MULTILINE)]


def public_objects():
    """Every function and class that `unroll_jax`, its public modules and packages give, by full name."""
    found, modules = {}, [unroll_jax]
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            if inspect.ismodule(value) and value.__name__ == f"unroll_jax.{name}":
                modules.append(value)
            # a module also has what it imports for its own use; a package imports only what is public
            is_given = getattr(value, "__module__", "").startswith(
                "unroll_jax" if hasattr(module, "__path__") else module.__name__
            )
            if is_given and (inspect.isfunction(value) or inspect.isclass(value)):
                found[f"{module.__name__}.{name}"] = value
    return found


def missing(names, modules):
    """The public names that no page of these modules documents."""
    documented = []
    for module in map(importlib.import_module, modules):
        documented += [getattr(module, name) for group in names.grouped_names(module).values() for name in group]
    return [name for name, value in public_objects().items() if not any(value is other for other in documented)]


def test_every_public_name_is_on_an_api_page(names):
    assert {"unroll_jax.solve", "unroll_jax.operators.Dense", "unroll_jax.constraints.descent"} <= set(public_objects())
    assert missing(names, modules_on_pages()) == []


def test_a_public_name_on_no_page_is_found(names):
    modules = [name for name in modules_on_pages() if name != "unroll_jax.noise"]
    expected = {f"unroll_jax.noise.{name}" for name in ("Gaussian", "Poisson", "PoissonGaussian", "SaltAndPepper")}
    found = missing(names, modules)
    assert expected <= set(found)
    assert all(name.startswith("unroll_jax.noise.") for name in found)


def test_every_public_module_has_a_page_and_one_only(names):
    assert sorted(modules_on_pages()) == sorted(names.public_modules())


def test_no_object_is_documented_twice(names):
    documented = []
    for module in map(importlib.import_module, modules_on_pages()):
        documented += [id(getattr(module, name)) for group in names.grouped_names(module).values() for name in group]
    assert len(set(documented)) == len(documented)


def test_names_come_in_the_groups_and_order_of_the_source(names):
    groups = names.grouped_names(unroll_jax)
    first, second = groups
    assert first == "Algorithms and the ways to run them"
    assert second == "Training under constraints, and certificates"
    assert groups[first][:2] == ["Algorithm", "LinearOperator"]
    # a plain module: what it defines, without what it imports for its own use or keeps private
    listed = names.grouped_names(unroll_jax.constraints)[""]
    assert listed[0] == "distance_to"
    assert not {"check_rate", "tree_norm", "_pair"} & set(listed)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason='needs the extra "docs"')
def test_the_documentation_builds_without_a_warning_and_is_read_offline(tmp_path):
    strict = ["-W", "-n", "--keep-going", "-q", "-b", "html"]
    folders = ["-d", tmp_path / "doctrees", DOCS, tmp_path / "html"]
    result = subprocess.run([sys.executable, "-m", "sphinx", *strict, *folders], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {page.relative_to(tmp_path / "html").as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"index.html", "tutorial.html", "api/unroll_jax.html", "results.html"} <= set(pages)
    for name, page in pages.items():
        fetched = re.findall(r'<(?:script|img)[^>]*\ssrc="(https?:[^"]*)"|<link[^>]*\shref="(https?:[^"]*)"', page)
        assert fetched == [], f"{name} loads from the network"
        for script in re.findall(r'<script[^>]*\ssrc="([^"?]*mathjax[^"?]*)', page):
            assert ((tmp_path / "html" / name).parent / script).is_file()
    assert "mathjax" in pages["mathematics.html"]
