"""The page of claims: every source, every published accuracy, evidence from the records and nothing typed."""

import json
import re
from statistics import fmean

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
            computed = c.says.endswith("points") and "minus" in c.says
            assert computed or float(number) in known, (c.says, number)


def test_every_source_is_on_the_page_and_every_verdict_stands():
    page = claims.page(ROOT, ["lenet5-mnist"])
    for source in sources.SOURCES.values():
        assert f"## {source.name}: " in page and source.address in page
    assert "no longer bear out" not in page
    assert "{doc}`notebooks/lenet5-mnist`" in page and "{doc}`notebooks/xnor-net-vgg`" not in page
    assert "{doc}`3 <notebooks/lenet5-mnist>`" in claims.page(ROOT, ["lenet5-mnist"], {"notebooks/lenet5-mnist": "Chapter 3, MNIST"})
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(line.replace("\\|", "").split("|")) for line in tables} == {7}, "no cell is cut by a bar"


def test_one_run_has_no_verdict():
    row = next(c for c in ROWS if "`s1-vgg`:" in c.evidence)
    expected = report.rows(names=["s1-vgg"])[0]
    assert row.verdict == expected.verdict
    if expected.last.n == 1:
        assert row.verdict.startswith("one run")


def curves(recipe):
    """Test accuracy after each epoch of each run, read from the files themselves."""
    files = (ROOT / "results" / "runs" / recipe).glob("seed*.json")
    return [[epoch["test_top1"] for epoch in json.loads(path.read_text())["curve"]] for path in sorted(files)]


def test_numbers_of_the_rows_are_those_of_the_records_by_hand():
    said = {c.says: c for c in ROWS}

    def mean(recipe, epoch=-1):
        return fmean(curve[epoch] for curve in curves(recipe))

    def ahead(source, one, other):
        return sources.figure(source, one).value - sources.figure(source, other).value

    def signed(value, digits):
        return f"{value:+.{digits}f}".replace("-", "−")

    base, student, teacher = "s1-vgg-lr1e-3", "s2-student", "s2-teacher"
    jump = signed(mean(student, 0) - mean(base, 0), 1), signed(ahead("S2", "epoch1", "epoch1-base"), 1)
    assert "{} points in place of {}".format(*jump) in said["epoch 1 jumps by distillation, from"].verdict
    gaps = [f"{mean(teacher) - mean(one):.1f}" for one in (base, student)]
    gap = said["gap to full precision, points, from"].evidence
    assert "{} to {} below".format(*gaps) in gap and f"baseline: {mean(student) - mean(base):+.2f} ±" in gap
    whole, rate = mean(student) - mean(base), mean(base) - mean("s1-vgg")
    points = said["points over the baseline by three changes"]
    assert f"{whole:+.2f} ±" in points.evidence and f"{rate:.2f} points lower" in points.evidence
    assert f"of our {whole + rate:.1f} points {whole:.1f} are the three changes; {rate:.1f} are the step" in points.verdict
    passed = [next(i for i, top1 in enumerate(curve, 1) if top1 >= mean(base)) for curve in curves(student)]
    faster = f"{mean(base):.2f} %, in epoch {' and '.join(map(str, passed))} of {len(curves(base)[0])}"
    assert faster in said["times faster convergence (it does not say of what)"].evidence
    fourth = [re.escape(f"{mean(one, 3):.2f} ±") for one in (student, base)]
    assert re.match("{} .* against {} ".format(*fourth), said["after epoch 4, %, against the baseline"].evidence)
    ends = [curve[-1] for curve in curves("s1-vgg-5ep-identity")]
    assert f"lie {max(ends) - min(ends):.2f} points apart" in said["no ReLU between binary layers"].evidence
    order = signed(mean("s1-vgg-5ep-bn-after") - mean("s1-vgg-5ep-no-stem-relu"), 2)
    assert f"both without the first ReLU, 5 epochs: {order} ±" in said["batch norm must come after the binary convolution"].evidence
    lenet = said["LeNet-5, binary minus real-valued, points"]
    assert lenet.figure == signed(ahead("S4", "lenet", "lenet-real"), 2)
    assert f"last epochs: {signed(mean('s4-lenet5') - mean('s4-lenet5-real'), 2)} ±" in lenet.evidence
    ones, means = (student, "s2-ablation-shortcut-ce-one"), ("s2-ablation-shortcut-kd-mean", "s2-ablation-shortcut-ce-mean")
    shortcuts = [mean(one) - mean(other) for one, other in zip(ones, means, strict=True)]
    assert f"→ 1 is worth {signed(fmean(shortcuts), 2)} ±" in said["a learned scale adapts to the data"].evidence
    tiny = said["real-valued minus binary (with the higher of its two figures) on ImageNet, points"]
    assert tiny.figure == f"{ahead('S5', 'real', 'downsample'):.1f}"


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
