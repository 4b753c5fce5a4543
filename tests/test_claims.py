"""The page of claims: every source, every published accuracy, evidence from the records and nothing typed."""

import re

from bnnlib import recipes, records
from bnnlib.book.pages import claims
from bnnlib.experiments import report, sources
from bnnlib.paths import ROOT

ROWS = claims.claims(ROOT)


def test_every_published_accuracy_has_a_row():
    for recipe in map(recipes.load, recipes.names()):
        if recipe.published.top1 is not None:
            assert any(c.source == recipe.source and f"`{recipe.name}`" in c.evidence for c in ROWS), recipe.name


def test_figures_are_those_of_the_sources_table():
    for c in ROWS:
        known = {f.value for f in sources.figures(c.source)} | {f.value for f in sources.figures("S1")}
        for number in re.findall(r"(?<![\w.])\d+\.\d+|(?<![\w.])\d{2,}", c.figure):
            computed = c.says.endswith("points") and "less" in c.says
            assert computed or float(number) in known, (c.says, number)


def test_every_source_is_on_the_page_and_every_verdict_stands():
    page = claims.page(ROOT, ["lenet5-mnist"])
    for source in sources.SOURCES.values():
        assert f"## {source.name}: " in page and source.address in page
    assert "no longer bear out" not in page
    assert "{doc}`notebooks/lenet5-mnist`" in page and "{doc}`notebooks/xnor-net-vgg`" not in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(line.replace("\\|", "").split("|")) for line in tables} == {7}, "no cell is cut by a bar"


def test_one_run_has_no_verdict():
    row = next(c for c in ROWS if "`s1-vgg`:" in c.evidence)
    expected = report.rows(names=["s1-vgg"])[0]
    assert row.verdict == expected.verdict
    if expected.last.n == 1:
        assert row.verdict.startswith("one run")


def test_without_records_the_page_says_what_it_needs(tmp_path):
    assert claims.page(tmp_path, []).startswith("*Needs the records of s1-vgg,")


def test_what_does_not_hold_says_of_our_runs_what_the_records_say():
    """Sentences without numbers, which no cell computes."""
    said = " ".join((ROOT / "book" / "what-does-not-hold.md").read_text(encoding="utf-8").split())
    last = {}
    for record in records.read_all():
        last.setdefault(record.recipe, []).append(record.top1_last)
    coded, relu, order, control = (last[f"s1-vgg-5ep-{name}"] for name in ("identity", "relu", "bn-after", "no-stem-relu"))
    low, high = min(coded), max(coded)
    for sentence, holds in {
        "a ReLU between binary layers ends far below both runs of the net as coded": max(relu) < low - 3 * (high - low),
        "The run with the other order ends below both, too": max(order) < low,
        "without that ReLU ends within half a point of it": all(abs(a - b) < 0.5 for a in order for b in control),
        "the baseline comes close to that figure at the lower rate (one run), and ends above it at the higher": (
            abs(last["s1-vgg"][0] - 70.35) < 1 and len(last["s1-vgg"]) == 1 and min(last["s1-vgg-lr1e-3"]) > 70.35
        ),
        "Beside a shortcut our nets with the constant have a lower accuracy than those with": all(
            max(last[one]) < min(last[mean])
            for one, mean in (("s2-student", "s2-ablation-shortcut-kd-mean"), ("s2-ablation-shortcut-ce-one", "s2-ablation-shortcut-ce-mean"))
        ),
    }.items():
        assert sentence in said and holds, sentence
