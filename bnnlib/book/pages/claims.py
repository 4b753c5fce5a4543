"""The page "Claims": what the five sources claim, their figure, what our records say of it, and where to read on.

A claim's evidence is computed when the book is built. One that has no run says so; one run gives no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from bnnlib import records, statistics
from bnnlib.benchmarks import speedups
from bnnlib.book.pages import landing
from bnnlib.book.studies import effects, evidence
from bnnlib.experiments import report, scoreboard, sources
from bnnlib.records import Record
from bnnlib.statistics import p_in_words, signed

UNTESTED = "not tested"


@dataclass(frozen=True)
class Claim:
    """One row: ``chapter``: the page that shows the evidence, ``figure`` as the source prints it."""

    source: str
    says: str
    evidence: str
    verdict: str
    chapter: str
    figure: str = ""


class Book:
    """What the rows need: records by recipe, and the ablation of S2."""

    def __init__(self, folder: Path) -> None:
        self.runs = records.by_recipe(folder)
        self.rows = {row.recipe.name: row for row in report.rows(folder)}
        values = {cell: [r.top1_last for r in self.of(name)] for cell, name in effects.s2_cells().items()}
        self.ablation = effects.Factorial(effects.S2_FACTORS, {c: v for c, v in values.items() if v})

    def of(self, name: str) -> list[Record]:
        return self.runs.get(name, [])

    def mean(self, name: str, epoch: int = -1) -> str:
        """Accuracy after an epoch (-1: the last), mean ± deviation and the number of runs."""
        values = [r.curve[epoch].test_top1 for r in self.of(name)]
        return f"{statistics.Spread.of(values)} % ({_runs(len(values))})" if values else "not run"

    def compare(self, first: str, second: str, field: str = "top1_last") -> evidence.Difference | None:
        return evidence.difference(self.of(first), self.of(second), field, family=evidence.alike(self.runs, first, second))

    def difference(self, first: str, second: str, field: str = "top1_last") -> str:
        one = self.compare(first, second, field)
        return f"{one} points ({one.basis})" if one else "not run"


def _runs(n: int) -> str:
    return "one run" if n == 1 else f"{n} runs"


def _f(source: str, key: str) -> str:
    return sources.figure(source, key).text


def claims(root: Path) -> list[Claim]:
    """Every claim, by source."""
    book = Book(root / "results" / "runs")
    return [
        *_accuracies(book), *_s1(book), *_s2_accuracies(book), *_s2_ablation(book), *_s2_comparisons(book), *_s3(book, root), *_s4(book),
        *_s5(book), *_size_and_speed(root),
    ]  # fmt: skip


def _accuracies(book: Book) -> Iterator[Claim]:
    chapters = {
        "vgg": "xnor-net-vgg", "cnn": "bireal-distillation", "lenet5": "lenet5-mnist", "lenet5-real": "lenet5-mnist",
        "nin": "network-in-network", "nin-real": "network-in-network", "alexnet": "alexnet-imagenet",
        "alexnet-real": "alexnet-imagenet",
    }  # fmt: skip
    for name, row in book.rows.items():
        published = row.recipe.published
        if published.top1 is None or row.recipe.source not in sources.SOURCES:
            continue
        images = "validation images" if row.recipe.dataset == "imagenet" else "test set"
        star = f" (best epoch on the {images})" if published.epoch == "best-on-test" else ""
        ours = f"`{name}`: {row.compared} %, {_runs(row.last.n)}" if row.compared else f"`{name}` has no run"
        shorter = (n for n in book.rows if book.rows[n].recipe.shortens == name and book.of(n))
        if not row.compared and (short := next(shorter, None)):
            ours += f"; `{short}`, {len(book.of(short)[0].curve)} epochs: {book.mean(short)}"
        chapter = chapters.get(row.recipe.model.name, "xnor-net-plus-plus")
        if row.recipe.source == "S2":
            chapter = "bireal-distillation"
        figure = f"{published.top1:g}"
        if published.doubt:
            figure, ours = f"{figure}?", f"{ours}. Of which net the figure is, is in doubt: {published.doubt}"
        verdict = row.verdict if row.compared else f"{UNTESTED}: no run"
        says = f"{row.recipe.title}, {row.recipe.dataset}, top-1 %{star}"
        yield Claim(row.recipe.source, says, ours, verdict, chapter, figure)


def _s1(book: Book) -> Iterator[Claim]:
    claim = partial(Claim, source="S1", chapter="xnor-net-vgg")
    rates = ("s1-vgg", "s1-vgg-lr1e-3")
    lowest = min(r.curve[0].test_top1 for name in rates for r in book.of(name))
    yield claim(
        says="accuracy after epoch 1, %",
        figure=_f("S1", "epoch1"),
        evidence=f"at S1's rate {book.mean('s1-vgg', 0)}; at S2's {book.mean('s1-vgg-lr1e-3', 0)}",
        verdict=_if(lowest > sources.figure("S1", "epoch1").value, "ours starts higher at both rates"),
    )
    base, long = "s1-vgg-5ep-identity", "s1-vgg-lr1e-3"
    ends = [r.top1_last for r in book.of(base)]
    apart = f"; {len(ends)} runs of the net as coded lie {max(ends) - min(ends):.2f} points apart" if len(ends) > 1 else ""
    # A sign behind the first ReLU would be +1 everywhere in the stated order, so the fair comparison has that ReLU in neither.
    order = "the order as stated minus that of the code, both without the first ReLU"
    for says, changed, name, control in (
        ("batch norm must come after the binary convolution", order, "s1-vgg-5ep-bn-after", "s1-vgg-5ep-no-stem-relu"),
        ("no ReLU between binary layers", "with a ReLU minus without", "s1-vgg-5ep-relu", base),
    ):
        yield claim(
            says=says,
            evidence=f"{changed}, 5 epochs: {book.difference(name, control)}{apart}",
            verdict=_shown(book, name, control),
        )
    free, short = f"{long}-no-clip", book.difference("s1-vgg-5ep-no-clip", base)
    there = f"20 epochs: {book.difference(free, long)}" if book.of(free) else f"no run of 20 epochs (`{free}`)"
    yield claim(
        says="latent weights must be clipped",
        evidence=f"without clipping minus with: {there}; in 5 epochs, which are too short for clipping to act, {short}",
        verdict=_shown(book, free, long) if book.of(free) else UNTESTED,
    )


def _shown(book: Book, first: str, second: str) -> str:
    """What a difference of two recipes, or the lack of one, shows by itself."""
    one = book.compare(first, second)
    if one is None:
        return UNTESTED
    if one.one_run:
        return f"one run, no verdict; {one.beside_chance}"
    return f"{'a' if one.p < 1 - statistics.LEVEL else 'no'} difference is shown, {p_in_words(one.p)} by itself"


def _s2_accuracies(book: Book) -> Iterator[Claim]:
    claim = partial(Claim, source="S2", chapter="bireal-distillation")
    base, student, teacher = "s1-vgg-lr1e-3", "s2-student", "s2-teacher"
    theirs = sources.figure("S2", "epoch1").value - sources.figure("S2", "epoch1-base").value
    first, then = (fmean(r.curve[0].test_top1 for r in book.of(name)) for name in (base, student))
    ours = then - first
    yield claim(
        says="epoch 1 jumps by distillation, from",
        figure=f"{_f('S2', 'epoch1-base')} to {_f('S2', 'epoch1')}",
        evidence=f"{book.mean(base, 0)} to {book.mean(student, 0)}; shortcuts are switched on with it",
        verdict=_if(
            0 < ours < theirs / 2,
            f"{signed(ours, 1)} points in place of {signed(theirs, 1)}, since our baseline starts higher",
        ),
    )
    near = statistics.prediction(
        [r.curve[0].test_top1 for r in book.of(teacher)],
        sources.figure("S2", "epoch1-teacher").value,
    )
    alike = "differs"
    if near and near.p >= 0.05:
        against = f"against {_f('S2', 'epoch1-teacher')}; the two figures are S2's own"
        alike = f"no difference shown, {p_in_words(near.p)} by itself, {against}"
    yield claim(
        says="teacher after epoch 1, %",
        figure=f"{_f('S2', 'epoch1-teacher')}; its log has {_f('S2', 'epoch1-teacher-log')}",
        evidence=book.mean(teacher, 0),
        verdict=alike,
    )
    before, after = (
        fmean(r.top1_last for r in book.of(teacher)) - fmean(r.top1_last for r in book.of(name)) for name in (base, student)
    )
    yield claim(
        says="gap to full precision, points, from",
        figure=f"~{_f('S2', 'gap-base')} to ~{_f('S2', 'gap')}",
        evidence=f"{before:.1f} to {after:.1f} below the mean of {_runs(len(book.of(teacher)))} of the teacher; student minus "
        f"baseline: {book.difference(student, base)}",
        verdict=_if(after < 0.6 * before, "the gap about halves; ours starts smaller, at the rate that S2 states"),
    )


def _s2_ablation(book: Book) -> Iterator[Claim]:
    claim = partial(Claim, source="S2", chapter="ablation-eleven-points")
    result, start, end = book.ablation, ("off", "off", "mean|W|"), ("on", "on", "1")
    whole = result.contrast({end: 1.0, start: -1.0})
    slow = [r.top1_last for r in book.of("s1-vgg")]
    rate = result.step_from(slow, start)
    at = _runs(len(slow))
    evidence, told, both = f"{whole} at one rate; not run at S1's rate", "", False
    if rate:
        evidence = f"{whole} at one rate; at S1's rate the baseline ended {rate.value:.2f} points lower ({at}, on another machine)"
        both = whole.clear and rate.value > 0
    if both:
        points = whole.value + rate.value
        told = f"of our {points:.1f} points {whole.value:.1f} are the three changes; {rate.value:.1f} are the step of the rate, {at} at the lower"
    yield claim(
        says="points over the baseline by three changes",
        figure=_f("S2", "points"),
        evidence=evidence,
        verdict=_if(both, told),
    )
    parts = result.attribution_weights(start, end)
    distillation, shortcut = (parts[factor] for factor in ("distillation", "shortcut"))
    more = result.contrast({c: distillation.get(c, 0) - shortcut.get(c, 0) for c in result.cells})
    alone = "so by this test alone; the chapter corrects it for all of its tests"
    yield claim(
        says="distillation is the most impactful change",
        evidence=f"its part of the way minus the shortcut's: {more} points, {p_in_words(more.p)} by itself",
        verdict=alone if more.clear and more.value > 0 else "not shown",
    )
    scale = result.effect({"shortcut": ["on"]}, scale=("mean|W|", "1"))
    learned = result.effect({"shortcut": ["on"]}, scale=("mean|W|", "learned"))
    worth = f"mean \\|W\\| → 1 is worth {scale} points, mean \\|W\\| → truly learned {learned}"
    loss = "does not hold: without a gradient it cannot adapt, and the change to 1 is a loss here"
    yield claim(
        says="a learned scale adapts to the data",
        evidence=f"in its code the scale gets no gradient and stays 1; with shortcuts, {worth}",
        verdict=loss
        if scale.clear and scale.value < 0
        else "without a gradient it cannot adapt; that the change matters is not shown",
    )


def _s2_comparisons(book: Book) -> Iterator[Claim]:
    claim = partial(Claim, source="S2", chapter="bireal-distillation")
    base, student = book.of("s1-vgg-lr1e-3"), book.of("s2-student")
    goal, epochs = fmean(r.top1_last for r in base), len(base[0].curve)
    reached = [report.first_epoch_reaching(r, goal) for r in student]
    passed = f"in epoch {' and '.join(str(e) for e in reached)} of {epochs}"
    yield claim(
        says="times faster convergence (it does not say of what)",
        figure=_f("S2", "faster"),
        evidence=f"the student passes the baseline's last accuracy, {goal:.2f} %, {passed}",
        verdict=_if(all(e and e < epochs for e in reached), "faster by this measure; the figure has no definition"),
    )
    fourth = f"{book.mean('s2-student', 3)} against {book.mean('s1-vgg-lr1e-3', 3)}"
    contradicted = sources.figure("S1", "epoch4").value > sources.figure("S2", "epoch4-base").value
    yield claim(
        says="after epoch 4, %, against the baseline",
        figure=f"{_f('S2', 'epoch4')} against {_f('S2', 'epoch4-base')}",
        evidence=f"{fourth}; S1's own log has {_f('S1', 'epoch4')} after epoch 4",
        verdict=_if(contradicted, "S1's log contradicts the second figure"),
    )
    small = [f for net, f in sources.literature() if net == "VGG-small on CIFAR-10"]
    low, high = (pick(small, key=lambda f: f.value) for pick in (min, max))
    below = [f.value - sources.figure("S2", "top1").value for f in (low, high)]
    cited = ", ".join(f"{f.text} {{cite}}`{f.source}`" for f in small)
    span = f"{below[0]:.1f} to {below[1]:.1f} points below these ({low.text} to {high.text})"
    yield claim(
        says="is competitive with published 1-bit nets",
        figure=_f("S2", "top1"),
        evidence=f"VGG-small with one bit on CIFAR-10: {cited}",
        verdict=f"{span}, with fewer epochs; [all figures](related.md)",
    )
    yield claim(
        says="identical 7-layer FP32 net, accuracy in %",
        figure=f"~{_f('S2', 'identical')}",
        evidence=f"{_f('S2', 'teacher')} is the accuracy of its teacher, which has three convolutions",
        verdict="the speed and the accuracy are of two nets",
    )


def _if(condition: object, verdict: str) -> str:
    """The verdict, where the records bear it out."""
    return verdict if condition else "the records no longer bear out what stood here: look at them"


def _s3(book: Book, root: Path) -> Iterator[Claim]:
    from bnnlib.benchmarks import verify

    claim = partial(Claim, source="S3", chapter="xnor-gemm-mlp")
    found = {r["net"]: r["agreement"] for r in verify.read(root / "results" / "verified")}.get("s3-mlp")
    said, exact = UNTESTED, False
    if found:
        flipped, bits = (sum(row[k] for row in found["bits"]) for k in ("flipped", "bits"))
        agree = f"{found['agreement']['float32']:.2f} % of {found['images']:,} answers agree with PyTorch"
        said = f"packed and run on MNIST, {flipped:,} of the {bits:,} bits that the binary layer reads differ and {agree}"
        exact = not flipped
    yield claim(
        says="XNOR matrix product = naive product = torch.matmul",
        evidence=f"{said}; the products themselves are compared in the chapter and, for every kernel, in the tests",
        verdict="holds exactly" if exact else "see the chapter",
    )
    yield claim(
        says="a binary MLP; no accuracy is claimed",
        evidence=f"binary minus real-valued: {book.difference('s3-mlp', 's3-mlp-real')}",
        verdict="no figure to compare",
    )


def _s4(book: Book) -> Iterator[Claim]:
    binary, real = "s4-lenet5", "s4-lenet5-real"
    theirs = sources.figure("S4", "lenet").value - sources.figure("S4", "lenet-real").value
    last, best = book.difference(binary, real), book.difference(binary, real, "top1_best")
    lower = fmean(r.top1_last for r in book.of(binary)) < fmean(r.top1_last for r in book.of(real))
    yield Claim(
        source="S4",
        says="LeNet-5, binary minus real-valued, points",
        figure=signed(theirs),
        evidence=f"last epochs: {last}; best epochs, as S4 has them: {best}",
        verdict=_if(lower, "a loss, by both"),
        chapter="lenet5-mnist",
    )
    corrected = "with an estimator for the sign the corrected formula counts the part along the signs 1 + α times"
    yield Claim(
        source="S4",
        says="the paper's gradient of the scaled sign is wrong",
        evidence=f"the part through α: proved, and tested in three ways; {corrected}",
        verdict="holds for the part through α",
        chapter="gradient-of-the-scaled-sign",
    )


def _s5(book: Book) -> Iterator[Claim]:
    claim = partial(Claim, source="S5", chapter="xnor-net-plus-plus")
    tiny = "tiny-s5-resnet18-"
    learned, analytic, real = tiny + "xnorpp-7ep", tiny + "xnor-7ep", tiny + "real-7ep"
    channels = book.difference(tiny + "channel-7ep", analytic)
    channels = f"a factor for each channel, which cannot learn there, minus analytic: {channels}"
    yield claim(
        says="learned over analytic scale on ImageNet, points",
        figure=_f("S5", "gain"),
        evidence=f"on Tiny-ImageNet, 7 epochs: {book.difference(learned, analytic)}; {channels}",
        verdict=_elsewhere(book, learned, analytic),
    )
    gap = sources.figure("S5", "real").value - sources.figure("S5", "downsample").value
    yield claim(
        says="real-valued minus binary (with the higher of its two figures) on ImageNet, points",
        figure=f"{gap:.1f}",
        evidence=f"on Tiny-ImageNet, 7 epochs: {book.difference(real, learned)}",
        verdict=_elsewhere(book, real, learned),
    )
    orders = ("xnorpp-order-xnor", "xnorpp-order-resnet", "xnorpp-order-bireal")
    for says, names in (
        ("the order of batch norm, convolution and ReLU is crucial", orders),
        ("SGD with a cosine against Adam with steps", ("xnorpp-adam",)),
        ("an earlier error: one block was not binarised (which is not known; ours: the first)", ("xnorpp-real-block",)),
    ):
        pairs = [(f"{tiny}xnorpp{end}", f"{tiny}{name}{end}") for end in ("", "-7ep") for name in names]
        ran = [pair for pair in pairs if all(map(book.of, pair))]
        told = "; ".join(f"`{a}` minus `{b}`: {book.difference(a, b)}" for a, b in ran)
        yield claim(
            says=says,
            evidence=f"on Tiny-ImageNet, {told}" if told else "no run",
            verdict=_elsewhere(book, *ran[0]) if ran else UNTESTED,
        )


def _elsewhere(book: Book, first: str, second: str) -> str:
    """The verdict of a difference on another data set than the source's."""
    one = book.compare(first, second)
    if one is None:
        return UNTESTED
    return "one run on another set, no verdict" if one.one_run else "another set, no verdict on the source's"


def _size_and_speed(root: Path) -> Iterator[Claim]:
    size, here = landing.sizes("s2-student"), "one-bit-at-a-time"
    convolutions = f"the weights of the binary convolutions {size.latent / size.bits:.0f} times"
    yield Claim(
        source="S2",
        says="times less memory for weights and activations",
        figure=_f("S2", "smaller"),
        evidence=f"{convolutions}, the whole file {size.factor:.1f}",
        verdict=_if(size.factor < 2, "holds for the binary convolutions alone"),
        chapter="shipping-one-bit",
    )
    layers = [f"{one.over_float32[1]:.2g} on {one.core}" for one in speedups.of_each_cpu(root / "results" / "bench")]
    what = "our 1-bit convolutions, floats in and out, over PyTorch's float32 on one core, the median layer"
    ours = f"{what}: {', '.join(layers)}" if layers else "ours: `make bench`"
    ratio = sources.figure("S2", "latency").value / sources.figure("S2", "latency-real").value
    table = f"its own table: {_f('S2', 'latency')} ms against {_f('S2', 'latency-real')} ms"
    yield Claim(
        source="S2",
        says="times faster inference",
        figure=_f("S2", "operations"),
        evidence=f"{table}, {ratio:.2f} times slower end to end; {ours}",
        verdict=_if(ratio > 1, "contradicted by its own table"),
        chapter=here,
    )
    yield Claim(
        source="S1",
        says="multiplications and additions in a single operation",
        figure=_f("S1", "operations"),
        evidence="one word of 64 bits holds 64 products; a processor's other units do many at once as well",
        verdict="a count of bits, not a speed",
        chapter=here,
    )


def page(root: Path, listed: Sequence[str], places: Mapping[str, str] | None = None) -> str:
    """The claims as a Markdown table for each source; ``listed``: the chapters that this book has; ``places``: where in the book they
    stand, by page ("Chapter 3, MNIST"), of which a row shows the number."""
    needed = {"s1-vgg", "s1-vgg-lr1e-3", "s2-student", "s2-teacher", "s4-lenet5", "s4-lenet5-real"}
    if missing := needed - {record.recipe for record in records.read_all(root / "results" / "runs")}:
        return f"*Needs the records of {', '.join(sorted(missing))}.*\n"
    rows = claims(root)
    parts = []
    for source in sources.SOURCES.values():
        parts.append(f"## {source.name}: {source.title}\n\n{{cite}}`{source.cite}`, {source.address}\n")
        parts.append("| claim | figure | our evidence | verdict | chapter |\n|---|---:|---|---|---|")
        for c in (c for c in rows if c.source == source.name):
            target = f"notebooks/{c.chapter}"
            number = (places or {}).get(target, "").partition(",")[0].removeprefix("Chapter ")
            link = (f"{{doc}}`{number} <{target}>`" if number else f"{{doc}}`{target}`") if c.chapter in listed else c.chapter
            parts.append(f"| {_cell(c.says)} | {c.figure or '–'} | {c.evidence} | {c.verdict} | {link} |")
        parts.append("")
    return "\n".join(parts) + f"\n{scoreboard.IN_SHORT} A p *by itself* is adjusted for nothing.\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|") if "\\|" not in text else text
