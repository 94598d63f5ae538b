"""Presets are what they say."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from noisydqn import PRESETS
from noisydqn.config.config import variant_name
from noisydqn.distributions import Categorical
from noisydqn.envs.catcher import CatcherPixels
from noisydqn.envs.device import DeviceEnvironment
from noisydqn.nets.noisy import noisy_layers
from noisydqn.presets import COUNTERPARTS, DESCRIPTIONS, config_for, with_learner
from noisydqn.runners import build


def test_every_preset_is_described_and_named() -> None:
    assert DESCRIPTIONS.keys() == PRESETS.keys()
    assert all(config.preset == name for name, config in PRESETS.items())


def test_the_rainbow_of_its_paper() -> None:
    """Hessel et al. 2018, table 1, in updates and steps instead of frames."""
    wanted = {
        "learning_rate": 6.25e-5,
        "adam_epsilon": 1.5e-4,
        "exploration": "noisy",
        "sigma_init": 0.5,
        "target_period": 32_000 // 4 // 4,  # frames, four a step, four steps an update
        "target_rate": 1.0,
        "learning_starts": 80_000 // 4,
        "priority_exponent": 0.5,
        "priority_exponent_final": 0.5,
        "importance_exponent": 0.4,
        "importance_exponent_final": 1.0,
        "n_step": 3,
        "distribution": "categorical",
        "double": True,
        "dueling": True,
        "batch_size": 32,
        "updates_per_step": 0.25,
        "discount": 0.99,
        "steps": 200_000_000 // 4,
        "schedule_updates": 200_000_000 // 4 // 4,
        "replay_capacity": 1_000_000,
        "hidden": (),
        "dueling_hidden": (512,),
        "torso": "nature",
        "frame_stack": 4,
        "reward_clip": 1.0,
    }
    assert PRESETS["rainbow"].distribution == Categorical(51, -10.0, 10.0)
    config = PRESETS["rainbow"].flat()
    assert {name: config[name] for name in wanted} == wanted


@pytest.mark.parametrize("name", ["rainbow", "rainbow-lunarlander"])
def test_both_rainbow_presets_have_every_part_of_rainbow(name: str) -> None:
    config = PRESETS[name]
    assert config.exploration.noisy_layers
    assert config.network.noisy_hidden
    assert config.network.dueling_hidden
    assert config.program.learner.double
    assert config.program.learner.replay == "prioritized"
    assert config.program.learner.n_step == 3
    distribution = config.distribution
    assert isinstance(distribution, Categorical)
    assert distribution.atoms == 51


def test_the_notebooks_configuration() -> None:
    """What the first notebook did, option by option."""
    wanted = {
        "num_envs": 1,
        "normalize_observations": "running",
        "normalize_rewards": True,
        "torso": "notebook",
        "hidden": (512,),
        "dueling": True,
        "noise": "factorised",
        "double": True,
        "loss": "smooth-l1",
        "n_step": 1,
        "replay": "prioritized",
        "replay_capacity": 100_000,
        "priority_exponent": 0.5,
        "priority_exponent_final": 0.0,
        "importance_exponent": 0.4,
        "importance_exponent_final": 1.0,
        "priority_offset": 1e-4,
        "optimizer": "adamw",
        "learning_rate": 5e-4,
        "learning_rate_final": None,
        "batch_size": 256,
        "discount": 0.99,
        "updates_per_episode": 4,  # an epoch: 1,000 samples in batches of 256, then an episode
        "max_updates": 1_500 * 4,
        "schedule_updates": 1_200 * 4,
        "target_period": 10 * 4,
        "random_steps": 1_000,
        "learning_starts": 1_000,
        "observation_clip": None,
    }
    config = PRESETS["catcher-notebook"].flat()
    assert {name: config[name] for name in wanted} == wanted


def test_the_notebooks_code_samples_independent_noise_with_kaiming_sigmas() -> None:
    config = PRESETS["catcher-notebook-code"]
    text = PRESETS["catcher-notebook"]
    same = text.replace(
        preset=config.preset,
        noise="independent",
        sigma_init=0.5,
        sigma_distribution="kaiming-uniform",
    )
    assert config == same
    config = config.replace(torso="flat", hidden=(64,))  # its noise is the same
    spec = DeviceEnvironment.create(CatcherPixels()).spec
    network = eqx.filter_jit(build.make_policy)(config.program, spec, jax.random.key(0)).network
    for layer in noisy_layers(network).values():
        bound = 0.5 * math.sqrt(6 / layer.in_features)
        for sigma in (layer.weight_sigma, layer.bias_sigma):
            assert float(jnp.max(jnp.abs(sigma))) <= bound
        assert float(jnp.std(layer.weight_sigma)) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    first = noisy_layers(network)["hidden.0"]
    assert not jnp.any(first.weight_sigma[:, 0] == first.bias_sigma)


def test_a_preset_has_a_counterpart_of_the_other_learner() -> None:
    for name, other in COUNTERPARTS.items():
        learner = variant_name("learner", PRESETS[other].learner)
        config = with_learner(PRESETS[name], learner)
        assert config == PRESETS[other].replace(env=PRESETS[name].environment.env)
        assert variant_name("learner", PRESETS[name].learner) != learner
    assert config_for("ALE/Breakout-v5", "parallel").program == (
        PRESETS["atari-parallel"].replace(env="ALE/Breakout-v5").program
    )


def test_atari_by_the_parallel_learner_as_published() -> None:
    """Gallici et al. 2024, `pqn_atari.yaml` of their code; frames and stickiness are ALE's."""
    wanted = {
        "num_envs": 128,
        "rollout_steps": 32,
        "minibatches": 32,
        "epochs": 2,
        "return_lambda": 0.65,
        "discount": 0.99,
        "optimizer": "radam",
        "learning_rate": 2.5e-4,
        "learning_rate_final": None,
        "max_gradient_norm": 10.0,
        "epsilon": 1.0,
        "epsilon_final": 0.001,
        "epsilon_share": 0.1,
        "layer_norm": True,
        "torso_layer_norm": True,
        "torso": "nature",
        "hidden": (512,),
        "frame_stack": 4,
        "reward_clip": 1.0,
        "steps": 200_000_000 // 4,
    }
    config = PRESETS["atari-parallel"].flat()
    assert {name: config[name] for name in wanted} == wanted
