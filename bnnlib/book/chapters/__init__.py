"""Run the chapters, and hold them to the gate that a chapter passes before it is published.

    python -m bnnlib.chapters run [NAME...] --profile stored|quick|demo|full --seed N
    python -m bnnlib.chapters check [PATH...] --profile stored
    python -m bnnlib.chapters times
    python -m bnnlib.chapters sources

``run`` executes ``notebooks/NAME.ipynb`` with papermill into ``build/chapters/<profile>/NAME.ipynb``, several
at a time. A chapter whose notebook, library, kernels, results and parameters are as they were is not run
again (``--force`` runs it). What is written there has passed the gate; a chapter that fails is kept beside it
as ``NAME.failed.ipynb``, to be looked at.

How a chapter is written
    Parameters: one cell tagged ``parameters``, typed literals with a comment each, ``profile: str = "stored"`` and
        ``seed: int = 0`` among them. Parameters are given with ``-p NAME VALUE``; the next cell checks them first, by
        :func:`check_parameters`.
    Figures: a cell shows one figure, and says in its metadata what is to be seen, to whoever cannot see it:
        ``{"mystnb": {"image": {"alt": "Accuracy against epoch: five curves that flatten after epoch 15."}}}``
        (JupyterLab: the gear at the right, "Cell Metadata"). A numbered caption goes beside ``image``:
        ``"figure": {"name": "fig-curve", "caption": "..."}``.
    Folded code: the cell tag ``hide-input`` folds the code of a plot away; the method itself is never hidden.
    Paths: a chapter does not know the folder it runs in: ``bnnlib`` finds data, records and models by itself.
"""

import sys

# jsonschema, below nbformat, compiles the grammar of international URLs when imported, which takes seconds in
# every process and checks nothing that a notebook has.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

from bnnlib.book.chapters import times  # noqa: E402
from bnnlib.book.chapters.freshness import fingerprint, is_current, surroundings  # noqa: E402
from bnnlib.book.chapters.gate import check, problems, source_problems  # noqa: E402
from bnnlib.book.chapters.notebooks import START, ChapterError, parameters, read, source, sources  # noqa: E402
from bnnlib.book.chapters.running import Outcome, run  # noqa: E402
from bnnlib.book.chapters.values import (  # noqa: E402
    PROFILES,
    SHORT,
    check_parameters,
    check_recipes,
    left_out,
    no_answer,
    recorded,
    resolve,
)

__all__ = [
    "PROFILES", "SHORT", "START", "ChapterError", "Outcome", "check", "check_parameters", "check_recipes", "fingerprint", "is_current", "left_out",
    "no_answer", "parameters", "problems", "read", "recorded", "resolve", "run", "source", "source_problems", "sources", "surroundings",
    "times",
]  # fmt: skip
