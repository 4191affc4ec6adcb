"""Build the documentation with Sphinx: ``make docs``."""

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "src")]

from basinet import __version__  # noqa: E402

project = "basinet"
author = "the basinet developers"
copyright = author  # noqa: A001
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "command_pages",
]
exclude_patterns = ["_build", "inventories/README.md"]
html_theme = "furo"
html_title = "basinet"
html_static_path = ["_static"]
html_css_files = ["basinet.css"]
html_theme_options = {"source_repository": "https://github.com/basinet/basinet/", "source_branch": "main"}
html_theme_options["source_directory"] = "docs/"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
highlight_language = "none"
smartquotes = False  # --out stays --out
copybutton_exclude = ".linenos, .gp, .go, .c1"

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["torch_sim"]
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The inventories are files of this repository: the build needs no network (inventories/README.md).
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", str(DOCS / "inventories" / "python.inv")),
    "numpy": ("https://numpy.org/doc/stable/", str(DOCS / "inventories" / "numpy.inv")),
    "torch": ("https://docs.pytorch.org/docs/stable/", str(DOCS / "inventories" / "torch.inv")),
    "ase": ("https://ase-lib.org/", str(DOCS / "inventories" / "ase.inv")),
}

# References that have no page: shapes, aliases of types, and modules that are not public.
nitpick_ignore_regex = [
    ("py:class", r"jaxtyping\..*"),
    ("py:class", r"'.*'|float32|float64"),
    ("py:.*", r"basinet\.\w+\..*"),
    ("py:.*", r"sklearn\..*|np\..*|ase\.atoms\..*"),
    ("py:.*", r"ndarray|Tensor|Atoms|HEADS|OUTPUTS|collate"),
    ("py:class", r"torch\._C\..*|torch\.nn\.modules\..*"),
    ("py:exc", r"StructureError|RunError"),
]

COLON, RATIO = ":", "\u2236"


def setup(app: Any) -> None:
    """Keep napoleon from reading the words before a colon in the text of an attribute as its type."""

    def hide(_app: Any, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
        if what in ("attribute", "property", "data"):
            lines[:] = [re.sub(r":(?=\s)", RATIO, line) for line in lines]

    def show(_app: Any, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = [line.replace(RATIO, COLON) for line in lines]

    app.connect("autodoc-process-docstring", hide, priority=400)
    app.connect("autodoc-process-docstring", show, priority=600)
