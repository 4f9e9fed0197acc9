"""Checkpoints: what is refused and how, full disks, kills at any moment, resume to the last bit."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from common.atomic import atomic_write, write_json
from common.checkpoint import FORMAT, RunState, find_checkpoint, load_file, save_file
from common.errors import UserError

MODEL = {
    "paper": "paper1_world_models",
    "config": {"vae": {"latent": 32, "lr": 1e-4}, "names": ["a", "b"], "none": None, "flag": True},
    "env": {"name": "toy_dodge", "options": {"size": 64}},
    "weights": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.uint8)},
    "extra": {"rng": np.random.default_rng(3).bit_generator.state, "tuple": (1, "x", b"bytes")},
}


class Spy:
    """Pickles into a call: what a malicious checkpoint is made of."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.fixture
def model(tmp_path):
    save_file(tmp_path / "model.pt", MODEL)
    return tmp_path / "model.pt"


@pytest.fixture
def disk_of():
    """Callable: from now on no file may grow beyond that many bytes, a real failure of the real write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refusal(path, **options) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(UserError) as error:
        load_file(path, **options)
    line = str(error.value)
    assert "\n" not in line and str(path) in line and ": " in line
    return line


def test_round_trip(model):
    tree = load_file(model, paper="paper1_world_models")
    assert tree.keys() == {"format", *MODEL} and tree["format"] == FORMAT
    assert {k: tree[k] for k in ("paper", "config", "env", "extra")} == {
        k: MODEL[k] for k in ("paper", "config", "env", "extra")
    }
    for name, value in MODEL["weights"].items():
        assert tree["weights"][name].dtype == value.dtype and torch.equal(tree["weights"][name], value)


def test_arrays_come_back_as_tensors_and_slices_stay_small(tmp_path):
    frozen = np.arange(12, dtype=np.uint16).reshape(3, 4)[::-1].T
    frozen.flags.writeable = False
    tree = {
        "array": frozen,
        "number": np.float32(0.5),
        "zero": np.array(7),
        "slice": torch.zeros(1_000_000)[:2],
    }
    tree["parameter"] = torch.nn.Parameter(torch.ones(2))
    save_file(tmp_path / "f.pt", tree)
    back = load_file(tmp_path / "f.pt")
    np.testing.assert_array_equal(np.asarray(back["array"]), frozen)
    assert back["array"].dtype == torch.uint16 and back["number"] == 0.5 and back["zero"].shape == ()
    assert (tmp_path / "f.pt").stat().st_size < 10_000
    assert not back["parameter"].requires_grad


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.nn.Linear(1, 1), np.array([object()])])
def test_what_could_not_be_read_back_is_not_written(model, value):
    before = model.read_bytes()
    with pytest.raises(TypeError):
        save_file(model, {"weights": {"w": value}})
    assert model.read_bytes() == before and os.listdir(model.parent) == ["model.pt"]


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "weights": Spy()}, tmp_path / "zip.pt")
    assert "could run code" in refusal(tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Spy()))
    assert "not a checkpoint" in refusal(tmp_path / "raw.pt")
    torch.save({"format": 1, "weights": Spy()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "not a checkpoint" in refusal(tmp_path / "old.pt")
    assert not (tmp_path / "hacked").exists()


def test_torn_files_are_refused(model):
    """Cut anywhere, or one bit flipped anywhere: refused, or (in a gap that nothing reads) all the same."""
    whole = model.read_bytes()
    torn = model.with_name("torn.pt")
    rng = np.random.default_rng(0)
    for length in [0, 1, 2, len(whole) - 1, *rng.integers(3, len(whole) - 1, 60)]:
        torn.write_bytes(whole[:length])
        assert "torn" in refusal(torn) or length == 1
    same = 0
    for place in rng.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        torn.write_bytes(damaged)
        try:
            tree = load_file(torn)
        except UserError:
            continue
        same += 1
        assert torch.equal(tree["weights"]["w"], MODEL["weights"]["w"]) and tree["config"] == MODEL["config"]
    assert same < 100


def test_foreign_newer_and_missing_files(tmp_path, model):
    for name, tree in {"list.pt": [1], "bare.pt": {"w": torch.ones(1)}, "text.pt": {"format": "x"}}.items():
        torch.save(tree, tmp_path / name)
        assert "not a checkpoint of this repository" in refusal(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello", "world")
    (tmp_path / "words.pt").write_text("hello")
    for name in ("zip.pt", "words.pt"):
        assert "not a checkpoint of this repository" in refusal(tmp_path / name)
    torch.save({"format": FORMAT + 1}, tmp_path / "new.pt")
    assert "git pull" in refusal(tmp_path / "new.pt")
    assert "paper1_world_models" in refusal(model, paper="paper2_dreamerv1")
    assert "no checkpoint file" in refusal(tmp_path / "nothing.pt")


def test_find_checkpoint(tmp_path, model):
    assert find_checkpoint(model) == find_checkpoint(tmp_path) == model
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing.pt"):
        with pytest.raises(UserError, match="train.py"):
            find_checkpoint(path)


def big(value: float) -> dict:
    """A tree of 400 kB."""
    return {"weights": torch.full((100_000,), value)}


def test_a_full_disk_keeps_the_last_good_file(tmp_path, disk_of):
    save_file(tmp_path / "model.pt", big(1.0))
    disk_of(100_000)
    with pytest.raises(UserError, match="disk full .* free some space"):
        save_file(tmp_path / "model.pt", big(2.0))
    assert os.listdir(tmp_path) == ["model.pt"]
    assert load_file(tmp_path / "model.pt")["weights"][0] == 1.0


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_at_the_last_moment(tmp_path, monkeypatch, call):
    """Some file systems say so only when the data are forced out, or the name is changed."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "a.json", {"x": 1})
    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="disk full"):
        write_json(tmp_path / "a.json", {"x": 2})
    assert os.listdir(tmp_path) == ["a.json"] and "1" in (tmp_path / "a.json").read_text()


def test_an_unwritable_place_and_a_failing_writer(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another place"):
        save_file(tmp_path / "file" / "model.pt", {})
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "other") as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["file"]


def test_run_state_keeps_the_last_two_versions(tmp_path):
    state = RunState(tmp_path)
    assert state.load() is None and state.next_version == 1
    for step in (0, 10, 20):
        state.save(step, {"model": {"w": torch.full((2,), float(step))}, "counters": [step]})
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "v000002", "v000003"]
    step, parts = RunState(tmp_path).load()
    assert step == 20 and parts["counters"] == [20] and parts["model"]["w"].tolist() == [20.0, 20.0]


def test_stages_do_not_touch_each_other(tmp_path):
    outer = RunState(tmp_path)
    for stage in ("vae", "rnn", "controller"):
        for step in range(3):
            RunState(tmp_path / stage).save(step, {"model": stage})
            outer.save(step, {"model": "all"})
    for stage in ("vae", "rnn", "controller"):
        assert RunState(tmp_path / stage).load() == (2, {"model": stage})


def test_a_torn_version_falls_back_and_is_not_counted_among_the_last_two(tmp_path, caplog):
    state = RunState(tmp_path)
    state.save(1, {"model": 1})
    state.save(2, {"model": 2})
    (tmp_path / "v000002/model.pt").write_bytes(b"PK")
    state = RunState(tmp_path)
    assert state.load() == (1, {"model": 1}) and "falling back from step 2" in caplog.text
    state.save(3, {"model": 3})
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "v000001", "v000003"]
    (tmp_path / "v000003/model.pt").unlink()
    assert RunState(tmp_path).load() == (1, {"model": 1})
    (tmp_path / "v000001/model.pt").unlink()
    with pytest.raises(UserError, match="start this run anew"):
        RunState(tmp_path).load()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99, "versions": []}'])
def test_a_damaged_manifest(tmp_path, text):
    RunState(tmp_path).save(1, {"model": 1})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="git pull" if "99" in text else "damaged"):
        RunState(tmp_path)


def test_a_full_disk_keeps_the_last_version(tmp_path, disk_of):
    state = RunState(tmp_path)
    state.save(1, {"small": 1, "model": big(1.0)})
    disk_of(100_000)
    with pytest.raises(UserError, match="disk full"):
        state.save(2, {"small": 2, "model": big(2.0)})
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "v000001"]
    assert RunState(tmp_path).load()[0] == 1
    disk_of(10_000_000)
    state.save(2, {"small": 2, "model": big(2.0)})  # the same object goes on when there is room again
    assert RunState(tmp_path).load()[0] == 2


def test_external_files(tmp_path):
    state = RunState(tmp_path)
    for step in range(4):
        files = {}
        for name in ("shared", f"new{step}"):
            with atomic_write(tmp_path / "replay" / name) as file:
                file.write(name.encode())
            files[tmp_path / "replay" / name] = file.sha256
        state.save(step, {"model": step}, files=files)
    assert sorted(os.listdir(tmp_path / "replay")) == ["new2", "new3", "shared"]
    (tmp_path / "replay/new3").write_bytes(b"torn")
    assert RunState(tmp_path).load() == (2, {"model": 2})
    with pytest.raises(ValueError):
        state.save(9, {}, files={tmp_path.parent / "elsewhere": "0"})


def train(steps: int, state: RunState, every: int = 5) -> list[float]:
    """A small training with Adam and a schedule, checkpointed; resumes where the state ends."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    optim = torch.optim.Adam(model.parameters(), 0.01)
    rng, done, losses = np.random.default_rng(2), 0, []
    if (found := state.load()) is not None:
        done, parts = found
        model.load_state_dict(parts["model"])
        optim.load_state_dict(parts["optim"])
        torch.set_rng_state(parts["rng"]["torch"])
        rng.bit_generator.state = parts["rng"]["numpy"]
        losses = parts["losses"]
    for step in range(done, steps):
        x = torch.from_numpy(rng.standard_normal((4, 3), np.float32))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(loss.item())
        if (step + 1) % every == 0:
            rngs = {"torch": torch.get_rng_state(), "numpy": rng.bit_generator.state}
            parts = {"model": model.state_dict(), "optim": optim.state_dict(), "rng": rngs, "losses": losses}
            state.save(step + 1, parts)
    return losses


def test_resume_is_bit_exact(tmp_path):
    straight = train(40, RunState(tmp_path / "straight"))
    train(
        18, RunState(tmp_path / "killed")
    )  # the three steps after the last checkpoint are lost and done again
    assert train(40, RunState(tmp_path / "killed")) == straight


TORTURE = """
import os, signal, sys, time
import numpy as np, torch
import common.replay_storage
from common.checkpoint import RunState
from common.replay_buffer import ReplayBuffer
common.replay_storage.CHUNK_BYTES = 240
folder, kills = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
FLAGS = {"is_first": ((), bool), "is_last": ((), bool)}
FIELDS = {"vector": ((4,), np.int64), "latent": ((2,), np.int64), **FLAGS}

def load():
    state, replay = RunState(folder), ReplayBuffer(40, FIELDS, 2)
    found = state.load()
    if found is None:
        return state, replay, 0
    step, parts = found
    replay.restore(state.folder / "replay", parts["replay"])
    # Everything that one version holds was written in the same step.
    rows = replay.gather(np.arange(step * 6 * 2, (step + 1) * 6 * 2)[-min(len(replay), 12):])
    assert parts["model"]["w"].tolist() == [step] * 3000 and parts["counters"] == {"step": step}, step
    assert (replay.storage.arrays["latent"] == step).all(), (step, replay.storage.arrays["latent"])
    assert (rows["vector"] == step).all() and len(replay) == min(40, (step + 1) * 12)
    return state, replay, step + 1

def loop(acknowledge):
    state, replay, step = load()
    while True:
        for t in range(6):  # the ring of 20 rows overwrites itself all the time ...
            flags = {"is_first": np.full(2, t == 0), "is_last": np.full(2, t == 5)}
            replay.add({"vector": np.full((2, 4), step), "latent": np.full((2, 2), step), **flags})
        replay.storage.write(np.arange(40), {"latent": np.full((40, 2), step)})  # ... and so do the latents
        tree, files = replay.save(state.folder / "replay", state.next_version)
        parts = {"model": {"w": torch.full((3000,), float(step))}, "counters": {"step": step}, "replay": tree}
        state.save(step, parts, files=files)
        os.write(acknowledge, step.to_bytes(4, "big"))
        step += 1

rng, reached = np.random.default_rng(int(sys.argv[3])), -1
for kill in range(kills):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        loop(write)
    os.close(write)
    told = os.read(read, 4) if kill % 4 else b""  # every fourth is killed while it starts or first saves
    time.sleep(rng.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told += os.read(read, 1 << 16)
    os.close(read)
    reached = max(reached, int.from_bytes(told[-4:], "big") if told else -1)
    state, _, following = load()
    assert following > reached, (following, reached)  # nothing that was acknowledged is lost
assert reached > kills // 2, reached
print("survived", reached)
"""


def test_kill_9_at_any_moment(tmp_path):
    """Full ring overwrites and latents written back, killed again and again: every state is of one piece."""
    command = [sys.executable, "-c", TORTURE, str(tmp_path / "state"), "20", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.startswith("survived"), done.stderr[-2000:]
    assert len(list(tmp_path.glob("state/v*"))) <= 3  # two versions and the torn one
