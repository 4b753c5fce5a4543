"""A finding that its numbers do not bear out is not printed."""

import pytest

from bnnlib.book import prose


def test_a_claim_that_holds_is_its_text():
    assert prose.claim(2 > 1, "Two is more.") == "Two is more."
    assert prose.claims("a", "", "b").data == "- a\n- b"


@pytest.mark.parametrize("condition", [False, 0, None, []])
def test_a_claim_that_does_not_hold_stops_the_chapter_and_is_named(condition):
    with pytest.raises(
        prose.ClaimFailed, match="no longer bear out: 'Two is more.'. If you have changed a cell"
    ):
        prose.claim(condition, "Two is more.")
