"""An executed chapter as its page: what the tags of its cells mean there, and what a page has no use for.

``parameters`` and ``imports`` are folded. Of ``cost`` and ``sentence`` only what the cell puts out is shown. ``answer`` is
a sentence that stands below the chapter's question, however late its numbers are computed.
"""

from __future__ import annotations

from pathlib import Path

import nbformat

from bnnlib.book import chapters, opening

FOLDED = {"parameters": "parameters", "imports": "imports"}
OUTPUT_ALONE = {"cost", "sentence", "answer"}


def as_page(path: Path, profile: str = "stored") -> bytes:
    """The notebook at ``path`` as Jupyter Book takes it, less papermill's timings and its injected cell."""
    notebook = chapters.read(path)
    seconds = {profile: notebook.metadata.papermill.duration}
    notebook.metadata = {
        key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata
    }
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        if OUTPUT_ALONE & set(tags):
            tags.append("remove-input")
        for what in FOLDED.keys() & set(tags):
            tags.append("hide-input")
            prompts = {"code_prompt_show": f"Show the {what}", "code_prompt_hide": f"Hide the {what}"}
            cell.metadata["mystnb"] = {**prompts, **cell.metadata.get("mystnb", {})}
        if cell.cell_type == "code":  # a sentence with nothing to say is an empty Markdown: no output, not its name
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/markdown", "said").strip()]
        if "cost" in tags:
            for output in cell.outputs:
                if shown := output.get("data", {}).get("text/markdown"):
                    output.data["text/markdown"] = opening.with_times(shown, seconds)
    # The sort keeps the order of equals: the question first, then the answer, then all the rest.
    answers = ["answer" in cell.metadata.get("tags", []) for cell in notebook.cells]
    order = sorted(range(len(answers)), key=lambda i: i > 0 and 2 - answers[i])
    notebook.cells = [notebook.cells[i] for i in order]
    return nbformat.writes(notebook).encode()
