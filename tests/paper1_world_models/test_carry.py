"""The controller stage to go: small enough for every preset, and the run goes on from just these files."""

import json
import shutil

import numpy as np
import pytest
import torch

from common.checkpoint import RunState, load_file
from common.cli import save_config
from common.config import override, resolve
from common.errors import UserError
from common.loop import COLUMNS
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.carry import LIMIT, carry
from paper1_world_models.dream import Starts
from paper1_world_models.evolve import Basis, Evolution
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rollout_games import env_spec
from paper1_world_models.train import main, new_agent, train

ROUNDED = [("paper", "doom_takecover"), ("paper", "BipedalWalker-v3"), ("gpu", "BipedalWalker-v3")]


def run_of(cfg, folder, generation=1):
    """A run folder of this size, its controller stage begun; the weights are random."""
    agent = new_agent(cfg, env_spec(cfg), "cpu")
    agent.stage = "controller"
    agent.starts = Starts(*torch.randn(2, cfg.dream.starts, cfg.vae.latents))
    features = np.random.default_rng(0).standard_normal((300, agent.controller.features))
    pca = cfg.evolve.basis == "pca"
    basis = Basis.pca(features, agent.controller) if pca else Basis(None, agent.controller.size)
    evolution = Evolution(basis.size, cfg.evolve.population, cfg.evolve.sigma, 0)
    evolution.ask()
    evolution.tell(np.arange(cfg.evolve.population))
    rows = [dict.fromkeys(COLUMNS, 1.5)] * 100  # a curve of 100 scores
    state = {"evolution": evolution.state_dict(), "basis": basis.matrix, "frames": 0, "curve": rows}
    RunState(folder / "state" / "controller-00").save(generation, state | {"spent": [0.0, 0.0]})
    agent.save(folder / "model.pt")
    save_config(folder, cfg, paper="paper1_world_models", preset="x")


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("env", ["toy_dodge", "CarRacing-v3", "doom_takecover", "BipedalWalker-v3"])
def test_what_is_carried_is_at_most_8_mb(tmp_path, preset, env):
    run_of(resolve(PRESETS, SUITES, preset, env)[0], tmp_path / "run")
    told = carry(tmp_path / "run", tmp_path / "carried")
    assert size(tmp_path / "carried") <= LIMIT == 8e6
    assert ("rounded" in told) == ((preset, env) in ROUNDED)


@pytest.mark.parametrize(
    "preset, env",
    [*((preset, "toy_dodge") for preset in PRESETS), ("paper", "CarRacing-v3"), ("paper", "doom_takecover")],
)
def test_the_controller_goes_on_from_the_carried_files_alone(tmp_path, preset, env):
    """Networks of the preset's size, a small generation."""
    cfg, _ = resolve(PRESETS, SUITES, preset, env)
    few = {"evolve.population": 4, "evolve.rollouts": 1, "evolve.max_steps": 3, "evolve.patience": 0}
    few |= {"evolve.eval_episodes": 1, "evolve.slots": 4, "dream.max_steps": 5, "num_envs": 1, "threads": 1}
    few |= {"env_options": {**cfg.env_options, "max_steps": 20}} if env == "CarRacing-v3" else {}
    cfg = override(cfg, {**few, "generations": 2, "first_generations": 0, "iterations": 1})
    run_of(cfg, tmp_path / "run")
    carry(tmp_path / "run", tmp_path / "carried")
    shutil.rmtree(tmp_path / "run")
    main(["--resume", str(tmp_path / "carried"), "--stage", "controller"])
    state = json.loads((tmp_path / "carried" / "state" / "controller-00" / "manifest.json").read_text())
    assert state["versions"][-1]["step"] == 2
    assert not any("decoder" in name for name in load_file(tmp_path / "carried" / "model.pt")["weights"])


@pytest.fixture(params=["real", "dream"])
def begun(request, tmp_path, small):
    """Config and folder of a run with one generation."""
    more = {"train_in": "dream", "evolve.basis": "pca"} if request.param == "dream" else {}
    cfg, folder = small(generations=1, **more), tmp_path / "run"
    train(cfg, folder, "cpu", "all")
    save_config(folder, cfg, paper="paper1_world_models", preset="tiny")
    return cfg, folder


def test_there_and_back_are_the_same_bits(begun):
    cfg, run = begun
    there, stayed = run.parent / "there", run.parent / "stayed"
    shutil.copytree(run, stayed)
    assert "bit for bit" in carry(run, there)
    main(["--resume", str(there), "--stage", "controller", "--generations", "2"])
    train(override(cfg, {"generations": 3}), stayed, "cpu", "all")
    shutil.rmtree(run / "state" / "controller-00")
    shutil.copytree(there / "state" / "controller-00", run / "state" / "controller-00")
    main(["--resume", str(run), "--generations", "3"])
    ours, theirs = (load_file(folder / "model.pt")["weights"] for folder in (run, stayed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_cannot_be_carried_or_drawn_is_one_line(begun, small):
    cfg, run = begun
    there = run.parent / "there"
    for flags in (["--carry", str(there)], ["--stage", "controller", "--logdir", str(there)]):
        with pytest.raises(UserError, match="of which run"):
            main(["--preset", "tiny", *flags])
    assert not there.exists()
    (run.parent / "file").touch()
    with pytest.raises(UserError, match="--carry .*file: cannot be written"):
        carry(run, run.parent / "file" / "there")
    main(["--resume", str(run), "--carry", str(there)])
    with pytest.raises(UserError, match="is there already"):
        carry(run, there)
    with pytest.raises(UserError, match="add --stage controller"):
        main(["--resume", str(there)])
    agent = WorldModelsAgent.load(there)
    with pytest.raises(UserError, match="draws nothing"):
        agent.decode(torch.zeros(1, 4))
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    agent.act({"image": frames, "is_first": np.ones(1, bool)}, agent.initial(1))  # it plays
    shutil.rmtree(run / "state" / "controller-00")
    if cfg.evolve.basis == "pca":
        with pytest.raises(UserError, match="pca looks at the collected frames"):
            carry(run, run.parent / "other")
    early = run.parent / "early"
    train(small(), early, "cpu", "vae")
    with pytest.raises(UserError, match="M is not trained yet"):
        carry(early, run.parent / "other")
