"""Which code a run is made by."""

from __future__ import annotations

import pytest

from bnnlib import recipes
from bnnlib.training import code

PLAIN = b'''"""A module."""
import os
def f(x, *, y=None):
    """What it does."""
    return f"{x}" if y is None else (x, 0, "")
class C:
    """A class."""
'''


@pytest.mark.parametrize(
    "same",
    [
        PLAIN.replace(b"A module.", b"Another docstring."),
        PLAIN.replace(b"import os", b"# a comment\nimport os  # and one more\n\n"),
        PLAIN.replace(b"y=None", b"y = None"),
        PLAIN.replace(b'    """What it does."""\n', b""),
        PLAIN.replace(b'"")', b"'')"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(same):
    assert code.hash_of(same) == code.hash_of(PLAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"0", b"1"), (b"0", b"False"), (b"0", b"None"), (b'"")', b"0)"), (b"y=None", b"y=0"), (b"is None", b"is not None"),
     (b"*, y", b"y"), (b"(x, 0", b"[x, 0"), (b"import os", b"import os as o"), (b"{x}", b"{x!r}")],
)  # fmt: skip
def test_what_runs_counts(old, new):
    other = PLAIN.replace(old, new).replace(b'[x, 0, "")', b'[x, 0, ""]')
    assert code.hash_of(other) != code.hash_of(PLAIN)


def test_a_net_is_made_of_its_own_file_and_of_what_all_share():
    lenet, vgg = (set(code.hashes(recipes.load(name))) for name in ("s4-lenet5", "s1-vgg"))
    assert lenet ^ vgg == {"bnnlib/models/lenet.py", "bnnlib/models/vgg.py"}
    assert {"bnnlib/quantizers.py", "bnnlib/training/loop.py", "bnnlib/training/schedules.py"} <= lenet & vgg
    assert any(name.startswith("bnnlib/layers") for name in lenet) and not any("cli" in name for name in lenet)


def test_what_changed_is_named():
    assert code.changed({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert code.changed(None, {"a": "1"}) == []
