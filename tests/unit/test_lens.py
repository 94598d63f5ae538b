"""The noise lens: its measures against loops over samples, and what runs record of it."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.probes import SMALL, CountingEnv, adapted, train

from noisydqn import Config
from noisydqn.learner import lens
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers, sample_noise, with_sigma
from noisydqn.nets.prior import Prior
from noisydqn.nets.torsos import Flatten
from noisydqn.runners import device, parallel_core, replay_core
from noisydqn.runners.probe import Probe, probe_noise
from noisydqn.runs.folder import RunFolder
from noisydqn.runs.trackers import FileTracker
from noisydqn.trees import named

KEY = jax.random.key(0)
FEATURES, ACTIONS, SAMPLES = 3, 4, 2 * lens.HELD
OBSERVATIONS = jax.random.normal(jax.random.key(1), (5, FEATURES))
KINDS = ("factorised", "independent", "indexed", "prior")
NOISE = ("q_spread", "action_gap", "action_entropy")


def make_network(kind: str = "factorised", *, noisy: bool = True) -> QNetwork:
    """A small network; of kind "prior" with indexed noise and a prior."""
    options: dict[str, Any] = {"noise": kind}
    if kind == "prior":
        torso = Flatten(FEATURES)
        prior = Prior(torso, (6,), ACTIONS, index_dim=8, scale=1.0, key=jax.random.key(7))
        options = {"noise": "indexed", "index_dim": 8, "prior": prior}
    return QNetwork(Flatten(FEATURES), (6,), ACTIONS, noisy=noisy, key=KEY, **options)


def looped(network: QNetwork, keys: jax.Array, masks: jax.Array | None) -> np.ndarray:
    """Values under noise, one sample and one observation at a time."""
    q = np.zeros((len(keys), len(OBSERVATIONS), ACTIONS))
    for k, key in enumerate(keys):
        noise = sample_noise(network, key)
        for i, observation in enumerate(OBSERVATIONS):
            q[k, i] = network(observation, noise, None if masks is None else masks[i])
    return q


def greedy(q: np.ndarray) -> int:
    return max(range(ACTIONS), key=lambda action: q[action])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_measures_agree_with_loops(kind: str, masked: bool) -> None:
    network = make_network(kind)
    masks = jax.random.bernoulli(KEY, 0.6, (len(OBSERVATIONS), ACTIONS)).at[:, 0].set(True)
    given = masks if masked else None
    keys = jax.random.split(jax.random.key(2), SAMPLES)
    expected = looped(network, keys, given)
    q = lens.values_under_noise(network, OBSERVATIONS, keys, given)
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-5)

    spreads: list[float] = []
    entropies: list[float] = []
    changes: list[bool] = []
    gaps: list[float] = []
    for i, observation in enumerate(OBSERVATIONS):
        for action in range(ACTIONS):
            if masked and not masks[i, action]:
                continue
            mean = sum(expected[:, i, action]) / SAMPLES
            squares = sum((x - mean) ** 2 for x in expected[:, i, action])
            spreads.append(math.sqrt(squares / (SAMPLES - 1)))
        chosen = [greedy(expected[k, i]) for k in range(SAMPLES)]
        shares = [number / SAMPLES for number in Counter(chosen).values()]
        entropies.append(-sum(share * math.log(share) for share in shares))
        mean_q = np.asarray(network(observation, None, None if given is None else given[i]))
        changes += [action != greedy(mean_q) for action in chosen]
        first, second = sorted(mean_q, reverse=True)[:2]
        gaps.append(first - second if np.isfinite(second) else 0.0)
    mean_q = jax.vmap(network, in_axes=(0, None, 0))(OBSERVATIONS, None, given)
    assert float(lens.q_spread(q)) == pytest.approx(np.mean(spreads), rel=1e-4)
    assert float(lens.action_entropy(q)) == pytest.approx(np.mean(entropies), rel=1e-5)
    assert float(lens.action_change(q, mean_q)) == pytest.approx(np.mean(changes))
    assert float(lens.action_gap(mean_q)) == pytest.approx(np.mean(gaps), rel=1e-4)


def test_entropy_of_known_choices() -> None:
    one, four = jnp.zeros((8, 1, 4)), jax.nn.one_hot(jnp.arange(8) % 4, 4)[:, None]
    assert float(lens.action_entropy(one)) == 0
    assert float(lens.action_entropy(four)) == pytest.approx(math.log(4))
    both = jnp.concatenate([one, four], axis=1)  # a batch of two
    assert float(lens.action_entropy(both)) == pytest.approx(math.log(4) / 2)


def test_a_single_action_has_no_gap() -> None:
    assert float(lens.action_gap(jnp.ones((5, 1)))) == 0


def test_dead_noise_is_told_from_noise_that_dominates() -> None:
    network = make_network()
    dead, wild = (
        probe_noise(with_sigma(network, sigma), OBSERVATIONS, None, {}, {}, KEY)
        for sigma in (0.0, 100.0)
    )
    assert float(dead.action_change) == float(dead.noise["action_entropy"]) == 0
    assert float(dead.noise["q_spread"]) < 1e-6 < float(dead.noise["action_gap"])
    assert float(wild.action_change) > 0.5
    assert float(wild.noise["q_spread"]) > 10 * float(wild.noise["action_gap"])
    assert float(wild.noise["action_entropy"]) > 0.8 * math.log(ACTIONS)


# Runs

PARALLEL = Config(
    learner="parallel",
    rollout_steps=4,
    minibatches=2,
    torso="flat",
    hidden=(8,),
    num_envs=2,
    steps=100,
    chunk_steps=24,
)
LEARNERS = {"replay": SMALL, "parallel": PARALLEL}


def nothing(
    network: Any, observations: Any, masks: Any, exploration: Any, data: Any, key: Any
) -> Probe:
    """Measure nothing."""
    del observations, masks, key
    return Probe(jnp.zeros(len(noisy_layers(network))), jnp.float32(0), {}, exploration, data)


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_runs_record_it_and_their_weights_do_not_depend_on_it(learner: str, tmp_path: Path) -> None:
    config = LEARNERS[learner]
    chunks = train(config, CountingEnv())
    tracker = FileTracker(RunFolder.at(tmp_path))
    for chunk in chunks:
        (seed,) = chunk.seeds
        tracker.chunk(chunk.steps, 0.0, 0.0, seed)
        assert tuple(sorted(seed.noise)) == tuple(sorted(NOISE))
        assert all(math.isfinite(x) and x >= 0 for x in seed.noise.values())
    assert chunks[0].seeds[0].noise["q_spread"] > 0
    tracker.close()
    with (tmp_path / "metrics.csv").open() as text:
        rows = list(csv.DictReader(text))
    for name in NOISE:
        written = [float(row[f"noise.{name}"]) for row in rows]
        assert written == [chunk.seeds[0].noise[name] for chunk in chunks]

    device.programs.cache_clear()
    with (
        mock.patch.object(replay_core, "probe_noise", nothing),
        mock.patch.object(parallel_core, "probe_noise", nothing),
    ):
        without = train(config, CountingEnv())
    device.programs.cache_clear()
    assert without[-1].seeds[0].noise == {}
    ends = [named(x[-1].policy(0).network) for x in (chunks, without)]
    for name, values in ends[0].items():
        np.testing.assert_array_equal(values, ends[1][name])


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_runs_without_noise_record_nothing(learner: str) -> None:
    config: Config = LEARNERS[learner].replace(exploration="greedy", steps=20)
    (chunk,) = train(config, CountingEnv())
    assert chunk.seeds[0].noise == {}
    assert chunk.seeds[0].action_change == 0


@pytest.mark.parametrize("num_envs", [1, 4, 40])
def test_the_newest_observations_are_measured(num_envs: int) -> None:
    """As many as there should be, whatever the number of environments."""
    seen: list[tuple[int, ...]] = []

    def measured(network: Any, observations: jax.Array, *others: Any) -> Probe:
        seen.append(observations.shape)
        return nothing(network, observations, *others)

    config = SMALL.replace(num_envs=num_envs, chunk_steps=40, replay_capacity=400)
    runner = device.DeviceRunner.create(config.program, adapted(CountingEnv()))
    with mock.patch.object(replay_core, "probe_noise", measured):
        jax.eval_shape(runner.end, jax.eval_shape(runner.init, KEY))
    assert seen == [(32, 3)]
