"""Pixels, files and figures: sizes, labels, fallbacks, and that pyplot's global state stays untouched."""

import sys

import imageio.v2 as imageio
import matplotlib
import numpy as np
import pytest
from PIL import Image

from common import frames as pixels
from common import plots, video
from common.dreams import free_dream, image_key, make_window, open_loop, open_loop_clip
from common.errors import UserError
from common.evaluate import play
from common.testing import FakeAgent, VectorCountingEnv, counting_envs

rng = np.random.default_rng(0)


def clip(rows: int, height: int = 21, width: int = 33) -> np.ndarray:
    """A clip whose color says which frame it is."""
    return np.stack([np.full((height, width, 3), 10 * t, np.uint8) for t in range(rows)])


@pytest.fixture(scope="module")
def episodes():
    return play(FakeAgent(), counting_envs(3), episodes=6, record=6).episodes


@pytest.fixture(scope="module")
def vector_episodes():
    return play(FakeAgent(), counting_envs(2, VectorCountingEnv), episodes=2, record=2).episodes


# --- pixels -----------------------------------------------------------------------------------------


def test_everything_becomes_rgb():
    gray = rng.integers(0, 255, (4, 20, 20), np.uint8)
    np.testing.assert_array_equal(pixels.to_rgb(gray), np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(pixels.to_rgb(gray[..., None])[..., 1], gray)
    stack = rng.integers(0, 255, (20, 20, 4), np.uint8)
    np.testing.assert_array_equal(pixels.to_rgb(stack)[..., 0], stack[..., -1])  # newest of four
    np.testing.assert_array_equal(pixels.to_rgb(np.full((20, 20, 3), 0.5)), 128)


def test_upscale_repeats_pixels():
    image = rng.integers(0, 255, (3, 20, 30, 3), np.uint8)
    big = pixels.upscale(image, 50)
    assert big.shape == (3, 60, 90, 3)
    np.testing.assert_array_equal(big[:, 1::3, 2::3], image)
    assert pixels.upscale(image, 10) is image


def test_annotate_writes_above_and_leaves_the_picture():
    image = np.full((40, 80, 3), 77, np.uint8)
    with_text, other = pixels.annotate(image, "dream +3"), pixels.annotate(image, "dream +4")
    strip = with_text.shape[0] - 40
    np.testing.assert_array_equal(with_text[strip:], image)
    assert with_text[:strip].max() > 150  # ink
    assert (with_text[:strip] != other[:strip]).any()
    moving = pixels.annotate(clip(3), ["a", "b", "c"])
    assert moving.shape == (3, 21 + strip, 33, 3) and (moving[0, :strip] != moving[1, :strip]).any()


def test_a_long_label_is_made_smaller_and_not_cut():
    narrow = pixels.annotate(np.zeros((10, 90, 3), np.uint8), "return 123456.7")[:-10]
    assert narrow[:, -3:].max() < 50  # nothing runs over the edge


def test_grid_places_clips_and_holds_the_last_frame():
    picture = pixels.grid([clip(4), clip(2) + 100, clip(1) + 200], columns=2, gap=3)
    assert picture.shape == (4, 21 * 2 + 3, 33 * 2 + 3, 3)
    assert picture[3, 0, 0, 0] == 30 and picture[3, 0, 36, 0] == 110 and picture[3, 24, 0, 0] == 200
    assert picture[0, 24, 36, 0] == 0  # the empty place
    assert pixels.grid([clip(1)[0]] * 4).shape == (21 * 2 + 2, 33 * 2 + 2, 3)


def test_side_by_side_makes_panels_equally_high():
    wide = pixels.side_by_side({"real": clip(3, 20, 20), "dream": clip(5, 64, 64)}, height=64, gap=4)
    assert wide.shape == (5, 80 + 18, 80 + 4 + 64, 3)  # 20 pixels grow by 4 to 80: at least 64


def test_difference_is_gray_where_equal():
    a, b = np.full((5, 5, 3), 100, np.uint8), np.full((5, 5, 3), 100, np.uint8)
    b[0] = 200
    signed = pixels.difference(a, b)
    assert (signed[1:] == 128).all() and (signed[0] == 178).all()
    assert (pixels.difference(b, a)[0] == 78).all()


def test_curve_panel_grows():
    panel = pixels.curve_panel(np.arange(6.0), height=100, width=120)
    assert panel.shape == (6, 100, 120, 3)
    ink = (panel[:, 35:80] != pixels.PAPER).any(-1).sum((1, 2))  # between the scale lines
    assert ink[5] > ink[3] > ink[1] >= ink[0]
    pixels.curve_panel(np.array([np.nan, 1, 2]), np.array([np.nan, 1, np.nan]))  # nothing predicted in row 0


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(64, 64), (65, 33), (100, 50)])
def test_mp4_is_padded_to_even_and_not_resized(tmp_path, height, width):
    path = video.write_video(tmp_path / "new" / "a.mp4", clip(7, height, width), fps=10)
    read = imageio.mimread(path, memtest=False)
    assert len(read) == 7 and path.suffix == ".mp4"
    assert read[0].shape == (height + height % 2, width + width % 2, 3)
    assert abs(int(read[5][10, 10, 0]) - 50) < 6
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]  # no partial file stays


def test_gif(tmp_path):
    path = video.write_gif(tmp_path / "a.gif", clip(5), fps=20)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (5, (33, 21), 50, 0)
    assert video.write_video(tmp_path / "b.gif", clip(2)).exists()


def test_without_an_encoder_a_gif_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    said = []
    path = video.write_video(tmp_path / "a.mp4", clip(3), notify=said.append)
    assert path.name == "a.gif" and path.exists() and not (tmp_path / "a.mp4").exists()
    assert len(said) == 1 and "pip install imageio-ffmpeg" in said[0]


# --- windows and dreams -----------------------------------------------------------------------------


def test_windows_are_cut_to_the_episodes_and_masked(episodes):
    window = make_window(episodes, count=6, context=2, horizon=45)
    longest = max(map(len, episodes))
    assert window.act.shape == (6, longest) and window.horizon == longest - 2
    for b, episode in enumerate(episodes):
        rows = len(episode)
        assert window.mask[b].sum() == rows
        np.testing.assert_array_equal(window.obs["image"][b, :rows], episode.obs["image"])
    short = make_window(episodes, count=9, context=2, horizon=1)
    t = short.obs["image"][:, :, 0, 0, 0].astype(int)
    assert len(set(t[:, 0])) > 1 and (np.diff(t, axis=1)[short.mask[:, 1:]] == 1).all()  # random starts
    assert short.batch()["is_first"][:, 0].all()
    assert make_window(episodes, 1, context=50).context == min(map(len, episodes)) - 1
    with pytest.raises(UserError, match="--horizon 0"):
        make_window(episodes, 1, horizon=0)


def test_open_loop_errors_stand_beside_their_baselines(episodes):
    window = make_window(episodes, count=4, context=2, horizon=5)
    loop = open_loop(FakeAgent(), window)
    assert all(error.shape == (window.horizon,) for error in loop.errors.values())
    truth = window.obs["image"][:, 2:] / 255
    frozen = window.obs["image"][:, 1:2] / 255
    by_hand = [
        ((truth[:, h] - frozen[:, 0]) ** 2)[window.mask[:, 2 + h]].mean() for h in range(window.horizon)
    ]
    np.testing.assert_allclose(loop.errors["copy last frame"], by_hand)
    np.testing.assert_allclose(loop.errors["reconstruction"], 0)
    assert (loop.errors["model"] != loop.errors["copy last frame"]).any()
    assert open_loop_clip(loop).shape[0] == window.act.shape[1]


def test_the_dream_gets_the_real_actions_of_the_dreamed_rows(episodes):
    window = make_window(episodes, count=3, context=2, horizon=3)
    loop = open_loop(FakeAgent(), window)
    np.testing.assert_array_equal(loop.dream.act, window.act)
    assert free_dream(FakeAgent(), window, 7).horizon == 7


def test_learning_material_functions_on_images(episodes, tmp_path):
    agent, window = FakeAgent(), make_window(episodes, count=3, context=2, horizon=5)
    picture = video.visualize_vae(agent, window, count=4, path=tmp_path / "vae.png")
    assert picture.ndim == 3 and Image.open(tmp_path / "vae.png").size == picture.shape[1::-1]
    dreams = video.visualize_imagination(agent, window, 9, path=tmp_path / "dream.mp4")
    assert len(dreams) == 11 and (tmp_path / "dream.mp4").exists()
    both, figure = video.compare_predictions({"a": agent, "b": agent}, window, path=tmp_path / "compare.mp4")
    assert len(both) == window.act.shape[1] and (tmp_path / "compare.png").exists()
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b", "copy last frame"]


def test_learning_material_functions_on_vectors(vector_episodes):
    agent, window = FakeAgent(), make_window(vector_episodes, count=2, context=3, horizon=8)
    loop = open_loop(agent, window)
    assert loop.errors["model"].shape == (8,) and open_loop_clip(loop).shape[0] == 11
    assert len(video.visualize_imagination(agent, window, 4)) == 7
    with pytest.raises(UserError, match="plot_trajectory"):
        video.visualize_vae(agent, window)
    assert image_key(window.obs, required=False) is None
    figure = video.plot_trajectory(window.obs["vector"][0], {"dream": loop.dream.obs["vector"][0]}, context=3)
    assert len(figure.axes) == 3


# --- figures ----------------------------------------------------------------------------------------


def test_comparison_averages_runs_and_does_not_hold_a_short_one():
    runs = [([0, 10, 20], [0, 1, 2]), ([0, 10], [2, 3])]
    figure = plots.plot_comparison({"ours": runs, "one": ([0, 20], [5, 5])}, levels={"blind": 4.0})
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["ours (2 runs)"], [1, 2, 2])  # behind step 10 the first run alone
    assert "one" in lines and "blind 4" in lines


def test_figures_leave_pyplot_alone(episodes, tmp_path):
    backend, before = matplotlib.get_backend(), dict(matplotlib.rcParams)
    window = make_window(episodes, count=3, context=2, horizon=4)
    loop = open_loop(FakeAgent(), window)
    plots.plot_errors(loop.errors, 2, path=tmp_path / "errors.png")
    plots.plot_heads(loop.dream, window.rew, ~window.is_terminal, window.mask, path=tmp_path / "heads.svg")
    plots.plot_trajectory(np.arange(5.0), path=tmp_path / "t.png")
    assert {file.name for file in tmp_path.iterdir()} == {"errors.png", "heads.svg", "t.png"}
    assert matplotlib.get_backend() == backend and dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
