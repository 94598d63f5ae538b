"""One full update against an independent one in PyTorch: same weights, noise and batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisydqn import Config
from noisydqn.envs.spec import EnvironmentSpec
from noisydqn.learner.agent import sample_update_noise
from noisydqn.nets.noisy import FactorisedNoise, Noise, is_noisy
from noisydqn.runners import build
from noisydqn.trees import Flat
from noisydqn.types import Batch, Transition

pytest.importorskip("torch")
from tests.reference import torch_twin

FEATURES, ACTIONS, BATCH = 4, 3, 6
CATEGORICAL = {"distribution": "categorical", "atoms": 11, "v_min": -2.0, "v_max": 3.0}
QUANTILE = {"distribution": "quantile", "quantiles": 5}
IMPLICIT = {"distribution": "implicit-quantile", "quantiles": 5, "acting_quantiles": 4}
PLAIN = {"double": False, "dueling": False}
STREAMS = {"dueling_hidden": (6,)}
SOFT = {"munchausen": True, "munchausen_temperature": 0.2}


def named(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves
    }


def named_noise(network: Any, noise: Any) -> dict[str, np.ndarray]:
    """Each layer's noise by the layer's name and the noise's field."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(network, is_leaf=is_noisy)
    samples = jax.tree.leaves(noise, is_leaf=lambda x: isinstance(x, Noise))
    paths = [jax.tree_util.keystr(p, simple=True, separator=".") for p, x in nodes if is_noisy(x)]
    return {
        f"{path}.{field}": np.asarray(x)
        for path, sample in zip(paths, samples, strict=True)
        for field, x in named(sample).items()
    }


def make_batch() -> Batch:
    keys = jax.random.split(jax.random.key(5), 4)
    transitions = Transition(
        s_tm1=jax.random.normal(keys[0], (BATCH, FEATURES)),
        a_tm1=jax.random.randint(keys[1], (BATCH,), 0, ACTIONS),
        r_t=2 * jax.random.normal(keys[2], (BATCH,)),
        discount_t=jnp.linspace(0, 0.9, BATCH),
        s_t=jax.random.normal(keys[3], (BATCH, FEATURES)),
    )
    return Batch(transitions, jnp.arange(BATCH), jnp.linspace(0.1, 1, BATCH))


@pytest.mark.parametrize(
    "options",
    [
        {},
        PLAIN | SOFT,
        CATEGORICAL,
        CATEGORICAL | PLAIN | SOFT | {"noise": "independent"},
        QUANTILE,
        QUANTILE | SOFT | {"exploration": "greedy"},
        IMPLICIT,
        IMPLICIT | PLAIN | SOFT,
        IMPLICIT | STREAMS,
        CATEGORICAL | STREAMS | {"noise": "independent"},
    ],
    ids=str,
)
def test_update_agrees(options: dict[str, Any]) -> None:
    config = Config(hidden=(8, 7), learning_rate=1e-3, adam_epsilon=1.5e-4, **options)
    config = config.replace(target_rate=1.0, target_period=100)
    spec = EnvironmentSpec(jax.ShapeDtypeStruct((FEATURES,), jnp.float32), ACTIONS, ("a", "b", "c"))
    online, target = (
        build.make_policy(config.program, spec, jax.random.key(k)).network for k in range(2)
    )
    agent, batch = build.make_agent(config.program), make_batch()
    noise = sample_update_noise(online, jax.random.key(9), BATCH)
    learner = agent.init(online, jax.random.key(0))._replace(target=Flat.of(target))
    updated, errors, metrics = jax.jit(agent.update)(learner, batch, noise)

    samples = noise[:3]
    if config.exploration.noisy_layers and config.network.noise == "factorised":
        assert isinstance(samples[0].advantage, FactorisedNoise)
    taus: tuple[Any, Any] = noise.queries or (None, None)
    assert (taus[0] is None) == (options.get("distribution") != "implicit-quantile")
    rule = torch_twin.Rule(
        distribution=config.flat()["distribution"],
        double=config.program.learner.double,
        munchausen=(0.9, 0.2, -1.0) if config.program.learner.munchausen else None,
        num_actions=ACTIONS,
        learning_rate=1e-3,
        epsilon=1.5e-4,
        atoms=config.flat().get("atoms", 0),
        v_min=config.flat().get("v_min", 0.0),
        v_max=config.flat().get("v_max", 0.0),
        acting_quantiles=config.flat().get("acting_quantiles", 0),
    )
    arrays = {**named(batch.transitions), "weights": np.asarray(batch.weights)}
    noises = [named_noise(online, sample) for sample in samples]
    theirs, their_errors = torch_twin.update(
        rule, named(online), named(target), noises, taus, arrays
    )
    np.testing.assert_allclose(errors, their_errors, atol=1e-5)
    ours, before = named(updated.online.tree), named(online)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        np.testing.assert_allclose(x, theirs[name], atol=1e-5, err_msg=name)
    moved = max(float(np.max(np.abs(ours[name] - before[name]))) for name in ours)
    assert moved > 5e-4  # as far as one step of Adam goes
    assert float(metrics["loss"]) > 0
