"""A number keeps its unit and its ± on one line: a space that does not break, in text but not in tables or code."""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_UNIT = r"%|×|points?\b|[kMG]i?B\b|[µmn]?s\b|min\b|h\b|bits?\b"
_SPACE = re.compile(rf"(?<=\d) (?=(?:{_UNIT}))|^ (?=%)| (?=± \d)|(?<=±) (?=\d)")
_VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.table)


def unbroken(text: str) -> str:
    """
    >>> unbroken("99.16 ± 0.10 % after 60 epochs").replace("\\xa0", "_")
    '99.16_±_0.10_% after 60 epochs'
    """
    return _SPACE.sub("\xa0", text)


class Unbroken(SphinxPostTransform):
    default_priority = 900

    def run(self, **kwargs):
        for node in list(self.document.findall(nodes.Text)):
            if not any(isinstance(parent, _VERBATIM) for parent in _above(node)):
                node.parent.replace(node, nodes.Text(unbroken(node)))


def _above(node):
    while (node := node.parent) is not None:
        yield node


def setup(app):
    app.add_post_transform(Unbroken)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
