"""The epochs, each network in its turn, and a run from start to end: stopped, resumed, made longer."""

import csv
import json

import numpy as np
import pytest
import torch

from common.checkpoint import RunState, load_file
from common.config import override
from common.errors import UserError
from common.faults import NonFiniteGuard
from common.replay_buffer import ReplayBuffer
from paper5_iris import train as module
from paper5_iris.agent import IrisAgent
from paper5_iris.encoded import EncodedRows
from paper5_iris.epochs import EpochRun
from paper5_iris.eval import main as evaluate
from paper5_iris.train import Learner, main, published
from tests.paper5_iris.conftest import IMAGE, SMALL

FLAGS = {
    **{"preset": "tiny", "device": "cpu", "steps": 60, "collect.steps": 10, "collect.extra_epochs": 2},
    **{"eval_every": 30, "eval_episodes": 2, "checkpoint_every": 30, "log_every": 1},
    **{"tokenizer.learn.start": 1, "tokenizer.learn.stop": 6, "tokenizer.learn.updates": 3},
    **{"tokenizer.learn.batch": 4, "tokenizer.revive_every": 2, "tokenizer.revive_until": 3},
    **{"world.learn.start": 2, "world.learn.updates": 2, "world.learn.batch": 2, "world.steps": 4},
    **{"actor.learn.start": 3, "actor.learn.updates": 2, "actor.learn.batch": 2},
    "image_size": 16,
}


def words(**more) -> list[str]:
    """The command line of a small run."""
    wanted = {**{k: v for k, v in SMALL.items() if k.startswith(("tokenizer", "world", "actor"))}, **FLAGS}
    out = []
    for name, value in {**wanted, **more}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            out.append(
                flag if value else "--" + ".".join([*flag[2:].split(".")[:-1], "no-" + flag.split(".")[-1]])
            )
        else:
            out += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return out


def weights(run) -> dict[str, torch.Tensor]:
    parts = load_file(run / "model.pt")["weights"]
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def same(one, other) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(autouse=True)
def no_links(monkeypatch):
    monkeypatch.setattr("common.online.link_latest", lambda *where: None)  # ./model.pt is the user's


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.online.link_latest", lambda *where: None)
        main(words(logdir=folder))
    return folder


# --- the schedule


def test_the_papers_gradient_steps(small):
    """600 epochs, of which the first 5, 25 and 50 leave a network alone (sheet 5.1)."""
    from paper5_iris.presets import PRESETS

    run = EpochRun.__new__(EpochRun)
    run.cfg, run.repeat, run.paper = PRESETS["paper"], 4, module.PAPER
    assert run.budget() == 400_000 and (run.playing, run.epochs) == (500, 600)
    assert {name: run.updates_of(name, 600) for name in run.done} == {
        "tokenizer": 119_000,
        "world": 115_000,
        "actor": 110_000,
    }
    assert run.updates_until(0) == 344_000 and run.end == 480_000
    assert [run.updates_of("world", epoch) for epoch in (25, 26, 27)] == [0, 200, 400]


def test_each_network_learns_in_its_turn_and_the_run_counts_on_without_play(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    seen = {
        name: [row["step"] for row in rows if f"loss/{name}" in row]
        for name in ("tokenizer", "world", "actor")
    }
    assert min(seen["tokenizer"]) == 20 and min(seen["world"]) == 30 and min(seen["actor"]) == 40
    assert max(seen["actor"]) == 70 > 60 >= max(seen["tokenizer"])  # its last epoch is the sixth
    step, parts = RunState(whole / "state").load()
    assert step == 80 and parts["learners"]["schedule"]["epoch"] == 8
    assert parts["learners"]["schedule"]["done"] == {"tokenizer": 15, "world": 12, "actor": 10}
    assert parts["counters"]["updates"] == 37 and parts["counters"]["policy_steps"] == 60
    with open(whole / "curve.csv", newline="") as file:
        curve = [(float(row["frames"]), float(row["updates"])) for row in csv.DictReader(file)]
    assert curve == [(30, 8), (60, 29), (60, 37)]
    adam = parts["learners"]["tokenizer"]["state"]
    assert {float(entry["step"]) for entry in adam.values()} == {15}


def test_published_counts(small):
    from common.spaces import Spaces
    from paper5_iris.presets import PRESETS

    for actions, world, actor in ((4, 8_447_493, 3_217_957), (18, 8_451_077, 3_225_139)):
        spaces = Spaces({"image": (64, 64, 3)}, actions, True)
        assert published(PRESETS["paper"], spaces) == {"tokenizer": 4_027_523, "world": world, "actor": actor}
        assert published(PRESETS["small_gpu"], spaces) == published(PRESETS["paper"], spaces)
        other = override(PRESETS["paper"], {"actor.trunk": "transformer"})
        assert published(other, spaces) is None
    assert published(PRESETS["paper"], IMAGE) is None


# --- resume


def test_a_resumed_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    """Broken off after a checkpoint within the play, and after one that follows it."""
    for name, at in (("early", 30), ("late", 60)):
        run, save = tmp_path / name, EpochRun.save

        def broken_off(self, save=save, at=at):
            save(self)
            if self.clock >= at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(EpochRun, "save", broken_off)
            with pytest.raises(KeyboardInterrupt):
                main(words(logdir=run))
        main(["--resume", str(run)])
        assert same(run, whole), name
        assert (run / "curve.csv").read_text().splitlines()[-1].split(",")[:3] == (
            (whole / "curve.csv").read_text().splitlines()[-1].split(",")[:3]
        )


def test_kept_rows_do_not_outlive_a_checkpoint(tmp_path, monkeypatch):
    """What a resumed run cannot know must not be used: the tokenizer rests, yet rows are computed anew."""
    forgotten, forget = [], EncodedRows.forget
    monkeypatch.setattr(EncodedRows, "forget", lambda self: forgotten.append(self.replay) or forget(self))
    flags = {"tokenizer.learn.stop": 2, "eval_every": 0, "checkpoint_every": 30}
    main(words(logdir=tmp_path / "run", **flags))
    assert len(forgotten) == 3 + 3  # three updates of the tokenizer, checkpoints at 30, 60 and the end


@pytest.mark.parametrize("name, left", [("tokenizer", 2), ("world", 1), ("actor", 1)])
def test_a_stop_within_an_epoch_goes_on_right_there(tmp_path, monkeypatch, name, left):
    """A signal comes in the middle of a network's turn: saved at once, no step is lost or done twice."""
    update, run = Learner.update, tmp_path / "run"

    def with_signal(self, which, encoded, done):
        metrics = update(self, which, encoded, done)
        if which == name and self.epoch == 5 and done % self.learn[name].updates == 0:
            guards[0].stop_requested = True
        return metrics

    guards, begin = [], EpochRun.start
    monkeypatch.setattr(EpochRun, "start", lambda self, **k: guards.append(self.guard) or begin(self, **k))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", with_signal)
        with pytest.raises(SystemExit) as stopped:
            main(words(logdir=run))
    assert stopped.value.code == 130
    _, parts = RunState(run / "state").load()
    assert parts["learners"]["schedule"]["epoch"] == 4
    full = {"tokenizer": 12, "world": 6, "actor": 4}[name]
    assert parts["learners"]["schedule"]["done"][name] == full - left
    main(["--resume", str(run)])
    _, parts = RunState(run / "state").load()
    left = {"epoch": 8, "done": {"tokenizer": 15, "world": 12, "actor": 10}}
    assert parts["learners"]["schedule"] == left | {"perceptual": False}
    assert parts["counters"]["policy_steps"] == 60


def test_an_evaluation_that_is_due_waits_for_the_resume(tmp_path, monkeypatch):
    """Whoever asks to stop in the middle of an epoch gets the state at once and no games."""
    update, run = Learner.update, tmp_path / "run"

    def with_signal(self, which, encoded, done):
        guards[0].stop_requested |= self.epoch == 5
        return update(self, which, encoded, done)

    guards, begin = [], EpochRun.start
    monkeypatch.setattr(EpochRun, "start", lambda self, **k: guards.append(self.guard) or begin(self, **k))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", with_signal)
        with pytest.raises(SystemExit):
            main(words(logdir=run, eval_every=50))
    assert not (run / "curve.csv").exists()
    main(["--resume", str(run)])
    with open(run / "curve.csv", newline="") as file:
        assert [float(row["frames"]) for row in csv.DictReader(file)] == [50, 60]


def test_a_run_that_learned_on_without_play_cannot_be_made_longer(whole, tmp_path):
    before = (whole / "state" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="learned on without play at 60 frames") as error:
        main(["--resume", str(whole), "--steps", "100"])
    assert "\n" not in str(error.value) and (whole / "state" / "manifest.json").read_bytes() == before
    run = tmp_path / "run"
    main(words(logdir=run, **{"collect.extra_epochs": 0}))
    main(["--resume", str(run), "--steps", "80"])
    assert RunState(run / "state").load()[1]["learners"]["schedule"]["epoch"] == 8


def test_a_resumed_run_keeps_its_loss(whole, monkeypatch):
    """Weights that appeared since would change what the tokenizer learns."""
    monkeypatch.setattr("paper5_iris.perceptual.load_perceptual", lambda *_: (lambda a, b: 0, "on"))
    before = (whole / "state" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="has not the perceptual loss, which is here now") as error:
        main(["--resume", str(whole)])
    assert "\n" not in str(error.value) and (whole / "state" / "manifest.json").read_bytes() == before


def test_settings_that_fit_no_epoch_are_refused(tmp_path):
    for flags, told in (
        ({"replay.capacity": 15}, "--replay.capacity 15"),
        ({"env": "CartPole-v1"}, "--obs pixels"),
        ({"perceptual": "on"}, "perceptual"),
    ):
        with pytest.raises(UserError, match=told) as error:
            main(words(logdir=tmp_path / "run", **flags))
        assert "\n" not in str(error.value)


def test_eval_plays_at_a_temperature_and_says_how_good_the_model_is(whole, tmp_path, capsys):
    evaluate(
        [
            "--checkpoint",
            str(whole),
            "--episodes",
            "3",
            "--render",
            "--temperature",
            "2",
            "--out",
            str(tmp_path),
        ]
    )
    text = (tmp_path / "eval.json").read_text()
    told = json.loads(text)
    assert "NaN" not in text and 0 <= told["copy_accuracy"] <= 1
    assert told["temperature"] == 2.0 and len(told["returns"]) == 3
    assert {
        "psnr",
        "perplexity",
        "token_accuracy",
        "rew_accuracy",
        "end_accuracy",
        "end_recall",
    } <= told.keys()
    assert [row["ahead"] for row in told["ahead"]] == [1, 2] and told["ahead"][0]["model"] >= 0
    assert 0 <= told["token_accuracy"] <= 1 and "token_accuracy" in capsys.readouterr().out
    with pytest.raises(UserError, match="--temperature"):
        evaluate(["--checkpoint", str(whole), "--temperature", "0"])


# --- the memory of open episodes


def test_the_memory_is_that_of_having_played_with_the_newest_networks(whole, monkeypatch):
    """Recalled at the start of an epoch from the rows of the open episodes (sheet 5.2)."""
    found, play = [], EpochRun.play

    def watched(run):
        ids, mask = run.recent()
        memory = run.agent.initial(len(ids))
        for t in range(mask.shape[1]):
            if mask[0, t]:
                image = run.replay.gather(ids[:1, t], ("image",))["image"]
                frame = run.agent.tokenizer.encode_decode(run.agent.frames(image))
                with torch.no_grad():
                    memory = run.agent.actor(frame, memory)[2]
        found.append((int(mask.sum()), torch.allclose(memory.hidden, run.memory.hidden, atol=1e-6)))
        play(run)

    monkeypatch.setattr(EpochRun, "play", watched)
    flags = {"collect.steps": 13, "steps": 91, "checkpoint_every": 1_000, "eval_every": 0, "actor.burn_in": 2}
    main(words(logdir=whole.parent / "open", **flags))
    assert all(same for _, same in found) and {rows for rows, _ in found} == {0, 1, 2}


# --- the learner


@pytest.fixture
def learner(networks, random_batch):
    """A learner with rows to learn from: learner(**changes) -> learner, encoded rows."""

    def make(**changes):
        net = networks(**changes)
        agent = IrisAgent(net.cfg, None, net.spaces)
        replay, rng = ReplayBuffer(200, net.spaces.fields(), seed=0), np.random.default_rng(0)
        for t in range(150):
            flags = {"is_first": [t % 7 == 0], "is_last": [t % 7 == 6], "is_terminal": [t % 7 == 6]}
            row = {
                "image": rng.integers(256, size=(1, 8, 8, 3), dtype=np.uint8),
                "act": rng.integers(3, size=1),
            }
            replay.add({**row, "rew": rng.normal(size=1), **{k: np.array(v) for k, v in flags.items()}})
        return Learner(agent, NonFiniteGuard()), EncodedRows(replay, "image", agent.tokenizer)

    return make


@pytest.mark.parametrize("name", ["tokenizer", "world", "actor"])
def test_an_update_moves_its_own_network_alone(learner, name):
    one, encoded = learner()
    before = {n: [p.clone() for p in part.parameters()] for n, part in one.agent.parts().items()}
    one.turn(name, 1, 2)
    assert [part.training for part in one.agent.parts().values()] == [n == name for n in before]
    metrics = one.update(name, encoded, 0)
    for other, part in one.agent.parts().items():
        moved = [not torch.equal(a, b) for a, b in zip(before[other], part.parameters(), strict=True)]
        assert all(moved) if other == name and name != "actor" else any(moved) == (other == name)
        assert all(p.grad is None for p in part.parameters())
    assert f"grad_norm/{name}" in metrics and all(np.isfinite(float(v)) for v in metrics.values())
    one.rest()
    assert not any(part.training for part in one.agent.parts().values())


@pytest.mark.parametrize("name", ["tokenizer", "world"])
def test_two_half_batches_are_a_whole_one(learner, name, monkeypatch):
    """The gradient of accumulated passes is that of their mean."""
    grads = []
    for accumulate in (1, 2):
        one, encoded = learner(**{f"{name}.learn.accumulate": accumulate})
        fixed = one.passes[name](encoded)
        monkeypatch.setitem(one.passes, name, lambda _, one=one, rows=encoded: again(one, name, rows))
        one.optimizers[name].apply = lambda *a, o=one.optimizers[name]: (
            grads.append([p.grad.clone() for p in o.parameters if p.grad is not None]) or {}
        )
        one.codes = one.codes[:1]
        one.turn(name, 1, 1)
        one.agent.parts()[name].eval()
        del fixed
        one.update(name, encoded, 0)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def again(one: Learner, name: str, encoded: EncodedRows):
    """The same batch at every pass."""
    encoded.replay.rng = np.random.default_rng(5)
    return getattr(Learner, f"{name}_pass")(one, encoded)


def test_the_learning_rate_follows_the_epoch(learner):
    one, _ = learner(**{"world.learn.start": 9, "world.learn.lr": 2e-3, "world.learn.lr_end": 5e-4})
    for epoch, lr in ((10, 2e-3), (36, 5e-4), (23, 1.25e-3)):
        one.turn("world", epoch, 36)
        assert [g["lr"] for g in one.optimizers["world"].adam.param_groups] == pytest.approx([lr, lr])
    decays = [g["weight_decay"] for g in one.optimizers["world"].adam.param_groups]
    assert decays == [0.01, 0.0]


def test_dead_codewords_move_when_it_is_time(learner):
    one, encoded = learner(**{"tokenizer.revive_every": 3, "tokenizer.revive_until": 5})
    told, quantizer = [], one.agent.tokenizer.quantizer
    quantizer.follow = lambda codes, revive: told.append(revive)
    for epoch, done in ((1, 0), (1, 1), (1, 2), (5, 5), (6, 8)):
        one.turn("tokenizer", epoch, 9)
        one.update("tokenizer", encoded, done)
    assert told == [False, False, True, True, False] and one.codes == []


def test_a_policy_learns_what_a_hand_made_world_pays(learner, monkeypatch):
    """Where action 1 alone is paid, it is taken: the pass from rows to gradient has its sign right."""
    from paper5_iris import imagination

    one, encoded = learner(**{"actor.learn.lr": 1e-2, "actor.learn.batch": 32, "actor.entropy": 0.0})
    step = imagination.Imagination.step

    def paid(self, act, want_frame=True):
        return step(self, act, want_frame)._replace(rew=(act == 1).float(), end=torch.zeros_like(act).bool())

    monkeypatch.setattr(imagination.Imagination, "step", paid)
    one.turn("actor", 1, 1)
    rewards = [float(one.update("actor", encoded, done)["imag/reward"]) for done in range(60)]
    assert np.mean(rewards[-5:]) > 0.9 > 0.6 > np.mean(rewards[:3])
