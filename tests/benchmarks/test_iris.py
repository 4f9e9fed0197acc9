"""benchmarks/iris.py: FLOP of the sheet, the plain loop against what is kept, projections."""

import json

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import iris, iris_epoch
from benchmarks.iris import SPACES
from benchmarks.iris_plain import PlainImagination
from benchmarks.iris_subjects import CASES, PIECES, Iris, count, preset, random_lpips, random_replay
from common.config import override, resolve
from common.errors import UserError
from common.seeding import seed_everything
from common.spaces import Spaces
from paper5_iris.imagination import Imagination
from paper5_iris.presets import PRESETS, SUITES

ENCODER, ENCODE, DECODE = 1_794_834_432, 1_811_611_648, 2_936_864_768
GPT, POLICY = 6_662_604_800, 46_404_608
CATCH = Spaces({"image": (16, 16, 3)}, 3, True)
SMALL = {"precision": "fp32", "collect.steps": 12, "eval_episodes": 3} | {
    f"{name}.learn.{key}": value
    for name in ("tokenizer", "world", "actor")
    for key, value in {"updates": 2, "batch": 2}.items()
}


def small(**changes):
    """The tiny preset at batch 2."""
    return override(resolve(PRESETS, SUITES, "tiny", "toy_catch")[0], SMALL | changes)


@pytest.fixture(scope="module")
def replay():
    return random_replay(1_000, SPACES)


def awake(subject: Iris):
    """Large random weights of the world model: what was said matters more than where.  -> the agent"""
    for p in subject.agent.world.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return subject.agent


def paper(**changes):
    return override(preset("atari_breakout"), {"precision": "fp32", **changes})


# --- FLOP


def test_the_networks_have_the_flop_of_the_sheet(replay):
    subject = Iris(paper(), SPACES, replay)
    tokenizer, world, actor = subject.agent.parts().values()
    frame, code = torch.rand(1, 64, 64, 3).permute(0, 3, 1, 2), torch.zeros(1, 512, 4, 4)
    tokens, act = torch.zeros(1, 20, 16).long(), torch.zeros(1, 20).long()
    for function, flop in (
        (lambda: tokenizer.encoder(frame), ENCODER),
        (lambda: tokenizer.encode(frame), ENCODE),
        (lambda: tokenizer.decode(code), DECODE),
        (lambda: world(tokens, act), GPT),
        (lambda: actor(frame, actor.initial(1)), POLICY),
    ):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            function()
        assert counter.get_total_flops() == flop


def test_an_update_has_the_flop_of_its_parts(replay):
    """Of a row of the batch: encode, dream, decode, rest."""
    assert count(paper(), SPACES, replay, "tokenizer") == pytest.approx([0, 0, 0, 14.21e9], rel=1e-3)
    vgg = count(paper(), SPACES, replay, "tokenizer", vgg=True)[3]
    assert vgg == pytest.approx(14.21e9 + 2.506e9 + 5.011e9, rel=1e-3)
    for plain in (False, True):
        world = count(paper(), SPACES, replay, "world", plain=plain)
        assert world.tolist() == [20 * ENCODE, 0, 0, 3 * GPT]  # forward once, backward twice as much


def test_a_dream_has_the_flop_of_its_passes(replay):
    """Two steps: a frame of 16 tokens, then reward and end alone."""
    cfg, D, layers = paper(**{"actor.horizon": 2, "actor.burn_in": 3}), 256, 10
    heads = {"obs": 2 * (D * D + 512 * D), "rew": 2 * (D * D + 3 * D), "end": 2 * (D * D + 2 * D)}

    def passed(rows: int, seen: int, layers: int = layers) -> int:
        return layers * (24 * D * D * rows + 4 * D * rows * seen)

    def only_kept(rows: int, seen: int) -> int:  # of the last layer keys and values
        return passed(rows, seen, layers - 1) + 4 * D * D * rows

    ends, tokens = heads["rew"] + heads["end"], 16 * heads["obs"]
    kept, plain = (count(cfg, SPACES, replay, "actor", plain=is_plain) for is_plain in (False, True))
    said = [17, *range(18, 33), 34]  # positions that somebody listens to
    assert plain[1] == sum(passed(length, length) for length in said) + 2 * ends + tokens
    one_by_one = sum(passed(1, length) for length in said) + only_kept(16, 16) + only_kept(1, 33)
    assert kept[1] == pytest.approx(one_by_one + 2 * ends + tokens, rel=0.01)
    assert kept[0] == plain[0] == 3 * (ENCODE + DECODE) + ENCODE  # what was seen, and where it starts
    assert kept[2] == plain[2] == 2 * DECODE
    assert kept[3] == plain[3] == pytest.approx(3 * POLICY + 2 * 0.130e9, rel=0.01)


def test_what_is_known_is_not_encoded_again(replay):
    subject = Iris(paper(**{"world.learn.batch": 1}), SPACES, replay).turn("world")
    subject.rows.known["tokens"][:], subject.rows.tokens[:] = np.arange(len(replay)), 0
    subject.rows.forget = lambda: None
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as subject.counter:
        assert subject.measure()[:, 2].tolist() == [0, 0, 0, 3 * GPT]


def test_vgg16():
    lpips = random_lpips(torch.device("cpu"))
    assert sum(p.numel() for p in lpips.trunk.parameters()) == 14_714_688
    assert sum(head.numel() for head in lpips.heads) == 1_472
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    assert lpips(picture, picture).tolist() == [0, 0] and (lpips(picture, -picture) > 0).all()


def test_a_call_within_a_charged_call_is_its_part():
    subject, now = object.__new__(Iris), [0.0]
    subject.is_charging, subject.clocks = False, lambda: [now[0]] * 3
    outer, inner = np.zeros(3), np.zeros(3)

    def work(seconds):
        now[0] += seconds

    within = subject.charged(work, inner)
    subject.charged(lambda: (work(1), within(2)), outer)()
    within(4)
    assert outer.tolist() == [3] * 3 and inner.tolist() == [4] * 3
    with pytest.raises(TypeError):
        within()
    assert not subject.is_charging


# --- the plain loop


def test_the_plain_loop_hears_what_the_cache_hears():
    """Logits of reward, end and every token, with draws of the same generator, over all steps of a dream."""
    seed_everything(0)
    net = awake(Iris(small(), CATCH, random_replay(20, CATCH)))
    starts, acts = torch.randint(6, (5, 16)), torch.randint(3, (4, 5))
    found = []
    for kind in (Imagination, PlainImagination):
        world, logits = kind(net.tokenizer, net.world, generator=torch.Generator().manual_seed(1)), []
        pick = world.pick
        world.pick = lambda logit, pick=pick, logits=logits: logits.append(logit) or pick(logit)
        world.reset(starts)
        steps = [world.step(act, want_frame=i < 3) for i, act in enumerate(acts)]
        found.append((logits, steps, world.frame()))
    (kept, steps, frame), (plain, others, other) = found
    assert len(kept) == len(plain) == 3 * (2 + 16) + 2
    for a, b in zip(kept, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for a, b in zip(steps, others, strict=True):
        assert torch.equal(a.rew, b.rew) and torch.equal(a.end, b.end)
        torch.testing.assert_close(a.end_prob, b.end_prob, atol=1e-5, rtol=1e-4)
        assert (a.tokens is None and b.tokens is None) or torch.equal(a.tokens, b.tokens)
    assert torch.equal(frame, other)
    assert (kept[0] - kept[18]).abs().max() > 0.1  # the second step is another one


@pytest.mark.parametrize("name", ["world", "actor"])
def test_updates_of_the_plain_loop_learn_the_same(name):
    metrics = []
    for plain in (False, True):
        seed_everything(0)
        cfg = small(**{f"{name}.learn.batch": 16})
        subject = Iris(cfg, CATCH, random_replay(50, CATCH), plain=plain).turn(name)
        awake(subject)
        seed_everything(1)
        metrics.append(subject.learner.update(name, subject.rows, 0))
    kept, others = ({key: float(value) for key, value in found.items()} for found in metrics)
    assert kept == pytest.approx(others, rel=1e-2, abs=1e-4)  # kept frames are float16


def test_plain_rows_are_the_kept_ones():
    seed_everything(0)
    rows = random_replay(30, CATCH)
    kept, plain = (Iris(small(), CATCH, rows, plain=is_plain) for is_plain in (False, True))
    plain.agent.tokenizer.load_state_dict(kept.agent.tokenizer.state_dict())
    ids = np.array([[3, 4, 5], [9, 3, 4]])
    assert torch.equal(kept.rows.tokens_of(ids), plain.rows.tokens_of(ids))
    frames = kept.rows.frames_of(ids)
    torch.testing.assert_close(frames, plain.rows.frames_of(ids), atol=1e-3, rtol=0)
    assert frames.shape == (2, 3, 3, 16, 16) and torch.equal(frames[0, 0], frames[1, 1])


# --- the epoch


def test_a_run_does_so_much():
    cfg = preset("atari_boxing")
    assert iris_epoch.epochs_of(cfg) == (500, 600)
    assert iris_epoch.times(cfg) == {
        "play": 100_000,
        "evaluate": 120 * 1_785,
        **{"tokenizer": 119_000, "world": 115_000, "actor": 110_000},
    }
    assert iris_epoch.asked(cfg, "world") == 256_000 and iris_epoch.asked(cfg, "actor") == 268_800
    hours = iris_epoch.project(cfg, {"play": 0.018, "tokenizer": 0.36, "world": 0.036, "actor": 3.6})
    assert hours == pytest.approx(
        {"play": 0.5, "evaluate": 0, "tokenizer": 11.9, "world": 1.15, "actor": 110}
    )
    split = override(cfg, {"world.learn.batch": 32, "world.learn.accumulate": 2, "num_envs": 2})
    assert iris_epoch.asked(split, "world") == 256_000 and iris_epoch.times(split)["play"] == 50_000


def test_the_share_of_new_rows():
    drawn = np.random.default_rng(0).integers(500, size=(300, 800))
    shares = [len(np.unique(rows)) / 800 for rows in drawn]
    assert iris_epoch.new_share(500, 800) == pytest.approx(np.mean(shares), abs=2e-3)
    assert iris_epoch.new_share(10**9, 800) == pytest.approx(1)
    cfg = preset("atari_boxing")
    full, start = (iris_epoch.new_share(rows, 256_000) for rows in (100_000, 26 * 200))
    whole = sum(iris_epoch.new_share(200 * min(i, 500), 256_000) for i in range(26, 601)) / 575
    assert iris_epoch.run_share(cfg, "world") == pytest.approx(whole) and start < whole < full


def test_an_epoch_in_small():
    """The code of the CUDA epoch, on the CPU."""
    cfg = small()
    seconds, rate = iris_epoch.epoch(cfg, "cpu", 60)
    assert seconds.keys() == iris_epoch.times(cfg).keys() and min(seconds.values()) > 0 and rate > 0


def test_hours_of_a_game():
    cfg = preset("atari_boxing")
    seconds = {"play": 0.018, "evaluate": 0.0, "tokenizer": 0.36, "world": 0.036, "actor": 0.36}
    flop = {"tokenizer": np.array([0, 0, 0, 1e12]), "actor": np.array([5e12, 1e12, 1e12, 0])}
    row = iris_epoch.row(cfg, seconds, flop, 1e14, 100_000)
    assert row["hours"] == 24.55 and row["actor_h"] == 11 and row["tokenizer_ms"] == 360
    assert row["of_published"] == pytest.approx(24.55 / 84, abs=1e-3)
    least = (119_000 * 1e-2 + 110_000 * (2 + 5 * iris_epoch.new_share(100_000, 268_800)) * 1e-2) / 3600
    assert row["flop_h"] == pytest.approx(least, abs=0.01)
    assert row["times_flop"] == pytest.approx(24.55 / least, abs=0.01)


# --- the script


class Stub:
    """What `table` asks of a subject."""

    def __init__(self, name):
        self.name = name

    def units(self, part):
        return {"dream": 10, "decode": 5, "encode": 4}[part]


def test_the_table():
    """The parts of an update take 1, 2, 3, 4 CPU-seconds, plain twice as much; a GEMM does 49 GFLOP/s."""
    labels = [(f"{name}, {way}", case.name) for name, case in CASES.items() for way in case.ways]
    ours = {label: Stub(name) for label, name in labels}
    parts = np.array([1.0, 2, 3, 4])
    flop = dict.fromkeys(ours, 1e9 * parts)
    found = {}
    for label in ours:
        times = 2 if label.endswith("plain") else 1
        spans = [np.stack([times * scale * parts] * 3, 1) for scale in (0.5, 1, 3)]
        found[label] = np.array(spans), np.full(3, 49e9)
    rows = iris.table(ours, flop, found, is_short=False)
    share = iris_epoch.run_share(preset("atari_breakout"), "world")
    world = rows["world model, batch 8, eager"]
    assert world["cpu_ms"] == pytest.approx(1000 * (9 + share), abs=1e-2)
    assert world["all_new_ms"] == 10_000 and world["encode_ms"] == 1_000 and world["rest_ms"] == 4_000
    assert world["gflop"] == pytest.approx(9 + share, abs=1e-3) and world["times_flop"] == 49
    assert world["of_plain"] == pytest.approx((9 + share) / 20, abs=1e-3)
    assert world["of_authors"] == pytest.approx((9 + share) / (2 * 8.29), abs=1e-3)  # at half the rate
    assert rows["world model, batch 8, plain"]["cpu_ms"] == 20_000
    assert rows["tokenizer, batch 8, eager"]["cpu_ms"] == 10_000
    assert "of_authors" not in rows["actor-critic, batch 1, eager"]
    token = rows["a token dreamed, batch 8, eager"]
    assert token["cpu_ms"] == 200 and token["per_cpu_s"] == 5 and token["gflop"] == 0.2
    assert token["of_plain"] == 0.5 and token["of_authors"] == pytest.approx(0.2 * 490 / 2, rel=1e-3)
    assert rows["a frame decoded, eager"]["cpu_ms"] == 600 and rows["a frame encoded, plain"]["cpu_ms"] == 500
    recorded = {label: row for label, row in rows.items() if "authors' code" in label}
    assert len(recorded) == len(CASES) - 1 + len(PIECES)
    assert next(iter(recorded.values()))["cpu_ms"] == pytest.approx(3080)
    lines = iris.verdicts(rows)
    assert [line.split(":")[0] for line in lines] == list(iris.AIMS)
    ratio = (9 + share) / (2 * 8.29)
    assert f"{ratio:.2f} of the authors' CPU-seconds, aim 0.45; {10 / 2 / 8.29:.2f} if all rows" in lines[0]
    assert "times the tokens per CPU-second, aim 3" in lines[2]
    assert not any("of_authors" in row for row in iris.table(ours, flop, found, is_short=True).values())


def test_quick_run(tmp_path, capsys):
    out = tmp_path / "speed" / "iris.json"
    out.parent.mkdir()
    out.write_text(json.dumps({"about": "", "cpu": {"rows": {}}, "cuda": {"rows": {"kept": {}}}}))
    iris.main(["--quick", "--device", "cpu", "--out", str(out)])
    data = json.loads(out.read_text())
    assert data["cuda"] == {"rows": {"kept": {}}} and data["cpu"]["machine"]["cores"] > 0
    rows = data["cpu"]["rows"]
    ways = {"eager": len(CASES) + len(PIECES), "plain": 3 + len(PIECES), "compiled": 0}
    for way, number in ways.items():
        assert len([label for label in rows if label.endswith(way)]) == number
    for row in rows.values():
        assert min(row["cpu_ms"], row["wall_ms"], row["gflop"], row["gemm_gflops"], row["times_flop"]) > 0
        if "encode_ms" in row:
            parts = row["dream_ms"] + row["decode_ms"] + row["rest_ms"]
            assert parts + row["encode_ms"] == pytest.approx(row["all_new_ms"], abs=0.3)
            assert parts + row["new_share"] * row["encode_ms"] == pytest.approx(row["cpu_ms"], abs=0.3)
        assert "of_authors" not in row  # three steps are no comparison
    assert rows["a token dreamed, batch 8, eager"]["gflop"] < rows["a token dreamed, batch 8, plain"]["gflop"]
    printed = capsys.readouterr().out
    assert all(label in printed for label in rows)


def test_where_it_measures(monkeypatch, tmp_path, capsys):
    """Without CUDA the epoch is left out with a line; with it both ways are projected."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(iris, "measure", lambda args: {})
    monkeypatch.setattr(iris, "show", lambda rows: None)
    iris.main(["--quick"])
    assert "no CUDA device: the hours of a game are left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="--device cuda: torch .* sees no CUDA device here"):
        iris.main(["--device", "cuda"])

    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    calls = []

    def epoch(cfg, device, stored):
        calls.append((cfg.precision, cfg.compile, cfg.world.learn.batch, device, stored))
        return dict.fromkeys(iris_epoch.times(cfg), 0.036), 1e14

    monkeypatch.setattr(iris_epoch, "epoch", epoch)
    monkeypatch.setattr(iris_epoch, "spaces_of", lambda cfg: SPACES)
    monkeypatch.setattr(iris, "count", lambda *args, **kinds: np.array([0, 0, 0, 1e10]))
    monkeypatch.setattr(iris, "random_replay", lambda *args: None)
    rows = iris.epochs(quick=False)
    assert calls == [("bf16", False, 64, "cuda", 100_000), ("bf16", True, 64, "cuda", 100_000)]
    total = sum(iris_epoch.times(preset("atari_boxing")).values()) * 1e-5
    assert [row["hours"] for row in rows.values()] == [pytest.approx(total, abs=0.01)] * 2
    assert rows["CUDA bf16"]["flop_h"] == pytest.approx(
        (119_000 * 256 + (115_000 + 110_000) * 64) * 1e-4 / 3600, abs=0.01
    )
    iris.show_hours(rows)
    assert f"CUDA bf16: {total:.1f} hours per game, at most 21, aim 8" in capsys.readouterr().out


def test_bad_input_is_one_line():
    with pytest.raises(UserError, match="--rounds 0"):
        iris.main(["--rounds", "0"])
