"""One process of several that average their gradients; prints the weights that it comes to.

python -m tests.sharded.two_processes ADDRESS PROCESSES NUMBER
"""

import hashlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from noisydqn.distributions import Expected
from noisydqn.learner.agent import Agent, UpdateNoise, sample_update_noise
from noisydqn.learner.gradient import Descent
from noisydqn.nets.network import QNetwork
from noisydqn.nets.torsos import Flatten
from noisydqn.shards import AXIS, Shards
from noisydqn.types import Batch, Transition

BATCH, FEATURES, ACTIONS, UPDATES = 8, 4, 3, 5


def batch_of(update: int) -> Any:
    """A whole batch, in NumPy: every process takes its share of it."""
    random = np.random.default_rng(update)
    transition: Any = Transition  # whose arrays are those of JAX elsewhere
    transitions = transition(
        s_tm1=random.normal(size=(BATCH, FEATURES)).astype(np.float32),
        a_tm1=random.integers(0, ACTIONS, BATCH, np.int32),
        r_t=random.normal(size=BATCH).astype(np.float32),
        discount_t=np.full(BATCH, 0.9, np.float32),
        s_t=random.normal(size=(BATCH, FEATURES)).astype(np.float32),
    )
    weights = random.uniform(0.1, 1, BATCH).astype(np.float32)
    batch: Any = Batch
    return batch(transitions, np.arange(BATCH, dtype=np.int32), weights)


def train(processes: int, process: int) -> np.ndarray:
    """Make some updates, each process with its share of every batch; return the weights."""
    shards = Shards(jax.device_count())
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    same, divided = PartitionSpec(), PartitionSpec(AXIS)
    descent = Descent(optax.adam(1e-2), sigma_penalty=0.0, sigma_rate=1.0, shards=shards)
    agent = Agent(descent, double=True, munchausen=None, target_period=2, target_rate=1.0)
    key = jax.random.key(0)
    network = QNetwork(Flatten(FEATURES), (8,), ACTIONS, distribution=Expected(), key=key)
    learner = jax.jit(agent.init, out_shardings=NamedSharding(mesh, same))(network, key)

    def update(learner: Any, batch: Batch, number: jax.Array) -> Any:
        noise: UpdateNoise = sample_update_noise(
            network, jax.random.fold_in(key, number), len(batch.weights), shards=shards
        )
        return agent.update(learner, batch, noise)[0]

    step = jax.jit(
        jax.shard_map(
            update,
            mesh=mesh,
            in_specs=(same, divided, same),
            out_specs=same,
            check_vma=False,
        )
    )
    own = slice(process * BATCH // processes, (process + 1) * BATCH // processes)
    for number in range(UPDATES):
        batch = jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(NamedSharding(mesh, divided), x[own]),
            batch_of(number),
        )
        learner = step(learner, batch, jnp.int32(number))
    return np.asarray(learner.online.vector)


def main() -> None:
    """Join the others, train, and print the weights."""
    address, processes, process = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if processes > 1:
        jax.distributed.initialize(address, processes, process, initialization_timeout=60)
    weights = train(processes, process)
    print(f"devices {jax.local_device_count()} of {jax.device_count()}")
    print(f"weights {hashlib.sha256(weights.tobytes()).hexdigest()} {weights[:3].tolist()}")
    print("sums", float(np.abs(weights).sum()), float((weights**2).sum()))


if __name__ == "__main__":
    main()
