"""The page "When does one bit pay?": accuracy, file and speed of whole networks side by side, each table with the sentence that
it bears out. Everything is computed from the records of ``root/results``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bnnlib import models, recipes, records
from bnnlib.benchmarks import nets, networks, speed
from bnnlib.benchmarks.speedups import times
from bnnlib.book import tables
from bnnlib.book.pages.landing import sizes
from bnnlib.book.prose import claim, listed
from bnnlib.book.studies import evidence, inventory
from bnnlib.statistics import Spread

# A net with one bit, and the same net with real-valued weights and activations, trained alike.
TWINS = {
    "LeNet-5": ("s4-lenet5", "s4-lenet5-real"),
    "MLP": ("s3-mlp-20ep", "s3-mlp-real-20ep"),
    "VGG-style network": ("s1-vgg-lr1e-3", "s1-vgg-lr1e-3-real"),
    "Network in Network": ("s4-nin-60ep", "s4-nin-real-60ep"),
    "ResNet-18": ("tiny-s5-resnet18-xnorpp-7ep", "tiny-s5-resnet18-real-7ep"),
}

# A net with one bit, and a real-valued one of another shape for the same data, trained as a teacher.
OTHERS = (("ours-lenet5", "ours-lenet5-teacher"), ("ours-vgg-20ep", "ours-teacher"), ("s2-student", "s2-teacher"))


def _called(recipe: recipes.Recipe) -> str:
    """A network as the tables name it: with the source that it is from, where it is not ours."""
    return recipe.title if recipe.source == "ours" else f"{recipe.source}: {recipe.title}"


def accuracy(folder: Path) -> str:
    """What one bit costs in accuracy: the twins of :data:`TWINS` that have records in ``folder``, and a sentence."""
    rows, costs, missing = [], [], []
    for name, (bits, real) in TWINS.items():
        runs = {twin: records.read_all(folder, twin) for twin in (real, bits)}
        found = evidence.difference(*runs.values())
        if found is None:
            wanted = [f"`make train RECIPE={twin}`" for twin, its in runs.items() if not its]
            missing.append(f"The {name} is not among them yet: {listed(wanted)} would add it. ")
            continue
        recipe = recipes.load(bits)
        costs.append(found.mean)
        ours, theirs = reversed(found.values)
        rows.append(
            {
                "network": name,
                "data": tables.DATA_SETS.get(recipe.dataset, recipe.dataset),
                "epochs": recipe.epochs,
                "real-valued %": theirs,
                "1 bit %": ours,
                "points lost": tables.signed(found.mean).lstrip("+") + f" ± {found.half_width:.2f}",
                "runs": f"{found.seeds[0]} and {found.seeds[1]}" + "*" * found.one_run + "†" * bool(found.settings),
            }
        )
    if not rows:
        return "*There is no pair of runs to compare.*\n"
    told = claim(
        all(cost > 0 for cost in costs),
        f"One bit cost accuracy in each of these {len(costs)} networks, from {min(costs):.2f} to {max(costs):.2f} points. ",
    )
    shown = tables.markdown(rows, digits={"real-valued %": 2, "1 bit %": 2}, right=["points lost"])
    caption = (
        "Test accuracy of the same network with real-valued and with 1-bit layers, trained alike, at the last epoch. Differences "
        "are taken before rounding. ±: 95 % interval; "
        "*: of one run, from the choice of test images alone, so that another seed may change it further; "
        "†: runs on different processors or versions of PyTorch."
    )
    return f"{told}{''.join(missing)}\n\n{tables.captioned(shown, caption, 'tab-pays-accuracy')}"


def files() -> str:
    """How much smaller the files of the networks become whose speed is compared, and a sentence."""
    rows = []
    for name in nets.nets():
        size = sizes(name)
        rows.append(
            {
                "network": _called(recipes.load(name)),
                "float32, MiB": size.fp32 / 2**20,
                "layers of bits": 100 * size.latent / size.fp32,
                "times smaller": size.fp32 / size.float32,
                "with int8": size.fp32 / size.int8,
            }
        )
    rows.sort(key=lambda row: row["with int8"])
    least, most = rows[0], rows[-1]
    told = (
        f"Whole files become {least['with int8']:.1f} to {most['with int8']:.1f} times smaller when what stays real-valued is stored as "
        "int8. A weight of one bit is 32 times smaller than one of float32. How near a file comes to that depends on how many of its "
        "weights lie in binary layers."
    )
    shown = tables.markdown(rows, digits={"float32, MiB": 2, "layers of bits": 1, "times smaller": 1, "with int8": 1})
    caption = (
        "Files of whole networks. Layers of bits: share of the weights, in per cent of the float32 file, that lie in binary layers. Times "
        "smaller: the packed file, its real-valued layers in float32; with int8: those as int8."
    )
    return f"{told}\n\n{tables.captioned(shown, caption, 'tab-pays-files')}"


def others(folder: Path) -> str:
    """The pairs of :data:`OTHERS` that have records in ``folder``: accuracy, file and products of both, and a sentence."""
    rows, ahead, larger = [], [], []
    for pair in OTHERS:
        found = [[run.top1_last for run in records.read_all(folder, name)] for name in pair]
        if not all(found):
            continue
        for name, accuracies in zip(pair, found, strict=True):
            recipe = recipes.load(name)
            model = models.build(recipe.model.name, **recipe.model.options).eval()
            products = inventory.operations(model, torch.zeros(1, *nets.shape_of(name)))
            rows.append(
                {
                    "network": _called(recipe),
                    "data": tables.DATA_SETS.get(recipe.dataset, recipe.dataset),
                    "epochs": recipe.epochs,
                    "last epoch %": str(Spread.of(accuracies)),
                    "runs": len(accuracies),
                    "file with int8, kB": sizes(name).int8 / 1e3,
                    "1-bit products, M": products["1-bit"] / 1e6,
                    "real products, M": products["real"] / 1e6,
                }
            )
        bits, real = found
        ahead.append(min(real) > max(bits))
        larger.append(rows[-1]["file with int8, kB"] / rows[-2]["file with int8, kB"])
    if not rows:
        return "*There is no pair of runs to compare.*\n"
    told = claim(
        all(ahead) and min(larger) > 1,
        f"In each of these {len(larger)} pairs the real-valued network has the higher accuracy. With its weights as int8 its file is "
        f"{min(larger):.2f} to {max(larger):.2f} times as large as that of the network with one bit, far less than the factors above. ",
    )
    shown = tables.markdown(rows, digits={"file with int8, kB": 0, "1-bit products, M": 1, "real products, M": 1}, right=["last epoch %"])
    caption = (
        "Networks with one bit, and real-valued ones of another shape for the same data. Last epoch: of the network as it was trained, mean "
        "± standard deviation over the runs, not of the file. M: millions, for one image."
    )
    return f"{told}\n\n{tables.captioned(shown, caption, 'tab-pays-others')}"


def _of_nets(record: dict) -> dict[tuple[str, int], tuple[float, float]]:
    """Of each net and batch on one thread: the best rival's time over that of the packed network with float32 layers, and over
    that of its fastest form."""
    found = {}
    for row in record["runs"][0]["cases"]:
        rival = speed.best_rival(row)
        fast = speed.fastest(row, networks.packed(row))
        found[row["net"], row["batch"]] = tuple(speed.ratio(row, rival, ours).median for ours in ("packed-float32", fast))
    return found


def whole_nets(folder: Path) -> str:
    """How whole networks compare with their best rival on each CPU with a record in ``folder``, and a sentence."""
    rows, told, slower, lacking, before, cases = [], [], [], [], [], 0
    for record in networks.newest_of_each(folder):
        core, found = speed.core(record), _of_nets(record)
        row: dict = {"core": core, "cases": len(found)}
        for column, place in (("float32", 0), ("fastest", 1)):
            ratios = sorted(pair[place] for pair in found.values())
            row |= {f"{column} form": f"{times(ratios[0])} to {times(ratios[-1])}", f"{column} slower": sum(r < 1 for r in ratios)}
        rows.append(row)
        told.append(f"{row['fastest slower']} of {len(found)} cases on {core}")
        slower += [net for (net, _), (_, fastest) in found.items() if fastest < 1]
        if missing := speed.not_measured(record["runs"][0]["cases"]):
            lacking.append(f"{listed(missing)} on {core}".replace("bf16", "bfloat16"))
        before += [core] * ("int8" not in record)
        cases += len(found)
    if not rows:
        return "*No record yet; `make bench` makes one.*\n"
    sentence = (
        "The best rival is the fastest that PyTorch and ONNX Runtime give for the same topology in float32, bfloat16 or int8. "
        f"Ours is the faster one in {cases - len(slower)} of {cases} cases, if its real-valued layers may be in their fastest "
        f"arithmetic: the rival wins in {listed(told)}."
    )
    if slower:
        titles = sorted({f"“{_called(recipes.load(net))}”" for net in slower})
        sentence += f" Those are cases of {listed(titles)}."
    if lacking:
        sentence += f" PyTorch was not measured in {listed(lacking)}, so a faster rival is possible there."
    if before:
        sentence += f" On {listed(before)} our form in int8 is an older one, which rounded the weights alone."
    shown = tables.markdown(rows)
    caption = (
        "The best rival's time over ours, from the slowest to the fastest case: whole networks at batch 1 and 128, one thread. Float32 "
        "form: real-valued layers in float32; fastest form: in float32, bfloat16 or int8, whichever is fastest. Slower: cases in which "
        "ours is slower."
    )
    return f"{sentence}\n\n{tables.captioned(shown, caption, 'tab-pays-nets')}"
