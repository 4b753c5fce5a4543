"""The search index without code that is folded away and without TeX: who looks for a word finds where it is told."""

from docutils import nodes
from sphinx.builders.html import StandaloneHTMLBuilder

_FOLDED = {"tag_hide-input", "tag_remove-input", "tag_parameters", "tag_imports"}


def _prose(doctree):
    """A copy of a page without folded code and formulas."""
    copy = doctree.deepcopy()
    for node in list(copy.findall(nodes.container)):
        if "cell_input" in node.get("classes", []) and node.parent is not None:
            if _FOLDED & set(node.parent.get("classes", [])):
                node.parent.remove(node)
    for kind in (nodes.math, nodes.math_block, nodes.raw):
        for node in list(copy.findall(kind)):
            node.parent.remove(node)
    return copy


def setup(app):
    index = StandaloneHTMLBuilder.index_page
    if not getattr(index, "of_prose", False):

        def index_prose(self, pagename, doctree, title):
            index(self, pagename, _prose(doctree), title)

        index_prose.of_prose = True
        StandaloneHTMLBuilder.index_page = index_prose
    return {"parallel_read_safe": True, "parallel_write_safe": True}
