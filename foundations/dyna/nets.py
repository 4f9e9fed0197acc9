"""Many small networks at once: the weights of N perceptrons stacked, so that one product serves all of them.

The members of an ensemble and the seeds of an experiment are the same thing here: a leading axis.  Each
network learns alone: the sum of N losses gives every one its own gradient, and Adam works entry by entry.
Letters: N networks, B rows each, I inputs, O outputs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


class StackedLinear(nn.Module):
    """N linear layers, each begun as torch.nn.Linear begins."""

    def __init__(self, stack: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(stack, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[N, B, I] -> [N, B, O]"""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """N perceptrons of equal sizes, such as [6, 64, 64, 4]; dropout behind every hidden layer."""

    def __init__(self, stack: int, sizes: Sequence[int], activation: str = "silu", dropout: float = 0.0):
        super().__init__()
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(StackedLinear(stack, i, o) for i, o in pairs)
        self.activation, self.dropout = ACTIVATIONS[activation], dropout

    def forward(self, x: Tensor) -> Tensor:
        """[N, B, I] -> [N, B, O]"""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))  # [N, B, hidden]
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        return self.layers[-1](x)
