"""The runner and the gate, on small notebooks made here."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from bnnlib import recipes, statistics
from bnnlib.book import chapters, prose
from bnnlib.book.chapters import __main__ as chapters_command

PARAMETERS = """
profile: str = "stored"  # stored, quick, demo or full
seed: int = 0  # seed of everything random
rate: float = 0.1  # learning rate
"""
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
FIGURE = f"from IPython.display import Image\nfrom base64 import b64decode\nImage(b64decode('{PNG}'))"
ALT = {"mystnb": {"image": {"alt": "A single grey pixel on nothing at all."}}}


def chapter(*cells, parameters=PARAMETERS):
    """A chapter: title, parameters, and code cells given as text or (text, metadata)."""
    made = [new_markdown_cell("# A chapter"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for cell in cells:
        text, meta = cell if isinstance(cell, tuple) else (cell, {})
        made.append(new_code_cell(text, metadata=meta))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


@pytest.fixture
def root(tmp_path):
    """A repository with a library, a result and no chapter."""
    for folder in ("notebooks", "bnnlib", "kernels", "results/runs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bnnlib" / "layers.py").write_text("one = 1\n")
    (tmp_path / "results" / "runs" / "a.json").write_text("{}\n")
    return tmp_path


def put(root, name, notebook):
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def run(root, *names, **options):
    return {outcome.name: outcome for outcome in chapters.run(names, root=root, **options)}


def executed(*cells, profile="stored"):
    """A chapter as papermill leaves it, without the cost of running one."""
    notebook = chapter(*cells)
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    notebook.metadata["papermill"] = {
        "end_time": "2026-01-01",
        "exception": None,
        "parameters": {"profile": profile},
    }
    return notebook


# ------------------------------------------------------------------------------------------------ parameters


def test_parameters_are_the_literals_of_the_tagged_cell():
    assert chapters.parameters(chapter()) == {"profile": "stored", "seed": 0, "rate": 0.1}


@pytest.mark.parametrize(
    ("profile", "seed", "message"),
    [
        ("fast", 0, "profile is 'fast': it must be one of stored, quick, demo, full"),
        ("quick", -1, "seed is -1"),
        ("quick", 2**32, "seed is 4294967296: it must be a whole number >= 0 and below"),
        ("full", "3", "seed is '3'"),
    ],
)
def test_profile_and_seed_are_checked(profile, seed, message):
    with pytest.raises(chapters.ChapterError, match=message):
        chapters.check_parameters(profile, seed)


def test_every_chapter_checks_its_parameters_first():
    """Plain papermill and JupyterLab hand anything over."""
    for path in chapters.sources():
        code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        at = next(i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", []))
        called = [line for line in code[at + 1].source.splitlines() if line and not line.startswith((" ", "from ", "import ", ")"))]
        call = ast.unparse(next(node for node in ast.walk(ast.parse(code[at + 1].source)) if isinstance(node, ast.Call)))
        assert call.startswith("chapters.check_parameters(profile, seed"), path.name
        assert called[0].removeprefix("instead = ").startswith("chapters.check_parameters("), path.name


@pytest.mark.parametrize("path", chapters.sources(), ids=lambda p: p.stem)
def test_every_parameter_that_can_be_turned_has_a_range(path):
    """`filters=5000` must not run for ever, nor `filters=0` for a minute before it fails."""
    notebook = chapters.read(path)
    numbers = set(chapters.parameters(notebook)) - {"profile", "seed"}
    tree = ast.parse("\n".join(c.source for c in notebook.cells if c.cell_type == "code" and "%" not in c.source[:1]))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "chapters.check_parameters"]
    ranged = {keyword.arg for keyword in calls[0].keywords}
    assert numbers <= ranged, "no range"


@pytest.mark.parametrize("path", chapters.sources(), ids=lambda p: p.stem)
def test_a_line_of_one_epoch_is_seen(path):
    """A quick run has one epoch, and a line through one point shows nothing: it needs a marker."""
    for cell in (c.source for c in chapters.read(path).cells if c.cell_type == "code"):
        own = re.search(r"\b(?:curve|e)\.epoch\b", cell) and ".plot(" in cell
        if own and not re.search(r"records\.read_all|draw_curves", cell):
            assert "marker" in cell, cell


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_ablations_findings_hold_at_the_books_level_and_may_be_left_out_at_another(level):
    """A level of a reader's stops no chapter; the book's own still does where a finding does not hold."""
    cells = [c.source for c in chapters.read(chapters.source("ablation-eleven-points")).cells if c.cell_type == "code"]
    (cell,) = [c for c in cells if "def claim(" in c]
    (function,) = [n for n in ast.parse(cell).body if isinstance(n, ast.FunctionDef) and n.name == "claim"]
    names = {"level": level, "statistics": statistics, "prose": prose}
    exec(ast.unparse(function), names)
    assert names["claim"](True, "so it is") == "so it is"
    if level == statistics.LEVEL:
        with pytest.raises(prose.ClaimFailed, match="so it is"):
            names["claim"](False, "so it is")
    else:
        assert names["claim"](False, "so it is") == ""
    clear = [c for c in cells if "prose.claim(" in c and re.search(r"is_clear|\.clear\b", c.split("prose.claim(", 1)[1][:120])]
    assert all("level != statistics.LEVEL" in c for c in clear)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"filters": (0, 1, 500)}, "filters is 0: it must be a whole number from 1 to 500"),
        ({"filters": (5000, 1, 500)}, "filters is 5000: it must be a whole number from 1 to 500"),
        ({"filters": (2.5, 1, 500)}, "filters is 2.5: it must be a whole number"),
        ({"filters": (True, 1, 500)}, "filters is True"),
        ({"level": (1.5, 0.5, 0.99)}, "level is 1.5: it must be a number from 0.5 to 0.99"),
        ({"level": (float("nan"), 0.5, 0.99)}, "level is nan"),
        ({"level": ("x", 0.5, 0.99)}, "level is 'x'"),
        ({"kernel": (4, (1, 3, 5))}, "kernel is 4: it must be one of 1, 3, 5"),
        ({"low": (12, range(3))}, "low is 12: it must be one of 0, 1, 2"),
        ({"low": (True, range(3))}, "low is True: it must be one of 0, 1, 2"),
        ({"kernel": (3.0, (1, 3, 5))}, "kernel is 3.0: it must be one of 1, 3, 5"),
        ({"low": ([1], {0, 1, 2})}, r"low is \[1\]: it must be one of 0, 1, 2"),
        ({"net": ("s2", ("s2-student", "s3-mlp"))}, "net is 's2': it must be one of s2-student, s3-mlp"),
    ],
)
def test_values_out_of_range_are_named(given, message):
    with pytest.raises(chapters.ChapterError, match=message):
        chapters.check_parameters("quick", 0, **given)
    assert chapters.check_parameters("quick", 0, n=(1, 1, 3), r=(2, 0.5, 3.0), k=(3, (1, 3))) == {}


CHECKED = "from bnnlib.book import chapters\nchapters.check_parameters(profile, seed, rate=(rate, 0.0, 1.0))"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("profil", "quick", "there is no parameter 'profil': did you mean profile? This chapter has profile, seed, rate"),
        ("zzzz", "1", "there is no parameter 'zzzz'. This chapter has profile, seed, rate"),
        ("profile", "fast", "profile is 'fast': it must be one of stored, quick, demo, full"),
        ("seed", "one", "seed is 'one'"),
        ("rate", "fast", "rate is 'fast': it must be of type float"),
        ("rate", "2.5", "rate is 2.5: it must be a number from 0.0 to 1.0"),
        ("rate", "nan", "rate is nan: it must be a number from 0.0 to 1.0"),
        ("seed", "-inf", "seed is -inf: it must be a whole number"),
    ],
)
def test_plain_papermill_stops_at_once_with_one_sentence(root, name, value, message):
    put(root, "one", chapter(CHECKED, "open('ran', 'w')"))
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "notebooks/one.ipynb", "out.ipynb", "-p", name, value],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and message in done.stderr
    (error,) = [o for c in nbformat.read(root / "out.ipynb", 4).cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert error.traceback == [f"ChapterError: {error.evalue}"] and message in error.evalue
    assert not list(root.rglob("ran"))


def test_a_cell_that_is_run_before_a_change_is_checked_says_so(tmp_path):
    """A reader changes a parameter and runs one cell far below: it would show numbers of one run and words of another."""
    from nbclient import NotebookClient

    given = 'profile: str = "stored"  # how\nseed: int = {}  # which'
    check = "from bnnlib.book import chapters\nchapters.check_parameters(profile, seed)\nseed = seed or 7"
    cells = [given.format(0), check, "1", given.format(3), "2", check, "3", given.format(4), given.format(3), "4"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [[o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.get("data", {})] for cell in notebook.cells]
    told = "**Changed:** `seed` was 7 and is 3. Run the cell of imports, then all cells below it."
    assert said[4] == [told]
    assert said[8] == ["**Changed:** `seed` was 3 and is 4. Run the cell of imports, then all cells below it."]
    assert not any(said[i] for i in range(len(cells)) if i not in (4, 8))


def test_a_whole_number_serves_for_a_float(root):
    put(root, "one", chapter(CHECKED))
    command = [sys.executable, "-m", "papermill", "notebooks/one.ipynb", "out.ipynb", "-p", "rate", "1", "-p", "seed", "3"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def test_a_short_run_without_the_data_takes_digits_and_says_how_to_get_the_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "nowhere"))
    for name, instead in (("mnist", "digits"), ("cifar10", "digits-32"), ("tiny-imagenet", "digits-64")):
        for profile in ("quick", "demo"):
            assert chapters.check_parameters(profile, 0, name) == {"dataset": instead}
        assert chapters.check_parameters("stored", 0, name) == chapters.check_parameters("full", 0, name) == {}


def test_what_a_short_run_says(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda markdown: shown.append(markdown.data))
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "nowhere"))
    chapters.check_parameters("demo", 0, "cifar10")
    chapters.check_parameters("stored", 0, "cifar10")
    (said,) = shown
    assert said.startswith("**A demo run**, on scikit-learn's embedded digits: CIFAR-10 is not on this machine.")
    assert "`make data NAME=cifar10`" in said and "no verdict" in said and str(tmp_path) not in said


@pytest.mark.parametrize("text", ["profile = f()", "import os", "a = b = 1", "a[0] = 1", "a ="])
def test_parameters_that_are_no_literals_are_refused(text):
    with pytest.raises(chapters.ChapterError, match="more than literals"):
        chapters.parameters(chapter(parameters=text))


def test_two_parameters_cells_are_refused():
    with pytest.raises(chapters.ChapterError, match="2 cells are tagged"):
        chapters.parameters(chapter(("a = 1", {"tags": ["parameters"]})))


def test_unknown_parameter_names_the_allowed_ones(root):
    put(root, "one", chapter("1"))
    with pytest.raises(chapters.ChapterError, match="no parameter 'sede'; it has profile, seed, rate"):
        run(root, "one", given={"sede": "1"})


@pytest.mark.parametrize(
    ("name", "value"), [("seed", "one"), ("seed", "1.5"), ("rate", "fast"), ("rate", "[1]")]
)
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(chapters.ChapterError, match=f"parameter {name} = .*must be"):
        chapters.resolve({"seed": 0, "rate": 0.1}, {name: value})


def test_unknown_profile_and_chapter_are_refused(root):
    put(root, "one", chapter("1"))
    with pytest.raises(chapters.ChapterError, match="profile is 'fast': it must be one of stored, quick, demo, full"):
        run(root, "one", profile="fast")
    with pytest.raises(chapters.ChapterError, match="no chapter 'two'.*there are: one"):
        run(root, "two")


# --------------------------------------------------------------------------------------------------- running


def test_chapters_run_side_by_side_and_only_when_something_changed(root, monkeypatch):
    see = "import os, json; open(os.environ['SEEN'], 'a').write(f'{profile} {seed} {rate}\\n')"
    for name in ("one", "two"):
        put(root, name, chapter(see))
    seen = root / "seen"
    monkeypatch.setenv("SEEN", str(seen))
    first = run(root, profile="quick", seed=3, jobs=2)
    assert [o.error for o in first.values()] == ["", ""] and not any(o.skipped for o in first.values())
    assert seen.read_text() == "quick 3 0.1\n" * 2
    output = root / "build" / "chapters" / "quick" / "one.ipynb"
    assert first["one"].output == output and chapters.is_current(output, root)
    assert sorted(p.name for p in output.parent.iterdir()) == ["one.ipynb", "two.ipynb"]
    assert str(root) not in json.dumps(nbformat.read(output, 4).metadata)

    again = run(root, profile="quick", seed=3)
    assert all(o.skipped for o in again.values())

    put(root, "one", chapter(see, "2"))
    assert not chapters.is_current(output, root)
    assert {n: o.skipped for n, o in run(root, profile="quick", seed=3).items()} == {
        "one": False,
        "two": True,
    }
    assert {n: o.skipped for n, o in run(root, "one", profile="quick", seed=3).items()} == {"one": True}


def test_what_a_chapter_depends_on(root):
    def digest():
        return chapters.surroundings(root)

    before = digest()
    (root / "bnnlib" / "book").mkdir(exist_ok=True)
    (root / "bnnlib" / "book" / "site.py").write_text("")
    (root / "bnnlib" / "__pycache__").mkdir()
    (root / "bnnlib" / "__pycache__" / "layers.pyc").write_text("")
    (root / "kernels" / "xnor.so").write_text("")
    assert digest() == before
    for name in ("bnnlib/layers.py", "kernels/xnor.hpp", "results/runs/a.json"):
        (root / name).write_text("changed")
        assert digest() != before, name
        before = digest()


def test_failing_chapters_are_shown_compactly_and_never_published(root):
    put(root, "broken", chapter("fine = 1", "a = 1\n\nraise ValueError(f'wrong {a}')\n"))
    put(root, "noisy", chapter("import sys; print('oops', file=sys.stderr)"))
    put(root, "dead", chapter("import os; os._exit(3)"))
    put(root, "refused", chapter("from bnnlib.book import chapters\nraise chapters.ChapterError('filters is 0')"))
    put(root, "good", chapter((FIGURE, ALT)))
    folder = root / "build" / "chapters" / "stored"
    folder.mkdir(parents=True)
    (folder / "good.failed.ipynb").write_text("left by an earlier run")
    outcomes = run(root)
    assert outcomes["broken"].error.splitlines()[:2] == ["broken: cell [4] failed", "      1 | a = 1"]
    assert "  >   3 | raise ValueError(f'wrong {a}')" in outcomes["broken"].error
    assert "ValueError: wrong 1" in outcomes["broken"].error and "\x1b" not in outcomes["broken"].error
    assert "cell [3] prints to stderr: oops" in outcomes["noisy"].error
    assert "its kernel died" in outcomes["dead"].error
    assert outcomes["refused"].error.splitlines()[0] == "refused: filters is 0", "the sentence, and no code"
    assert outcomes["good"].error == ""
    names = {p.name for p in folder.iterdir()}
    assert {"broken.failed.ipynb", "noisy.failed.ipynb", "refused.failed.ipynb", "good.ipynb"} == names


def test_plain_papermill_runs_a_chapter_and_shows_its_parameters(root):
    put(root, "one", chapter("print(profile, seed)"))
    papermill = [sys.executable, "-m", "papermill", "notebooks/one.ipynb"]
    words = {"cwd": root, "capture_output": True, "text": True, "check": True}
    subprocess.run([*papermill, "out.ipynb", "-p", "profile", "quick", "-p", "seed", "1"], **words)
    assert nbformat.read(root / "out.ipynb", 4).cells[-1].outputs[0].text == "quick 1\n"
    assert chapters.check(root / "out.ipynb", profile="quick") == []
    shown = subprocess.run([*papermill, "--help-notebook"], **words).stdout
    assert "seed of everything random" in shown and "rate" in shown


# ------------------------------------------------------------------------------------------------------ gate


def test_a_good_chapter_passes():
    notebook = executed((FIGURE, ALT))
    notebook.cells[-1].outputs = [new_output("execute_result", {"image/png": PNG}, execution_count=2)]
    assert chapters.problems(notebook, "good") == []


def with_output(kind, meta=None, **fields):
    notebook = executed(("1", meta or {}))
    notebook.cells[-1].outputs = [new_output(kind, **fields)]
    return notebook


def unexecuted_cell():
    notebook = executed("1", "2")
    notebook.cells[-1].execution_count = None
    return notebook


SHORT = {"mystnb": {"image": {"alt": "figure"}}}
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}


@pytest.mark.parametrize(
    ("notebook", "says"),
    [
        (chapter("1"), "not executed"),
        (unexecuted_cell(), "cell 4 was not executed"),
        (executed("1", profile="quick"), "profile 'quick', asked for is 'stored'"),
        (with_output("error", ename="ValueError", evalue="no"), r"cell \[2\] raised ValueError: no"),
        (with_output("stream", name="stderr", text="UserWarning: x\n"), "prints to stderr: UserWarning: x"),
        (with_output("display_data", data={"image/png": PNG}), "figure without alt text"),
        (with_output("display_data", data={"image/svg+xml": "<svg/>"}, meta=SHORT), "'figure' is too short"),
        (with_output("display_data", data={"text/html": "<img src='a.png'>"}), "<img> without alt"),
        (with_output("display_data", data=WIDGET), "shows a widget"),
        (with_output("stream", name="stdout", text=f"saved in {Path.home()}/x\n"), "path of this machine"),
    ],
)
def test_the_gate_refuses(notebook, says):
    found = chapters.problems(notebook, "bad")
    assert len(found) == 1
    assert re.search(says, found[0]), found


@pytest.mark.parametrize(
    ("output", "verdict"),
    [
        ({"text/markdown": "of 23 targets 1 met"}, "met"),
        ({"text/html": "<td>1.2 x: missed</td>"}, "missed"),
        ({"text/markdown": "no difference shown: -0.64"}, "no difference shown"),
        ({"text/markdown": "above by 3.68, p < 0.001"}, "above by 3"),
        ({"text/markdown": "an answer is missing; the metric, below by the axis"}, None),
        ({"text/html": "<style>p = 3</style>"}, None),
    ],
)
def test_a_short_run_gives_no_verdict(output, verdict):
    notebook = executed("1", profile="demo")
    notebook.cells[-1].outputs = [new_output("display_data", output)]
    found = chapters.problems(notebook, "bad", profile="demo")
    if verdict is None:
        assert found == []
    else:
        assert f"bad: cell [2] gives a verdict from a demo run: {verdict}" == found[0]
    notebook = executed("1")
    notebook.cells[-1].outputs = [new_output("display_data", output)]
    assert chapters.problems(notebook, "good") == [], "a full result may be judged"


ASKED = "## Its size\n\nHow large is {numref}`tab-size`, beside {numref}`fig-size`?"
FOLDED, TABLE = {"tags": ["hide-input"]}, "```{table} Size.\n:name: tab-size\n\n| a |\n|---|\n```\n"


@pytest.mark.parametrize(
    ("text", "outputs", "found"),
    [
        (ASKED, ["", " \n"], ["nothing is shown below 'How large is", "names tab-size, which a quick", "names fig-size, which a quick"]),
        ("## Its size", [""], ["nothing is shown below '## Its size'"]),
        ("So it is.", [""], []),
        ("So it is:", ["", "12 kB"], []),
        (ASKED, [TABLE], ["names fig-size, which a quick run does not show"]),
        (ASKED, [TABLE, chapters.left_out("quick", "fig-size")], []),
        (ASKED, [chapters.left_out("quick", "tab-size", "fig-size")], []),
    ],
)
def test_a_section_keeps_its_promise_or_says_that_it_does_not(text, outputs, found):
    notebook = executed(*[("1", FOLDED)] * len(outputs), profile="quick")
    for cell, output in zip(notebook.cells[-len(outputs) :], outputs, strict=True):
        cell.outputs = [new_output("display_data", {"text/markdown": output})]
    notebook.cells.insert(2, new_markdown_cell(text))
    for last in ([], [new_markdown_cell("## The next section")]):
        problems = chapters.problems(nbformat.from_dict({**notebook, "cells": notebook.cells + last}), "one", profile="quick")
        assert len(problems) == len(found) and all(map(str.__contains__, problems, found)), problems


def test_code_that_a_reader_sees_is_shown():
    notebook = executed("n = 1", profile="quick")
    notebook.cells.insert(2, new_markdown_cell("We count:"))
    assert chapters.problems(notebook, "one", profile="quick") == []


def test_a_recipe_without_a_figure_to_be_compared_with_is_told():
    chapters.check_recipes("S4", "mnist", recipes.load("s4-lenet5"), recipes.load("s4-lenet5-real"))
    for name in ("ours-lenet5", "s4-lenet5-15ep-s4", "s4-nin", "s3-mlp"):
        with pytest.raises(chapters.ChapterError, match=f"^{name} has no figure of S4's on mnist.* `bnn train {name}` trains it"):
            chapters.check_recipes("S4", "mnist", recipes.load("s4-lenet5"), recipes.load(name))


def test_two_figures_in_one_cell_are_refused():
    notebook = executed(("1", ALT))
    notebook.cells[-1].outputs = [new_output("display_data", {"image/png": PNG}) for _ in range(2)]
    assert "2 figures: one a cell" in chapters.problems(notebook, "bad")[0]


def test_damaged_and_missing_files_are_named(tmp_path):
    broken = tmp_path / "broken.ipynb"
    broken.write_text('{"cells": [')
    assert "broken.ipynb is no notebook" in chapters.check(broken)[0]
    assert "No such file" in chapters.check(tmp_path / "missing.ipynb")[0]


def test_the_command_line_refuses_with_status_1(tmp_path):
    nbformat.write(chapter("1"), tmp_path / "a.ipynb")
    answer = CliRunner().invoke(chapters_command.app, ["check", str(tmp_path / "a.ipynb")])
    assert answer.exit_code == 1 and "not executed" in answer.stderr
    answer = CliRunner().invoke(chapters_command.app, ["run", "nope"])
    assert answer.exit_code == 1 and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["-p", "seed", "-1", "one"], {"seed": "-1"}),
        (["-p", "net", "a=b", "-p", "rate", "1e-3", "-p", "net", "c"], {"net": "c", "rate": "1e-3"}),
    ],
)
def test_parameters_are_given_in_pairs(words, given, monkeypatch):
    seen = []
    monkeypatch.setattr(chapters_command, "run", lambda names, **options: seen.append((names, options)) or [])
    answer = CliRunner().invoke(chapters_command.app, ["run", *words, "--profile", "quick"])
    assert answer.exit_code == 0, answer.output
    ((names, options),) = seen
    assert options["given"] == given and type(options["profile"]) is str and options["profile"] == "quick"
    assert names == [word for word in words if word == "one"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "seed"], "seed has no value"),
        (["-p", "seed", "--force"], "seed has no value"),
        (["one", "-p"], "requires an argument"),
        (["--profile", "slow"], "Invalid value for '--profile'"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
    ],
)
def test_a_wrong_option_of_a_run_is_told(words, said):
    answer = CliRunner().invoke(chapters_command.app, ["run", *words])
    assert answer.exit_code == 2 and said in " ".join(answer.output.replace("│", " ").split())


# --------------------------------------------------------------------------------------------------- sources


def with_kernel(name):
    notebook = chapter("1")
    notebook.metadata.kernelspec.name = name
    return notebook


@pytest.mark.parametrize(
    ("notebook", "says"),
    [
        (chapter("1", parameters='profile: str = "stored"  # which\nseed: int = 1  # seed'), "no `seed = 0`"),
        (chapter("1", parameters='profile: str = "stored"  # which\nseed: int = 0'), "has: seed: int = 0"),
        (chapter("1", parameters='profile: str = "stored"  # a=b\nseed: int = 0  # s'), "has: profile"),
        (chapter("1", parameters='profile = "stored"  # which\nseed: int = 0  # s'), "has: profile = "),
        (chapter("%pip install torch"), "installs something"),
        (chapter("x = 1  # " + "a" * 70), "wider than the page's 76 columns"),
        (with_kernel("conda-env"), "its kernel is 'conda-env'"),
        (executed(), "executed copy"),
    ],
)
def test_sources_that_may_not_be_committed(notebook, says):
    assert any(says in line for line in chapters.source_problems(notebook, "bad"))


def test_a_good_source_passes():
    assert chapters.source_problems(chapter("1"), "good") == []


@pytest.mark.parametrize("path", chapters.sources(), ids=lambda p: p.stem)
def test_the_chapters_of_this_book_may_be_committed(path):
    assert chapters.source_problems(chapters.read(path), path.stem) == []


def test_what_stands_for_an_answer_says_what_kind_of_run_gives_none():
    """A run of a reader's, without a record that the answer needs, is no short run."""
    said = {profile: chapters.no_answer(profile) for profile in chapters.PROFILES}
    assert said["quick"] == said["demo"] and "Short runs" in said["quick"]
    assert len(set(said.values())) == 3 and not any("Short" in said[profile] for profile in ("stored", "full"))
    for path in chapters.sources():
        assert "Short runs answer" not in path.read_text(encoding="utf-8"), path.stem


@pytest.mark.parametrize("path", chapters.sources(), ids=lambda p: p.stem)
def test_a_chapter_that_trains_draws_no_verdict_from_a_short_run(path):
    """A cell that answers the chapter's question looks at what kind of run it is."""
    code = [c for c in chapters.read(path).cells if c.cell_type == "code"]
    call = next(n for c in code for n in ast.walk(ast.parse(c.source)) if ast.unparse(n).startswith("chapters.check_parameters("))
    if len(call.value.args if isinstance(call, (ast.Expr, ast.Assign)) else call.args) < 3:
        return  # it trains on no data set: every profile answers
    if path.stem == "alexnet-imagenet":
        return  # its answer counts the bits of a net that nobody trained: the same in every profile
    for cell in code:
        if "answer" in cell.metadata.get("tags", []):
            assert "brief" in cell.source or "profile" in cell.source, cell.source[:200]
