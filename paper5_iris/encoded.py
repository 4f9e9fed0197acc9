"""Tokens and reconstructions of the replay's rows, computed once for as long as the tokenizer stays as it is.

The tokenizer learns first in an epoch and then rests, so what it says of a frame holds for the rest of the
epoch; the authors' code encodes anew for every batch.  Rows are filled in when a batch asks for them.
Letters: N rows, K tokens, C h w frame.
"""

import numpy as np
import torch
from torch import Tensor

from common.replay_buffer import ReplayBuffer
from paper5_iris.tokenizer import Tokenizer, to_frames

CHUNK = 256  # rows that go through the tokenizer at once
EMPTY = -1  # id of a row that nothing is known of


class EncodedRows:
    """Tokens as int32 and decoded frames as float16, on the tokenizer's device, under the replay's ids."""

    def __init__(self, replay: ReplayBuffer, key: str, tokenizer: Tokenizer):
        """key: of the picture in the replay."""
        self.replay, self.key, self.tokenizer = replay, key, tokenizer
        self.device = tokenizer.quantizer.codebook.device
        (side, _, channels), rows = tokenizer.image, replay.storage.capacity
        # Pages that are never written are never taken from the machine.
        self.tokens = torch.empty(rows, tokenizer.tokens, dtype=torch.int32, device=self.device)
        self.frames: Tensor | None = None  # until somebody asks for one
        self.shape = rows, side, side, channels
        self.known = {name: np.full(rows, EMPTY, np.int64) for name in ("tokens", "frames")}  # the row's id

    def forget(self) -> None:
        """The tokenizer has changed; or a checkpoint was written, from which a resumed run knows nothing."""
        for ids in self.known.values():
            ids[:] = EMPTY

    def tokens_of(self, ids: np.ndarray) -> Tensor:
        """Tokens of rows [...] -> int64 [..., K]"""
        self.fill("tokens", ids)
        return self.tokens[self.places(ids)].long()

    def frames_of(self, ids: np.ndarray) -> Tensor:
        """Decoded frames of rows [...], in [0, 1] -> [..., C, h, w]"""
        self.fill("frames", ids)
        return self.frames[self.places(ids)].float().movedim(-1, -3)

    def places(self, ids: np.ndarray) -> Tensor:
        """Where the rows are, on the device."""
        return torch.from_numpy(self.replay.slots(ids)).to(self.device)

    @torch.no_grad()
    def fill(self, name: str, ids: np.ndarray) -> None:
        """Compute what is not known of these rows; a frame is decoded from its tokens."""
        ids = np.unique(ids)
        missing = ids[self.known[name][self.replay.slots(ids)] != ids]
        if name == "frames" and len(missing):
            self.fill("tokens", missing)
            if self.frames is None:
                self.frames = torch.empty(self.shape, dtype=torch.float16, device=self.device)
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            places = self.places(part)
            if name == "tokens":
                image = torch.from_numpy(self.replay.gather(part, (self.key,))[self.key]).to(self.device)
                self.tokens[places] = self.tokenizer.tokenize(to_frames(image)).int()
            else:
                decoded = self.tokenizer.decode_tokens(self.tokens[places])
                self.frames[places] = decoded.permute(0, 2, 3, 1).half()
            self.known[name][self.replay.slots(part)] = part
