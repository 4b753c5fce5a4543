"""The values that a chapter's parameters are given: read from text, and checked by the chapter itself before it runs."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bnnlib.book.chapters.notebooks import ChapterError

if TYPE_CHECKING:
    from bnnlib.recipes import Recipe

PROFILES = ("stored", "quick", "demo", "full")
SHORT = ("quick", "demo")  # of these no verdict is drawn


def resolve(defaults: Mapping[str, Any], given: Mapping[str, Any], name: str = "notebook") -> dict[str, Any]:
    """``defaults`` with ``given`` laid over them; text is read as the type of the default.

    >>> resolve({"profile": "stored", "seed": 0, "rate": 0.1}, {"seed": "3", "rate": "1e-2"})
    {'profile': 'stored', 'seed': 3, 'rate': 0.01}
    """
    resolved = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise ChapterError(f"{name} has no parameter {key!r}; it has {', '.join(defaults)}")
        resolved[key] = _as_type_of(defaults[key], value, f"{name}: parameter {key}")
    try:
        check_parameters(resolved.get("profile", "stored"), resolved.get("seed", 0))
    except ChapterError as error:
        raise ChapterError(f"{name}: {error}") from None
    return resolved


def check_parameters(
    profile: str,
    seed: int,
    data: str | None = None,
    /,
    **ranges: tuple[float, float, float] | tuple[Any, Collection[Any]],
) -> dict[str, str]:
    """What a chapter calls first, for those who run it with plain papermill or in JupyterLab. :class:`ChapterError`, one
    sentence, where ``profile`` or ``seed`` is none, where papermill was given a parameter that the chapter does not
    have or a value of another type, and where a further parameter is out of its range:
    ``filters=(filters, 1, 500)`` is its value, the least and the most, ``kernel=(kernel, (1, 3, 5))`` its value and all
    that it can be.

    ``data``: the set that the chapter trains on. The overrides for :func:`bnnlib.training.loop.train` come back: of a
    short run where the set is not here, the embedded digits in its place. The cell then says what is run on what, and how
    to get the set.
    """
    if profile not in PROFILES:
        raise ChapterError(f"profile is {profile!r}: it must be one of {', '.join(PROFILES)}")
    if type(seed) is not int or not 0 <= seed < 2**32:  # of NumPy's generators, too
        raise ChapterError(f"seed is {seed!r}: it must be a whole number >= 0 and below 2**32")
    _check_given()
    for name, (value, *allowed) in ranges.items():
        if len(allowed) == 1:
            if not any(type(value) is type(one) and value == one for one in allowed[0]):  # True and 1.0 are no 1
                raise ChapterError(f"{name} is {value!r}: it must be one of {', '.join(map(str, allowed[0]))}")
            continue
        low, high = allowed
        whole = type(low) is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ChapterError(f"{name} is {value!r}: it must be {kind} from {low} to {high}")
    _watch()
    return _announce(profile, data) if data else {}


def check_recipes(source: str, dataset: str, *recipes: Recipe) -> None:
    """For a chapter whose every text compares runs with the figures of ``source`` on ``dataset``: :class:`ChapterError`, one sentence, for a
    recipe that has no such figure."""
    for recipe in recipes:
        if (recipe.source, recipe.dataset) != (source, dataset) or recipe.published.top1 is None:
            raise ChapterError(
                f"{recipe.name} has no figure of {source}'s on {dataset}, and this chapter compares its runs with such figures: "
                f"`bnn train {recipe.name}` trains it, and `bnn compare` puts two runs side by side"
            )


def _shell() -> Any:
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _watch() -> None:
    """From now on a cell that is run by itself, after a parameter was changed and before the change was checked, says so: its
    numbers and its words would be of two runs."""
    shell = _shell()
    if shell is None or hasattr(shell, "bnnlib_checked"):
        return
    shell.bnnlib_checked = {}

    def checks(cell: str | None) -> bool:
        return "chapters.check_parameters(" in (cell or "")

    def values() -> dict[str, Any]:
        return {name: shell.user_ns.get(name) for name in shell.user_ns.get("__annotations__", {})}

    def keep(result: Any) -> None:
        if result.success and checks(result.info.raw_cell):
            shell.bnnlib_checked = values()

    def tell(info: Any) -> None:
        was = shell.bnnlib_checked
        changed = [f"`{name}` was {was[name]!r} and is {v!r}" for name, v in values().items() if name in was and v != was[name]]
        if changed and not checks(info.raw_cell):
            from IPython.display import Markdown, display

            display(Markdown(f"**Changed:** {', '.join(changed)}. Run the cell of imports, then all cells below it."))

    shell.events.register("post_run_cell", keep)
    shell.events.register("pre_run_cell", tell)


def _check_given() -> None:
    """Hold what papermill has put in against the parameters cell: papermill itself takes any name, of any type."""
    shell = _shell()
    cells = getattr(shell, "user_ns", {}).get("In", [])
    types = {**getattr(shell, "user_ns", {}).get("__annotations__", {})}
    given = next((cell for cell in reversed(cells) if cell.startswith("# Parameters\n")), None)
    if given is None or not types:
        return
    for statement in ast.parse(given).body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        name = statement.targets[0].id if isinstance(statement, ast.Assign) else statement.target.id
        if name not in types:
            close = difflib.get_close_matches(name, types, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            raise ChapterError(f"there is no parameter {name!r}{hint or '.'} This chapter has {', '.join(types)}")
        value, kind = _written(statement.value), types[name]
        kind = {"str": str, "int": int, "float": float}.get(kind, kind)  # a notebook may postpone annotations
        fits = type(value) is kind or (kind is float and type(value) is int)
        if isinstance(kind, type) and not fits:
            raise ChapterError(f"{name} is {value!r}: it must be of type {kind.__name__}")


def _written(node: ast.expr) -> Any:
    """A value as papermill writes it: a literal, or, as Python has none for these, a call such as ``float('nan')``."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "float" and len(node.args) == 1:
        return float(ast.literal_eval(node.args[0]))
    return ast.literal_eval(node)


def _announce(profile: str, name: str) -> dict[str, str]:
    from bnnlib import data
    from bnnlib.book.tables import DATA_SETS

    here = data.here(name)
    if profile == "stored" or (profile == "full" and here):
        return {}
    instead = {} if here or profile == "full" else {"dataset": data.STAND_INS[name]}
    title = DATA_SETS[name]
    used = f"a part of {title}" if here else f"scikit-learn's embedded digits: {title} is not on this machine"
    fetch = "" if here else f" `make data NAME={name}` (or `bnn data fetch {name}`) fetches it."
    says = {
        "full": f"Runs without a record need {title}, which is not on this machine and is fetched first.",
        "quick": "It shows that every cell runs. Its numbers mean nothing, and no verdict is drawn from them.",
        "demo": "It shows how the nets learn. Its numbers are no result, and no verdict is drawn from them.",
    }
    from IPython.display import Markdown, display

    on = "" if profile == "full" else f", on {used}"
    display(Markdown(f"**A {profile} run**{on}.{fetch} {says[profile]}"))
    return instead


def recorded(profile: str) -> str:
    """What stands before a text that the book's records say in every profile: nothing in ``stored``, where all is theirs."""
    return "" if profile == "stored" else "*From the book's records, not from this run.* "


def left_out(profile: str, *names: str) -> str:
    """What stands where a short run would show the figures and tables ``names``, were its numbers results.

    >>> left_out("quick", "fig-curves", "tab-runs")
    '*A quick run leaves out `fig-curves` and `tab-runs`. With `profile = "stored"` they are made from the book\\'s records.*'
    """
    they = "they are" if len(names) > 1 else "it is"
    told = " and ".join(f"`{name}`" for name in names)
    return f"*A {profile} run leaves out {told}. With `profile = \"stored\"` {they} made from the book's records.*"


def no_answer(profile: str) -> str:
    """What stands in place of a chapter's answer where the runs give none."""
    if profile == "stored":
        return "*These runs give no answer.*"
    none = "Short runs answer nothing" if profile in SHORT else "These runs alone give no answer"
    return f"{none}. With `profile = \"stored\"` the chapter answers from the book's records."


def _as_type_of(default: Any, value: Any, what: str) -> Any:
    if isinstance(default, str):
        return str(value)
    try:
        literal = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        literal = value
    if isinstance(default, float) and type(literal) is int:
        literal = float(literal)
    if default is not None and type(literal) is not type(default):
        raise ChapterError(
            f"{what} = {value!r}: must be {type(default).__name__}, like its default {default!r}"
        )
    return literal
