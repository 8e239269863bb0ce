"""Run the coursework's notebook on given faces: `make notebook [DATA=...]`.

    python -m pipelines.run_notebook [--data PATH] [--seed 0] [--to reports]

Executes pipelines/age_gender_submit.ipynb: with drawn faces 24 minutes where others held both
cores, less on a free machine. The executed copy is written to reports/ and logged to MLflow, in the
experiment "pages"; of real faces it is for your own eyes. The repository's copy is the one of
drawn faces: `python -m pipelines.run_notebook --to pipelines` renews it.
"""

import argparse
from pathlib import Path

import nbclient
import nbformat

from agegender.registry import tracking

NOTEBOOK = Path(__file__).with_name("age_gender_submit.ipynb")


def main(argv: list[str] | None = None) -> Path:
    """Execute a copy, log it, return where it is; status 2 with the error of a cell that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder, .zip or .tar.gz of UTKFace pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("reports"))
    arguments = parser.parse_args(argv)
    notebook = with_parameters(
        nbformat.read(NOTEBOOK, as_version=4), arguments.data, arguments.seed
    )
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
    arguments.to.mkdir(parents=True, exist_ok=True)
    path = arguments.to / NOTEBOOK.name
    try:
        tags = {"role": "notebook"}
        with tracking.run("notebook", experiment=tracking.PAGES, tags=tags) as run_id:
            client.execute()
            nbformat.write(without_notices(notebook), path)
            tracking.log_file(run_id, path)
    except nbclient.exceptions.CellExecutionError as error:
        parser.exit(2, f"agegender: {error}\n")
    print(f"{path} (run {run_id})")
    return path


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


if __name__ == "__main__":
    main()
