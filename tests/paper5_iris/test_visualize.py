"""The pictures: each shows what it says, for any window, kind of action and number of channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.dreams import Episode, Window
from common.env_wrapper import EnvSpec
from common.frames import annotate, grid
from common.seeding import seed_everything
from common.spaces import Spaces
from paper5_iris import visualize
from paper5_iris.agent import IrisAgent
from paper5_iris.quality import quality
from paper5_iris.sample import dream_on
from paper5_iris.tokenizer import to_images
from paper5_iris.visualize import FUTURES, Scene, main, palette
from tests.paper5_iris.conftest import spread

KINDS = {
    "choices": Spaces({"image": (8, 8, 3)}, 3, True),
    "numbers": Spaces({"image": (8, 8, 1)}, 2, False),
}
EACH = pytest.mark.parametrize("kind", KINDS)
PANEL = 162  # 8 pixels enlarged to 160, and the frame around them


@pytest.fixture(scope="module")
def make(small):
    """An agent of a kind whose networks say something."""

    def agent(kind: str = "choices", **more) -> IrisAgent:
        seed_everything(0)
        one = IrisAgent(small(**more), EnvSpec("toy_catch"), KINDS[kind])
        for p in one.world.parameters():
            torch.nn.init.normal_(p, std=0.3)
        spread(one.tokenizer)
        return one

    return agent


def look(spaces: Spaces, lengths=(4, 9, 6), T: int = 9, context: int = 2, seed: int = 0) -> Window:
    """Random real rows, as many per sequence as `lengths` says; what is behind them repeats the last one."""
    rng, B = np.random.default_rng(seed), len(lengths)
    last = np.minimum(np.arange(T), np.array(lengths)[:, None] - 1)
    values = {
        "image": rng.integers(256, size=(B, T, *spaces.obs["image"]), dtype=np.uint8),
        "act": spaces.random(rng, B * T).reshape(B, T, *(() if spaces.discrete else (spaces.act,))),
        "rew": rng.integers(-1, 2, (B, T)).astype(np.float32),
        "is_first": np.tile(np.arange(T) == 0, (B, 1)),
        "is_terminal": np.arange(T) == np.array(lengths)[:, None] - 1,
    }
    values = {name: value[np.arange(B)[:, None], last] for name, value in values.items()}
    return Window({"image": values.pop("image")}, **values, mask=np.arange(T) == last, context=context)


def tokens_of(agent: IrisAgent, window: Window) -> torch.Tensor:
    return agent.tokenizer.tokenize(agent.frames(window.obs["image"])).unflatten(0, window.mask.shape)


def scene_of(agent: IrisAgent, window: Window) -> Scene:
    return Scene(agent, window, tokens_of(agent, window))


@pytest.fixture
def shown(monkeypatch):
    """What is drawn, by the name of its file: clips and figures, in place of the files."""
    found = {}

    def keep(path, what):
        found[path.name] = what
        return path

    monkeypatch.setattr(visualize, "write_video", lambda path, clip, **_: keep(path, clip))
    monkeypatch.setattr(visualize, "save_figure", lambda figure, path: keep(path, figure))
    return found


@EACH
def test_a_scene_is_the_longest_sequence_without_what_is_behind_its_end(make, kind):
    agent, window = make(kind), look(KINDS[kind], (4, 7, 6))
    scene, real = scene_of(agent, window), tokens_of(agent, window)
    assert torch.equal(scene.tokens, real[1, :7]) and scene.frames.shape == (7, PANEL, PANEL, 3)
    assert (scene.frames[:, 1:-1:20, 1:-1:20] == window.obs["image"][1, :7]).all()
    assert (scene.act == window.act[1, :7]).all() and (scene.rew == window.rew[1, :7]).all()
    assert scene.end.tolist() == 6 * [False] + [True]
    assert scene.times == ["seen 1", "seen 2", *(f"dream +{i}" for i in range(1, 6))]


@EACH
def test_tokens_are_seen_as_what_they_stand_for_and_as_squares_in_their_place(make, kind):
    agent = make(kind)
    scene, tokens = scene_of(agent, look(KINDS[kind])), torch.randint(8, (9, 4))
    pictures = to_images(agent.tokenizer.decode_tokens(tokens)).numpy()
    assert (scene.decoded(tokens)[:, 1:-1:20, 1:-1:20] == pictures).all()
    squares = scene.squares(tokens)[:, 1:-1, 1:-1]
    for k in range(4):
        y, x = 80 * (k // 2), 80 * (k % 2)  # tokens are read row by row
        assert (squares[:, y : y + 80, x : x + 80] == palette(8)[tokens[:, k], None, None]).all()


@pytest.mark.parametrize("vocab", [2, 6, 512, 1024])
def test_no_two_tokens_have_the_same_colour(vocab):
    assert len(np.unique(palette(vocab), axis=0)) == vocab


def panels(clip: np.ndarray, count: int) -> list[np.ndarray]:
    """What stands side by side below two lines of text."""
    return [clip[:, 36 : 36 + PANEL, x : x + PANEL] for x in range(0, count * (PANEL + 4), PANEL + 4)]


@EACH
def test_truth_and_dream_stand_beside_their_tokens(make, kind, shown, tmp_path):
    agent = make(kind)
    scene = scene_of(agent, look(KINDS[kind]))
    dream = dream_on(agent, scene.tokens, scene.act, 2, 0)[0]
    files = visualize.token_views(scene, dream, tmp_path)
    wanted = [scene.frames, scene.squares(scene.tokens), scene.decoded(scene.tokens)]
    wanted += [scene.squares(dream), scene.decoded(dream)]
    for panel, expected in zip(panels(shown["tokens.mp4"], 5), wanted, strict=True):
        assert (panel == expected).all()
    same = (scene.tokens == dream).sum(-1).tolist()
    assert same[:2] == [4, 4] and same != 9 * [4]
    line = annotate(np.zeros((0, 5 * (PANEL + 4) - 4, 3), np.uint8), f"dream +3: {same[4]} of 4 tokens agree")
    assert (shown["tokens.mp4"][4, :18] == line).all()
    strip = np.asarray(Image.open(files[1]))  # eight of nine rows: the last that was seen, all that follow
    assert strip.shape == (5 * (PANEL + 36), 8 * (PANEL + 2) - 2, 3)
    for line, clip in enumerate(wanted):
        top = line * (PANEL + 36) + 36
        assert (strip[top : top + PANEL] == grid(clip[1:], columns=8)).all()


@EACH
def test_the_token_map_has_the_real_tokens_above_the_dreamed_ones(make, kind, shown, tmp_path):
    agent = make(kind)
    scene = scene_of(agent, look(KINDS[kind]))
    dream = dream_on(agent, scene.tokens, scene.act, 2, 0)[0]
    visualize.token_map(scene, dream, tmp_path)
    above, below = shown["token_map.png"].axes
    assert (above.images[0].get_array() == palette(8)[scene.tokens.T]).all()
    assert (below.images[0].get_array() == palette(8)[dream.T]).all()
    assert f"{int((scene.tokens == dream)[2:].sum())} of 28" in below.get_title()
    marks = {style: [x.get_xdata()[0] + 0.5 for x in below.lines if x.get_ls() == style] for style in "-:"}
    world, flushed = agent.imagination(), []
    world.reset(scene.tokens[None, 1])
    for t in range(2, 9):
        before = world.flushes
        world.step(agent.tensor(scene.act)[None, t - 1])
        flushed += [t] * (world.flushes - before)
    assert marks == {"-": [2], ":": flushed} and len(flushed) == 3


def test_continuations_are_other_draws_and_say_what_is_predicted(make, shown, tmp_path):
    agent = make("numbers")
    scene = scene_of(agent, look(KINDS["numbers"]))
    dreams = {seed: dream_on(agent, scene.tokens, scene.act, 2, seed) for seed in range(3, 3 + FUTURES)}
    visualize.continuations(scene, dreams, tmp_path)
    clip, height, cells = shown["continuations.mp4"], PANEL + 3 * 18, []
    for i in range(6):
        y, x = i // 3 * (height + 4), i % 3 * (PANEL + 4)
        cells.append(clip[:, y : y + height, x : x + PANEL])
    assert (cells[0][:, 36:-18] == scene.frames).all()
    for cell, (seed, (tokens, rew, end)) in zip(cells[1:], dreams.items(), strict=True):
        assert (cell[:, 36:-18] == scene.decoded(tokens)).all()
        nothing = np.zeros((0, PANEL, 3), np.uint8)
        assert (cell[:, :18] == annotate(nothing, f"dream with seed {seed}")).all()
        assert (cell[5, -18:] == annotate(nothing, f"rew {rew[5]:+.2g}  end {end[5]:.2f}")).all()
        assert (cell[:2, -18:] == annotate(nothing, "")).all()  # of what it has seen it says nothing
        assert (cell[:2, 36:-18] == scene.decoded(scene.tokens)[:2]).all()
    assert len({cell[4:, 36:-18].tobytes() for cell in cells}) == 6


def test_the_codebook_counts_its_words(make, shown, tmp_path):
    visualize.codebook(
        make(), torch.tensor([[5, 5, 5, 2], [5, 2, 0, 0], [5, 5, 2, 2], [5, 5, 0, 0]]), tmp_path
    )
    ax = shown["codebook.png"].axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.25, 0.25, 0, 0, 0, 0, 0]
    colors = np.array([bar.get_facecolor()[:3] for bar in ax.patches[:3]])
    np.testing.assert_allclose(colors, palette(8)[[5, 0, 2]] / 255)
    assert ax.get_title() == "4 frames: perplexity 2.8 of 8, 5 dead codes"  # exp(1.5 log 2)


@EACH
def test_attention_goes_to_the_steps_of_real_stretches(make, kind):
    agent = make(kind)
    found = visualize.real_stretches(agent, look(KINDS[kind], (3, 9, 5)))
    assert [batch["act"].shape[1] for batch in found] == [2, 3, 3, 2, 3, 1]  # of 3 steps at most
    shares = visualize.attention_shares(agent, found)
    assert shares.shape == (2, 4, 3) and shares.std() > 0.003
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    by_hand = []
    for batch in (found[1], found[2], found[4]):
        weights = agent.world.transformer.attention(agent.world.embed(batch["tokens"], batch["act"]))
        last = weights[:, 0, :, 14].detach().numpy()  # the third action, of 15 positions
        by_hand.append(np.stack([last[..., :5].sum(-1), last[..., 5:10].sum(-1), last[..., 10:].sum(-1)], -1))
    np.testing.assert_allclose(shares, np.mean(by_hand, 0), rtol=1e-5)


def test_the_picture_of_attention_has_a_line_per_head(shown, tmp_path):
    shares = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4))
    visualize.attention(shares, tmp_path)
    ax = shown["attention.png"].axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), shares.reshape(8, 3))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-2", "-1", "now"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["layer 1", "layer 2"]


@EACH
def test_teacher_forced_hits_are_those_of_the_quality(make, kind):
    """The same numbers as in eval.json, place by place and step by step."""
    agent, window = make(kind), look(KINDS[kind])
    hits, rewards = visualize.teacher_forced(agent, visualize.real_stretches(agent, window))
    episodes = []
    for b, rows in enumerate(window.mask.sum(1)):
        columns = (window.act, window.rew, window.is_first, window.is_terminal, window.is_terminal)
        obs = {"image": window.obs["image"][b, :rows]}
        episodes.append(Episode(obs, *(column[b, :rows] for column in columns)))
    expected = quality(agent, episodes)
    model, copied = hits  # 3, 3 + 3 + 2 and 3 + 2 steps
    assert model.shape == (6, 3, 4)
    assert np.isnan(model).sum() == 6 + 4 * 2 and np.isnan(model[:, 0, 0]).all()
    assert np.nanmean(model) == pytest.approx(expected["token_accuracy"])
    assert np.nanmean(model[..., 0]) == pytest.approx(expected["first_token_accuracy"])
    assert np.nanmean(model[..., 3]) == pytest.approx(expected["last_token_accuracy"])
    assert rewards.sum() == 16 and np.trace(rewards) / 16 == pytest.approx(expected["rew_accuracy"])
    real = np.concatenate([episode.rew[1:] for episode in episodes])
    assert rewards.sum(1).tolist() == [(real == r).sum() for r in (-1, 0, 1)]
    tokens = tokens_of(agent, window).numpy()
    assert np.isnan(copied[:, 0]).all() and (copied[0, 1] == (tokens[0, 1] == tokens[0, 0])).all()
    assert (copied[2, 1:] == (tokens[1, 4:6] == tokens[1, 3:5])).all()


def test_accuracy_by_place_by_step_and_of_rewards(shown, tmp_path):
    hits = np.full((2, 2, 3, 4), np.nan)
    hits[0, 0] = [[np.nan, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    hits[0, 1, :2] = [[np.nan, 1, 1, 0], [0, 1, 0, 0]]
    hits[1, 0, 1:] = [[0, 0, 0, 1], [1, 1, 1, 1]]
    rewards = np.array([[0, 0, 0], [1, 7, 2], [3, 0, 1]])
    visualize.accuracy(hits, rewards, 2, tmp_path)
    place, step, reward = shown["token_accuracy.png"].axes
    np.testing.assert_allclose(place.images[0].get_array(), [[0.67, 1], [0.4, 0]])
    np.testing.assert_allclose(step.lines[0].get_ydata(), [3 / 6, 3 / 8, 3 / 4])
    np.testing.assert_allclose(step.lines[1].get_ydata()[1:], [1 / 4, 1])
    assert [text.get_text() for text in reward.texts] == list("000172301")
    shares = np.ma.filled(reward.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shares, [[0, 0, 0], [0.1, 0.7, 0.2], [0.75, 0, 0.25]])
    assert [label.get_text() for label in reward.get_yticklabels()] == ["-1", "0", "1"]
    visualize.accuracy(hits, np.diag([0, 5, 0]), 2, tmp_path)
    assert len(shown["token_accuracy.png"].axes) == 2  # no rewards, no table


@pytest.mark.parametrize(("kind", "lengths"), [("choices", (1, 1)), ("numbers", (1, 2)), ("choices", (9, 4))])
def test_any_window_can_be_drawn(make, kind, lengths, shown, tmp_path):
    agent = make(kind, **({"world.reward_head": "mse"} if kind == "numbers" else {}))
    window = look(KINDS[kind], lengths, context=5)
    files = visualize.extras(agent, window, tmp_path, visualize.Args(seed=1))
    names = ["tokens.mp4", "tokens.png", "token_map.png", "continuations.mp4", "continuations.png"]
    names += ["codebook.png", "attention.png", "token_accuracy.png"]
    assert [file.name for file in files] == (names[:6] if lengths == (1, 1) else names)
    assert shown["codebook.png"].axes[0].get_title().startswith(f"{sum(lengths)} frames")
    if lengths == (9, 4):
        clip, tall = shown["continuations.mp4"], PANEL + 3 * 18 + 4
        cells = [clip[:, y + 36 : y + 36 + PANEL] for y in (0, tall)]
        dreams = [
            cell[:, :, x : x + PANEL].tobytes() for cell in cells for x in (0, PANEL + 4, 2 * PANEL + 8)
        ]
        assert len(set(dreams)) == 6  # the real one, and five seeds
    if kind == "numbers":
        assert len(shown["token_accuracy.png"].axes) == 2  # the head tells numbers: nothing to confuse


def test_the_script_draws_an_untrained_checkpoint(small, tmp_path, capsys):
    spec = EnvSpec("toy_catch", {"grid": 4, "drops": 1, "size": 8, "gray": True})
    IrisAgent(small(), spec, Spaces.of(spec.make())).save(tmp_path / "model.pt")
    main(["--checkpoint", str(tmp_path), "--num-dreams", "1", "--horizon", "3", "--threads", "1"])
    out = capsys.readouterr().out
    assert "context 1, horizon 3" in out
    written = [Path(line.split()[-1]) for line in out.splitlines() if line.startswith("wrote")]
    assert len(written) == 14 and {path.parent for path in written} == {tmp_path / "videos"}
    for path in written:
        assert path.suffix != ".png" or np.asarray(Image.open(path)).std() > 1
