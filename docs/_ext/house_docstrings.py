"""The house's docstrings as reStructuredText.

They are plain text with code in single backticks, formulas as they would be typed, and doctests. Here the
characters that reStructuredText would take for markup are escaped (as in ||x||_2), and indented blocks become literal.
What stands in backticks becomes code, and where it is the name of a public function or class, a link to it.
"""

import inspect
import re
from typing import Any

from docutils import nodes
from public_names import short_names
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxRole

# code, and *emphasis*
_KEPT = re.compile(r"(``?[^`]+``?|(?<![\w*)\]])\*\w[\w -]*\*(?![\w*]))")
# `|`, a single `*`, and a `_` at the end of a word; **bold** stays
_MARKUP = re.compile(r"\||(?<!\*)\*(?!\*)|_(?!\w)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role `name`, and the translation of docstrings."""
    app.add_role("name", NameRole())
    # ahead of napoleon, which has the priority 500
    app.connect("autodoc-process-docstring", _escape, priority=400)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("autodoc-process-signature", _class_signature)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class NameRole(SphinxRole):
    """Code; a link where it names something public that is not the object it is said of."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The nodes of one piece of code."""
        code = nodes.literal(self.rawtext, self.text)
        name = self.text.removeprefix("uj.").removesuffix("()")
        target = short_names().get(name)
        if target is None or target.endswith("." + (self.env.ref_context.get("py:class") or " ")):
            return [code], []
        reference = addnodes.pending_xref(
            "", code, refdomain="py", reftype="obj", reftarget=target, refdoc=self.env.docname, refexplicit=True
        )
        return [reference], []


def _escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    written, lines[:] = list(lines), []
    text_indent, literal_indent, last = 0, None, ""
    is_doctest = False
    for line in written:
        indent = len(line) - len(line.lstrip())
        is_doctest = line.lstrip().startswith(">>>") or (is_doctest and bool(line.strip()))
        if line.strip() and literal_indent is not None and indent < literal_indent:
            literal_indent = None
        # a formula or code between blank lines, further to the right than what announces it
        is_block = bool(line.strip() and lines) and not lines[-1].strip() and indent > text_indent
        if is_block and literal_indent is None and last.endswith((":", ",")):
            lines += [" " * text_indent + "::", ""]
            literal_indent = indent
        if literal_indent is None and not is_doctest:
            parts = _KEPT.split(line)  # the odd ones are kept
            parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
            line = "".join(parts)
        lines.append(line)
        if line.strip() and literal_indent is None:
            text_indent, last = indent + 2 * line.lstrip().startswith("- "), line.rstrip()
    for index, line in enumerate(lines[:-1]):
        if line.strip() == "Returns:":
            # napoleon would take what stands before a colon for a type
            lines[index] = ""
            lines[index + 1] = line.replace("Returns:", ":returns: ") + lines[index + 1].strip()


def _skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # the fields of a NamedTuple stand under `Attributes:` in its docstring
    return True if type(obj).__name__ == "_tuplegetter" else None


def _class_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    if getattr(obj, "_is_protocol", False):
        return "", None
    # flax's modules have a metaclass, which hides the signature of their constructor
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain)), None
