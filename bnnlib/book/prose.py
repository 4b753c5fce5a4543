"""Sentences that depend on numbers: a finding is printed only while its condition holds, and the build says so when it does not.

    from bnnlib.book import prose
    prose.claims(
        prose.claim(rate.value > 0 and p < 0.05, f"The rate alone is worth {rate} points."),
        prose.claim(len(teachers) == 1, "All cells share one teacher."),
    )
"""

from __future__ import annotations

from collections.abc import Iterable

from IPython.display import Markdown


class ClaimFailed(AssertionError):
    """A sentence of the book that the numbers no longer bear out."""


def claim(condition: object, text: str) -> str:
    """``text``, if ``condition`` is true. Raises :class:`ClaimFailed` otherwise, which stops the chapter and so the build."""
    if not condition:
        raise ClaimFailed(
            f"the numbers no longer bear out: {text!r}. If you have changed a cell, that can be why: run the cells below one by one. "
            "Else look at the records, then change the sentence or its condition"
        )
    return text


def listed(words: Iterable[str]) -> str:
    """Words one after another, as a sentence has them.

    >>> listed(["Zen 3", "Zen 4", "Zen 5"]), listed(["Zen 4"])
    ('Zen 3, Zen 4 and Zen 5', 'Zen 4')
    """
    *first, last = words
    return " and ".join(filter(None, [", ".join(first), last]))


def claims(*texts: str) -> Markdown:
    """The sentences of ``texts`` as a list; empty ones are left out."""
    return Markdown("\n".join(f"- {text}" for text in texts if text))
