"""Settings of the documentation: `sphinx-build -W -n --keep-going -b html docs docs/_build/html`.

Nothing is fetched while building, and the pages need no network to be read: MathJax is copied into them.
"""

import importlib.metadata
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# the same pages on every machine
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "unroll_jax"
author = "The unroll_jax developers"
release = importlib.metadata.version("unroll_jax")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx-mathjax-offline",  # ships MathJax, which else comes from a CDN
    "house_docstrings",
    "public_directive",
]
exclude_patterns = ["_build", "_ext"]
templates_path = []

# --- pages ---
html_theme = "furo"
html_title = "unroll_jax"
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"code-font-size": "75%"},  # 88 characters fit on a line
}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# --- code in the pages: executed at every build, an error in a cell fails it ---
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_output_stderr = "remove-warn"  # a warning in a cell fails the strict build

# --- the API pages, from the docstrings ---
default_role = "name"
autodoc_typehints = "none"  # the docstrings tell shapes and forms, which the types of pytrees do not
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
smartquotes_action = "D"  # dashes only: quotes in docstrings are Python's
nitpick_ignore: list[tuple[str, str]] = []
