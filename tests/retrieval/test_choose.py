"""Which searcher serves, and that the interface knows nothing of those who implement it."""

import ast
from pathlib import Path

from ralm_jax.retrieval import mips
from ralm_jax.retrieval.choose import EXACT_BELOW, choose
from ralm_jax.retrieval.exact import Exact


def test_few_passages_are_searched_exactly():
    assert isinstance(choose(EXACT_BELOW - 1), Exact)
    assert isinstance(choose(10 * EXACT_BELOW, "exact"), Exact)


def test_the_interface_imports_no_searcher():
    """Not inside a function and not for type checking either: that would be a circle."""
    tree = ast.parse(Path(mips.__file__).read_text("utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.startswith("ralm_jax")} == {"ralm_jax.retrieval.index"}
