"""Full prioritized replay buffers of other libraries, each as a call that samples and updates.

This file is separate and not type-checked, because the libraries need not be installed.
"""

from collections.abc import Callable

import numpy as np

Call = Callable[[], None]


def tianshou(capacity: int, _width: int, batch_size: int) -> Call:
    """The sum tree of Tianshou's buffer, compiled by numba; weights as its buffer makes them."""
    from tianshou.data import SegmentTree

    rng, tree = np.random.default_rng(0), SegmentTree(capacity)
    tree[np.arange(capacity)] = rng.random(capacity)

    def call() -> None:
        indices = tree.get_prefix_sum_idx(rng.random(batch_size) * tree.reduce())
        weights = (tree[indices] / 1e-2) ** -0.5
        tree[indices] = (np.abs(weights) + 1e-4) ** 0.5

    return call


def cpprb(capacity: int, width: int, batch_size: int) -> Call:
    """The buffer of cpprb, which holds transitions."""
    from cpprb import PrioritizedReplayBuffer

    fields = {"obs": {"shape": width}, "next_obs": {"shape": width}, "act": {}, "rew": {}}
    buffer = PrioritizedReplayBuffer(capacity, {**fields, "done": {}}, alpha=0.5)
    states, numbers = np.zeros((capacity, width)), np.zeros(capacity)
    priorities = np.random.default_rng(0).random(capacity)
    buffer.add(
        obs=states, next_obs=states, act=numbers, rew=numbers, done=numbers, priorities=priorities
    )

    def call() -> None:
        batch = buffer.sample(batch_size, beta=0.5)
        buffer.update_priorities(batch["indexes"], batch["weights"])

    return call


def torchrl(capacity: int, width: int, batch_size: int) -> Call:
    """TorchRL's buffer of transitions in one tensor."""
    import torch
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.data.replay_buffers import PrioritizedSampler

    torch.set_num_threads(1)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(capacity),
        sampler=PrioritizedSampler(capacity, alpha=0.5, beta=0.5),
        batch_size=batch_size,
    )
    buffer.extend(torch.zeros(capacity, 2 * width + 3))
    buffer.update_priority(torch.arange(capacity), torch.rand(capacity))

    def call() -> None:
        _, info = buffer.sample(return_info=True)
        weights = info.get("priority_weight", info.get("_weight"))
        buffer.update_priority(info["index"], torch.as_tensor(weights))

    return call


PEERS = {"Tianshou, tree alone": tianshou, "cpprb": cpprb, "TorchRL": torchrl}
