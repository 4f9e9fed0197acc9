"""Pictures out of arrays: RGB, upscaling, text, grids, labelled panels side by side, small curves that grow.

Everything takes and returns uint8 NumPy arrays, so it works in a notebook and in a script without a display.
Letters: T frames of a clip, N clips, h w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, FAINT = (235, 235, 235), (24, 26, 32), (96, 100, 112)
SERIES = [(86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0)]
STRIP = 18  # pixels of a label above a panel
PANEL = 160  # panels are blown up to at least this height


def to_rgb(frames) -> np.ndarray:
    """Gray or RGB, uint8 or floats in 0..1, any leading dims -> uint8 [..., h, w, 3].

    Of a stack of 4 or more gray frames in the channels the newest (the last) is shown.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        frames = np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)
    if frames.shape[-1] > 16:  # [..., h, w]: no channel dim
        frames = frames[..., None]
    return frames if frames.shape[-1] == 3 else np.repeat(frames[..., -1:], 3, axis=-1)


def upscale(frames, height: int = PANEL) -> np.ndarray:
    """Nearest-neighbour zoom by a whole factor, to at least `height` pixels.  [..., h, w, 3]"""
    factor = -(-height // frames.shape[-3])
    return frames if factor <= 1 else np.repeat(np.repeat(frames, factor, axis=-3), factor, axis=-2)


def annotate(frames, text: str | Sequence[str], *, size: int = 12) -> np.ndarray:
    """Write text on a dark strip above: one text, or one per frame.  [h, w, 3] or [T, h, w, 3]"""
    frames = to_rgb(frames)
    if frames.ndim == 3:
        return annotate(frames[None], text, size=size)[0]
    texts = [text] * len(frames) if isinstance(text, str) else list(text)
    assert len(texts) == len(frames), (len(texts), len(frames))
    strips = {line: _strip(line, frames.shape[2], size) for line in set(texts)}  # drawn once per text
    return np.concatenate([np.stack([strips[line] for line in texts]), frames], axis=1)


def _strip(text: str, width: int, size: int) -> np.ndarray:
    image = Image.new("RGB", (width, size + STRIP - 12), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=size)
    while size > 8 and draw.textlength(text, font=font) > width - 6:  # a narrow panel gets smaller letters
        size -= 1
        font = ImageFont.load_default(size=size)
    draw.text((3, image.height / 2), text, fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def grid(clips, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """N clips of one size -> one clip with all of them; shorter ones stay on their last frame.

    [N] x [T, h, w, 3] -> [T, rows * h, columns * w, 3]; pictures [N] x [h, w, 3] give one picture.
    """
    clips = [to_rgb(clip) for clip in clips]
    if clips[0].ndim == 3:
        return grid([clip[None] for clip in clips], columns, gap)[0]
    clips = _same_length(clips)
    columns = columns or min(len(clips), max(1, round(np.sqrt(len(clips)))))
    blank = np.zeros_like(clips[0])
    clips += [blank] * (-len(clips) % columns)
    clips = [np.pad(clip, ((0, 0), (0, gap), (0, gap), (0, 0))) for clip in clips]
    rows = [np.concatenate(clips[i : i + columns], axis=2) for i in range(0, len(clips), columns)]
    return np.concatenate(rows, axis=1)[:, : -gap or None, : -gap or None]


def side_by_side(panels: Mapping[str, np.ndarray], height: int = PANEL, gap: int = 4) -> np.ndarray:
    """{label: clip [T, h, w, 3]} -> one clip [T, H, W, 3] with the labels above, all panels equally high.

    Small frames are blown up by a whole factor; shorter clips stay on their last frame.
    """
    clips = _same_length([upscale(to_rgb(clip), height) for clip in panels.values()])
    tallest = max(clip.shape[1] for clip in clips)
    parts = []
    for label, clip in zip(panels, clips, strict=True):
        below = tallest - clip.shape[1]
        clip = annotate(np.pad(clip, ((0, 0), (0, below), (0, 0), (0, 0))), label)
        parts.append(np.pad(clip, ((0, 0), (0, 0), (0, gap), (0, 0))))
    return np.concatenate(parts, axis=2)[:, :, : -gap or None]


def _same_length(clips: list[np.ndarray]) -> list[np.ndarray]:
    longest = max(len(clip) for clip in clips)
    return [np.concatenate([clip, np.repeat(clip[-1:], longest - len(clip), axis=0)]) for clip in clips]


def difference(truth, pred) -> np.ndarray:
    """Signed error as a picture: gray where equal, brighter where the prediction is.  uint8 [..., h, w, 3]"""
    error = to_rgb(pred).astype(np.int16) - to_rgb(truth).astype(np.int16)
    return (128 + error // 2).clip(0, 255).astype(np.uint8)


def curve_panel(
    values: np.ndarray, pred: np.ndarray | None = None, *, height: int = PANEL, width: int = PANEL
) -> np.ndarray:
    """Curves that grow with the clip: values [T] or [T, D] as lines, predictions as dots -> [T, h, w, 3].

    The scale is fixed over the clip and written at its ends; the first curve's newest value stands above.
    """
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    every = values if pred is None else np.concatenate([values, np.reshape(pred, values.shape)])
    low, high = np.nanmin(every), np.nanmax(every)
    span = (high - low) or 1.0
    top, left = 20, 8
    x = left + np.arange(len(values)) * (width - 2 * left) / max(len(values) - 1, 1)  # [T]
    y = height - 16 - (values - low) / span * (height - top - 24)  # [T, D]
    dots = None if pred is None else height - 16 - (every[len(values) :] - low) / span * (height - top - 24)
    font, canvas = ImageFont.load_default(size=10), Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    for line, value in ((height - 16, low), (top + 8, high)):
        pen.line([(left, line), (width - left, line)], fill=FAINT)
        pen.text((width - left, line + 2), f"{value:.4g}", fill=FAINT, font=font, anchor="ra")
    result = np.empty((len(values), height, width, 3), np.uint8)
    for t in range(len(values)):  # the canvas keeps what was drawn: each frame adds one stroke per curve
        for d in range(values.shape[1]):
            color = SERIES[d % len(SERIES)]
            if np.isfinite(y[max(t - 1, 0) : t + 1, d]).all():
                pen.line([(x[max(t - 1, 0)], y[max(t - 1, 0), d]), (x[t], y[t, d])], fill=color, width=2)
            if dots is not None and np.isfinite(dots[t, d]):
                pen.ellipse([x[t] - 1, dots[t, d] - 1, x[t] + 1, dots[t, d] + 1], outline=INK)
        frame = canvas.copy()
        ImageDraw.Draw(frame).text(
            (left, 3), f"{values[t, 0]:.4g}", fill=INK, font=ImageFont.load_default(size=14)
        )
        result[t] = np.asarray(frame)
    return result
