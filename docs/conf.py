"""The site's settings: ``make docs`` builds it into build/docs, and any warning is an error.

Sources are the Markdown pages of this folder, which GitHub shows as they are. Made at build time,
into generated/: a page for each rule, for each public name and for the papers (generators/); the
lessons and the pages on curvature, from scripts of examples/ (sphinx-gallery).
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT / "examples" / "lessons")]
import optkern  # noqa: E402

project = "optkern"
author = project_copyright = "the authors of optkern"
release = version = optkern.__version__
extensions = [
    "generators",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = [
    "new_rule",
    "generators",
    "generated/backreferences",
    "**sg_execution_times.rst",
]
nitpicky = True
default_role = "py:name"  # generators/names.py
# Named in docstrings for who reads the sources.
nitpick_ignore_regex = [(r"py:.*", r"optkern\.rules\..*|optkern\.optimizers\.CLASSES")]
# Of the folders of C and Cython, which are no pages of the gallery.
suppress_warnings = ["sphinx_gallery.duplicate_filename"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

numpydoc_show_class_members = False
autosummary_generate = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"

bibtex_bibfiles = ["generated/papers.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["generated/examples"],
    "ignore_pattern": r"lesson\.py|embed_",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("optkern",),
    "download_all_examples": False,
    "default_thumb_file": str(HERE / "demo.png"),
    "show_memory": False,
    "min_reported_time": 1000,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "optkern"
html_static_path = ["_static"]
html_extra_path = ["generated/extra"]  # the report
html_css_files = ["optkern.css"]
# Pages that have none below them.
html_sidebars = {page: [] for page in ("index", "tutorial", "curvature", "diagnosis")}
html_copy_source = False
html_theme_options = {
    "show_nav_level": 1,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
