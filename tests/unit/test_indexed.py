"""Indexed noise in a network, its prior, and updates under chosen samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.probes import SMALL, CountingEnv, adapted, train
from tests.unit.test_agent import ACTIONS, BATCH, FEATURES, make_agent, make_batch

from noisydqn import Config, NoisyLinear, sample_noise
from noisydqn.distributions import DISTRIBUTIONS, Distribution, Expected, Quantile
from noisydqn.errors import ConfigError
from noisydqn.learner.agent import UpdateNoise, sample_update_noise
from noisydqn.learner.gradient import Descent
from noisydqn.learner.noise_rule import NoiseRule
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import IndexedNoise, is_shared, scaled
from noisydqn.nets.prior import Prior
from noisydqn.nets.torsos import Flatten
from noisydqn.runners.device import DeviceRunner
from noisydqn.runners.replay_core import ReplayCore
from noisydqn.trees import Flat, named
from noisydqn.types import LearnerState

M = 4


def make_network(
    seed: int = 0,
    scale: float = 0.0,
    hidden: tuple[int, ...] = (5,),
    distribution: Distribution | None = None,
) -> QNetwork:
    prior = None
    if scale > 0:
        key = jax.random.key(7)
        prior = Prior(Flatten(FEATURES), hidden, ACTIONS, index_dim=M, scale=scale, key=key)
    return QNetwork(
        Flatten(FEATURES),
        hidden,
        ACTIONS,
        distribution=Expected("squared") if distribution is None else distribution,
        noisy_hidden=False,
        noise="indexed",
        index_dim=M,
        prior=prior,
        key=jax.random.key(seed),
    )


# The layer


@pytest.mark.parametrize("shared", [True, False])
def test_a_layer_agrees_with_a_loop_over_weights(shared: bool) -> None:
    layer = NoisyLinear(5, 3, noise="indexed", index_dim=M, key=jax.random.key(2))
    x, noise = np.linspace(-1, 2, 5), layer.sample_noise(jax.random.key(3), shared=shared)
    assert isinstance(noise, IndexedNoise)
    index = np.asarray(noise.index, np.float64)
    np.testing.assert_allclose(np.linalg.norm(index), 1, rtol=1e-6)
    expected = np.zeros(3)
    for j in range(3):
        expected[j] = layer.bias_mu[j] + np.dot(layer.bias_sigma[j], index)
        for i in range(5):
            deviation = sum(float(layer.weight_sigma[j, i, m]) * index[m] for m in range(M))
            expected[j] += (float(layer.weight_mu[j, i]) + deviation) * x[i]
    np.testing.assert_allclose(layer(jnp.asarray(x), noise), expected, rtol=1e-5)


def test_all_layers_share_the_index_and_other_noise_is_their_own() -> None:
    network = QNetwork(Flatten(4), (8,), 3, noise="indexed", index_dim=M, key=jax.random.key(0))
    noise = sample_noise(network, jax.random.key(1))
    indices = [np.asarray(x) for x in jax.tree.leaves(noise)]
    assert len(indices) == 3  # hidden, advantage, value
    for index in indices:
        np.testing.assert_array_equal(index, indices[0])
    keys = jax.random.split(jax.random.key(2), 5)
    many = jax.vmap(lambda key: sample_noise(network, key, shared=False))(keys)
    assert not is_shared(many)
    assert len(np.unique(np.asarray(many.value.index), axis=0)) == 5


def test_layers_of_other_dimensions_are_refused() -> None:
    layers = [
        NoisyLinear(2, 2, noise="indexed", index_dim=m, key=jax.random.key(0)) for m in (2, 3)
    ]
    with pytest.raises(ValueError, match="share their index, got dimensions"):
        sample_noise(layers, jax.random.key(0))
    with pytest.raises(ValueError, match="index_dim must be a whole number above 0, got 0"):
        NoisyLinear(2, 2, noise="indexed", index_dim=0, key=jax.random.key(0))


@pytest.mark.parametrize("kind", ["factorised", "independent", "indexed"])
@pytest.mark.parametrize("shared", [True, False])
def test_scaling_a_sample_scales_what_it_adds(kind: Any, shared: bool) -> None:
    layer = NoisyLinear(5, 3, noise=kind, index_dim=M, key=jax.random.key(2))
    x, noise = jnp.linspace(-1, 2, 5), layer.sample_noise(jax.random.key(3), shared=shared)
    mean, under = layer(x, None), layer(x, noise)
    half = layer(x, scaled({"layer": noise}, jnp.float32(0.5))["layer"])
    np.testing.assert_allclose(half - mean, 0.5 * (under - mean), rtol=1e-4)


# The prior


def test_mean_weights_have_no_prior() -> None:
    x = jnp.linspace(-1, 1, FEATURES)
    plain, prior = make_network(), make_network(scale=3.0)
    np.testing.assert_allclose(prior(x, None), plain(x, None), rtol=1e-6)
    noise = sample_noise(prior, jax.random.key(1))
    assert np.abs(prior(x, noise) - plain(x, sample_noise(plain, jax.random.key(1)))).max() > 0.1


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_prior_values_have_the_scale_whatever_that_of_the_observations(size: float) -> None:
    x = size * jax.random.normal(jax.random.key(0), (3, 20))

    def values(key: jax.Array) -> jax.Array:
        made_key, index_key = jax.random.split(key)
        prior = Prior(Flatten(20), (64, 64), 2, index_dim=M, scale=2.0, key=made_key)
        index = jax.random.normal(index_key, (M,))
        features = prior.features(x)
        return jax.vmap(lambda f: prior.values(f, index / jnp.linalg.norm(index)))(features)

    of_priors = np.asarray(jax.vmap(values)(jax.random.split(jax.random.key(1), 2_000)))
    np.testing.assert_allclose(of_priors.std(), 2.0, rtol=0.1)
    assert abs(of_priors.mean()) < 0.1


def test_features_of_a_batch_are_those_of_each() -> None:
    from noisydqn.nets.network import features

    network, x = make_network(scale=1.0), jax.random.normal(jax.random.key(0), (6, FEATURES))
    each = np.stack([network.features(row) for row in x])
    np.testing.assert_allclose(features(network, x), each, rtol=1e-5)
    assert each.shape == (6, FEATURES + 5)


def test_a_prior_shifts_all_quantiles_alike() -> None:
    network = make_network(scale=2.0, distribution=Quantile(quantiles=4))
    plain = make_network(distribution=Quantile(quantiles=4))
    x, noise = jnp.linspace(-1, 1, FEATURES), sample_noise(network, jax.random.key(1))
    own = sample_noise(plain, jax.random.key(1))
    shift = network.outputs(network.features(x), noise) - plain.outputs(plain.features(x), own)
    np.testing.assert_allclose(shift, np.tile(np.asarray(shift)[:, :1], (1, 4)), atol=1e-6)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adamw(0.1, weight_decay=0.5)])
def test_an_update_leaves_the_prior_alone(optimizer: optax.GradientTransformation) -> None:
    agent = make_agent(descent=Descent(optimizer, 0.0, 1.0))
    learner = agent.init(make_network(scale=1.0), jax.random.key(0))
    noise = sample_update_noise(learner.online.tree, jax.random.key(1), BATCH)
    after, _, _ = agent.update(learner, make_batch(), noise)
    before, changed = named(learner.online.tree), named(after.online.tree)
    for name, x in before.items():
        same = np.array_equal(x, changed[name])
        assert same == name.startswith("prior."), name


# Updates under chosen samples


def make_learner(agent: Any, scale: float = 1.0) -> LearnerState:
    learner = agent.init(make_network(0, scale), jax.random.key(0))
    return learner._replace(target=Flat.of(make_network(1, scale)))


@pytest.mark.parametrize("double", [True, False])
def test_matched_targets_example_by_example(double: bool) -> None:
    """Prediction, target and selection under one index, for each of three."""
    rule = NoiseRule(samples=3, matched=True)
    agent, batch = make_agent(double=double, noise=rule), make_batch()
    learner = make_learner(agent)
    online, target = learner.online.tree, learner.target.tree
    noise = sample_update_noise(online, jax.random.key(9), BATCH, rule)
    samples = [jax.tree.map(lambda x, k=k: x[k], noise.online) for k in range(3)]
    losses = np.zeros(BATCH)
    for i in range(BATCH):
        s_tm1, a_tm1, r_t, discount_t, s_t = (x[i] for x in batch.transitions[:5])
        for sample in samples:
            value = target(s_t, sample)
            chosen = online(s_t, sample) if double else value
            goal = float(r_t) + float(discount_t) * float(value[int(np.argmax(chosen))])
            losses[i] += 0.5 * (goal - float(online(s_tm1, sample)[a_tm1])) ** 2 / 3
    _, _, metrics = agent.update(learner, batch, noise)
    expected = np.mean(np.asarray(batch.weights) * losses)
    np.testing.assert_allclose(float(metrics["loss"]), expected, rtol=1e-4)


def test_targets_are_perturbed_by_the_vector_of_their_transition() -> None:
    rule = NoiseRule(matched=True)
    agent, plain = (make_agent(noise=rule, perturbation=x) for x in (2.0, 0.0))
    batch = make_batch()
    vectors = jax.random.normal(jax.random.key(3), (BATCH, M))
    perturbed = batch._replace(transitions=batch.transitions._replace(perturbation=vectors))
    learner = make_learner(agent)
    noise = sample_update_noise(learner.online.tree, jax.random.key(9), BATCH, rule)
    networks = learner.online.tree, learner.target.tree
    (_, without), _ = plain.losses(*networks, batch, noise)
    (_, errors), _ = agent.losses(*networks, perturbed, noise)
    added = 2.0 * np.asarray(vectors) @ np.asarray(noise.online.advantage.index)
    np.testing.assert_allclose(errors - without, added, rtol=1e-3, atol=1e-5)


def test_a_transition_keeps_its_vector() -> None:
    """Sampled from the replay buffer: that of its first row, a different one for each row."""
    config = SMALL.replace(noise="indexed", index_dim=M, target_perturbation=0.1, n_step=2)
    core = DeviceRunner.create(config.program, adapted(CountingEnv())).core
    assert isinstance(core, ReplayCore)
    *_, chunk = train(config, CountingEnv())
    rows = core.rows(jax.tree.map(lambda x: x[0], chunk.state.training))
    assert rows.perturbation is not None
    vectors = np.asarray(rows.perturbation).reshape(-1, M)
    assert len(np.unique(vectors, axis=0)) == len(vectors)
    np.testing.assert_allclose(vectors.std(), 1, atol=0.2)
    indices = jnp.arange(4)
    sampled = core.replay.transitions(rows, indices)
    np.testing.assert_array_equal(sampled.perturbation, vectors[:4])


def test_several_samples_average_the_gradients_of_each() -> None:
    rule = NoiseRule(samples=4)
    agent, one, batch = make_agent(noise=rule), make_agent(), make_batch()
    learner = make_learner(agent)
    noise = sample_update_noise(learner.online.tree, jax.random.key(9), BATCH, rule)
    first = jax.tree.map(lambda x: x[0], noise.online)
    assert not np.allclose(first.advantage.index, noise.target.advantage.index[0])
    after, _, _ = agent.update(learner, batch, noise)
    steps = []
    for k in range(4):
        online, target, selector = jax.tree.map(lambda x, k=k: x[k], noise[:3])
        sample = UpdateNoise(online, target, selector, None)
        steps.append(one.update(learner, batch, sample)[0].online.vector - learner.online.vector)
    step = after.online.vector - learner.online.vector
    np.testing.assert_allclose(step, np.mean(steps, axis=0), rtol=1e-3, atol=1e-6)


def test_updates_with_mean_weights_leave_sigma_alone() -> None:
    rule = NoiseRule(mean=True)
    agent = make_agent(noise=rule)
    learner = make_learner(agent, scale=0.0)
    noise = sample_update_noise(learner.online.tree, jax.random.key(9), BATCH, rule)
    assert not jax.tree.leaves(noise)
    after, errors, _ = agent.update(learner, make_batch(), noise)
    for name, x in named(learner.online.tree).items():
        same = np.array_equal(x, named(after.online.tree)[name])
        assert same == name.endswith("_sigma"), name
    assert np.isfinite(errors).all()


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prior_scale": 1.0},
            "--prior-scale 1.0 and --noise factorised exclude each other: give --noise indexed, or "
            "leave it out",
        ),
        (
            {"index_dim": 4, "noise": "independent"},
            "--index-dim 4 and --noise independent exclude each other: give --noise indexed, or "
            "leave it out",
        ),
        (
            {"noise": "indexed", "sigma_distribution": "kaiming-uniform", "sigma_init": 1.0},
            "--sigma-distribution kaiming-uniform and --noise indexed exclude each other: its "
            "sigmas start normally distributed",
        ),
        (
            {"noise": "indexed", "prior_scale": 1.0, "distribution": "categorical"},
            "--prior-scale 1.0 and --distribution categorical exclude each other: its outputs are "
            "logits, which no value can be added to; give --prior-scale 0",
        ),
        (
            {"noise": "indexed", "exploration": "epsilon-greedy"},
            "--noise indexed and --exploration epsilon-greedy exclude each other: no layer is "
            "noisy then",
        ),
        (
            {"matched_targets": True, "exploration": "greedy"},
            "--matched-targets and --exploration greedy exclude each other: give --exploration "
            "noisy, or leave it out",
        ),
        (
            {"target_perturbation": 0.1},
            "--target-perturbation 0.1 and --noise factorised exclude each other: give --noise "
            "indexed, or leave it out",
        ),
        (
            {"noise_samples": 2, "update_noise": "mean"},
            "--noise-samples 2 and --update-noise mean exclude each other: give --update-noise "
            "sample, or leave it out",
        ),
        (
            {"learner": "parallel", "return_noise": "acting", "matched_targets": True},
            "--return-noise acting and --matched-targets exclude each other: matched targets are "
            "valued under the samples of updates",
        ),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert str(caught.value) == message


def test_another_exploration_needs_none_of_a_presets_noise() -> None:
    noisy = Config(
        noise="indexed",
        prior_scale=1.0,
        matched_targets=True,
        noise_samples=4,
        target_perturbation=0.1,
    )
    assert noisy.replace(exploration="both").network.noise == "indexed"
    plain = noisy.replace(exploration="epsilon-greedy")
    assert plain == Config(exploration="epsilon-greedy")
    other = noisy.replace(noise="independent")
    assert other == Config(noise="independent", matched_targets=True, noise_samples=4)
    parallel = noisy.replace(learner="parallel", exploration="greedy")
    assert parallel == Config(learner="parallel", exploration="greedy")
    with pytest.raises(ConfigError, match=r"--prior-scale 2\.0 and --noise independent exclude"):
        noisy.replace(noise="independent", prior_scale=2.0)
    with pytest.raises(ConfigError, match="--noise-samples 2 and --exploration greedy exclude"):
        noisy.replace(exploration="greedy", noise_samples=2)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_only_outputs_that_are_returns_have_a_prior(name: str) -> None:
    options: dict[str, Any] = {"noise": "indexed", "prior_scale": 1.0, "distribution": name}
    if DISTRIBUTIONS[name]().support is None:
        assert Config(**options).network.prior_scale == 1.0
    else:
        with pytest.raises(ConfigError, match="its outputs are logits"):
            Config(**options)


def test_indexed_noise_is_in_the_heads_unless_told_otherwise() -> None:
    assert not Config(noise="indexed").network.noisy_hidden
    assert Config(noise="indexed", noise_in="all").network.noisy_hidden
    assert Config().network.noisy_hidden
    assert not Config(noise_in="head").network.noisy_hidden
