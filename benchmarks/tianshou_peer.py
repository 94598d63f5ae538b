"""The same work for Tianshou's Rainbow, an optional dependency of the benchmarks.

This file is not type-checked, because Tianshou need not be installed.
"""

import time

WARM = 512


def steps_per_second(env: str, steps: int, learn_every: int) -> float:
    """Measure Rainbow: batch 32, one update a step, three layers of 128, one environment.

    Noisy, dueling, double, prioritized, 3-step, 51 atoms. After each `learn_every` steps as many
    updates are made.
    """
    import gymnasium
    import torch
    from tianshou.algorithm import RainbowDQN
    from tianshou.algorithm.modelfree.c51 import C51Policy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, PrioritizedVectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import NoisyLinear
    from tianshou.utils.torch_utils import policy_within_training_step

    torch.set_num_threads(1)
    envs = DummyVectorEnv([lambda: gymnasium.make(env)])
    action_space, observation_space = envs.action_space[0], envs.observation_space[0]
    head = {"linear_layer": NoisyLinear}
    network = Net(
        state_shape=observation_space.shape,
        action_shape=action_space.n,
        hidden_sizes=(128, 128, 128),
        softmax=True,
        num_atoms=51,
        dueling_param=(head, head),
        linear_layer=NoisyLinear,
    )
    policy = C51Policy(
        model=network, action_space=action_space, observation_space=observation_space
    )
    algorithm = RainbowDQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=5e-4),
        n_step_return_horizon=3,
        target_update_freq=500,
    )
    buffer = PrioritizedVectorReplayBuffer(100_000, 1, alpha=0.5, beta=0.4)
    collector = Collector(policy, envs, buffer)
    collector.reset()
    with policy_within_training_step(policy):
        collector.collect(n_step=1_000)
        for step in range(0, WARM + steps, learn_every):
            if step == WARM:
                start = time.perf_counter()
            collector.collect(n_step=learn_every)
            for _ in range(learn_every):
                algorithm.update(buffer, sample_size=32)
    return steps / (time.perf_counter() - start)
