"""The page "Claims": what the five sources claim, their figure, what our records say of it, and where to read on.

A claim's evidence is computed when the book is built. One that has no run says so; one run gives no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bnnlib import records, statistics
from bnnlib.book.pages import landing
from bnnlib.book.studies import effects, evidence
from bnnlib.experiments import report, scoreboard, sources
from bnnlib.records import Record

UNTESTED = "not tested"


@dataclass(frozen=True)
class Claim:
    """One row: ``figure`` as the source prints it (empty for none), ``chapter``: the page that shows the evidence."""

    source: str
    says: str
    figure: str
    evidence: str
    verdict: str
    chapter: str


class Book:
    """What the rows need: records by recipe, and the ablation of S2."""

    def __init__(self, folder: Path) -> None:
        self.runs: dict[str, list[Record]] = {}
        for record in records.read_all(folder):
            self.runs.setdefault(record.recipe, []).append(record)
        self.rows = {row.recipe.name: row for row in report.rows(folder)}
        values = {cell: [r.top1_last for r in self.of(name)] for cell, name in effects.s2_cells().items()}
        self.ablation = effects.Factorial(effects.S2_FACTORS, {c: v for c, v in values.items() if v})

    def of(self, name: str) -> list[Record]:
        return self.runs.get(name, [])

    def mean(self, name: str, epoch: int = -1) -> str:
        """Accuracy after an epoch (-1: the last), mean ± deviation and the number of runs."""
        values = [r.curve[epoch].test_top1 for r in self.of(name)]
        return f"{statistics.Spread.of(values)} % ({_runs(len(values))})" if values else "not run"

    def difference(self, first: str, second: str, field: str = "top1_last") -> str:
        one = evidence.difference(self.of(first), self.of(second), field)
        return f"{one} points ({one.basis})" if one else "not run"


def _runs(n: int) -> str:
    return "one run" if n == 1 else f"{n} runs"


def _f(source: str, key: str) -> str:
    return sources.figure(source, key).text


def _p(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def claims(root: Path) -> list[Claim]:
    """Every claim, by source."""
    book = Book(root / "results" / "runs")
    return [*_accuracies(book), *_s1(book), *_s2(book), *_others(book, root), *_size_and_speed(root)]


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
        if not row.compared and (short := next((n for n in book.rows if book.rows[n].recipe.shortens == name and book.of(n)), None)):
            ours += f"; `{short}`, {len(book.of(short)[0].curve)} epochs: {book.mean(short)}"
        chapter = chapters.get(row.recipe.model.name, "xnor-net-plus-plus")
        if row.recipe.source == "S2":
            chapter = "bireal-distillation"
        figure = f"{published.top1:g}"
        if published.doubt:
            figure, ours = f"{figure}?", f"{ours}. Of which net the figure is, is in doubt: {published.doubt}"
        verdict = row.verdict if row.compared else f"{UNTESTED}: no run"
        yield Claim(row.recipe.source, f"{row.recipe.title}, {row.recipe.dataset}, top-1 %{star}", figure, ours, verdict, chapter)


def _s1(book: Book) -> Iterator[Claim]:
    here = "xnor-net-vgg"
    yield Claim("S1", "accuracy after epoch 1, %", _f("S1", "epoch1"), f"at S1's rate {book.mean('s1-vgg', 0)}; at S2's {book.mean('s1-vgg-lr1e-3', 0)}",
                _if(min(r.curve[0].test_top1 for n in ("s1-vgg", "s1-vgg-lr1e-3") for r in book.of(n)) > sources.figure("S1", "epoch1").value, "ours starts higher at both rates"), here)  # fmt: skip
    base, long = "s1-vgg-5ep-identity", "s1-vgg-lr1e-3"
    ends = [r.top1_last for r in book.of(base)]
    apart = f"; {len(ends)} runs of the net as coded lie {max(ends) - min(ends):.2f} points apart" if len(ends) > 1 else ""
    for says, changed, name in (
        ("batch norm must come after the binary convolution", "the order as stated (no first ReLU) less that of the code", "s1-vgg-5ep-bn-after"),
        ("no ReLU between binary layers", "with a ReLU less without", "s1-vgg-5ep-relu"),
    ):
        yield Claim("S1", says, "", f"{changed}, 5 epochs: {book.difference(name, base)}{apart}", _shown(book, name, base), here)  # fmt: skip
    free = f"{long}-no-clip"
    there = f"20 epochs: {book.difference(free, long)}" if book.of(free) else f"no run of 20 epochs (`{free}`)"
    yield Claim("S1", "latent weights must be clipped", "", f"without clipping less with: {there}; in 5 epochs, which are too short for clipping to act, {book.difference('s1-vgg-5ep-no-clip', base)}",
                _shown(book, free, long) if book.of(free) else UNTESTED, here)  # fmt: skip


def _shown(book: Book, first: str, second: str) -> str:
    """What a difference of two recipes, or the lack of one, shows by itself."""
    one = evidence.difference(book.of(first), book.of(second))
    if one is None:
        return UNTESTED
    if one.one_run:
        images = "more" if one.clear else "no more"
        return f"one run, no verdict; {images} than another choice of test images explains"
    return f"{'a' if one.p < 1 - statistics.LEVEL else 'no'} difference is shown, {_p(one.p)} by itself"


def _s2(book: Book) -> Iterator[Claim]:
    here, ablation = "bireal-distillation", "ablation-eleven-points"
    base, student, teacher = "s1-vgg-lr1e-3", "s2-student", "s2-teacher"
    jumps = sources.figure("S2", "epoch1").value - sources.figure("S2", "epoch1-base").value, _jump(book, base, student)
    yield Claim("S2", "epoch 1 jumps by distillation, from", f"{_f('S2', 'epoch1-base')} to {_f('S2', 'epoch1')}",
                f"{book.mean(base, 0)} to {book.mean(student, 0)}; shortcuts are switched on with it",
                _if(0 < jumps[1] < jumps[0] / 2, f"{jumps[1]:+.1f} points in place of {jumps[0]:+.1f}, since our baseline starts higher"), here)  # fmt: skip
    first = [r.curve[0].test_top1 for r in book.of(teacher)]
    near = statistics.prediction(first, sources.figure("S2", "epoch1-teacher").value)
    yield Claim("S2", "teacher after epoch 1, %", f"{_f('S2', 'epoch1-teacher')}; its log has {_f('S2', 'epoch1-teacher-log')}", book.mean(teacher, 0),
                f"no difference shown, {_p(near.p)} by itself, against {_f('S2', 'epoch1-teacher')}; the two figures are S2's own" if near and near.p >= 0.05 else "differs", here)  # fmt: skip
    gaps = [fmean(r.top1_last for r in book.of(teacher)) - fmean(r.top1_last for r in book.of(n)) for n in (base, student)]
    yield Claim("S2", "gap to full precision, points, from", f"~{_f('S2', 'gap-base')} to ~{_f('S2', 'gap')}", f"{gaps[0]:.1f} to {gaps[1]:.1f}: {book.difference(teacher, base)} and {book.difference(teacher, student)}",
                _if(gaps[1] < 0.6 * gaps[0], "the gap about halves; ours starts smaller, at the rate that S2 states"), here)  # fmt: skip
    result, start, end = book.ablation, ("off", "off", "mean|W|"), ("on", "on", "1")
    whole = result.contrast({end: 1.0, start: -1.0})
    rate = result.step_from([r.top1_last for r in book.of("s1-vgg")], start)
    yield Claim("S2", "points over the baseline by three changes", _f("S2", "points"),
                f"{whole} at one rate; the step from S1's rate to S2's is worth {rate} ({_runs(len(book.of('s1-vgg')))} at S1's rate, on another machine)",
                _if(whole.clear and rate and rate.clear, f"of our {whole.value + rate.value:.1f} points {whole.value:.1f} are the three changes and {rate.value:.1f} the rate"), ablation)  # fmt: skip
    parts = result.attribution_weights(start, end)
    by = [parts[f] for f in ("distillation", "shortcut")]
    more = result.contrast({c: by[0].get(c, 0) - by[1].get(c, 0) for c in result.cells})
    yield Claim("S2", "distillation is the most impactful change", "", f"its part of the way less the shortcut's: {more} points, {_p(more.p)} by itself",
                "so by this test alone; the chapter corrects it for all of its tests" if more.clear and more.value > 0 else "not shown", ablation)  # fmt: skip
    scale = result.effect({"shortcut": ["on"]}, scale=("mean|W|", "1"))
    learned = result.effect({"shortcut": ["on"]}, scale=("mean|W|", "learned"))
    yield Claim("S2", "a learned scale adapts to the data", "", "in its code the scale gets no gradient and stays 1; with shortcuts, "
                f"mean \\|W\\| → 1 is worth {scale} points, mean \\|W\\| → truly learned {learned}",
                "does not hold: without a gradient it cannot adapt, and the change to 1 is a loss here" if scale.clear and scale.value < 0 else "without a gradient it cannot adapt; that the change matters is not shown", ablation)  # fmt: skip
    goal = fmean(r.top1_last for r in book.of(base))
    reached = [report.first_epoch_reaching(r, goal) for r in book.of(student)]
    yield Claim("S2", "times faster convergence (it does not say of what)", _f("S2", "faster"),
                f"the student passes the baseline's last accuracy, {goal:.2f} %, in epoch {' and '.join(str(e) for e in reached)} of {len(book.of(base)[0].curve)}",
                _if(all(e and e < len(book.of(base)[0].curve) for e in reached), "faster by this measure; the figure has no definition"), here)  # fmt: skip
    yield Claim("S2", "after epoch 4, %, against the baseline", f"{_f('S2', 'epoch4')} against {_f('S2', 'epoch4-base')}",
                f"{book.mean(student, 3)} against {book.mean(base, 3)}; S1's own log has {_f('S1', 'epoch4')} after epoch 4", _if(sources.figure("S1", "epoch4").value > sources.figure("S2", "epoch4-base").value, "S1's log contradicts the second figure"), here)  # fmt: skip
    best = [sources.figure(k, "vgg-small") for k in ("xu2021recu", "wu2023reste", "vargas2024biper")]
    yield Claim("S2", "is competitive with published 1-bit nets", _f("S2", "top1"),
                "VGG-small with one bit on CIFAR-10: " + ", ".join(f"{f.text} {{cite}}`{f.source}`" for f in best),
                f"{min(f.value for f in best) - sources.figure('S2', 'top1').value:.1f} points or more below these, with fewer epochs; [all figures](related.md)", here)  # fmt: skip
    yield Claim("S2", "identical 7-layer FP32 net, accuracy in %", f"~{_f('S2', 'identical')}", f"{_f('S2', 'teacher')} is the accuracy of its teacher, which has three convolutions",
                "the speed and the accuracy are of two nets", here)  # fmt: skip


def _if(condition: object, verdict: str) -> str:
    """The verdict, where the records bear it out."""
    return verdict if condition else "the records no longer bear out what stood here: look at them"


def _jump(book: Book, base: str, student: str) -> float:
    return fmean(r.curve[0].test_top1 for r in book.of(student)) - fmean(r.curve[0].test_top1 for r in book.of(base))


def _others(book: Book, root: Path) -> Iterator[Claim]:
    from bnnlib.benchmarks import verify

    found = {r["net"]: r["agreement"] for r in verify.read(root / "results" / "verified")}.get("s3-mlp")
    said = UNTESTED
    if found:
        flipped, bits = (sum(row[k] for row in found["bits"]) for k in ("flipped", "bits"))
        said = f"packed and run on MNIST, {flipped:,} of the {bits:,} bits that the binary layer reads differ and {found['agreement']['float32']:.2f} % of {found['images']:,} answers agree with PyTorch"
    yield Claim("S3", "XNOR matrix product = naive product = torch.matmul", "", f"{said}; the products themselves are compared in the chapter and, for every kernel, in the tests", "holds exactly" if found and not flipped else "see the chapter", "xnor-gemm-mlp")
    yield Claim("S3", "a binary MLP; no accuracy is claimed", "", f"binary less real-valued: {book.difference('s3-mlp', 's3-mlp-real')}", "no figure to compare", "xnor-gemm-mlp")
    theirs = sources.figure("S4", "lenet").value - sources.figure("S4", "lenet-real").value
    yield Claim("S4", "LeNet-5, binary less real-valued, points", f"{theirs:+.2f}".replace("-", "−"), f"last epochs: {book.difference('s4-lenet5', 's4-lenet5-real')}; best epochs, as S4 has them: {book.difference('s4-lenet5', 's4-lenet5-real', 'top1_best')}",
                _if(fmean(r.top1_last for r in book.of("s4-lenet5")) < fmean(r.top1_last for r in book.of("s4-lenet5-real")), "a loss, by both"), "lenet5-mnist")  # fmt: skip
    yield Claim("S4", "the paper's gradient of the scaled sign is wrong", "", "the part through α: proved, and tested in three ways; with an estimator for the sign the corrected formula counts the part along the signs 1 + α times",
                "holds for the part through α", "gradient-of-the-scaled-sign")  # fmt: skip
    tiny = "tiny-s5-resnet18-"
    yield Claim("S5", "learned over analytic scale on ImageNet, points", _f("S5", "gain"), f"on Tiny-ImageNet, 7 epochs: {book.difference(tiny + 'xnorpp-7ep', tiny + 'xnor-7ep')}; a factor for each channel, which cannot learn there, less analytic: {book.difference(tiny + 'channel-7ep', tiny + 'xnor-7ep')}",
                _elsewhere(book, tiny + "xnorpp-7ep", tiny + "xnor-7ep"), "xnor-net-plus-plus")  # fmt: skip
    gap = sources.figure("S5", "real").value - sources.figure("S5", "downsample").value
    yield Claim("S5", "real-valued less binary (with the higher of its two figures) on ImageNet, points", f"{gap:.1f}", f"on Tiny-ImageNet, 7 epochs: {book.difference(tiny + 'real-7ep', tiny + 'xnorpp-7ep')}",
                _elsewhere(book, tiny + "real-7ep", tiny + "xnorpp-7ep"), "xnor-net-plus-plus")  # fmt: skip
    for says, names in (
        ("the order of batch norm, convolution and ReLU is crucial", ("xnorpp-order-xnor", "xnorpp-order-resnet", "xnorpp-order-bireal")),
        ("SGD with a cosine against Adam with steps", ("xnorpp-adam",)),
        ("an earlier error: one block was not binarised (which is not known; ours: the first)", ("xnorpp-real-block",)),
    ):
        pairs = [(f"{tiny}xnorpp{end}", f"{tiny}{name}{end}") for end in ("", "-7ep") for name in names]
        ran = [pair for pair in pairs if all(map(book.of, pair))]
        told = "; ".join(f"`{a}` less `{b}`: {book.difference(a, b)}" for a, b in ran)
        yield Claim("S5", says, "", f"on Tiny-ImageNet, {told}" if told else "no run", _elsewhere(book, *ran[0]) if ran else UNTESTED, "xnor-net-plus-plus")


def _elsewhere(book: Book, first: str, second: str) -> str:
    """The verdict of a difference on another data set than the source's."""
    one = evidence.difference(book.of(first), book.of(second))
    if one is None:
        return UNTESTED
    return "one run on another set, no verdict" if one.one_run else "another set, no verdict on the source's"


def _size_and_speed(root: Path) -> Iterator[Claim]:
    size = landing.sizes("s2-student")
    yield Claim("S2", "times less memory for weights and activations", _f("S2", "smaller"), f"the weights of the binary convolutions {size.latent / size.bits:.0f} times, the whole file {size.factor:.1f}",
                _if(size.factor < 2, "holds for the binary convolutions alone"), "shipping-one-bit")  # fmt: skip
    layers = [f"{one.over_float32[1]:.2g} on {one.core}" for one in landing.speeds(root / "results" / "bench")]
    ours = f"our 1-bit convolutions, floats in and out, over PyTorch's float32 on one core, the median layer: {', '.join(layers)}" if layers else "ours: `make bench`"
    ratio = sources.figure("S2", "latency").value / sources.figure("S2", "latency-real").value
    yield Claim("S2", "times faster inference", _f("S2", "operations"), f"its own table: {_f('S2', 'latency')} ms against {_f('S2', 'latency-real')} ms, {ratio:.2f} times slower end to end; {ours}",
                _if(ratio > 1, "contradicted by its own table"), "one-bit-at-a-time")  # fmt: skip
    yield Claim("S1", "multiplications and additions in a single operation", _f("S1", "operations"), "one word of 64 bits holds 64 products; a processor's other units do many at once as well",
                "a count of bits, not a speed", "one-bit-at-a-time")  # fmt: skip


def page(root: Path, listed: Sequence[str]) -> str:
    """The claims as a Markdown table for each source; ``listed``: the chapters that this book has."""
    needed = {"s1-vgg", "s1-vgg-lr1e-3", "s2-student", "s2-teacher", "s4-lenet5", "s4-lenet5-real"}
    if missing := needed - {record.recipe for record in records.read_all(root / "results" / "runs")}:
        return f"*Needs the records of {', '.join(sorted(missing))}.*\n"
    rows = claims(root)
    parts = []
    for source in sources.SOURCES.values():
        parts.append(f"## {source.name}: {source.title}\n\n{{cite}}`{source.cite}`, {source.address}\n")
        parts.append("| claim | figure | our evidence | verdict | chapter |\n|---|---:|---|---|---|")
        for c in (c for c in rows if c.source == source.name):
            link = f"{{doc}}`notebooks/{c.chapter}`" if c.chapter in listed else c.chapter
            parts.append(f"| {_cell(c.says)} | {c.figure or '–'} | {c.evidence} | {c.verdict} | {link} |")
        parts.append("")
    return "\n".join(parts) + f"\n{scoreboard.HOW_P} A p *by itself* is adjusted for nothing.\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|") if "\\|" not in text else text
