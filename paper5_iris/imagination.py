"""Playing inside the model (paper, section 2.3): frames are generated token by token, and decoded.

A step says the action, samples reward, end and token 0 there, then says each token to hear the next; saying
the last one only fills the cache.  Nothing is read back by the host, so the device is never waited for.
Letters: B dreams, K tokens, C h w frame, H steps, A action.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.cuda_graph import WARM_UP, GraphedUpdate
from paper5_iris.actor_critic import ActorCritic, Dream, Memory, draw
from paper5_iris.tokenizer import Tokenizer
from paper5_iris.transformer import KVCache
from paper5_iris.world_model import WorldModel


class Step(NamedTuple):
    """What an action led to."""

    rew: Tensor  # [B]
    end: Tensor  # [B] bool
    end_prob: Tensor  # [B]
    tokens: Tensor | None  # [B, K] of the next frame, None where nobody wanted it


class Imagination:
    """B worlds side by side, in tensors.  Both networks must be in eval mode: no dropout in dreams.

    What it sees of the past is one real frame and all that it dreamed since.  When no whole step fits the
    context any more, the memory is flushed: it goes on from the newest frame alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: WorldModel,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        capture: Callable | None = None,
    ):
        """temperature: of tokens, reward and end; 0 takes the likeliest.

        capture: common.cuda_graph.cuda_graph, to launch a step's kernels as one; it needs a static cache.
        """
        self.tokenizer, self.model = tokenizer, model
        self.temperature, self.generator = temperature, generator
        self.capture = capture if model.cfg.steps > WARM_UP else None  # which warms up within the context
        self.graph: GraphedUpdate | None = None
        self.past: KVCache | None = None  # made once for a batch size, then reused
        self.tokens: Tensor | None = None  # [B, K] the newest frame
        self.flushes = 0

    def reset(self, tokens: Tensor) -> None:
        """Begin at real frames [B, K]."""
        assert not self.model.training, "a dream needs model.eval()"
        wanted = self.model.transformer.new_cache
        if self.past is None or self.past.batch != len(tokens):
            self.past = self.graph = None  # the old one goes first: they are large
            if self.capture:  # what is captured computes in float32
                with torch.autocast(tokens.device.type, enabled=False):
                    self.past = wanted(len(tokens))
                self.graph = GraphedUpdate(self.captured, [self.past.start], self.capture)
            else:
                self.past = wanted(len(tokens))
        self.tokens, self.flushes = tokens.long(), 0
        self.model.start(self.tokens, self.past)

    def step(self, act: Tensor, want_frame: bool = True) -> Step:
        """Act [B] or [B, A].  want_frame=False: reward and end only, for the last step of a dream."""
        model, past = self.model, self.past
        if past.length + (model.block if want_frame else 1) > past.rows:
            model.start(self.tokens, past)
            self.flushes += 1
        if self.graph is None or not want_frame:
            return self.listen(act, want_frame)
        step = self.graph({"act": act})
        past.length += model.block  # what the device did, the host must count
        self.tokens = step[-1]
        return Step(*step)

    def captured(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """A whole step for the graph: the host's count of rows stays as it is."""
        length = self.past.length
        # In float32: autocast would cast all weights for every token, or keep copies that a graph cannot.
        with torch.autocast(self.past.keys.device.type, enabled=False):
            step = self.listen(batch["act"], want_frame=True)
        self.past.length = length
        return tuple(step)

    def listen(self, act: Tensor, want_frame: bool) -> Step:
        """Say the action, hear what it leads to."""
        model, past = self.model, self.past
        heard = model.step_act(act, past)
        rew = heard.rew.squeeze(-1).float()  # [B] or the logits of -1, 0, 1 [B, 3]
        if model.cfg.reward_head == "sign_ce":
            rew = self.pick(heard.rew).float() - 1
        end_prob = heard.end.float().softmax(-1)[:, 1]
        end = self.pick(heard.end).bool()
        if not want_frame:
            return Step(rew, end, end_prob, None)
        tokens = [self.pick(heard.obs)]
        while len(tokens) < model.tokens:
            tokens.append(self.pick(model.step_token(tokens[-1], past)))
        model.step_last(tokens[-1], past)
        self.tokens = torch.stack(tokens, 1)
        return Step(rew, end, end_prob, self.tokens)

    def pick(self, logit: Tensor) -> Tensor:
        """[B, C] -> int64 [B]"""
        if self.temperature == 0:
            return logit.argmax(-1)
        return draw(logit.float() / self.temperature, self.generator)

    def frame(self) -> Tensor:
        """The newest frame, decoded: [B, C, h, w] in [0, 1]"""
        return self.tokenizer.decode_tokens(self.tokens)

    def view(self, actor: ActorCritic) -> Tensor:
        """What the actor sees of it."""
        return actor.view(self.tokenizer, self.tokens)


def imagine(world: Imagination, actor: ActorCritic, tokens: Tensor, memory: Memory, horizon: int) -> Dream:
    """Dream H steps from real frames under the policy; only the policy and its value have a gradient.

    tokens [B, K] of the start, memory of what was before it -> [B, H]
    """
    world.reset(tokens)
    columns: list[tuple[Tensor, ...]] = []
    for i in range(horizon):
        policy, val, memory = actor(world.view(actor), memory)
        act = policy.sample(world.generator)
        done = act.clamp(-1, 1) if act.is_floating_point() else act  # as the environment would
        step = world.step(done, want_frame=i < horizon - 1)
        columns.append((policy.log_prob(act), policy.entropy(), val, step.rew, step.end))
    return Dream(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))
