"""The notebook: the kept copy can be read with its outputs; another is run with its parameters."""

import re
from pathlib import Path

import mlflow
import nbformat
import pytest

from agegender.registry import tracking
from pipelines import run_notebook

STEPS = ("20 photos", "Split", "Preprocess", "Build A", "Train A", "curves", "Build B", "Train B")


def test_the_kept_copy_was_run_to_its_end_on_drawn_faces():
    notebook = nbformat.read(run_notebook.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert run_notebook.NOTEBOOK.stat().st_size < 2**20
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image" in kind for output in outputs for kind in output.get("data", {})) >= 10
    assert "data = None" in notebook.cells[1].source
    # Nothing of the machine on which it was run.
    assert not re.search(r"/(home|root|tmp|usr|Users|work)\b", nbformat.writes(notebook))


def test_it_goes_the_steps_of_the_coursework_in_order():
    notebook = nbformat.read(run_notebook.NOTEBOOK, as_version=4)
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    steps = (*STEPS, "Evaluate", "Conclusion")
    places = [told.index(step, told.index("## 1.")) for step in steps]
    assert places == sorted(places)


def test_the_page_of_the_kept_copy_holds_its_texts_code_and_pictures():
    notebook = nbformat.read(run_notebook.NOTEBOOK, as_version=4)
    page = run_notebook.page(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    drawn = sum(any("image/" in kind for kind in o.get("data", {})) for o in outputs)
    assert page.count("<img ") == drawn and page.count('<code class="language-python">') == sum(
        cell.cell_type == "code" for cell in notebook.cells
    )
    assert run_notebook.section(notebook, 0) == "Age and gender from faces"
    assert run_notebook.section(notebook, len(notebook.cells) - 1) == "11. Conclusion"
    # Each is a place in the contents.
    headings = [cell.source.split("\n")[0] for cell in notebook.cells if "## " in cell.source[:3]]
    assert page.count("<a href=") == len(headings)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A notebook of one cell beside its parameters, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(source):
        parameters = nbformat.v4.new_code_cell("data = 'none'", metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(source)]
        path = tmp_path / "small.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        monkeypatch.setattr(run_notebook, "NOTEBOOK", path)

    return make


def only_run():
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name(tracking.PAGES).experiment_id])
    return found


@pytest.mark.system
def test_a_run_takes_its_parameters_and_is_kept(small, tmp_path):
    small("import sys\nprint(data, seed)\nprint('no' 'tice', file=sys.stderr)")
    run_notebook.run(data=Path("my faces"), seed=3, to=Path("out"))
    executed = nbformat.read(tmp_path / "out" / "small.ipynb", as_version=4)
    assert [output.text for output in executed.cells[1].outputs] == ["my faces 3\n"]
    assert only_run().info.status == "FINISHED"
    assert len(list(tmp_path.glob("mlruns/artifacts/pages/*/artifacts/small.*"))) == 2
    page = (tmp_path / "out" / "small.html").read_text()
    assert "my faces 3" in page and "notice" not in page and "sys.stderr" in page


@pytest.mark.system
def test_a_cell_that_fails_is_said_and_leaves_no_copy(small, tmp_path):
    small("raise ValueError('no such faces')")
    with pytest.raises(ValueError, match="no such faces"):
        run_notebook.run(to=Path("out"))
    assert not list((tmp_path / "out").iterdir())
    assert only_run().info.status == "FAILED"
