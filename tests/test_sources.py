"""The sources' figures: one table, which recipes and bibliography agree with."""

from pathlib import Path

import pytest

from bnnlib import recipes
from bnnlib.experiments import sources

ROOT = Path(__file__).resolve().parents[1]


def test_a_recipes_published_accuracy_is_a_figure_of_its_source():
    missing = []
    for recipe in map(recipes.load, recipes.names()):
        known = {f.value for f in sources.figures(recipe.source)}
        for value in (recipe.published.top1, recipe.published.top5):
            if value is not None and value not in known:
                missing.append(f"{recipe.name}: {value} is no figure of {recipe.source} in bnnlib/experiments/sources.py")
    assert not missing, "\n".join(missing)


def test_every_source_is_in_the_bibliography_with_its_address():
    entries = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for source in sources.SOURCES.values():
        assert f"{{{source.cite}," in entries
        assert source.address.split(",")[0].split(";")[0] in entries


def test_every_figure_is_of_a_source_and_a_number():
    for (source, _), figure in sources.FIGURES.items():
        assert source in {*sources.SOURCES, *sources.LITERATURE} and figure.value >= 0 and figure.says and figure.where
    assert sources.figure("S1", "top1").value == 70.35
    with pytest.raises(KeyError, match="S3 has no figure 'top1': it has none"):
        sources.figure("S3", "top1")
