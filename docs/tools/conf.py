"""How Sphinx builds the documentation site. `make docs` runs it; nothing is fetched while it builds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "lavakv"
html_title = "lavakv"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
extensions = ["myst_parser", "sphinx.ext.napoleon", "site_pages", "public_names"]
exclude_patterns = ["tools"]
myst_heading_anchors = 3
default_role = "literal"  # docstrings write code in single backquotes
smartquotes = False  # options start with two hyphens
napoleon_use_rtype = False
