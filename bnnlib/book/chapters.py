"""Run the chapters, and hold them to the gate that a chapter passes before it is published.

    python -m bnnlib.chapters run [NAME...] --profile stored|quick|demo|full --seed N
    python -m bnnlib.chapters check [PATH...] --profile stored
    python -m bnnlib.chapters sources

``run`` executes ``notebooks/NAME.ipynb`` with papermill into ``build/chapters/<profile>/NAME.ipynb``, several
at a time. A chapter whose notebook, library, kernels, results and parameters are as they were is not run
again (``--force`` runs it). What is written there has passed the gate; a chapter that fails is kept beside it
as ``NAME.failed.ipynb``, to be looked at.

How a chapter is written
    Parameters: one cell tagged ``parameters``, typed literals with a comment each, ``profile: str = "stored"`` and
        ``seed: int = 0`` among them. Parameters are given with ``-p NAME VALUE``; the next cell checks them first, by
        :func:`check_parameters`.
    Figures: a cell shows one figure, and says in its metadata what is to be seen, to whoever cannot see it:
        ``{"mystnb": {"image": {"alt": "Accuracy against epoch: five curves that flatten after epoch 15."}}}``
        (JupyterLab: the gear at the right, "Cell Metadata"). A numbered caption goes beside ``image``:
        ``"figure": {"name": "fig-curve", "caption": "..."}``.
    Folded code: the cell tag ``hide-input`` folds the code of a plot away; the method itself is never hidden.
    Paths: a chapter does not know the folder it runs in: ``bnnlib`` finds data, records and models by itself.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# jsonschema, below nbformat, compiles the grammar of international URLs when imported, which takes seconds in
# every process and checks nothing that a notebook has.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat  # noqa: E402

from bnnlib.paths import ROOT  # noqa: E402

PROFILES = ("stored", "quick", "demo", "full")
SHORT = ("quick", "demo")  # of these no verdict is drawn
START = "00-start"  # the notebook that JupyterLab opens: no chapter
COLUMNS = 76  # of code that a page shows without wrapping it

# What a chapter's output depends on besides itself, less the modules that only carry chapters around.
_DEPENDS = ("bnnlib", "kernels", "results")
_CARRIERS = ("bnnlib/book/chapters.py", "bnnlib/book/site.py", "bnnlib/book/pages/")
_PACKAGES = ("torch", "numpy", "matplotlib", "pandas", "ipykernel")
_NOT_SOURCE = {".so", ".pyd", ".o", ".pyc", ".tmp", ".lock"}
_VERDICT = re.compile(
    r"\b(?:met|missed)\b|[Nn]o difference (?:is |was )?(?:shown|measured)|difference is shown|(?:above|below) by \d|\bp [=<] \d"
)
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SHORTEST_ALT = 20  # characters; "figure" or "plot" describes nothing
_CELL_LIMIT = 600  # seconds a cell may take, except in the profiles demo and full, where cells train


class ChapterError(Exception):
    """A chapter that cannot be read, run or published; the message names chapter and cell."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows of it: the sentence alone
        return [f"ChapterError: {self}"]


# ---------------------------------------------------------------------------------------------- notebooks


def sources(root: Path = ROOT) -> list[Path]:
    """The chapters' notebooks, by name."""
    return sorted(path for path in (root / "notebooks").glob("*.ipynb") if path.stem != START)


def source(name: str, root: Path = ROOT) -> Path:
    """The notebook of the chapter ``name`` (``lenet5-mnist``; its path is understood too)."""
    path = root / "notebooks" / f"{Path(name).stem}.ipynb"
    if not path.is_file():
        known = ", ".join(p.stem for p in sources(root)) or "none yet"
        raise ChapterError(f"no chapter {name!r} in notebooks/; there are: {known}")
    return path


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook. Raises :class:`ChapterError` for one that is absent or damaged."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise ChapterError(f"{path}: {error.strerror}") from None
    except (ValueError, nbformat.ValidationError, nbformat.reader.NotJSONError) as error:
        raise ChapterError(f"{path} is no notebook: {str(error).splitlines()[0][:200]}") from None
    return notebook


def parameters(notebook: nbformat.NotebookNode, name: str = "notebook") -> dict[str, Any]:
    """Name and default of every parameter: the literals assigned in the cell tagged ``parameters``."""
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ChapterError(f"{name}: {len(cells)} cells are tagged 'parameters'; a chapter has exactly one")
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            plain = isinstance(statement, ast.Assign)
            targets = statement.targets if plain else [getattr(statement, "target", None)]
            if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is not 'name = literal'")
            found[targets[0].id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError) as error:
        raise ChapterError(
            f"{name}: the cell tagged 'parameters' holds more than literals: {error}"
        ) from None
    return found


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
    if type(seed) is not int or seed < 0:
        raise ChapterError(f"seed is {seed!r}: it must be a whole number, 0 or more")
    _check_given()
    for name, (value, *allowed) in ranges.items():
        if len(allowed) == 1:
            if value not in allowed[0]:
                raise ChapterError(f"{name} is {value!r}: it must be one of {', '.join(map(str, allowed[0]))}")
            continue
        low, high = allowed
        whole = type(low) is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ChapterError(f"{name} is {value!r}: it must be {kind} from {low} to {high}")
    return _announce(profile, data) if data else {}


def _check_given() -> None:
    """Hold what papermill has put in against the parameters cell: papermill itself takes any name, of any type."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
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
            raise ChapterError(f"there is no parameter {name!r}{hint} This chapter has {', '.join(types)}")
        value, kind = ast.literal_eval(statement.value), types[name]
        kind = {"str": str, "int": int, "float": float}.get(kind, kind)  # a notebook may postpone annotations
        fits = type(value) is kind or (kind is float and type(value) is int)
        if isinstance(kind, type) and not fits:
            raise ChapterError(f"{name} is {value!r}: it must be of type {kind.__name__}")


def _announce(profile: str, name: str) -> dict[str, str]:
    from bnnlib import data

    here = data.here(name)
    if profile == "stored" or (profile == "full" and here):
        return {}
    instead = {} if here or profile == "full" else {"dataset": data.STAND_INS[name]}
    used = f"a part of {name}" if here else f"scikit-learn's embedded digits: {name} is not on this machine"
    fetch = "" if here else f" `make data NAME={name}` (or `bnn data fetch {name}`) fetches it."
    says = {
        "full": f"Runs without a record need {name}, which is not on this machine and is fetched first.",
        "quick": "It shows that every cell runs. Its numbers mean nothing, and no verdict is drawn from them.",
        "demo": "It shows how the nets learn. Its numbers are no result, and no verdict is drawn from them.",
    }
    from IPython.display import Markdown, display

    on = "" if profile == "full" else f", on {used}"
    display(Markdown(f"**A {profile} run**{on}.{fetch} {says[profile]}"))
    return instead


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


# ---------------------------------------------------------------------------------------------- freshness


def surroundings(root: Path = ROOT) -> str:
    """A digest of all that chapters share: library, kernels, results, versions, and where the data are."""
    digest = hashlib.sha256()
    for folder in _DEPENDS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
            if hidden or path.suffix in _NOT_SOURCE or name.startswith(_CARRIERS) or not path.is_file():
                continue
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package}={_version(package)}\0".encode())
    digest.update(f"python={sys.version_info[:3]} data={os.environ.get('BNN_DATA')}".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def fingerprint(notebook: nbformat.NotebookNode, values: Mapping[str, Any], shared: str) -> str:
    """A digest of all that an executed chapter depends on; ``shared`` is :func:`surroundings`."""
    cells = [(c.cell_type, c.source, sorted(c.metadata.items(), key=str)) for c in notebook.cells]
    return "sha256:" + hashlib.sha256(repr((cells, sorted(values.items()), shared)).encode()).hexdigest()


def is_current(executed: Path, root: Path = ROOT, shared: str | None = None) -> bool:
    """Whether an executed chapter is what its notebook, library, kernels and results would give now."""
    try:
        done = read(executed)
        origin = read(source(executed.stem, root))
        mark = done.metadata["bnnlib"]
        return mark["inputs"] == fingerprint(origin, mark["parameters"], shared or surroundings(root))
    except (ChapterError, KeyError):
        return False


# ------------------------------------------------------------------------------------------------ running


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter; ``error`` is empty when it ran, or needed no run, and passed the gate."""

    name: str
    output: Path
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""


@dataclass(frozen=True)
class _Task:
    origin: Path
    output: Path
    values: dict[str, Any]
    inputs: str
    profile: str
    threads: int


def run(
    names: Iterable[str] = (),
    *,
    profile: str = "stored",
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    out: Path | None = None,
    jobs: int | None = None,
    force: bool = False,
    root: Path = ROOT,
) -> Iterator[Outcome]:
    """Execute chapters (all of them when ``names`` is empty) and yield an :class:`Outcome` as each is done.

    given: further parameters, name to value. out: folder of the executed notebooks. jobs: chapters at a time.
    Raises :class:`ChapterError` before anything runs for an unknown chapter or parameter.
    """
    root = Path(root).resolve()
    origins = [source(name, root) for name in names] or sources(root)
    out = Path(out).resolve() if out else root / "build" / "chapters" / profile
    jobs = jobs or min(len(origins), os.cpu_count() or 1) or 1
    shared = surroundings(root)
    tasks, skipped = [], []
    for origin in origins:
        notebook = read(origin)
        defaults = parameters(notebook, origin.stem)
        values = resolve(defaults, {"profile": profile, "seed": seed, **(given or {})}, origin.stem)
        inputs = fingerprint(notebook, values, shared)
        output = out / origin.name
        if not force and _has_mark(output, inputs):
            os.utime(output)  # for make and snakemake, which go by times
            skipped.append(Outcome(origin.stem, output, skipped=True))
        else:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            tasks.append(_Task(origin, output, values, inputs, profile, threads))
    yield from skipped
    if not tasks:
        return
    out.mkdir(parents=True, exist_ok=True)
    # Spawned, not forked: the kernel's environment is set up in a process that has loaded nothing yet.
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_execute, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _has_mark(output: Path, inputs: str) -> bool:
    try:
        return read(output).metadata["bnnlib"]["inputs"] == inputs
    except (ChapterError, KeyError):
        return False


def _execute(task: _Task) -> Outcome:
    """Run one chapter in this process. Never raises: what went wrong is the outcome's ``error``."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    name, started = task.origin.stem, time.monotonic()
    partial = task.output.with_name(f".{name}.{os.getpid()}.tmp.ipynb")
    failed = task.output.with_name(f"{name}.failed.ipynb")
    # Unix sockets in a folder of our own: no ports to clash on, nothing of the user's IPython set-up in the
    # kernel. A socket's path has room for about a hundred characters, which a long $TMPDIR would not leave.
    short = None if len(tempfile.gettempdir()) < 40 else "/tmp"
    error = ""
    with tempfile.TemporaryDirectory(prefix="bnn-", dir=short) as scratch, _stderr_to(f"{scratch}/stderr"):
        os.environ.update(JUPYTER_RUNTIME_DIR=scratch, IPYTHONDIR=f"{scratch}/ipython")
        os.environ.update(PYDEVD_DISABLE_FILE_VALIDATION="1", TQDM_DISABLE="1")
        os.environ.setdefault("OMP_NUM_THREADS", str(task.threads))
        try:
            execute_notebook(
                str(task.origin),
                str(partial),
                parameters=task.values,
                progress_bar=False,
                request_save_on_cell_execute=False,
                cwd=str(task.origin.parent),
                execution_timeout=None if task.profile in ("full", "demo") else _CELL_LIMIT,
                # `ip` is the sockets' path; left to itself it is the same for all in the chapters' folder.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{scratch}/kernel"}}),
            )
        except PapermillExecutionError as stopped:
            error = _explain(name, stopped)
        except CellTimeoutError:
            error = f"{name}: a cell took more than {_CELL_LIMIT} s; the {task.profile} profile must be quick"
        except DeadKernelError:
            said = Path(f"{scratch}/stderr").read_text(errors="replace").strip().splitlines()[-5:]
            error = "\n  ".join([f"{name}: its kernel died (out of memory?)", *said])
        except KeyboardInterrupt:
            error = f"{name}: interrupted"
        except Exception as other:  # the pool must carry a message home, whatever it is
            error = f"{name}: {type(other).__name__}: {other}"
    if partial.exists():
        notebook = read(partial)
        _sign(notebook, task)
        error = error or "\n".join(problems(notebook, name, profile=task.profile))
        nbformat.write(notebook, partial)
        os.replace(partial, failed if error else task.output)
        if error:
            error += f"\n  the chapter as it stopped: {failed}"
        else:
            failed.unlink(missing_ok=True)
    return Outcome(name, task.output, time.monotonic() - started, error=error)


@contextmanager
def _stderr_to(path: str) -> Iterator[None]:
    """Send this process's stderr, and its kernel's, to a file: of interest only when the kernel dies."""
    before = os.dup(2)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _sign(notebook: nbformat.NotebookNode, task: _Task) -> None:
    """Leave the mark that ``is_current`` reads, and take this machine's paths out."""
    notebook.metadata["bnnlib"] = {"inputs": task.inputs, "parameters": task.values}
    notebook.metadata.papermill["input_path"] = f"notebooks/{task.origin.name}"
    notebook.metadata.papermill["output_path"] = task.output.name


def _explain(name: str, error: Any) -> str:
    """Chapter, cell, the failing line with its neighbours, and the message: what a reader of a log needs."""
    if error.ename == ChapterError.__name__:  # a parameter that the chapter refuses
        return f"{name}: {error.evalue}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    frames = re.findall(r"^-+> (\d+)", text, re.MULTILINE)
    lines = error.source.splitlines()
    at = int(frames[0]) if frames and int(frames[0]) <= len(lines) else 0
    shown = [
        f"  {'>' if number == at else ' '} {number:3} | {line}"
        for number, line in enumerate(lines, 1)
        if abs(number - at) <= 2 or not at and number <= 5
    ]
    inner = re.findall(r"^File (\S+?):(\d+)", text, re.MULTILINE)
    where = f" (raised at {inner[-1][0]}:{inner[-1][1]})" if inner else ""
    return "\n".join(
        [f"{name}: cell [{error.exec_count}] failed", *shown, f"  {error.ename}: {error.evalue}{where}"]
    )


# --------------------------------------------------------------------------------------------------- gate


def problems(notebook: nbformat.NotebookNode, name: str, *, profile: str = "stored") -> list[str]:
    """Why an executed chapter may not be published; empty when it may. Each line names chapter and cell."""
    ran = notebook.metadata.get("papermill", {})
    if not ran.get("end_time"):
        return [f"{name}: not executed; run `python -m bnnlib.chapters run {name} --profile {profile}`"]
    found = []
    try:
        values = {**parameters(notebook, name), **ran.get("parameters", {})}
        if values.get("profile") != profile:
            found.append(f"{name}: executed in profile {values.get('profile')!r}, asked for is {profile!r}")
    except ChapterError as error:
        found.append(str(error))
    if ran.get("exception"):
        found.append(f"{name}: stopped by an error")
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and cell.source.strip():
            count = cell.execution_count
            label = f"{name}: cell [{count}]" if count else f"{name}: cell {position}"
            found += [f"{label} {what}" for what in _cell_problems(cell)]
            if profile in SHORT:
                found += [f"{label} gives a verdict from a {profile} run: {what}" for what in _verdicts(cell)]
    return found


def _verdicts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """Words by which a cell's output judges a result."""
    for output in cell.get("outputs", []):
        for kind in ("text/markdown", "text/html"):
            text = re.sub(r"<style.*?</style>", "", output.get("data", {}).get(kind, ""), flags=re.DOTALL)
            yield from (found[0] for found in _VERDICT.finditer(text))


def _cell_problems(cell: nbformat.NotebookNode) -> Iterator[str]:
    if cell.execution_count is None:
        yield "was not executed"
    figures = 0
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"raised {output.ename}: {output.evalue}"
        if output.output_type == "stream" and output.name == "stderr":
            first = output.text.strip().partition("\n")[0]
            yield f"prints to stderr: {first[:120] or '(blank lines)'}"
        data = output.get("data", {})
        figures += any(kind.startswith("image/") for kind in data)
        if _WIDGET in data and "remove-output" not in cell.metadata.get("tags", []):
            yield "shows a widget, of which a page has nothing: tag it remove-output, show a figure beside it"
        for image in re.findall(r"<img\b[^>]*>", str(data.get("text/html", ""))):
            if not re.search(r"\balt=([\"'])(?=.*\S)", image):
                yield "shows an <img> without alt text"
        for text in (output.get("text", ""), data.get("text/html", ""), data.get("text/plain", "")):
            if any(path in str(text) for path in _machine_paths()):
                yield "prints a path of this machine"
    if figures > 1:
        yield f"shows {figures} figures: one a cell, so that each has its alt text"
    alt = str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")).strip()
    if figures and len(alt) < _SHORTEST_ALT:
        yield (
            "shows a figure without alt text; say what it shows in the cell's metadata: "
            '{"mystnb": {"image": {"alt": "..."}}}' + (f" ({alt!r} is too short)" if alt else "")
        )


def _machine_paths() -> list[str]:
    return [f"{path}{os.sep}" for path in {str(ROOT), str(Path.home())} if len(path) > 1]


def source_problems(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """Why a notebook may not be committed: outputs in it, no parameters, another kernel, installs, lines cut by
    the page."""
    found = []
    try:
        defaults = parameters(notebook, name)
        for key, value in (("profile", "stored"), ("seed", 0)):
            if defaults.get(key) != value:
                found.append(f"{name}: the parameters cell has no `{key} = {value!r}`")
        cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        for line in cell.source.splitlines():
            if "=" in line.partition("#")[0] and not re.fullmatch(r"\w+: \w+ = [^=#]+#[^=]*\w[^=]*", line):
                found.append(
                    f"{name}: papermill's help wants `name: type = literal  # comment without '='`, has: {line}"
                )
    except ChapterError as error:
        found.append(str(error))
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        found.append(f"{name}: its kernel is {kernel!r}; it must be 'python3', which every environment has")
    if "papermill" in notebook.metadata:
        found.append(f"{name}: an executed copy; chapters are stored as they are before papermill runs them")
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        if cell.outputs or cell.execution_count is not None:
            found.append(f"{name}: cell {position} is stored with outputs; clear them (JupyterLab: Edit)")
        wide = [line for line in cell.source.splitlines() if len(line) > COLUMNS]
        if wide:
            found.append(f"{name}: cell {position} is wider than the page's {COLUMNS} columns: {wide[0].strip()}")
        if re.search(r"^\s*[%!]\s*(pip|conda|apt)\b|sys\.path", cell.source, re.MULTILINE):
            found.append(
                f"{name}: cell {position} installs something or turns sys.path; the environment does that"
            )
    return found


def check(path: Path, *, profile: str = "stored") -> list[str]:
    """:func:`problems` of the executed chapter at ``path``."""
    try:
        return problems(read(path), Path(path).stem, profile=profile)
    except ChapterError as error:
        return [str(error)]


# ---------------------------------------------------------------------------------------------- command line


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnn chapters", description="Run and check the chapters."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    runs = commands.add_parser("run", help="execute chapters into build/chapters/<profile>/")
    runs.add_argument("names", nargs="*", metavar="NAME", help="chapters to run (all)")
    runs.add_argument("--profile", choices=PROFILES, default="stored", help="what a chapter does (stored)")
    runs.add_argument("--seed", type=int, default=0, help="seed that the chapters are given (0)")
    runs.add_argument(
        "-p", dest="given", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE")
    )
    runs.add_argument("--out", type=Path, help="folder of the executed chapters (build/chapters/<profile>)")
    runs.add_argument("--jobs", type=int, help="chapters at a time (one a core)")
    runs.add_argument("--force", action="store_true", help="run chapters that are up to date, too")

    checks = commands.add_parser("check", help="refuse executed chapters that may not be published")
    checks.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="executed notebooks (all of the profile)"
    )
    checks.add_argument(
        "--profile", choices=PROFILES, default="stored", help="profile they must be of (stored)"
    )

    commands.add_parser("sources", help="refuse notebooks that may not be committed")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _arguments().parse_args(arguments)
    if options.command == "run":
        return _run_command(options)
    if options.command == "check":
        paths = options.paths or [ROOT / "build" / "chapters" / options.profile / p.name for p in sources()]
        found = [line for path in paths for line in check(path, profile=options.profile)]
    else:
        paths = sources()
        found = [line for path in paths for line in source_problems(read(path), path.stem)]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(paths)} chapters checked, {len(found)} problems")
    return 1 if found else 0


def _run_command(options: argparse.Namespace) -> int:
    if options.jobs is not None and options.jobs < 1:
        raise ChapterError(f"--jobs {options.jobs}: must be 1 or more")
    failures = 0
    outcomes = run(
        options.names,
        profile=options.profile,
        seed=options.seed,
        given=dict(options.given),
        out=options.out,
        jobs=options.jobs,
        force=options.force,
    )
    for outcome in outcomes:
        state = "FAILED" if outcome.error else "up to date" if outcome.skipped else f"{outcome.seconds:.1f} s"
        print(f"{outcome.name:32} {options.profile:8} {state}", flush=True)
        if outcome.error:
            print(outcome.error, file=sys.stderr, flush=True)
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ChapterError as mistake:
        sys.exit(f"error: {mistake}")
    except KeyboardInterrupt:
        print(
            "interrupted: chapters that were done are kept; the same command runs the rest", file=sys.stderr
        )
        sys.exit(130)
