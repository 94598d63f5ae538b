"""The update: what it computes, and that its three noise samples are independent."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.probes import act

from noisydqn import sample_noise
from noisydqn.distributions import Expected
from noisydqn.learner import agent as agents
from noisydqn.learner import gradient
from noisydqn.learner.agent import Agent, UpdateNoise, sample_update_noise
from noisydqn.learner.gradient import METRIC_NAMES, Descent
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers
from noisydqn.nets.torsos import Flatten
from noisydqn.trees import LARGE, Flat, named
from noisydqn.types import Batch, LearnerState, Transition

ACTIONS, FEATURES, BATCH = 3, 4, 6


def make_agent(sigma_penalty: float = 0.0, sigma_rate: float = 1.0, **options: Any) -> Agent:
    defaults: dict[str, Any] = {
        "descent": Descent(optax.sgd(0.1), sigma_penalty, sigma_rate),
        "double": True,
        "munchausen": None,
        "target_period": 3,
        "target_rate": 1.0,
    }
    return Agent(**defaults | options)


def make_learner(agent: Agent) -> LearnerState:
    online, target = (
        QNetwork(
            Flatten(FEATURES),
            (5,),
            ACTIONS,
            distribution=Expected("squared"),
            key=jax.random.key(k),
        )
        for k in (0, 1)
    )
    return agent.init(online, jax.random.key(0))._replace(target=Flat.of(target))


def make_batch(size: int = BATCH) -> Batch:
    keys = jax.random.split(jax.random.key(5), 4)
    transitions = Transition(
        s_tm1=jax.random.normal(keys[0], (size, FEATURES)),
        a_tm1=jax.random.randint(keys[1], (size,), 0, ACTIONS),
        r_t=jax.random.normal(keys[2], (size,)),
        discount_t=jnp.linspace(0, 0.9, size),
        s_t=jax.random.normal(keys[3], (size, FEATURES)),
    )
    return Batch(transitions, jnp.arange(size), jnp.linspace(0.1, 1, size))


def make_noise(seed: int = 9) -> UpdateNoise:
    return sample_update_noise(make_learner(make_agent()).online.tree, jax.random.key(seed), BATCH)


@pytest.mark.parametrize("double", [True, False])
def test_errors_example_by_example(double: bool) -> None:
    agent = make_agent(double=double)
    learner, batch, noise = make_learner(agent), make_batch(), make_noise()
    online_noise, target_noise, selector_noise, _ = noise
    (_, errors), _ = agent.losses(learner.online.tree, learner.target.tree, batch, noise)
    for i in range(BATCH):
        s_tm1, a_tm1, r_t, discount_t, s_t = (x[i] for x in batch.transitions[:5])
        value = learner.target.tree(s_t, target_noise)
        chosen = learner.online.tree(s_t, selector_noise) if double else value
        target = float(r_t) + float(discount_t) * float(value[int(np.argmax(chosen))])
        estimate = float(learner.online.tree(s_tm1, online_noise)[a_tm1])
        assert float(errors[i]) == pytest.approx(target - estimate, abs=1e-5)


def test_the_three_samples_differ() -> None:
    """Online, target and selecting network have noise samples that share no number.

    That these are the agent's samples is what `test_errors_example_by_example` shows.
    """
    numbers = [
        {x for leaf in jax.tree.leaves(sample) for x in np.ravel(leaf).tolist()}
        for sample in make_noise()[:3]
    ]
    assert not numbers[0] & numbers[1]
    assert not numbers[0] & numbers[2]
    assert not numbers[1] & numbers[2]


def test_sharing_a_sample_would_be_seen() -> None:
    """The errors differ from those of an agent that selects and values under one sample."""
    agent = make_agent()
    learner, batch, noise = make_learner(agent), make_batch(), make_noise()
    same = learner._replace(target=learner.online)
    (_, errors), _ = agent.losses(same.online.tree, same.target.tree, batch, noise)
    online_noise = noise.online
    for i in range(1, BATCH):
        s_tm1, a_tm1, r_t, discount_t, s_t = (x[i] for x in batch.transitions[:5])
        q_t = same.online.tree(s_t, online_noise)
        shared = float(
            r_t + discount_t * jnp.max(q_t) - same.online.tree(s_tm1, online_noise)[a_tm1]
        )
        assert float(errors[i]) != pytest.approx(shared, abs=1e-4)


def test_update_is_gradient_descent_on_the_weighted_loss() -> None:
    agent = make_agent()
    learner, batch, noise = make_learner(agent), make_batch(), make_noise()

    def loss(online: QNetwork) -> jax.Array:
        (_, errors), _ = agent.losses(online, learner.target.tree, batch, noise)
        return sum(batch.weights[i] * 0.5 * errors[i] ** 2 for i in range(BATCH)) / BATCH  # pyright: ignore[reportReturnType]

    gradient = jax.grad(loss)(learner.online.tree)
    updated, errors, metrics = agent.update(learner, batch, noise)
    expected = jax.tree.map(lambda x, g: x - 0.1 * g, learner.online.tree, gradient)
    for ours, theirs in zip(
        jax.tree.leaves(updated.online.tree), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(loss(learner.online.tree)), rel=1e-5)
    assert set(metrics) == set(METRIC_NAMES)
    assert errors.shape == (BATCH,)


def test_sigma_receives_gradient_in_every_layer() -> None:
    agent = make_agent()
    learner = make_learner(agent)
    updated, _, _ = agent.update(learner, make_batch(), make_noise(9))
    before, after = noisy_layers(learner.online.tree), noisy_layers(updated.online.tree)
    for path, layer in before.items():
        assert jnp.any(layer.weight_sigma != after[path].weight_sigma), path
        assert jnp.any(layer.bias_sigma != after[path].bias_sigma), path


def test_noise_differs_with_every_key() -> None:
    agent = make_agent()
    learner, batch = make_learner(agent), make_batch()
    errors = [
        agent.losses(learner.online.tree, learner.target.tree, batch, make_noise(k))[0].error
        for k in (0, 0, 1)
    ]
    assert (errors[0] == errors[1]).all()
    assert not jnp.any(errors[0] == errors[2])


def test_the_targets_noise_is_resampled() -> None:
    """At a terminal-free transition the target moves with the key though no weight changed."""
    agent = make_agent(double=False)
    learner, batch = make_learner(agent), make_batch()
    still = eqx.tree_at(  # an online network without noise: only the target's sample is left
        lambda n: [x for m in noisy_layers(n).values() for x in (m.weight_sigma, m.bias_sigma)],
        learner.online.tree,
        replace_fn=jnp.zeros_like,
    )
    one, other = (
        agent.losses(still, learner.target.tree, batch, make_noise(k))[0].error for k in (0, 1)
    )
    assert float(one[0]) == pytest.approx(float(other[0]))  # its discount is 0
    assert jnp.all(one[1:] != other[1:])


def test_target_is_copied_at_its_period() -> None:
    agent = make_agent(target_period=3)
    learner = make_learner(agent)
    original = learner.target.tree
    for update in range(1, 7):
        learner, _, _ = agent.update(learner, make_batch(), make_noise(update))
        assert int(learner.updates) == update
        if update < 3:
            assert eqx.tree_equal(learner.target.tree, original)
        elif update in (3, 6):
            assert eqx.tree_equal(learner.target.tree, learner.online.tree)
        else:
            assert not eqx.tree_equal(learner.target.tree, learner.online.tree)


def test_an_averaged_target_moves_its_share() -> None:
    agent = make_agent(target_period=1, target_rate=0.25)
    learner = make_learner(agent)
    updated, _, _ = agent.update(learner, make_batch(), make_noise(0))
    expected = 0.75 * learner.target.vector + 0.25 * updated.online.vector
    np.testing.assert_allclose(updated.target.vector, expected, rtol=1e-5, atol=1e-7)


def test_sigma_penalty_is_the_sum_of_mean_abs_sigma() -> None:
    learner, batch, noise = make_learner(make_agent()), make_batch(), make_noise()
    plain = make_agent().update(learner, batch, noise)[2]["loss"]
    penalized = make_agent(sigma_penalty=2.0).update(learner, batch, noise)[2]["loss"]
    # sigma_0 / sqrt(p): hidden layer 4 inputs, both heads 5.
    expected = 2.0 * (0.5 / np.sqrt(4) + 2 * 0.5 / np.sqrt(5))
    assert float(penalized - plain) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_sigma_moves_at_its_own_rate(rate: float) -> None:
    learner, batch, noise = make_learner(make_agent()), make_batch(), make_noise()
    whole = named(make_agent().update(learner, batch, noise)[0].online.tree)
    slow = named(make_agent(sigma_rate=rate).update(learner, batch, noise)[0].online.tree)
    for name, before in named(learner.online.tree).items():
        share = rate if name.endswith("_sigma") else 1.0
        expected = before + share * (whole[name] - before)
        np.testing.assert_allclose(slow[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
        assert np.any(whole[name] != before), name


def test_a_batch_of_one() -> None:
    agent = make_agent()
    learner, errors, _ = agent.update(make_learner(agent), make_batch(1), make_noise(0))
    assert errors.shape == (1,)
    assert int(learner.updates) == 1


def test_act_without_noise_is_deterministic() -> None:
    network = make_learner(make_agent()).online.tree
    observations = jax.random.normal(jax.random.key(0), (50, FEATURES))
    actions = act(network, observations, None)
    expected = [int(np.argmax(network(x, None))) for x in observations]
    assert actions.tolist() == expected


def test_act_under_shared_or_separate_samples() -> None:
    network = make_learner(make_agent()).online.tree
    observations = jnp.broadcast_to(jnp.linspace(-1, 1, FEATURES), (200, FEATURES))
    shared = act(network, observations, sample_noise(network, jax.random.key(0)))
    assert len(set(shared.tolist())) == 1
    keys = jax.random.split(jax.random.key(0), 200)
    separate = jax.vmap(lambda key: sample_noise(network, key, shared=False))(keys)
    actions = act(network, observations, separate)
    assert len(set(actions.tolist())) > 1
    for i in (0, 17, 199):
        sample = sample_noise(network, keys[i])
        assert int(actions[i]) == int(np.argmax(network(observations[i], sample)))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1)], ids=["sgd", "adam"])
def test_large_arrays_stay_apart(
    monkeypatch: pytest.MonkeyPatch, optimizer: optax.GradientTransformation
) -> None:
    """Updates are the same as those of one vector."""
    clipped = optax.chain(optax.clip_by_global_norm(0.01), optimizer)
    rule = make_agent(descent=Descent(clipped, 0.1, 0.5), target_period=2, target_rate=0.25)
    results: list[Any] = []
    for large in (LARGE, 10):
        for module in (agents, gradient):
            monkeypatch.setattr(module, "LARGE", large)
        online, target = make_learner(rule).online.tree, make_learner(rule).target.tree
        learner = rule.init(online, jax.random.key(0))
        learner = learner._replace(target=Flat.of(target, large))
        seen: list[Any] = []
        for seed in range(3):
            learner, *told = rule.update(learner, make_batch(), make_noise(seed))
            seen.append(told)
        results.append((learner.online.tree, learner.target.tree, seen))
        assert bool(learner.online.large) == (large == 10)
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
