"""Noisy dueling double-DQN updates as PyTorch's users write them: the peer of `update`.

This file is separate and not type-checked, because PyTorch's own types are partly unknown.
"""

import time
from collections.abc import Callable
from itertools import pairwise

from benchmarks.update import BATCH, SHAPES

ATOMS, V_MIN, V_MAX = 51, -10.0, 10.0


def torch_round(network: str, head: str) -> Callable[[], float]:
    """Return a function that makes some updates and returns microseconds per update."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from benchmarks.torch_noisy import Noisy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape, actions, number = SHAPES[network]
    atoms = ATOMS if head.startswith("categorical") else 1
    support = torch.linspace(V_MIN, V_MAX, ATOMS)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if network == "nature":
                self.torso = nn.Sequential(
                    nn.Conv2d(4, 32, 8, 4),
                    nn.ReLU(),
                    nn.Conv2d(32, 64, 4, 2),
                    nn.ReLU(),
                    nn.Conv2d(64, 64, 3),
                    nn.ReLU(),
                    nn.Flatten(),
                )
                sizes = (3136, 512)
            else:
                self.torso = nn.Identity()
                sizes = (8, 128, 128, 128)
            self.hidden = nn.ModuleList([Noisy(i, o) for i, o in pairwise(sizes)])
            self.advantage = Noisy(sizes[-1], actions * atoms)
            self.value = Noisy(sizes[-1], atoms)

        def forward(self, x: Tensor) -> Tensor:
            x = self.torso(x)
            for layer in self.hidden:
                x = functional.relu(layer(x))
            advantage = self.advantage(x).view(-1, actions, atoms)
            value = self.value(x).view(-1, 1, atoms)
            return value + advantage - advantage.mean(1, keepdim=True)

    online, target = Network(), Network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=5e-4)
    seen = (shape[-1], *shape[:-1])
    states = torch.rand(2, 4 * BATCH, *seen)
    rows = torch.arange(BATCH)
    a_tm1 = torch.randint(0, actions, (BATCH,))
    r_t, weights = torch.randn(BATCH), torch.rand(BATCH)

    def projected(probabilities: Tensor) -> Tensor:
        place = (r_t[:, None] + 0.99 * support).clamp(V_MIN, V_MAX)
        place = (place - V_MIN) / (V_MAX - V_MIN) * (ATOMS - 1)
        lower = place.floor().long().clamp(max=ATOMS - 2)
        result = torch.zeros(BATCH, ATOMS)
        result.scatter_add_(1, lower, probabilities * (lower + 1 - place))
        return result.scatter_add_(1, lower + 1, probabilities * (place - lower))

    def values(out: Tensor) -> Tensor:
        return out[..., 0] if atoms == 1 else out.softmax(2) @ support

    def update(i: int) -> Tensor:
        start = i % (3 * BATCH)
        s_tm1, s_t = states[:, start : start + BATCH]
        with torch.no_grad():
            chosen = values(online(s_t)).argmax(1)
            out_t = target(s_t)[rows, chosen]
            goal = r_t + 0.99 * out_t[:, 0] if atoms == 1 else projected(out_t.softmax(1))
        taken = online(s_tm1)[rows, a_tm1]
        if atoms == 1:
            error = goal - taken[:, 0]
            loss = functional.smooth_l1_loss(taken[:, 0], goal, reduction="none")
        else:
            loss = -(goal * taken.log_softmax(1)).sum(1)
            error = loss
        optimizer.zero_grad()
        (weights * loss).mean().backward()
        optimizer.step()
        if i % 500 == 0:
            target.load_state_dict(online.state_dict())
        return error.detach()

    for i in range(3):
        update(i)

    def one_round() -> float:
        start = time.perf_counter()
        for i in range(number):
            update(i)
        return (time.perf_counter() - start) / number * 1e6

    return one_round
