"""Values of ``--set``, read as YAML."""

import pytest

from bnnlib.recipes import RecipeError, parse_value

VALUES = [
    ("1e-5", 1e-5),
    ("1E5", 1e5),
    ("-2e+3", -2000.0),
    ("1.5e-3", 0.0015),
    ("3", 3),
    ("0.1", 0.1),
    ("true", True),
    ("null", None),
    ("adam", "adam"),
    ("[0.9, 1e-1]", [0.9, 0.1]),
    ("{scale: learned, x: 1e-5}", {"scale": "learned", "x": 1e-5}),
    ("''", ""),
    ("1e", "1e"),
    ("e5", "e5"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values_of_set(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "{a", "a: b: c", "'open"])
def test_a_value_that_is_no_yaml(text):
    with pytest.raises(RecipeError, match="value .* is not YAML") as caught:
        parse_value(text)
    assert repr(text) in str(caught.value)
