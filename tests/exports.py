"""Policies of every kind, and their export."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from noisydqn import PRESETS, Config, NoisyLinear
from noisydqn.dimensions import end_to_end
from noisydqn.distributions import Distribution
from noisydqn.envs.encoding import numbered
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.export import (
    SUFFIXES,
    Format,
    card_path,
    describe,
    example_observations,
    export_policy,
)
from noisydqn.folders import File
from noisydqn.learner.agent import values
from noisydqn.learner.policy import Policy
from noisydqn.preprocessing import moments
from noisydqn.runners import build
from noisydqn.runs.folder import RunFolder

OBSERVATIONS = 1_000
"""Of so many, every action is the best of some."""

Case = tuple[Config, EnvironmentSpec]
"""What a policy is made of."""


def spec(shape: tuple[int, ...], dtype: Any, actions: int) -> EnvironmentSpec:
    """Describe an environment without making one."""
    return EnvironmentSpec(jax.ShapeDtypeStruct(shape, dtype), actions, numbered(actions))


BASE = Config(hidden=(16,))
IMPLICIT: dict[str, Any] = {
    "distribution": "implicit-quantile",
    "quantiles": 2,
    "acting_quantiles": 5,
}
CASES: dict[str, Case] = {
    "vector": (BASE.replace(hidden=(16, 16)), spec((8,), np.float32, 4)),
    "vector, plain": (
        BASE.replace(dueling=False, exploration="greedy"),
        spec((3,), np.float32, 2),
    ),
    "frames of numbers": (BASE.replace(frame_stack=3), spec((), np.float32, 2)),
    "frames of vectors": (BASE.replace(frame_stack=3), spec((4,), np.float32, 2)),
    "bits": (BASE.replace(torso="minatar"), spec((10, 10, 4), np.bool_, 3)),
    "bytes": (PRESETS["catcher"].replace(hidden=(16,)), spec((42, 42), np.uint8, 3)),
    "frames of bytes": (BASE.replace(frame_stack=4), spec((36, 36), np.uint8, 3)),
    "frames in color": (
        BASE.replace(frame_stack=2, torso="minatar"),
        spec((10, 12, 3), np.uint8, 3),
    ),
    "normalized bytes": (
        PRESETS["catcher-notebook"].replace(hidden=(16,)),
        spec((42, 42), np.uint8, 3),
    ),
    "normalized and clipped": (
        BASE.replace(normalize_observations="running", observation_clip=0.5),
        spec((5,), np.float32, 3),
    ),
    "atoms": (
        BASE.replace(distribution="categorical", atoms=5, v_min=-1.0, v_max=2.0),
        spec((4,), np.float32, 3),
    ),
    "quantiles": (
        BASE.replace(distribution="quantile", quantiles=4),
        spec((4,), np.float32, 3),
    ),
    "quantiles, plain": (
        BASE.replace(
            distribution="quantile", quantiles=4, dueling=False, exploration="epsilon-greedy"
        ),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles": (
        BASE.replace(**IMPLICIT, hidden=(16, 8), layer_norm=True),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles of features": (
        BASE.replace(**IMPLICIT, hidden=(), dueling=False),
        spec((4,), np.float32, 3),
    ),
    "streams": (
        BASE.replace(
            distribution="categorical", atoms=5, hidden=(), dueling_hidden=(16, 8), layer_norm=True
        ),
        spec((4,), np.float32, 3),
    ),
    "implicit quantiles of streams": (
        BASE.replace(**IMPLICIT, dueling_hidden=(8,)),
        spec((4,), np.float32, 3),
    ),
    "mlp": (BASE.replace(torso="mlp", torso_widths=(8, 6)), spec((2, 3), np.float32, 3)),
    "normalized layers": (
        BASE.replace(torso="mlp", torso_widths=(8,), hidden=(16, 8), layer_norm=True),
        spec((4,), np.float32, 3),
    ),
    "impala": (
        BASE.replace(torso="impala", torso_widths=(4, 6), frame_stack=2),
        spec((9, 6), np.uint8, 3),
    ),
    "btr": (
        BASE.replace(torso="btr", torso_widths=(4,), frame_stack=2),
        spec((21, 9), np.uint8, 3),
    ),
    "hadamax": (BASE.replace(torso="hadamax"), spec((9, 6), np.uint8, 3)),
    "normalized convolutions": (
        BASE.replace(torso="catcher", torso_layer_norm=True),
        spec((20, 24), np.uint8, 3),
    ),
    "normalized residual convolutions": (
        BASE.replace(torso="btr", torso_widths=(4,), torso_layer_norm=True),
        spec((13, 9, 2), np.uint8, 3),
    ),
    "normalized maxima": (
        BASE.replace(torso="notebook", torso_layer_norm=True),
        spec((42, 42), np.uint8, 3),
    ),
}


def masked(case: Case) -> Case:
    """Let the environment of a case give action masks."""
    config, of = case
    return config, dataclasses.replace(of, masked=True)


MASKED: dict[str, Case] = {
    name: masked(CASES[name])
    for name in ("vector", "vector, plain", "frames of vectors", "atoms", "implicit quantiles")
} | {"streams": masked(CASES["streams"])}
"""Cases whose environments give action masks, with and without a dueling mean."""


def make(case: Case) -> Policy:
    """Make a policy for which every action is the best of some observations."""
    config, of = case
    policy = with_learned_norms(build.make_policy(config.program, of, jax.random.key(0)))
    seen = jax.tree.map(jnp.asarray, example_observations(policy, of, 50))
    if policy.moments is not None:
        known = moments.rounded(moments.update(moments.init(of.observation), seen))
        policy = eqx.tree_at(lambda p: p.moments, policy, known)
    # Centered, so that every action is the best of some observations.
    q = values(policy.network, policy.preprocess(seen), None)
    center = end_to_end(q, of.action_sizes).mean(0)

    def bias(policy: Policy) -> Any:
        head: Any = policy.network.advantage
        return head.bias_mu if isinstance(head, NoisyLinear) else head.bias

    return eqx.tree_at(bias, policy, bias(policy) - outputs_of(policy.network.distribution, center))


def with_learned_norms(network: Any) -> Any:
    """Give layer normalizations another scale than one and another offset than zero."""
    rng = np.random.default_rng(0)

    def learned(x: Any) -> Any:
        if not isinstance(x, eqx.nn.LayerNorm):
            return x
        return jax.tree.map(lambda p: p + rng.normal(0, 0.3, p.shape).astype(np.float32), x)

    return jax.tree.map(learned, network, is_leaf=lambda x: isinstance(x, eqx.nn.LayerNorm))


def outputs_of(distribution: Distribution, values: jax.Array) -> jax.Array:
    """Outputs [A * N] that move action values by these, to first order of evenly likely atoms."""
    support = distribution.support
    if support is not None:
        return jnp.outer(values, support / jnp.var(support)).reshape(-1)
    return jnp.repeat(values, distribution.num_outputs)


def export(tmp_path: Path, case: Case, file_format: Format) -> tuple[Path, Policy]:
    """Export a new policy, and check its card; returns the file and the policy."""
    config, of = case
    policy = make(case)
    file = tmp_path / f"policy{SUFFIXES[file_format]}"
    card = describe(RunFolder.at(tmp_path), config, of)
    export_policy(File.at(file), file_format, policy, of, card)
    assert sorted(x.name for x in tmp_path.iterdir()) == [file.name, file.name + ".json"]
    assert json.loads(card_path(file).read_text()) == json.loads(json.dumps(card))
    return file, policy


def assert_equal(
    ours: np.ndarray, policy: Policy, seen: np.ndarray, masks: np.ndarray | None = None
) -> None:
    """The same values, to 1e-4, and the same actions."""
    given = None if masks is None else jnp.asarray(masks)
    x = policy.preprocess(jnp.asarray(seen))
    expected = np.asarray(values(policy.network, x, None, given))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(ours.argmax(-1), expected.argmax(-1))
    if len(seen) == OBSERVATIONS:
        assert len(np.unique(expected.argmax(-1))) == expected.shape[-1]
