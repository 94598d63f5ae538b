"""The replay buffer: a ring of steps on the device, uniform or prioritized, with n-step returns.

Steps are stored, not transitions: every observation once, in the order in which it was seen,
`[slot, environment]`. A transition is assembled when it is sampled, from row i and the n rows
after it, or fewer where the episode ends first. It can be sampled as soon as those rows exist:
only then does its leaf in the sum tree become positive. Nothing is lost at the end of an episode
and no window crosses it.

    slot       ...  t-2     t-1      t   (t-1 is the last row of an episode)
    leaf            >0       0       0
                 complete  no next  waits for n more rows

Where the network sees several frames together, each is still stored once: a stack is assembled
when it is sampled, from a row and those before it in its episode. A row whose history has been
overwritten can no longer be sampled.

Uniform replay is the same tree with all leaves 1. The buffer is a value: `add`, `sample` and
`set_priorities` take a `ReplayState` and, where they change it, return a new one.

Of a run on several devices, each device has such a buffer of its own, for its environments, and
samples its share of every batch from it.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from noisydqn.learner import sum_tree
from noisydqn.masks import opened
from noisydqn.preprocessing import frames
from noisydqn.shards import ONE, Shards
from noisydqn.types import Batch, Row, Transition


class ReplayState(NamedTuple):
    """The contents of a replay buffer."""

    rows: Row  # [slots, environments, ...]
    tree: (
        sum_tree.SumTree
    )  # a leaf for each row: its priority to the power alpha, 0 if it cannot be sampled
    position: Int[Array, "*envs"]  # the slot that is written next; [envs] where not in lockstep
    max_priority: Float[Array, ""]  # the largest priority seen: what new transitions get


@dataclasses.dataclass(frozen=True)
class Replay:
    """The shape and the rules of a replay buffer.

    Args:
        capacity: rows held, rounded up to a multiple of `num_envs` and to n + 1 + frames for each:
            so many that a complete transition is there also just after an episode has ended.
        num_envs: environments that write in lockstep.
        n_step: rewards summed in a transition.
        discount: gamma, the discount of one step.
        prioritized: sample in proportion to priority^alpha (Schaul et al. 2016), else uniformly.
        priority_offset: added to |TD error|, so that no priority is zero.
        frames: newest observations that are seen together; if 1 they are not stacked.
        shards: the devices that have such a buffer. All of them call `sample` and `set_priorities`
            at the same time.
        lockstep: whether all environments write together; if not, each has its own position in the
            ring, and `add_share` writes rows of some.
    """

    capacity: int
    num_envs: int
    n_step: int
    discount: float
    prioritized: bool
    priority_offset: float
    frames: int = 1
    shards: Shards = ONE
    lockstep: bool = True

    @property
    def slots(self) -> int:
        """The number of rows that each environment has in the ring."""
        return max(math.ceil(self.capacity / self.num_envs), self.n_step + 1 + self.frames)

    def init(self, row: Row) -> ReplayState:
        """Make an empty buffer for rows like `row`, one environment's."""
        shape = (self.slots, self.num_envs)
        rows = jax.tree.map(lambda x: jnp.zeros(shape + jnp.shape(x), jnp.result_type(x)), row)
        return ReplayState(
            # A slot not yet written looks like the end of an episode, so no window crosses it.
            rows=rows._replace(
                last=jnp.ones(shape, jnp.bool_), action_mask=jax.tree.map(opened, rows.action_mask)
            ),
            tree=sum_tree.init(self.slots * self.num_envs),
            position=jnp.int32(0) if self.lockstep else jnp.zeros(self.num_envs, jnp.int32),
            max_priority=jnp.float32(1),
        )

    def add(self, state: ReplayState, row: Row, alpha: Float[Array, ""]) -> ReplayState:
        """Write one row [environments, ...] for every environment.

        The row that is overwritten can no longer be sampled, nor those that need it as a frame;
        the transition that began n rows ago now can, and where an episode has ended so can all
        that began since.

        Example: one environment, n = 3, one frame, and slot 7 is written. The transitions that may
        become complete begin at `starts` = 6, 5, 4, which lie `back` = 1, 2, 3 rows before. The one
        at row 4 does: its three following rows exist. If row 7 ends the episode, those at rows 5
        and 6 do too, with two rewards and one. If row 5 ended an episode, `same_episode` holds for
        row 6 alone: row 4 became complete when row 5 was written, and row 5, an end, never does.
        The leaf of row 7 becomes 0 (`lost`) until its own window is complete.
        """
        if not self.lockstep:
            return self.add_share(state, row, jnp.int32(0), alpha)
        slot = state.position
        rows = jax.tree.map(lambda ring, new: ring.at[slot].set(new), state.rows, row)
        starts = self._starts(slot)
        env = jnp.arange(self.num_envs, dtype=jnp.int32)
        ended = jnp.concatenate([row.last[None], rows.last[starts]])
        tree = self._with_begun(state, ended, slot, env, alpha, None)
        return state._replace(rows=rows, tree=tree, position=(slot + 1) % self.slots)

    def add_share(
        self,
        state: ReplayState,
        row: Row,
        first: Int[Array, ""],
        alpha: Float[Array, ""],
        errors: Float[Array, "n share"] | None = None,
    ) -> ReplayState:
        """Write one row [share, ...] for the environments from `first` on, which are in lockstep.

        Only where not all environments are. See `add`.

        Args:
            state: the buffer.
            row: the row.
            first: the first environment of the share.
            alpha: the exponent of priorities.
            errors: the errors that set the priorities of the transitions that may become complete,
                the newest first; NaN, or None, takes the largest priority seen.
        """
        share = len(row.last)
        slot, env = state.position[first], first + jnp.arange(share, dtype=jnp.int32)

        def write(ring: Array, new: Array) -> Array:
            start = (slot, first, *[jnp.int32(0)] * (ring.ndim - 2))
            return jax.lax.dynamic_update_slice(ring, new[None], start)

        rows = jax.tree.map(write, state.rows, row)
        ended = jnp.concatenate([row.last[None], rows.last[self._starts(slot)[:, None], env]])
        tree = self._with_begun(state, ended, slot, env, alpha, errors)
        after = jnp.full(share, (slot + 1) % self.slots)
        position = jax.lax.dynamic_update_slice(state.position, after, (first,))
        return state._replace(rows=rows, tree=tree, position=position)

    def end_share(self, state: ReplayState, first: Int[Array, ""], share: int) -> ReplayState:
        """Let the newest rows of a share end their episodes, as other steps follow than theirs."""
        slot, env = state.position[first] - 1, first + jnp.arange(share, dtype=jnp.int32)
        last = state.rows.last.at[slot % self.slots, env].set(True)
        return state._replace(rows=state.rows._replace(last=last))

    def _starts(self, slot: Int[Array, ""]) -> Int[Array, " n"]:
        """Return the slots of the transitions that may become complete with a row at `slot`."""
        back = jnp.arange(1, self.n_step + 1, dtype=jnp.int32)
        return (slot - back) % self.slots

    def _with_begun(
        self,
        state: ReplayState,
        ended: Bool[Array, "newest share"],
        slot: Int[Array, ""],
        env: Int[Array, " share"],
        alpha: Float[Array, ""],
        errors: Float[Array, "n share"] | None,
    ) -> sum_tree.SumTree:
        """Return the tree after rows of some environments were written at `slot`.

        Args:
            state: the buffer before.
            ended: where the n + 1 newest rows, the newest first, end their episodes.
            slot: that was written.
            env: the environments.
            alpha: the exponent of priorities.
            errors: see `add_share`.
        """
        starts, share = self._starts(slot), len(env)
        same_episode = jnp.cumsum(ended[1:], axis=0) == 0  # [n, environments]
        whole = jnp.arange(1, self.n_step + 1, dtype=jnp.int32) == self.n_step
        complete = same_episode & (whole[:, None] | ended[0])

        lost = (slot + jnp.arange(self.frames, dtype=jnp.int32)) % self.slots
        slots = jnp.concatenate([lost, starts])
        leaves = (slots[:, None] * self.num_envs + env).reshape(-1)
        priority = sum_tree.get(state.tree, leaves).reshape(len(slots), share)
        begun = state.max_priority**alpha
        if errors is not None and self.prioritized:
            known = (jnp.abs(errors) + self.priority_offset) ** alpha
            begun = jnp.where(jnp.isnan(errors), begun, known)
        begun = jnp.where(complete, begun, priority[self.frames :])
        priority = jnp.concatenate([jnp.zeros_like(priority[: self.frames]), begun])
        return sum_tree.put(state.tree, leaves, priority.reshape(-1))

    def newest(
        self, state: ReplayState, env: Int[Array, " rows"], back: Int[Array, " rows"]
    ) -> Int[Array, " rows"]:
        """Return the slots that environments wrote as their newest row, or `back` rows before."""
        position = state.position if self.lockstep else state.position[env]
        return (position - 1 - back) % self.slots

    def extend(self, state: ReplayState, rows: Row) -> ReplayState:
        """Write rows [steps, environments, ...] one after the other, with the largest priority."""

        def add(state: ReplayState, row: Row) -> tuple[ReplayState, None]:
            return self.add(state, row, jnp.float32(1)), None

        return jax.lax.scan(add, state, rows)[0]

    def sample(
        self, state: ReplayState, key: PRNGKeyArray, batch_size: int, beta: Float[Array, ""]
    ) -> Batch:
        """Sample transitions, stratified, with importance weights (P_min / P)^beta.

        The factor 1/N of the paper's weights cancels, as they are divided by the batch's largest.
        At least one transition must be complete.

        On several devices the batch is that of all, and `batch_size` the share of each. A device's
        transition is sampled with a probability of its priority over the sum of those on that
        device, which therefore does not cancel.

        Example: priorities 1 1 on one device and 1 1 2 on another. The probabilities, but for a
        common factor, are 1/2 1/2 and 1/4 1/4 1/2. The least of them has the weight 1, so with a
        beta of 1 the weights are 1/2 1/2 and 1 1 1/2.
        """
        indices, priority = sum_tree.find(state.tree, sum_tree.strata(key, batch_size))
        if self.shards.number > 1:
            priority /= sum_tree.total(state.tree)
        weights = (self.shards.least(jnp.min(priority)) / priority) ** beta
        return Batch(self.transitions(state.rows, indices), indices, weights)

    def transitions(self, rows: Row, indices: Int[Array, " batch"]) -> Transition:
        """Assemble the n-step transitions [B, ...] that begin at `indices`.

        With several frames the states are stacks of them, [B, frames, ...], the newest last.
        """
        slot, env = indices // self.num_envs, indices % self.num_envs
        following = (slot[:, None] + jnp.arange(1, self.n_step + 1, dtype=jnp.int32)) % self.slots
        last = rows.last[following, env[:, None]]  # [B, n]
        counted = jnp.cumsum(last, axis=-1) - last == 0  # up to the end of the episode
        steps = jnp.sum(counted, axis=-1, dtype=jnp.int32)
        end = (slot + steps) % self.slots
        discounts = jnp.asarray(self.discount ** np.arange(self.n_step + 1), jnp.float32)
        rewards = rows.reward[following, env[:, None]]
        discount_t = discounts[steps]
        r_t = jnp.sum(jnp.where(counted, discounts[:-1] * rewards, 0), axis=-1)
        return Transition(
            s_tm1=self.seen(rows, slot, env),
            a_tm1=rows.action[slot, env],
            r_t=r_t,
            discount_t=jnp.where(rows.terminated[end, env], 0, discount_t),
            s_t=self.seen(rows, end, env),
            perturbation=None if rows.perturbation is None else rows.perturbation[slot, env],
            mask_tm1=None if rows.action_mask is None else rows.action_mask[slot, env],
            mask_t=None if rows.action_mask is None else rows.action_mask[end, env],
        )

    def seen(self, rows: Row, slot: Int[Array, " batch"], env: Int[Array, " batch"]) -> Any:
        """Return the observations of some rows, or the stacks of frames that end with them.

        A stack that reaches back before its episode repeats the episode's first observation.
        """

        def newest(ring: Array) -> Array:
            return ring[slot, env]

        if self.frames == 1:
            return jax.tree.map(newest, rows.observation)
        slots = [slot]
        going = jnp.ones(slot.shape, jnp.bool_)
        for _ in range(self.frames - 1):
            before = (slots[-1] - 1) % self.slots
            going &= ~rows.last[before, env]
            slots.append(jnp.where(going, before, slots[-1]))
        places = jnp.stack(slots[::-1], axis=1), env[:, None]
        return frames.by_kind(lambda ring: ring[places], newest, rows.observation)

    def set_priorities(
        self,
        state: ReplayState,
        indices: Int[Array, " batch"],
        td_error: Float[Array, " batch"],
        alpha: Float[Array, ""],
        counted: Bool[Array, " batch"] | None = None,
    ) -> ReplayState:
        """Set the priorities of sampled transitions to (|TD error| + offset)^alpha.

        Where an index was sampled more than once, its largest error counts, whatever the order.
        Those not `counted` keep their priority; None counts all.
        """
        if not self.prioritized:
            return state
        priority = jnp.abs(td_error) + self.priority_offset
        if counted is not None:
            priority = jnp.where(counted, priority, 0)
            indices = jnp.where(counted, indices, sum_tree.NOWHERE)
        return state._replace(
            tree=sum_tree.put(state.tree, indices, priority**alpha),
            max_priority=jnp.maximum(state.max_priority, self.shards.greatest(jnp.max(priority))),
        )
