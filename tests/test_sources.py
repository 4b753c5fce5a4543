"""The sources' figures: one table, which recipes and bibliography agree with."""

from pathlib import Path

import pytest

from bnnlib import recipes
from bnnlib.book.pages import literature
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


def test_the_papers_accuracies_are_listed_by_network_and_cited():
    rows = sources.literature()
    entries = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert all(f"{{{paper}," in entries for paper in sources.LITERATURE)
    assert [f.text for net, f in rows if net == "VGG-small on CIFAR-10"] == ["93.3", "92.55", "92.46", "92.3", "90.4"]
    for net in {net for net, _ in rows}:
        values = [f.value for of, f in rows if of == net]
        assert values == sorted(values, reverse=True)


def test_the_table_of_the_literature_has_our_nets_beside_the_papers():
    text = literature.table(ROOT / "results" / "runs")
    assert "| Bi-Real Net {cite}`liu2018bireal` | 56.4 | its abstract |" in text
    assert "`s2-student`: S2's net" in text and "a record of this book" in text
    assert text.count("| ResNet-18 on ImageNet |") == 1, "a network's name stands once"
    both = "AdaBin {cite}`tu2022adabin`"
    assert f"{both}, two-step training | 66.4 | its abstract |" in text and f"{both} | 63.1 | README of its code |" in text
