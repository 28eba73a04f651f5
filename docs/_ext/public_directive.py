"""The directive `public`: everything public in a module, in the order and under the headings of its source.

`.. public:: unroll_jax` finds the names by itself. An object stands on one page only: names that `unroll_jax` itself
gives are linked from the page of the module they come from.
"""

import importlib
import inspect
from collections.abc import Callable

from docutils import nodes
from public_names import ROOT, grouped_names, names_at_the_top
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("public", PublicDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class PublicDirective(SphinxDirective):
    """`.. public:: MODULE`: its docstring, and all public functions and classes it gives."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """The documentation as nodes, with one section per group."""
        module = importlib.import_module(self.arguments[0])
        self.env.note_dependency(inspect.getsourcefile(module) or "")
        lines = [f".. automodule:: {module.__name__}", "   :no-members:", ""]
        for heading, names in grouped_names(module).items():
            if heading:
                lines += [heading, "-" * len(heading), ""]
            for name in names:
                lines += [f".. {_kind(getattr(module, name))}:: {module.__name__}.{name}", ""]
        if elsewhere := ", ".join(f":py:obj:`~{ROOT}.{name}`" for name in names_at_the_top(module)):
            lines += [f"Also in this module: {elsewhere}.", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _kind(value: type | Callable[..., object]) -> str:
    if not inspect.isclass(value):
        return "autofunction"
    return "autoexception" if issubclass(value, BaseException) else "autoclass"
