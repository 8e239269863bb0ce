"""Run the coursework's notebook on given faces: `make notebook [DATA=...]`, up to 24 minutes.

The executed copy is written to reports/ and logged to MLflow, in the experiment "pages"; keep one
of real faces to yourself. `make notebook TO=pipelines` renews the one of drawn faces there.
"""

from pathlib import Path

import nbclient
import nbformat

from agegender.registry import tracking

NOTEBOOK = Path(__file__).with_name("age_gender_submit.ipynb")


def run(*, data: Path | None = None, seed: int = 0, to: Path = Path("reports")) -> None:
    """Execute a copy and log it; ValueError with the error of a cell that failed."""
    notebook = with_parameters(nbformat.read(NOTEBOOK, as_version=4), data, seed)
    tracking.connect(Path.cwd())
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        on_cell_start=lambda cell, cell_index: print(
            f"cell {cell_index + 1} of {len(notebook.cells)}", flush=True
        ),
    )
    to.mkdir(parents=True, exist_ok=True)
    path = to / NOTEBOOK.name
    try:
        tags = {"role": "notebook"}
        with tracking.run("notebook", experiment=tracking.PAGES, tags=tags) as run_id:
            client.execute()
            nbformat.write(without_notices(notebook), path)
            tracking.log_file(run_id, path)
    except nbclient.exceptions.CellExecutionError as error:
        raise ValueError(str(error)) from error
    print(f"{path} (run {run_id})")


def with_parameters(
    notebook: nbformat.NotebookNode, data: Path | None, seed: int
) -> nbformat.NotebookNode:
    """Return the notebook with its cell of parameters set and without outputs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            about = "  # a folder, .zip or .tar.gz of UTKFace pictures; None draws faces"
            cell.source = f"data = {str(data) if data else None!r}{about}\nseed = {seed}"
    return notebook


def without_notices(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook without what went to standard error: progress, paths of a machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook
