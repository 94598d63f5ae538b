"""The replay memory: a ring of steps on the device, uniform or prioritised, with n-step returns.

Steps are stored, not transitions: every observation once, in the order in which it was seen,
`[slot, environment]`. A transition is put together when it is sampled, from row i and the n rows
after it, or fewer where the episode ends first. It can be sampled as soon as those rows exist:
only then does its leaf in the sum tree become positive. Nothing is lost at the end of an episode
and no window crosses it.

    slot       ...  t-2     t-1      t   (t-1 is the last row of an episode)
    leaf            >0       0       0
                 complete  no next  waits for n more rows

Uniform replay is the same tree with all leaves 1. The memory is a value: `add`, `sample` and
`set_priorities` take a `ReplayState` and, where they change it, return a new one.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from noisydqn.replay import sum_tree
from noisydqn.types import Batch, Row, Transition


class ReplayState(NamedTuple):
    """What the memory holds."""

    rows: Row  # [slots, environments, ...]
    tree: sum_tree.SumTree  # a leaf for each row: its priority to the power alpha, 0 if void
    position: Int[Array, ""]  # the slot that is written next
    max_priority: Float[Array, ""]  # the largest priority seen: what new transitions get


@dataclasses.dataclass(frozen=True)
class Replay:
    """The shape and the rules of a memory.

    Args:
        capacity: rows held, rounded up to a multiple of `num_envs` and to n + 2 rows for each:
            so many that a complete transition is there also just after an episode has ended.
        num_envs: environments that write in step.
        n_step: rewards summed in a transition.
        discount: gamma, the discount of one step.
        prioritised: sample in proportion to priority^alpha (Schaul et al. 2016), else uniformly.
        priority_offset: added to |TD error|, so that no priority is zero.
    """

    capacity: int
    num_envs: int
    n_step: int
    discount: float
    prioritised: bool
    priority_offset: float

    @property
    def slots(self) -> int:
        """Rows that each environment has in the ring."""
        return max(math.ceil(self.capacity / self.num_envs), self.n_step + 2)

    def init(self, row: Row) -> ReplayState:
        """An empty memory for rows like `row`, one environment's."""
        shape = (self.slots, self.num_envs)
        rows = jax.tree.map(lambda x: jnp.zeros(shape + jnp.shape(x), jnp.result_type(x)), row)
        return ReplayState(
            # A slot not yet written looks like the end of an episode, so no window crosses it.
            rows=rows._replace(last=jnp.ones(shape, jnp.bool_)),
            tree=sum_tree.init(self.slots * self.num_envs),
            position=jnp.int32(0),
            max_priority=jnp.float32(1),
        )

    def add(self, state: ReplayState, row: Row, alpha: Float[Array, ""]) -> ReplayState:
        """Write one row [environments, ...] for every environment.

        The row that is overwritten can no longer be sampled; the transition that began n rows ago
        now can, and where an episode has ended so can all that began since.
        """
        slot = state.position
        rows = jax.tree.map(lambda ring, new: ring.at[slot].set(new), state.rows, row)

        back = jnp.arange(1, self.n_step + 1, dtype=jnp.int32)
        starts = (slot - back) % self.slots
        same_episode = jnp.cumsum(rows.last[starts], axis=0) == 0  # [n, environments]
        complete = same_episode & ((back == self.n_step)[:, None] | row.last)

        slots = jnp.concatenate([slot[None], starts])
        env = jnp.arange(self.num_envs, dtype=jnp.int32)
        leaves = (slots[:, None] * self.num_envs + env).reshape(-1)
        priority = sum_tree.get(state.tree, leaves).reshape(len(slots), self.num_envs)
        priority = priority.at[0].set(0)
        priority = priority.at[1:].set(jnp.where(complete, state.max_priority**alpha, priority[1:]))
        tree = sum_tree.put(state.tree, leaves, priority.reshape(-1))
        return state._replace(rows=rows, tree=tree, position=(slot + 1) % self.slots)

    def sample(
        self, state: ReplayState, key: PRNGKeyArray, batch_size: int, beta: Float[Array, ""]
    ) -> Batch:
        """Draw transitions, stratified, with importance weights (P_min / P)^beta.

        The factor 1/N of the paper's weights cancels, as they are divided by the batch's largest.
        At least one transition must be complete.
        """
        uniform = jax.random.uniform(key, (batch_size,))
        strata = (jnp.arange(batch_size) + uniform) / batch_size
        indices = sum_tree.find(state.tree, strata * sum_tree.total(state.tree))
        priority = sum_tree.get(state.tree, indices)
        weights = (jnp.min(priority) / priority) ** beta
        return Batch(self.transitions(state.rows, indices), indices, weights)

    def transitions(self, rows: Row, indices: Int[Array, " batch"]) -> Transition:
        """Put together the n-step transitions [B, ...] that begin at `indices`."""
        slot, env = indices // self.num_envs, indices % self.num_envs
        r_t = jnp.zeros(indices.shape)
        discount_t = jnp.ones(indices.shape)
        end = slot
        going = jnp.ones(indices.shape, jnp.bool_)
        for _ in range(self.n_step):
            following = (end + 1) % self.slots
            end = jnp.where(going, following, end)
            r_t += jnp.where(going, discount_t * rows.reward[end, env], 0)
            discount_t *= jnp.where(going, self.discount, 1)
            going &= ~rows.last[end, env]
        return Transition(
            s_tm1=rows.observation[slot, env],
            a_tm1=rows.action[slot, env],
            r_t=r_t,
            discount_t=jnp.where(rows.terminated[end, env], 0, discount_t),
            s_t=rows.observation[end, env],
        )

    def set_priorities(
        self,
        state: ReplayState,
        indices: Int[Array, " batch"],
        td_error: Float[Array, " batch"],
        alpha: Float[Array, ""],
    ) -> ReplayState:
        """Set the priorities of sampled transitions to (|TD error| + offset)^alpha.

        Where an index was drawn more than once, its largest error counts, whatever the order.
        """
        if not self.prioritised:
            return state
        priority = jnp.abs(td_error) + self.priority_offset
        same = indices[:, None] == indices
        largest = jnp.max(jnp.where(same, priority, 0), axis=-1)
        return state._replace(
            tree=sum_tree.put(state.tree, indices, largest**alpha),
            max_priority=jnp.maximum(state.max_priority, jnp.max(priority)),
        )
