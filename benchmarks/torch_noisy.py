"""The noisy layer as PyTorch's users write it, for the peers of the benchmarks of updates."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Noisy(nn.Module):
    """A layer with factorised noise, sampled in every forward pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), 0.5 * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), 0.5 * bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to a batch."""
        normals = torch.randn(sum(self.weight.shape))
        scaled = normals.sign() * normals.abs().sqrt()
        out, inputs = scaled.split(list(self.weight.shape))
        weight = self.weight + self.weight_sigma * torch.outer(out, inputs)
        return functional.linear(x, weight, self.bias + self.bias_sigma * out)
