"""Settings of the documentation site: `make docs` builds it into build/site.

The source folder is the whole checkout, so that a relative link in a document works on the site as it works on a code
host. The site shows the outputs that the committed notebooks hold; it runs nothing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import d3d  # noqa: E402  (after the path)

logger = logging.getLogger(__name__)

project, author, release = "d3d", "The d3d authors", d3d.__version__
copyright = f"{author}, MIT licence"
html_title = "d3d: 3D Distillation"

root_doc = "docs/index"
include_patterns = [
    *("docs/**.md", "notebooks/[0-9]*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("data/README.md", "data/glossyrooms/README.md", "data/networks/*.md", "results/README.md"),
]
smartquotes_action = "D"  # dashes only: quotation marks are often code
exclude_patterns = [".*", "**/.*", "build", "d3d", "glossyrooms", "runs", "tests"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # tables in outputs
myst_enable_extensions = ["amsmath", "attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Types are in the signatures: a colon in "Returns:" ends no type
napoleon_custom_sections = ["Returns"]
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
default_role = "name_or_code"
# Other projects' names are no links: the site builds without their inventories. Nor are private names, type variables
nitpick_ignore_regex = [(r"py:.*", r"(?!d3d\.).*|.*\.(_\w+|[A-Z])"), (r"py:obj", r".*")]

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "use_download_button": False}


def _mathml(self: HTML5Translator, node: nodes.Element, block: bool) -> str:
    """Return an equation as MathML. Browsers draw it themselves: no script, no network, no font to load."""
    text = re.sub(r"\\[bB]ig(?![a-zA-Z])", "", node.astext()).replace(r"\dots", r"\ldots")
    try:
        return latex2mathml.tex2mathml(text, as_block=block)
    except (MathError, IndexError) as error:
        logger.warning("this equation cannot become MathML (%s): %s", error, text, location=node)
        return f"<code>{self.encode(text)}</code>"


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write an equation within a line."""
    self.body.append(_mathml(self, node, block=False))
    raise nodes.SkipNode


def block_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation of its own, with its number if it has a label."""
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    self.body.append(_mathml(self, node, block=True))
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>")
    raise nodes.SkipNode


def adapt_links(app: Sphinx, document: nodes.document) -> None:
    """Lead links to folders to their README.md and links to modules to the API, and make pictures with links work.

    A link to a folder whose README.md is no page of the site becomes plain text.
    """
    for node in list(document.findall(pending_xref)):
        if node.get("refdomain") == "doc" and node["reftarget"] == "README":
            node.attributes.update(reftarget=root_doc, reftargetid=None)  # the site has a start page instead
        if node.get("reftype") != "myst" or node.get("refdomain"):
            continue
        folder = ((REPO / node["refdoc"]).parent / node["reftarget"]).resolve()
        if not folder.is_dir():
            continue
        readme = (folder / "README").relative_to(REPO).as_posix()
        if readme in app.env.found_docs:
            node.attributes.update(refdomain="doc", reftarget=readme, reftargetid=None)
        else:
            node.replace_self(node.children)
    for node in list(document.findall(download_reference)):
        path = ((REPO / node["refdoc"]).parent / node["reftarget"]).resolve().relative_to(REPO)
        if path.suffix == ".py" and path.parts[0] == "d3d":
            module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            link = pending_xref("", refdomain="py", reftype="mod", reftarget=module, refdoc=node["refdoc"])
            node.replace_self(link)
            link += node.children
    for node in list(document.findall(nodes.image)):
        if node["uri"].endswith("pipeline.svg"):
            text = (REPO / "docs" / "pipeline.svg").read_text()
            node.replace_self(nodes.raw("", f'<span class="pipeline">{text}</span>', format="html"))


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark the indented blocks of a docstring as code, which Google style leaves unmarked."""
    for number in range(len(lines) - 1, 1, -1):
        above = lines[number - 2]
        if lines[number].startswith("    ") and not lines[number - 1] and above and not above.startswith(" "):
            lines[number - 1 : number - 1] = ["", "::"]


def name_or_code(name: str, rawtext: str, text: str, *arguments: Any, **options: Any) -> Any:
    """Show what stands between single backticks in a docstring as code, and link it if it is a name of d3d."""
    if re.fullmatch(r"[A-Za-z_][\w.]*", text):
        return PythonDomain.roles["obj"]("py:obj", rawtext, text, *arguments, **options)
    return [nodes.literal(rawtext, text)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this file defines."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_role("name_or_code", name_or_code)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon
    app.connect("doctree-read", adapt_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
