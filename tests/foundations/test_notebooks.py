"""Every notebook runs, and shows what its script says."""

import jupytext
import pytest

from foundations.notebooks import build

NAMES = [
    "00-environment",
    "01-mdp",
    "02-pomdp",
    "03-learning_world_models",
    "04-neural-dynamics",
    "05-dyna-dqn",
    "06-transformer-dreams",
]


def test_the_seven_are_there():
    assert build.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_with_small_budgets(name):
    notebook = build.execute(name, quick=True)
    shown = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert not [out for out in shown if out.output_type == "error"]
    assert any("text" in out or "text/markdown" in out.get("data", {}) for out in shown)


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_are_a_pair(name):
    """Change the script, then run `python -m foundations.notebooks.build NAME`."""
    script, notebook = (jupytext.read(build.FOLDER / f"{name}.{kind}") for kind in ("py", "ipynb"))
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in script.cells
    ]
    pictures = [
        o
        for c in notebook.cells
        for o in c.get("outputs", ())
        if {"image/png", "image/gif"} & set(o.get("data", {}))
    ]
    assert len(pictures) >= 1  # embedded, so that a reader who runs nothing sees them
    assert (build.FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000


def test_a_failing_cell_is_named(monkeypatch, tmp_path):
    (tmp_path / "99-broken.py").write_text(
        "# %%\nprint('before')\n\n# %%\nraise ValueError('the cell says so')\n"
    )
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match="99-broken.*the cell says so|the cell says so"):
        build.execute("99-broken", quick=True)
