"""For tests that an update never waits for its device: run on meta tensors, which have no values."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OnDevice(TorchDispatchMode):
    """Every tensor of every operation is on the meta device, which has no values that one could wait for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            assert not isinstance(x, torch.Tensor) or x.is_meta, f"{function} on the {x.device}"
        return result
