"""IRIS without anything kept: the reference for iris.py's times, and for the tests of what is kept.

Training keeps keys and values of a dream's past, and tokens and decoded frames of stored rows for as long as
the tokenizer rests.  Here the whole sequence passes the transformer again for every token, and every batch
encodes and decodes its frames again.
Letters: B dreams, L tokens and actions said so far, K tokens of a frame, N frames, C h w frame, D width.
"""

import numpy as np
import torch
from torch import Tensor

from paper5_iris.encoded import EncodedRows
from paper5_iris.imagination import Imagination, Step
from paper5_iris.tokenizer import to_frames


class PlainImagination(Imagination):
    """The same dreams without a cache."""

    said: Tensor  # [B, L, D] embedded, without positions

    def reset(self, tokens: Tensor) -> None:
        """Begin at real frames [B, K]."""
        assert not self.model.training, "a dream needs model.eval()"
        self.tokens = tokens.long()
        self.said = self.model.token(self.tokens).detach()

    @torch.no_grad()
    def step(self, act: Tensor, want_frame: bool = True) -> Step:
        """As in Imagination: the same draws in the same order, from the same logits.  No flush."""
        model = self.model
        hidden = self.hear(model.embed_act(act))
        rew = self.pick(model.rew_head(hidden)).float() - 1
        end_logit = model.end_head(hidden)
        heard = Step(rew, self.pick(end_logit).bool(), end_logit.softmax(-1)[:, 1], None)
        if not want_frame:
            return heard
        tokens = [self.pick(model.obs_head(hidden))]
        while len(tokens) < model.tokens:
            tokens.append(self.pick(model.obs_head(self.hear(model.token(tokens[-1])))))
        self.say(model.token(tokens[-1]))  # nobody listens
        self.tokens = torch.stack(tokens, 1)
        return heard._replace(tokens=self.tokens)

    def say(self, embedded: Tensor) -> None:
        """One more token or action [B, D]."""
        self.said = torch.cat([self.said, embedded[:, None]], 1)

    def hear(self, embedded: Tensor) -> Tensor:
        """Say it, and pass all -> what comes out at its position [B, D]"""
        self.say(embedded)
        return self.model.transformer(self.said)[:, -1]


class PlainRows(EncodedRows):
    """Stored rows, encoded and decoded for every batch."""

    def tokens_of(self, ids: np.ndarray) -> Tensor:
        """Tokens of rows [...] -> int64 [..., K]"""
        return self.tokenizer.tokenize(self.stored(ids)).unflatten(0, ids.shape)

    def frames_of(self, ids: np.ndarray) -> Tensor:
        """Decoded frames of rows [...], in [0, 1] -> [..., C, h, w]"""
        return self.tokenizer.encode_decode(self.stored(ids)).unflatten(0, ids.shape)

    def stored(self, ids: np.ndarray) -> Tensor:
        """Frames as they were seen.  [...] -> [N, C, h, w]"""
        image = torch.from_numpy(self.replay.gather(ids, (self.key,))[self.key])
        return to_frames(image.to(self.device))
