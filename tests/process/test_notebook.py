"""The notebook of the documentation, run by a real kernel in an empty folder."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first_analysis.ipynb"


@pytest.mark.slow("a kernel starts and trains on three ranks")
def test_notebook_runs_from_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"stop.seconds": 10', '"stop.seconds": 3')
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    results = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "execute_result"
    ]
    assert results[0] == "'finished'"
    assert re.search(r"version +env_steps", results[1])
    assert results[-1].startswith("['report.html', 'episode-")
    assert (tmp_path / "runs" / "notebook" / "report.html").stat().st_size > 1e6
