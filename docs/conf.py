"""How the pages are built: ``sphinx-build -W -b html docs docs/_build/html``."""

import importlib.metadata
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402
import shown  # noqa: E402

# Tensors of the examples are tiny, and several examples run at once: one thread for each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "memnets"
author = "the memnets authors"
release = version = importlib.metadata.version("memnets")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "gallery/**/*.ipynb",
    "gallery/**/*.py",
    "**/sg_execution_times.rst",
    "results/speed_table.md",  # a part of a page
]
suppress_warnings = [
    "config.cache",  # the gallery's settings hold a function
    "sphinx_gallery.config",  # small galleries on other pages name their files, as they should
]

# -- Pages in Markdown ----------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# -- The reference, from the docstrings -----------------------------------------------------------

napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
add_module_names = False

reference.write_pages(HERE / "api")

# -- Examples, which run while the pages are built ------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "subsection_order": ["../examples/inside", "../examples/yours", "../examples/more"],
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib", shown.saved),
    "capture_repr": (),
    "inspect_global_variables": False,
    "reference_url": {"memnets": None, "tasks": None},
    "reset_modules": (shown.quiet,),
    "parallel": True,  # as many at once as sphinx-build -j says
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1,
    "plot_gallery": "True",
}


def setup(app):
    """Leave out what tells a reader nothing."""
    app.connect("autodoc-process-signature", without_anonymous_arguments)
    app.connect("autodoc-process-bases", without_machinery)
    app.connect("autodoc-skip-member", skip_fields)


def without_anonymous_arguments(app, what, name, obj, options, signature, returns):
    """No signature for a class without a constructor of its own."""
    anonymous = signature is not None and signature.startswith("(*args") and "**kwargs" in signature
    return ("" if anonymous else signature), returns


def without_machinery(app, name, obj, options, bases):
    """No ``ABC``, no ``Generic`` and no private class among the bases."""
    shown = [base for one in bases for base in public_bases(one)]
    bases[:] = [base for base in shown if name_of(base) not in ("ABC", "Generic", "object")]


def public_bases(base):
    """A base class, or in place of a private one its own bases."""
    if not name_of(base).startswith("_"):
        return [base]
    return [
        public
        for parent in getattr(base, "__origin__", base).__bases__
        for public in public_bases(parent)
    ]


def name_of(base):
    """Name of a class, with or without parameters."""
    return getattr(base, "__name__", str(base))


def skip_fields(app, what, name, obj, skip, options):
    """Fields of named tuples are described by their class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


# -- Looks ----------------------------------------------------------------------------------------

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "memnets"
html_static_path = ["_static"]
html_extra_path = [shown.KEPT.name]  # interactive pages
shown.KEPT.mkdir(exist_ok=True)
html_css_files = ["pages.css"]
html_favicon = "_static/icon.svg"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#8a3d0c",
        "color-brand-content": "#8a3d0c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#f0a35e",
        "color-brand-content": "#f0a35e",
    },
}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
