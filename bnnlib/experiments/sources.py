"""The five sources S1 to S5: who they are, and every figure of theirs that this book quotes, once.

    sources.figure("S1", "top1").text     # '70.35'
    sources.figures("S2")                 # all of S2's

Recipes state the accuracy that they are compared with; a test holds each equal to its figure here. Numbers of a source in
prose are checked against this table (``tests/test_typed_numbers.py``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """``cite``: key in the bibliography; ``address``: where anyone can read it."""

    name: str
    title: str
    cite: str
    address: str


@dataclass(frozen=True)
class Figure:
    """A number as its source (S1 to S5, or a paper of :data:`LITERATURE`) prints it. ``where``: file or section of the source;
    ``says``: what it is the figure of."""

    source: str
    key: str
    text: str
    says: str
    where: str

    @property
    def value(self) -> float:
        return float(self.text.replace(",", ""))


SOURCES = {
    s.name: s
    for s in (
        Source("S1", "XNOR-Net on a VGG-style net, with bitwise kernels", "code:s1", "github.com/msritian/edge-AI, branch efficient-inference"),
        Source("S2", "The same with shortcuts, a scale and distillation", "code:s2", "github.com/msritian/edge-AI, branch optimizations"),
        Source("S3", "XNOR matrix product for PyTorch, and a binary MLP", "code:s3", "github.com/tairenpiao/XNOR-popcount-GEMM-PyTorch-CPU-CUDA"),
        Source("S4", "XNOR-Net in PyTorch", "code:s4", "github.com/jiecaoyu/XNOR-Net-PyTorch"),
        Source("S5", "XNOR-Net++ on ResNet-18", "code:s5", "cv-tricks.com; its paper is arXiv 1909.13863"),
    )
}

# Papers whose own figures stand in the book, by their key in the bibliography.
LITERATURE = {
    "rastegari2016xnor": "XNOR-Net",
    "bulat2019xnorpp": "XNOR-Net++",
    "bannink2021larq": "Larq Compute Engine",
    "code:xnornet": "XNOR-Net's code",
    "liu2018bireal": "Bi-Real Net",
    "martinez2020real2binary": "Real-to-Binary",
    "liu2020reactnet": "ReActNet",
    "qin2020irnet": "IR-Net",
    "xu2021recu": "ReCU",
    "tu2022adabin": "AdaBin",
    "wu2023reste": "ReSTE",
    "vargas2024biper": "BiPer",
}

_README, _SUMMARY, _TABLE = "README.md", "PROJECT_SUMMARY.md", "README.md, table of batch 128 on one thread"

_NETS = {
    "vgg-small": "VGG-small on CIFAR-10",
    "resnet18-cifar10": "ResNet-18 on CIFAR-10",
    "resnet20-cifar10": "ResNet-20 on CIFAR-10",
    "alexnet-imagenet": "AlexNet on ImageNet",
    "resnet18-imagenet": "ResNet-18 on ImageNet",
}  # of papers, by a figure's key, or what stands before its "/"

_FIGURES = [
    Figure("S1", "top1", "70.35", "top-1 % on CIFAR-10 after 20 epochs", f"{_README}; training_results.log"),
    Figure("S1", "epoch1", "19.95", "top-1 % after epoch 1", "training_results.log"),
    Figure("S1", "epoch4", "53.21", "test top-1 % after epoch 4", "training_results.log"),
    Figure("S1", "epoch4-train", "37.46", "training accuracy, %, in epoch 4", "training_results.log"),
    Figure("S1", "operations", "64", "multiplications and additions in a single operation", _README),
    Figure("S1", "above", "50", "accuracy on CIFAR-10, %, that three fixes make possible", _README),
    Figure("S1", "rate", "0.0005", "learning rate of its training command", _README),
    Figure("S1", "epochs", "20", "epochs", _README),
    Figure("S2", "top1", "81.35", "top-1 % on CIFAR-10 after 20 epochs", f"{_README}; optimized_training_results.log"),
    Figure("S2", "teacher", "87.11", "top-1 % of the real-valued teacher", _README),
    Figure("S2", "base", "70.35", "top-1 % of the baseline, S1's net", _README),
    Figure("S2", "points", "11.00", "points between the baseline and the optimised net", _README),
    Figure("S2", "epoch1-base", "19.95", "top-1 % of the baseline after epoch 1", _SUMMARY),
    Figure("S2", "epoch1", "45.65", "top-1 % after epoch 1", f"{_SUMMARY}; optimized_training_results.log"),
    Figure("S2", "epoch1-teacher", "52.48", "top-1 % of the teacher after epoch 1", _SUMMARY),
    Figure("S2", "epoch1-teacher-log", "55.32", "the same in the teacher's log", "baseline_results.log"),
    Figure("S2", "teacher-log", "71.39", "top-1 % of the teacher after epoch 3, the last in its log", "baseline_results.log"),
    Figure("S2", "epoch4", "61", "top-1 % after epoch 4", _README),
    Figure("S2", "epoch4-base", "35", "the same of the baseline, as S2's text has it", _README),
    Figure("S2", "gap-base", "17", "points from the baseline to full precision", _README),
    Figure("S2", "gap", "6", "points from the optimised net to full precision", _README),
    Figure("S2", "faster", "1.74", "times faster convergence", _SUMMARY),
    Figure("S2", "operations", "64", "times faster inference", _SUMMARY),
    Figure("S2", "smaller", "32", "times less memory for weights and activations", _SUMMARY),
    Figure("S2", "storage-real", "9.20", "MB, weights of the FP32 net", _TABLE),
    Figure("S2", "storage", "0.28", "MB, weights of the bitwise net", _TABLE),
    Figure("S2", "latency-real", "1503", "ms, FP32", _TABLE),
    Figure("S2", "latency", "1735", "ms, bitwise", _TABLE),
    Figure("S2", "memory-real", "586", "MB at the peak, FP32", _TABLE),
    Figure("S2", "memory", "866", "MB at the peak, bitwise", _TABLE),
    Figure("S2", "identical", "87.1", "accuracy, %, of the identical 7-layer FP32 net", _TABLE),
    Figure("S2", "layers", "7", "layers of that net", _TABLE),
    Figure("S2", "rate", "0.001", "learning rate of its training commands", _README),
    Figure("S2", "epochs", "20", "epochs", _README),
    Figure("S4", "lenet", "99.23", "top-1 % on MNIST of the binary LeNet-5, best epoch", _README),
    Figure("S4", "lenet-real", "99.34", "the same, real-valued", _README),
    Figure("S4", "nin", "86.28", "top-1 % on CIFAR-10 of the binary NIN, best epoch", _README),
    Figure("S4", "nin-real", "89.67", "the same, real-valued", _README),
    Figure("S4", "alexnet", "44.87", "top-1 % on ImageNet of the binary AlexNet, best epoch", _README),
    Figure("S4", "alexnet-top5", "69.70", "its top-5 %", _README),
    Figure("S4", "alexnet-real", "57.1", "top-1 % of the real-valued AlexNet", _README),
    Figure("S4", "alexnet-real-top5", "80.2", "its top-5 %", _README),
    Figure("S5", "paper", "57.1", "top-1 % on ImageNet in the paper", "article"),
    Figure("S5", "top1", "55.8", "top-1 % of its code", "article"),
    Figure("S5", "downsample", "57.6", "top-1 % with a real-valued downsample", "article"),
    Figure("S5", "real", "69.3", "top-1 % of the real-valued ResNet-18", "paper"),
    Figure("S5", "xnor", "51.2", "top-1 % of XNOR-Net with the analytic scale", "paper"),
    Figure("S5", "gain", "5.9", "points of the learned over the analytic scale", "paper"),
    Figure("rastegari2016xnor", "faster", "58", "times faster convolutions", "its abstract"),
    Figure("rastegari2016xnor", "smaller", "32", "times less memory", "its abstract"),
    Figure("code:xnornet", "alexnet", "43.3", "top-1 % of the model that its code offers", "README"),
    Figure("bulat2019xnorpp", "top1", "57.1", "top-1 % on ImageNet of XNOR-Net++", "its tables"),
    Figure("bulat2019xnorpp", "xnor", "51.2", "top-1 % on ImageNet of XNOR-Net", "its tables"),
    Figure("bulat2019xnorpp", "gain", "5.9", "points between the two", "its tables"),
    *(
        Figure(paper, net, text, f"top-1 % of {_NETS[net.partition('/')[0]]} with one bit{said}", where)
        for paper, where, said, figures_of in (
            ("rastegari2016xnor", "its tables", "", {"resnet18-imagenet": "51.2", "alexnet-imagenet": "44.2"}),
            ("liu2018bireal", "its abstract", "", {"resnet18-imagenet": "56.4"}),
            ("bulat2019xnorpp", "its tables", "", {"resnet18-imagenet": "57.1"}),
            ("qin2020irnet", "README of its code", "",
             {"vgg-small": "90.4", "resnet18-cifar10": "91.5", "resnet20-cifar10": "86.5", "resnet18-imagenet": "58.1"}),
            ("martinez2020real2binary", "its tables", "", {"resnet18-imagenet": "65.4"}),
            ("liu2020reactnet", "its tables", ", shifts and PReLU", {"resnet18-imagenet": "65.9"}),
            ("xu2021recu", "README of its code", ", fine-tuned",
             {"vgg-small": "93.3", "resnet18-cifar10": "93.2", "resnet20-cifar10": "88.0", "resnet18-imagenet": "61.20"}),
            ("xu2021recu", "README of its code", ", structure and training of ReActNet", {"resnet18-imagenet/two-step": "66.4"}),
            ("tu2022adabin", "its tables", "", {"resnet18-cifar10": "93.1", "alexnet-imagenet": "53.9"}),
            ("tu2022adabin", "README of its code", "", {"vgg-small": "92.3", "resnet20-cifar10": "88.1", "resnet18-imagenet": "63.1"}),
            ("tu2022adabin", "its abstract", ", two-step training", {"resnet18-imagenet/two-step": "66.4"}),
            ("wu2023reste", "README of its code", "",
             {"vgg-small": "92.55", "resnet18-cifar10": "92.63", "resnet20-cifar10": "86.75", "resnet18-imagenet": "60.88"}),
            ("vargas2024biper", "README of its code", "",
             {"vgg-small": "92.46", "resnet18-cifar10": "93.75", "resnet20-cifar10": "87.50", "resnet18-imagenet": "61.40"}),
        )
        for net, text in figures_of.items()
    ),
    Figure("bannink2021larq", "low", "8.5", "times faster convolutions, at least", "its abstract"),
    Figure("bannink2021larq", "high", "18.5", "times faster convolutions, at most", "its abstract"),
    Figure("S5", "epochs", "64", "epochs, as the article says", "article"),
    Figure("S5", "epochs-command", "90", "epochs, as its command runs", "code"),
    Figure("S5", "cycle", "63", "epochs to the schedule's minimum", "code"),
]
FIGURES = {(f.source, f.key): f for f in _FIGURES}
if len(FIGURES) != len(_FIGURES):
    raise AssertionError("a figure of a source is in the table twice")


def figure(source: str, key: str) -> Figure:
    """One figure. Raises ``KeyError`` that lists the source's keys."""
    if (source, key) not in FIGURES:
        raise KeyError(f"{source} has no figure {key!r}: it has {', '.join(f.key for f in figures(source)) or 'none'}")
    return FIGURES[source, key]


def figures(source: str) -> list[Figure]:
    """All figures of a source, in the order of the table."""
    return [f for f in _FIGURES if f.source == source]


def literature() -> list[tuple[str, Figure]]:
    """Published 1-bit accuracies of the papers, as (network and data set, figure), the highest of a network first."""
    listed = [(net, f) for key, net in _NETS.items() for f in _FIGURES if f.key.partition("/")[0] == key and f.source in LITERATURE]
    return sorted(listed, key=lambda row: (list(_NETS.values()).index(row[0]), -row[1].value))
