"""Work on the device as one CUDA graph (--compile on a GPU): an update of paper 4, a dreamed step of paper 5.

Such work is thousands of kernels of a few microseconds, and to launch one takes the CPU longer than the GPU
needs to run it.  A graph holds all launches with the addresses they read and write; replaying it is one call.
So inputs and outputs lie in buffers that stay, and it may neither wait for the device (.item(), `if`
on a tensor) nor copy from the host: tests/paper4_dreamerv3/test_graph.py looks for both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # runs before the capture, in which libraries and caches allocate what they keep


def cuda_graph(function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
    """Run it to warm up, capture it -> what replays it, the outputs that each replay writes anew."""
    with torch.cuda.device(device):
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph, stream=side):  # records, and runs nothing
            outputs = function()
    return graph.replay, outputs


class GraphedUpdate:
    """A function of a batch, captured at the first call, replayed at every one.

    Captured so late because a resumed run has loaded its state by then; what is loaded later must be copied
    into the same tensors, as load_state_dict does.
    """

    def __init__(
        self,
        update: Callable[[dict[str, Tensor]], Any],
        state: Iterable[Tensor],
        capture: Callable[[Callable[[], Any], torch.device], tuple[Callable[[], None], Any]] = cuda_graph,
    ):
        """update: batch -> tensors in dicts and tuples; state: all tensors that it changes, in place."""
        self.update, self.state, self.capture = update, list(state), capture
        self.batch: dict[str, Tensor] = {}  # what the graph reads

    def __call__(self, batch: dict[str, Tensor]) -> Any:
        """What the update returns, in tensors of its own: the next replay overwrites the graph's."""
        if not self.batch:
            self.prepare(batch)
        for name, buffer in self.batch.items():
            assert batch[name].shape == buffer.shape, (name, batch[name].shape, buffer.shape)
            buffer.copy_(batch[name])
        self.replay()
        return clone(self.outputs)

    def prepare(self, batch: dict[str, Tensor]) -> None:
        """Capture.  Warming up trains: the state and the random numbers are put back to where they were."""
        self.batch = clone(batch)
        device = self.state[0].device
        before = [tensor.detach().clone() for tensor in self.state]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self.replay, self.outputs = self.capture(lambda: self.update(self.batch), device)
        with torch.no_grad():
            torch._foreach_copy_(self.state, before)


def clone(tree: Any) -> Any:
    """Copies of all tensors in dicts and tuples."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {name: clone(part) for name, part in tree.items()}
    return tuple(clone(part) for part in tree)
