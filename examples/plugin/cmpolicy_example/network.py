"""A network F(x, c_noise, condition) for policies."""

import torch
from torch import nn


class ResidualMLP(nn.Module):
    """An MLP whose hidden layers add to what comes in; the noise level is given as a number."""

    def __init__(self, action_dim, condition_dim, width=64, depth=2):
        super().__init__()
        self.begin = nn.Linear(action_dim + 1 + condition_dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.end = nn.Linear(width, action_dim)

    def forward(self, x, c_noise, condition):
        """(B, action_dim), (B,), (B, condition_dim) → (B, action_dim)"""
        h = self.begin(torch.cat((x, c_noise[:, None], condition), dim=1))
        for layer in self.hidden:
            h = h + layer(nn.functional.silu(h))
        return self.end(h)
