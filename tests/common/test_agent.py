"""load_agent: the paper's name picks the class out of a fixed table; every bad file gets one line."""

import sys
import types

import numpy as np
import pytest
import torch

from benchmarks.results import ROOT
from common import agent as agents
from common.agent import Agent, Dream, agent_class, load_agent
from common.checkpoint import load_file, save_file
from common.errors import UserError
from common.testing import FakeAgent


@pytest.fixture
def fake_paper(monkeypatch):
    module = types.ModuleType("fake_paper")
    module.FakeAgent = FakeAgent
    monkeypatch.setitem(sys.modules, "fake_paper", module)
    monkeypatch.setitem(agents.AGENTS, "fake_paper", "fake_paper:FakeAgent")


def test_file_and_run_folder_are_taken(fake_paper, tmp_path):
    save_file(tmp_path / "model.pt", {"paper": "fake_paper", "weights": {}})
    for path in (tmp_path, tmp_path / "model.pt", str(tmp_path)):
        assert isinstance(load_agent(path), FakeAgent)
    assert isinstance(load_agent(tmp_path), Agent)  # the protocol has all of its methods


@pytest.mark.parametrize("paper", ["paper9_unknown", "os:system", "fake_paper.agent:FakeAgent"])
def test_a_checkpoint_cannot_name_code(paper, tmp_path):
    save_file(tmp_path / "model.pt", {"paper": paper})
    with pytest.raises(UserError, match=r"unknown paper .* known are paper1_world_models"):
        load_agent(tmp_path)


def test_bad_files_get_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_agent(tmp_path / "nothing.pt")
    save_file(tmp_path / "model.pt", {"weights": {}})
    with pytest.raises(UserError, match="names no paper"):
        load_agent(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UserError, match="torn"):
        load_agent(tmp_path)


REFERENCE = sorted((ROOT / "solutions").rglob("model.pt"))


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.parent.name)
def test_the_reference_models_load(path):
    """A field that a config gains makes older files useless: then these have to be written anew."""
    assert isinstance(load_agent(path), Agent)


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.parent.name)
def test_weights_of_other_sizes_get_one_line(path, tmp_path):
    tree = load_file(path)
    grown = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: torch.stack((x, x)), tree["weights"])
    save_file(tmp_path / "model.pt", tree | {"weights": grown})
    with pytest.raises(
        UserError, match=f"does not fit this version of {tree['paper']} .* train again"
    ) as caught:
        load_agent(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_paper_or_package_that_is_not_here_is_named(monkeypatch):
    monkeypatch.setitem(agents.AGENTS, "paper_gone", "paper_gone.agent:Agent")
    with pytest.raises(UserError, match="paper_gone is not in this copy"):
        agent_class("paper_gone")

    def needs_a_package(name):
        raise ModuleNotFoundError("No module named 'cma'", name="cma")

    monkeypatch.setattr(agents.importlib, "import_module", needs_a_package)
    with pytest.raises(UserError, match="paper_gone needs cma: pip install cma"):
        agent_class("paper_gone")


def test_dream_checks_its_shapes():
    def make(image=np.uint8, rows=7):
        return Dream(
            {"image": np.zeros((2, rows, 4, 4, 3), image)}, np.zeros((2, 7)), 5, rew=np.zeros((2, 7))
        )

    assert make().check().horizon == 2
    with pytest.raises(AssertionError, match="uint8|float"):
        make(image=np.float32).check()
    with pytest.raises(AssertionError, match="image"):
        make(rows=6).check()
