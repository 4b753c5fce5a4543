"""The reference: a page for each room of the library, from signatures and docstrings.

:data:`PAGES` is the curated list of what users call. A name that the library no longer has stops the build.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
from dataclasses import MISSING, fields, is_dataclass
from types import ModuleType
from typing import Any

from bnnlib.book.pages.grid import card, grid
from bnnlib.paths import ROOT

# page: title, what it is for, and the modules with their names; no names: those of the module's __all__.
PAGES: dict[str, tuple[str, str, dict[str, tuple[str, ...]]]] = {
    "layers": (
        "Signs, estimators and layers",
        "What makes a network binary: functions with their gradients, and layers for a model of your own.",
        {
            "bnnlib.quantizers": (
                *("sign", "binarize", "with_slope", "surrogate", "mean_scale", "scaled_sign", "in_transform"),
                *("standardize", "center", "input_scale", "choose"),
            ),
            "bnnlib.layers": (
                *("BinaryConv2d", "BinaryConv1d", "BinaryLinear", "BinaryLayer", "Options"),
                *("Quantizer", "Sign", "IdentitySTE", "ClippedSTE", "ApproxSign", "EDE", "ScaledSign", "register_estimator"),
                *("OutputScale", "LearnedScale", "OuterProductScale", "DenseScale", "ChannelMapScale"),
                *("Center", "Standardize", "Clip", "CenterClip", "RSign", "RPReLU", "Dropout", "dropout"),
                *("binarize_", "binary_layers", "project_", "project_after_steps", "set_temperature_", "popcount_forward"),
            ),
        },
    ),
    "operations": (
        "Operations on bits",
        "PyTorch operators on packed bits, in native code for CPUs and for NVIDIA GPUs.",
        {"bnnlib.ops": (), "bnnlib.packing": ("pack_bits", "unpack_bits")},
    ),
    "deploy": (
        "Packed networks",
        "From a trained model to one file, and from the file to predictions.",
        {
            "bnnlib.deploy": ("save", "load", "info", "convert", "PackedNetwork", "read_graph", "ConvertError", "DeployError"),
            "bnnlib.deploy.run": ("load", "Runner"),
            "bnnlib.packing": ("quantize_activations",),
            "bnnlib.models": ("names", "build", "register"),
        },
    ),
    "training": (
        "Recipes, training and records",
        "Train a network as a recipe says, resume it, and read what the run left behind.",
        {
            "bnnlib.recipes": ("names", "load", "file_of", "Recipe"),
            "bnnlib.training.loop": ("train", "RunResult"),
            "bnnlib.training.objectives": ("distillation",),
            "bnnlib.records": ("Record", "Epoch", "read", "read_all", "path_of"),
        },
    ),
    "data": (
        "Data",
        "From the name of a data set to batches and predictions.",
        {
            "bnnlib.data": (
                *("load", "Dataset", "Split", "Batches", "Augment", "Affine", "Normalize", "view"),
                *("split_validation", "gcn", "ZCAWhitening"),
            ),
            "bnnlib.data.evaluate": ("input_transform", "logits", "top1"),
        },
    ),
}
_WIDTH = 76
_ROLE = re.compile(r":(?:py:)?(?:func|class|mod|meth|data|attr|exc|doc|ref):`~?([^`<]+?)(?: <[^`]*>)?`")


def page(name: str) -> str:
    """The page ``name`` of :data:`PAGES`, as MyST."""
    title, about, modules = PAGES[name]
    parts = [f"# {title}\n\n{about}"]
    for room, names in modules.items():
        module = importlib.import_module(room)
        parts.append(f"## {room}\n\n{docstring(inspect.getdoc(module) or '')}")
        parts += [_entry(module, each) for each in names or module.__all__]
    if name == "deploy":
        parts.append(f"## What a file can hold\n\n{supported()}")
    return "\n\n".join(parts) + "\n"


def supported() -> str:
    """The table of the operations that a packed network can hold, as Markdown."""
    from bnnlib.book import tables
    from bnnlib.deploy.tensorkinds import SUPPORTED

    columns = ("what", "PyTorch's names", "values against the model's")
    return tables.markdown([dict(zip(columns, row, strict=True)) for row in SUPPORTED])


def _entry(module: ModuleType, name: str) -> str:
    """Heading, signature and docstring of a function or a class, and of a class's methods."""
    found = getattr(module, name)
    parts = [
        f"### {name}",
        f"```python\n{signature(name, found)}\n```",
        docstring(inspect.getdoc(found) or ""),
    ]
    if inspect.isclass(found):
        if table := _fields(found):
            parts.append(table)
        for method, value in vars(found).items():
            call = inspect.unwrap(getattr(value, "__func__", value))
            if (
                method.startswith("_")
                or not inspect.isfunction(call)
                or not call.__doc__
                or method == "forward"
            ):
                continue
            parts.append(
                f"```python\n{signature(f'{name}.{method}', call)}\n```\n\n{docstring(inspect.getdoc(call))}"
            )
    return "\n\n".join(part for part in parts if part)


def signature(name: str, found: Any) -> str:
    """A call as code of at most 76 columns.

    >>> def f(x: int, folder=ROOT / "results", *, deep: bool = False) -> str: ...
    >>> signature("f", f)
    'f(x: int, folder=results, *, deep: bool = False) -> str'
    """
    try:
        told = inspect.signature(found)
    except (TypeError, ValueError):
        return name
    if inspect.isclass(found):
        told = told.replace(return_annotation=inspect.Signature.empty)
        if hasattr(found, "model_fields"):
            return f"{name}(...)"
    parameters = [p for p in told.parameters.values() if p.name not in ("self", "cls")]
    shown = _plain(str(told.replace(parameters=parameters)))
    if len(name + shown) <= _WIDTH:
        return name + shown
    lines, kind = [], None
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and kind not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            lines.append("    *,")
        lines.append(f"    {_plain(str(p))},")
        kind = p.kind
    end = shown[shown.rindex(") ->") :] if ") ->" in shown else ")"
    return "\n".join([f"{name}(", *lines, end])


def _plain(text: str) -> str:
    """Without quotes around annotations, and without a path of this machine."""
    text = re.sub(rf"PosixPath\('(?:{re.escape(str(ROOT))}/)?([^']*)'\)", r"\1", text)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r"<(?:function|class|object) [^>]*>", "...", text)


def _fields(found: type) -> str:
    """Fields of a record, a recipe or a data class, as a table."""
    from bnnlib.book import tables

    rows = []
    if hasattr(found, "model_fields"):
        for name, field in found.model_fields.items():
            default = (
                "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            )
            rows.append({"field": f"`{name}`", "type": _type(found, name), "default": default})
    elif is_dataclass(found):
        for field in fields(found):
            bare = field.default is MISSING and field.default_factory is MISSING
            default = "required" if bare else _default(None if field.default is MISSING else field.default)
            rows.append({"field": f"`{field.name}`", "type": _type(found, field.name), "default": default})
    return tables.markdown(rows) if rows else ""


def _type(found: type, name: str) -> str:
    for each in found.__mro__:
        if name in (held := inspect.get_annotations(each)):
            told = (
                held[name]
                if isinstance(held[name], str)
                else getattr(held[name], "__name__", str(held[name]))
            )
            return f"`{re.sub(r'Annotated.(.*), Field.*', _bare, told)}`"
    return ""


def _bare(found: re.Match[str]) -> str:
    """The type of an annotated field, without what is told about it."""
    return found[1] + (" | None" if found[0].endswith("| None") else "")


def _default(value: Any) -> str:
    if type(value).__module__.startswith("bnnlib"):
        return f"`{type(value).__name__}()`"
    return f"`{_plain(repr(value))}`"


def docstring(text: str) -> str:
    """A docstring as MyST: reStructuredText where it is such, else as it stands."""
    from docutils.core import publish_doctree
    from docutils.nodes import system_message
    from sphinx.ext.napoleon import Config, GoogleDocstring

    text = _arguments(_code(_ROLE.sub(r"``\1``", text)))
    text = re.sub(r"(?<![`:\w])`([^`\n]+)`(?![`_])", r"``\1``", text).strip()
    if re.search(r"^(Args|Attributes|Raises|Returns|Shape):$", text, re.MULTILINE):
        text = str(GoogleDocstring(text, Config(napoleon_use_param=False, napoleon_use_rtype=False, napoleon_use_ivar=True))).strip()
    if not text:
        return ""
    said = io.StringIO()
    settings = {"report_level": 2, "halt_level": 5, "warning_stream": said, "file_insertion_enabled": False}
    tree = publish_doctree(text, settings_overrides=settings)
    if said.getvalue() or list(tree.findall(system_message)):
        return f"```text\n{text}\n```"
    return f"````{{eval-rst}}\n{text}\n````"


def _code(text: str) -> str:
    """With indented paragraphs as code, which reStructuredText would take for quotations.

    >>> print(_code("Load it.\\n\\n    load(1)  # one\\n    load(2)\\n\\nDone."))
    Load it.
    <BLANKLINE>
    .. code-block:: python
    <BLANKLINE>
        load(1)  # one
        load(2)
    <BLANKLINE>
    Done.
    """
    parts, shown = re.split(r"\n{2,}", text), []
    for i, part in enumerate(parts):
        before = parts[i - 1] if i else ""
        indented = all(line.startswith("    ") for line in part.splitlines())
        # below a list, a directive, an argument or "::" the indentation means something else
        plain = before and not re.match(r"\s|[-*] |\.\. |:|>>>|[a-z_][\w, ]*: ", before) and not before.endswith("::")
        if indented and plain:
            shown.append(".. code-block:: python")
        shown.append(part)
    return "\n\n".join(shown)


_ARGUMENT = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


def _arguments(text: str) -> str:
    """With paragraphs of lines ``name: what it is``, continued by indented ones, as lists.

    >>> print(_arguments("Cut it.\\n\\nside: of the square,\\n    in pixels.\\nfill: its value."))
    Cut it.
    <BLANKLINE>
    - ``side``: of the square,
      in pixels.
    - ``fill``: its value.
    """
    parts = text.split("\n\n")
    for i, part in enumerate(parts):
        lines = part.splitlines()
        if len(lines) > 1 and _ARGUMENT.match(part) and all(_ARGUMENT.match(line) or line.startswith("    ") for line in lines):
            parts[i] = "\n".join(
                f"  {line.strip()}" if line.startswith(" ") else "- " + _ARGUMENT.sub(_as_code, line, count=1) for line in lines
            )
    return "\n\n".join(parts)


def _as_code(found: re.Match[str]) -> str:
    return ", ".join(f"``{name}``" for name in found[1].split(", ")) + ": "


def home() -> str:
    """The page that leads to the others: a card for each."""
    cards = [card(title, about, f"reference/{name}") for name, (title, about, _) in PAGES.items()]
    cards.append(card("Command line", "Every command of `bnn`, with its options.", "reference/commands"))
    return grid(cards, "1 1 2 3")
