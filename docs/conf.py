"""The documentation site: `sphinx-build -W docs OUT`, offline. The reference is made from the code."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402

from ralm_jax.release import VERSION  # noqa: E402

project, author, copyright = "ralm_jax", "The ralm_jax authors", "the ralm_jax authors"
version = release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"ralm_jax {VERSION}"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]  # images of a given width
smartquotes = False  # two hyphens begin an option
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them, and docstrings say what they mean
napoleon_use_rtype = False
# The words of docstrings in single backticks are code, as in Markdown.
default_role = "code"


def setup(app):
    app.connect("source-read", reference_pages.fill)
