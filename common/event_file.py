"""TensorBoard event files without torch: scalars, images, looping videos and text.

torch's SummaryWriter needs moviepy for videos and imports it at the last moment; TensorBoard shows any GIF
that is stored as an image, so that Pillow is enough.  Only TensorBoard's own writer is used here, imported
on first use.
"""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError


class EventFile:
    """One event file in `folder`.  `purge_step`: TensorBoard drops what older files say at or after it."""

    def __init__(self, folder: str | Path, purge_step: int | None = None):
        """Raises UserError where TensorBoard is not installed."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError(f"TensorBoard is missing ({error}): pip install tensorboard") from error
        self._event, self._summary, self._tensor = event_pb2, summary_pb2, tensor_pb2
        self._writer = EventFileWriter(str(folder))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=purge_step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float], wall_time: float | None = None) -> None:
        """Add one point to each curve."""
        self._add(step, [self._value(name, simple_value=value) for name, value in values.items()], wall_time)

    def image(self, step: int, name: str, frame: np.ndarray) -> None:
        """Add a picture, uint8 [H, W], [H, W, 1] or [H, W, 3]."""
        self._picture(step, name, _encode([frame], "png", fps=1), frame.shape)

    def video(self, step: int, name: str, frames: np.ndarray, fps: int = 20) -> None:
        """Add a looping clip, uint8 [T, H, W] or [T, H, W, C]."""
        self._picture(step, name, _encode(list(frames), "gif", fps), frames.shape[1:])

    def text(self, step: int, name: str, text: str) -> None:
        """Add Markdown."""
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        tensor = self._tensor.TensorProto(dtype="DT_STRING", string_val=[text.encode()])
        tensor.tensor_shape.dim.add(size=1)
        metadata = self._summary.SummaryMetadata(plugin_data=plugin)
        self._add(step, [self._value(name, metadata=metadata, tensor=tensor)])

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and end the writer's thread."""
        self._writer.close()

    def _picture(self, step: int, name: str, encoded: bytes, shape: tuple[int, ...]) -> None:
        picture = self._summary.Summary.Image(
            height=shape[0], width=shape[1], colorspace=3, encoded_image_string=encoded
        )
        self._add(step, [self._value(name, image=picture)])

    def _value(self, name: str, **content: Any) -> Any:
        return self._summary.Summary.Value(tag=name, **content)

    def _add(self, step: int, values: list[Any], wall_time: float | None = None) -> None:
        summary = self._summary.Summary(value=values)
        event = self._event.Event(wall_time=wall_time or time.time(), step=step, summary=summary)
        self._writer.add_event(event)


def _encode(frames: list[np.ndarray], kind: str, fps: int) -> bytes:
    """Frames uint8 [H, W(, C)] -> the bytes of a png or a looping gif."""
    from PIL import Image

    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.shape[2:] not in ((), (1,), (3,)):
            raise ValueError(
                f"a frame is uint8 [H, W], [H, W, 1] or [H, W, 3], not {frame.dtype} {frame.shape}"
            )
    images = [
        Image.fromarray(frame[..., 0] if frame.shape[2:] == (1,) else frame).convert("RGB")
        for frame in frames
    ]
    out = io.BytesIO()
    if kind == "png":
        images[0].save(out, "png")
    else:  # FASTOCTREE without dither: Pillow's default quantiser takes seconds on smooth gradients
        images = [
            image.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for image in images
        ]
        images[0].save(
            out, "gif", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0
        )
    return out.getvalue()
