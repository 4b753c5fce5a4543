"""Worked solutions are code that readers copy, so each runs after its chapter; and chapters open as CONTRIBUTING says."""

from __future__ import annotations

import os
import re
import shutil

import matplotlib
import nbformat
import pytest

from bnnlib.book import chapters, opening
from bnnlib.book.chapters import solutions, times
from bnnlib.book.pages import chapter

matplotlib.use("Agg")
# What a chapter is run with here; by default from the records. BNN_EXERCISES=quick runs all in their quick profile, as a reader
# who turns something does (minutes).
PROFILE = os.environ.get("BNN_EXERCISES", "stored")
GIVEN = {"one-binary-neuron": {"profile": "quick", "width": 20}}
# Chapters that do not open by the pattern yet.
OLDER: set[str] = set()
PATHS = {path.stem: path for path in chapters.sources()}
NAMES = sorted(PATHS.keys() - OLDER)


def cells(name: str, kind: str):
    return [cell for cell in nbformat.read(PATHS[name], as_version=4).cells if cell.cell_type == kind]


def prose(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name, "markdown"))


def run(name: str, **given) -> dict:
    """What a chapter's code cells leave behind."""
    import matplotlib.pyplot as plt

    names: dict = {}
    for cell in cells(name, "code"):
        exec(compile(cell.source, cell.id, "exec"), names)
        plt.close("all")
        if "parameters" in cell.metadata.get("tags", []):
            names.update(given)
    return names


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
@pytest.mark.parametrize("name", [name for name in NAMES if "{solution}" in prose(name)])
def test_a_chapters_solutions_run(name, capsys, tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("BNN_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("BNN_RUNS", str(tmp_path / "runs"))
    threads = torch.get_num_threads()
    try:
        names = run(name, **{"profile": PROFILE, **GIVEN.get(name, {})})
        for label, solution in solutions.find(prose(name)).items():
            capsys.readouterr()
            exec(compile(solution, f"solution {label}", "exec"), names)
            assert capsys.readouterr().out, label
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_a_solution_that_folds(name):
    text = prose(name)
    assert "## Exercises" in text
    asked = re.findall(r"^`{3,}\{exercise\} \S.*\n:label: (\S+)$", text, re.MULTILINE)
    assert asked and asked == list(solutions.find(text))
    assert text.count("{solution}") == len(re.findall(r"\{solution\} \S+\n:class: dropdown\n", text))


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_opens_with_question_cost_parameters_and_imports(name):
    notebook = nbformat.read(PATHS[name], as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    assert re.fullmatch(r"# \S.*\n\n\*\*The question\.\*\* [^#]*\?", notebook.cells[0].source)
    assert tags[1:4] == [["cost"], ["parameters"], ["imports"]]
    assert re.findall(r'^        "(\w+)": "', notebook.cells[1].source, re.MULTILINE) == list(chapters.PROFILES)
    assert sum("answer" in given for given in tags) == 1


def test_no_cell_gives_another_value_to_a_name_that_an_earlier_cell_reads():
    """A reader runs a cell again when the chapter is done: it must find what it found the first time."""
    found = []
    for name, path in PATHS.items():
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"] + solutions.as_cells(notebook)
        makes, takes = zip(*(chapter.names(cell.source) for cell in code), strict=True)
        for i, cell in enumerate(code):
            inherited = (takes[i] - makes[i]) & set().union(*makes[:i])
            for again, made in zip(code[i + 1 :], makes[i + 1 :], strict=True):
                found += [(name, cell.id, again.id, one) for one in sorted(inherited & made)]
    # this solution puts the function back
    assert {what for what in found if what[2:] != ("solution-ex-neuron-direction", "thresholds")} == set()


def test_older_chapters_are_those_that_are_there():
    assert OLDER <= PATHS.keys()


def test_the_page_has_the_answer_first_and_the_measured_time(tmp_path):
    path = tmp_path / "one.ipynb"
    box = opening.box("one", {"stored": "reads", "full": "trains"}, [], "", tmp_path)
    shown = {"text/markdown": box}
    empty = nbformat.v4.new_output("display_data", {"text/markdown": "", "text/plain": "<Markdown object>"})
    made = [
        nbformat.v4.new_markdown_cell("# One\n\n**The question.** Why?"),
        nbformat.v4.new_code_cell(
            "cost", metadata={"tags": ["cost"]}, outputs=[nbformat.v4.new_output("display_data", shown)]
        ),
        nbformat.v4.new_code_cell("p = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("late", metadata={"tags": ["answer"]}),
        nbformat.v4.new_code_cell("nothing", metadata={"tags": ["sentence"]}, outputs=[empty]),
    ]
    notebook = nbformat.v4.new_notebook(cells=made, metadata={"papermill": {"duration": 3.7}})
    nbformat.write(notebook, path)
    page = nbformat.reads(chapter.as_page(path).decode(), 4)
    assert [cell.source for cell in page.cells] == [made[0].source, "late", "cost", "p = 1", "nothing"]
    assert page.cells[4].outputs == []  # and not the name of an empty object
    assert "remove-input" in page.cells[1].metadata.tags and "hide-input" in page.cells[3].metadata.tags
    assert page.cells[3].metadata.mystnb.code_prompt_show == "Show the parameters"
    text = page.cells[2].outputs[0].data["text/markdown"]
    assert "| reads | 4 s |" in text and "| trains | – |" in text and "<!--" not in text


TEXT = """## Exercises

```{exercise} Twice
:label: ex-twice
Why?
```

````{solution} ex-twice
:class: dropdown

```python
print(2 * p)
```

So it is.
````

```{solution} ex-words
:class: dropdown
By symmetry.
```
"""


def test_a_folded_cell_that_shows_nothing_is_folded_with_the_one_below():
    shown = nbformat.v4.new_output("display_data", {"text/plain": "2"})

    def cells():
        tags = {"tags": ["hide-input"]}
        return [nbformat.v4.new_code_cell("a = 2", metadata=tags), nbformat.v4.new_code_cell("a", metadata=tags, outputs=[shown])]

    silent, loud = cells()
    assert [cell.source for cell in chapter.folded_together([silent, loud])] == ["a = 2\n\n\na"]
    silent, loud = cells()
    assert [cell.source for cell in chapter.folded_together([loud, silent])] == ["a", "a = 2"]


def test_a_solution_runs_after_its_chapter_and_the_page_shows_what_it_prints(tmp_path):
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "one.ipynb"
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    given = 'profile: str = "stored"  # how\nseed: int = 0  # which\np: int = 3  # a number'
    notebook.cells = [
        nbformat.v4.new_code_cell(given, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_markdown_cell(TEXT),
    ]
    nbformat.write(notebook, source)
    (outcome,) = chapters.run(["one"], root=tmp_path)
    assert outcome.error == ""
    done = chapters.read(outcome.output)
    assert [solutions.label_of(cell) for cell in done.cells if solutions.is_one(cell)] == ["ex-twice"]
    page = nbformat.reads(chapter.as_page(outcome.output).decode(), 4)
    assert not any(solutions.is_one(cell) for cell in page.cells)
    text = next(cell.source for cell in page.cells if cell.cell_type == "markdown")
    assert "print(2 * p)\n```\n\n````{code-block} text\n:class: printed\n6\n````\n\nSo it is.\n" in text
    assert solutions.find(text) == solutions.find(TEXT) == {"ex-twice": "print(2 * p)\n", "ex-words": ""}
    # What a reader of papermill's copy waits for is the chapter alone.
    whole = done.metadata.papermill.duration
    assert times.taken(done) == whole - done.cells[-1].metadata.papermill.duration < whole
    notebook.cells[1].source = TEXT.replace("print(2 * p)", "2 * p")
    nbformat.write(notebook, source)
    (outcome,) = chapters.run(["one"], root=tmp_path)
    assert "is the solution of ex-twice and prints nothing" in outcome.error


def test_code_that_the_page_needs_is_folded_and_not_left_out():
    def cell(name, source, *tags):
        return nbformat.v4.new_code_cell(source, id=name, metadata={"tags": list(tags)})

    cells = [
        cell("cost", "from a import b", "cost"),
        cell("first", "found = [x for x in range(3)]\nonce = 1", "sentence"),
        cell("second", "alone = found", "sentence"),
        cell("shown", "def f(once):\n    return once + sum(found)\n\n\nonce = 2"),
    ]
    assert chapter.needed(cells) == {"first"}
    assert chapter.needed([*cells, cell("last", "f(b)", "hide-input")]) == {"cost", "first"}


def test_the_cost_of_training_is_that_of_the_records(tmp_path, a_record):
    from bnnlib import records

    cpu, gpu = {"cpu": "A CPU", "threads": 2, "device": "cpu"}, {"gpu": "A GPU", "device": "cuda"}
    for seed, (seconds, hardware) in enumerate(((3600, cpu), (7200, cpu), (60, gpu))):
        record = a_record(seed=seed, wall_time_s=seconds, hardware=hardware)
        records.write(record, records.path_of(record.recipe, seed, tmp_path / "results" / "runs"))
    does = {"stored": "reads", "full": "trains"}
    box = opening.box("one", does, [record.recipe], "Data: none.", tmp_path)
    assert "| `full` | trains | 90 min (A CPU, 2 threads); or 60 s (A GPU) |" in box and "Data: none." in box
    assert "| `full` | trains | <!--full-->–<!--/--> |" in opening.box("one", does, ["nobody"], "", tmp_path)
    build = tmp_path / "build" / "chapters" / "quick"
    build.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(metadata={"papermill": {"duration": 41.0}}), build / "one.ipynb")
    assert opening.time_of("one", "quick", tmp_path) == "41 s" and opening.time_of("one", "demo", tmp_path) == "–"


def test_times_of_chapters_are_kept_for_who_has_not_run_them(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("one", "two"):
        nbformat.write(nbformat.v4.new_notebook(), tmp_path / "notebooks" / f"{name}.ipynb")
    build = tmp_path / "build" / "chapters" / "demo"
    build.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(metadata={"papermill": {"duration": 200.04}}), build / "one.ipynb")
    with pytest.raises(chapters.ChapterError, match="two: not executed in the profile demo; run `bnn chapters run --profile demo"):
        times.keep(["demo"], tmp_path)
    with pytest.raises(chapters.ChapterError, match="there is no profile 'dem': choose stored, quick, demo, full"):
        times.keep(["dem"], tmp_path)
    assert not (tmp_path / "results").exists()
    shutil.copy(build / "one.ipynb", build / "two.ipynb")
    kept = times.keep(["demo"], tmp_path)
    shutil.rmtree(tmp_path / "build")
    assert re.fullmatch(r"3 min \(.+, \d+ cores?\)", opening.time_of("two", "demo", tmp_path))
    assert opening.time_of("two", "quick", tmp_path) == opening.time_of("three", "demo", tmp_path) == "–"
    kept.write_text('{"date": "2026-11-29"}')
    with pytest.raises(chapters.ChapterError, match="chapters.json is no record of chapters' times"):
        opening.time_of("two", "demo", tmp_path)
