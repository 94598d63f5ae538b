"""The first notebook's update as PyTorch's users write it: the peer of `notebook_update`.

This file is separate and not type-checked, because PyTorch's own types are partly unknown.
"""

import time
from collections.abc import Callable

BATCH, ACTIONS = 256, 3
UPDATES_A_ROUND = 10


def torch_round(threads: int) -> Callable[[], float]:
    """Return a function that makes some updates and returns milliseconds per update."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from benchmarks.torch_noisy import Noisy

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.torso = nn.Sequential(
                nn.Conv2d(1, 64, 3),
                nn.MaxPool2d(4),
                nn.ReLU(),
                nn.Conv2d(64, 16, 3),
                nn.MaxPool2d(4),
                nn.ReLU(),
                nn.Flatten(),
            )
            self.hidden, self.advantage, self.value = Noisy(64, 512), Noisy(512, 3), Noisy(512, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.relu(self.hidden(self.torso(x)))
            advantage = self.advantage(x)
            return self.value(x) + advantage - advantage.mean(1, keepdim=True)

    online, target = Network(), Network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.AdamW(online.parameters(), lr=5e-4, weight_decay=0.01)
    s_tm1, s_t = torch.randn(2, BATCH, 1, 42, 42)
    a_tm1 = torch.randint(0, ACTIONS, (BATCH, 1))
    r_t, weights = torch.randn(BATCH), torch.rand(BATCH)

    def update() -> Tensor:
        with torch.no_grad():
            chosen = online(s_t).argmax(1, keepdim=True)
            goal = r_t + 0.99 * target(s_t).gather(1, chosen)[:, 0]
        estimate = online(s_tm1).gather(1, a_tm1)[:, 0]
        loss = (weights * functional.smooth_l1_loss(estimate, goal, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return (goal - estimate).detach()

    update()

    def one_round() -> float:
        start = time.perf_counter()
        for _ in range(UPDATES_A_ROUND):
            update()
        return (time.perf_counter() - start) / UPDATES_A_ROUND * 1e3

    return one_round
