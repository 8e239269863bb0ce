"""Run the coursework's notebook on given faces: `make notebook [DATA=...]`, up to 24 minutes.

Writes the executed copy, also as one HTML page, to reports/ and logs both to MLflow, in the
experiment "pages". Keep those of real faces to yourself. `make notebook TO=pipelines` renews the
notebook of drawn faces there.
"""

import base64
from pathlib import Path

import nbclient
import nbformat

from agegender.registry import tracking
from agegender.show import pages

NOTEBOOK = Path(__file__).with_name("age_gender_submit.ipynb")


def run(*, data: Path | None = None, seed: int = 0, to: Path = Path("reports")) -> None:
    """Execute a copy and log it; if a cell fails, raise ValueError with its error."""
    notebook = with_parameters(nbformat.read(NOTEBOOK, as_version=4), data, seed)
    tracking.connect(Path.cwd())
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        on_cell_start=lambda cell, cell_index: print(
            f"{section(notebook, cell_index)} (cell {cell_index + 1} of {len(notebook.cells)})",
            flush=True,
        ),
    )
    to.mkdir(parents=True, exist_ok=True)
    path = to / NOTEBOOK.name
    try:
        name = f"notebook · {data.name if data else 'drawn faces'} · seed {seed}"
        tags = {"role": "notebook"}
        with tracking.run(name, experiment=tracking.PAGES, tags=tags) as run_id:
            client.execute()
            nbformat.write(without_notices(notebook), path)
            path.with_suffix(".html").write_text(page(notebook))
            for written in (path, path.with_suffix(".html")):
                tracking.log_file(run_id, written)
    except nbclient.exceptions.CellExecutionError as error:
        raise ValueError(str(error)) from error
    print(f"{path} and .html (run {run_id})")


def section(notebook: nbformat.NotebookNode, cell_index: int) -> str:
    """Return the heading above a cell; empty if there is none."""
    lines = [
        line
        for cell in notebook.cells[: cell_index + 1]
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    return lines[-1].lstrip("# ") if lines else ""


def page(notebook: nbformat.NotebookNode) -> str:
    """Return an executed notebook as one HTML page: text, code, printed output, pictures."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        is_code = cell.cell_type == "code"
        parts.append(f"```python\n{cell.source}\n```" if is_code else cell.source)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if images := [shown[kind] for kind in shown if kind.startswith("image/")]:
                pictures[f"picture{len(pictures)}"] = base64.b64decode(images[0])
                parts.append(f"![]({list(pictures)[-1]})")
            elif "text/markdown" in shown:
                parts.append(shown["text/markdown"])
            else:
                parts.append(f"```\n{output.get('text', shown.get('text/plain', ''))}\n```")
    return pages.html("\n\n".join(parts), pictures)


def with_parameters(
    notebook: nbformat.NotebookNode, data: Path | None, seed: int
) -> nbformat.NotebookNode:
    """Return the notebook with its parameters set and its outputs removed."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            about = "  # a folder, .zip or .tar.gz of UTKFace pictures; None draws faces"
            cell.source = f"data = {str(data) if data else None!r}{about}\nseed = {seed}"
    return notebook


def without_notices(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook without its standard error: progress, paths of this machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook
