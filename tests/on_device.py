"""For tests of updates on a device that is not there: meta tensors, and a stand-in for a CUDA graph."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.cuda_graph import WARM_UP


class OnDevice(TorchDispatchMode):
    """Every tensor of every operation is on the meta device, which has no values that one could wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            assert not isinstance(x, torch.Tensor) or x.is_meta, f"{function} on the {x.device}"
        return result


def called_again(function, device):
    """Instead of a CUDA graph: warms up like one, and each replay calls the function on the same buffers."""
    for _ in range(WARM_UP):
        function()
    outputs = function()

    def replay():
        for old, new in zip(tree_leaves(outputs), tree_leaves(function()), strict=True):
            old.copy_(new)

    return replay, outputs
