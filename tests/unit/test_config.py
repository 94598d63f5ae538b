"""Options are checked when the config is made."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import noisydqn
from noisydqn import PRESETS, UserError
from noisydqn.config.config import VARIANTS, Config, option_hints, owners
from noisydqn.config.stored import ADDED, IMPLIED, from_stored, to_stored
from noisydqn.distributions import Categorical, Expected, ImplicitQuantile, Quantile
from noisydqn.distributions.bootstrap import Munchausen
from noisydqn.errors import ConfigError
from noisydqn.folders import File
from noisydqn.options import OTHER_NAMES
from noisydqn.runners import build
from noisydqn.runs.api import ARGUMENTS
from noisydqn.runs.folder import RunFolder, read_config, write_config


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("steps", 0, "--steps must be at least 1, got 0"),
        ("num_envs", 0, "--num-envs must be at least 1, got 0"),
        ("seed", -1, "--seed must be between 0 and 4294967295, got -1"),
        ("seed", 2**32, "--seed must be between 0 and 4294967295, got 4294967296"),
        ("discount", 1.5, "--discount must be between 0 and 1, got 1.5"),
        ("discount", math.nan, "--discount must be between 0 and 1, got nan"),
        ("learning_rate", 0.0, "--learning-rate must be above zero, got 0.0"),
        ("learning_rate", math.inf, "--learning-rate must be above zero, got inf"),
        ("learning_rate_final", -1.0, "--learning-rate-final must be zero or more, got -1.0"),
        ("sigma_init", -0.5, "--sigma-init must be zero or more, got -0.5"),
        ("learn_every", 0, "--learn-every must be at least 1, got 0"),
        ("max_updates", 0, "--max-updates must be at least 1, got 0"),
        ("priority_offset", 0.0, "--priority-offset must be above zero, got 0.0"),
        ("hidden", (0,), r"--hidden must be at least 1 everywhere, got \(0,\)"),
        ("n_step", 0, "--n-step must be between 1 and 100, got 0"),
        ("n_step", 101, "--n-step must be between 1 and 100, got 101"),
        ("updates_per_episode", 4, "one must be 0 and the other above"),
        ("updates_per_step", 0, "one must be 0 and the other above"),
        ("steps", 2**31, f"--steps must be at most {2**30}, got {2**31}"),
        ("target_period", 2**40, f"--target-period must be at most {2**30}"),
        ("video_seconds", 1e9, "--video-seconds must be at most 3600"),
        ("replay", "per", "--replay must be one of prioritized, uniform, got 'per'"),
        ("optimizer", "sgd", "--optimizer must be one of adam, adamw, radam, got 'sgd'"),
        ("env_kwargs", "x", "--env-kwargs must be a JSON object"),
        ("env_kwargs", "[1]", "--env-kwargs must be a JSON object"),
        ("frame_stack", 17, "--frame-stack must be between 1 and 16, got 17"),
        ("frame_stack", 0, "--frame-stack must be between 1 and 16, got 0"),
        ("target_rate", 0.0, "--target-rate must be above zero, got 0.0"),
        ("target_rate", 1.5, "--target-rate must be between 0 and 1, got 1.5"),
        (
            "epsilon",
            0.5,
            "--exploration noisy exclude each other: it belongs to --exploration epsilon-greedy",
        ),
        (
            "exploration",
            "none",
            "--exploration must be one of noisy, epsilon-greedy, both, greedy, boltzmann",
        ),
        ("stop_at_return", float("nan"), "--stop-at-return must be a number, got nan"),
        ("max_seconds", 0, "--max-seconds must be above zero"),
        ("window", 0, "--window must be at least 1"),
        ("max_episode_steps", 0, "--max-episode-steps must be at least 1"),
        ("sigma_distribution", "kaiming-uniform", "needs --sigma-init"),
        ("loss", "huber", "--loss must be one of smooth-l1, squared, got 'huber'"),
        ("distribution", "c51", "--distribution must be one of expected, categorical, quantile, "),
        ("max_gradient_norm", 0.0, "--max-gradient-norm must be above zero, got 0.0"),
        ("updates_per_step", 1e-9, "--updates-per-step must be 0 or at least 0.001, got 1e-09"),
    ],
)
def test_refuses(option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Config(**{option: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "given", "stored"),
    [
        ("steps", 1e5, 100_000),
        ("steps", np.float32(64), 64),
        ("seed", np.int64(3), 3),
        ("seed", jnp.int32(3), 3),
        ("seed", np.array(3), 3),
        ("learning_rate", np.float32(0.5), 0.5),
        ("discount", 1, 1.0),
        ("double", np.bool_(False), False),
        ("hidden", [64, 64], (64, 64)),
        ("hidden", np.array([64, 32]), (64, 32)),
        ("hidden", (64.0, np.int32(8)), (64, 8)),
        ("hidden", [], ()),
        ("noise", np.str_("independent"), "independent"),
        ("loss", np.str_("squared"), "squared"),
        ("max_updates", 1e3, 1_000),
        (
            "env_kwargs",
            {"map": ["SF"], "size": (4, np.int64(4))},
            '{"map": ["SF"], "size": [4, 4]}',
        ),
        ("env_kwargs", {}, "{}"),
    ],
)
def test_converts_what_is_exactly_the_same(
    option: str, given: Any, stored: Any, tmp_path: Path
) -> None:
    config = Config(**{option: given})
    value = config.flat()[option]
    assert (value, type(value)) == (stored, type(stored))
    assert config == Config().replace(**{option: given})
    assert hash(config) == hash(Config(**{option: stored}))
    write_config(RunFolder.at(tmp_path), config)
    assert read_config(File.at(tmp_path / "config.json")).admit(trust=False) == config


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("double", "no", "--double must be True or False, got 'no'"),
        ("double", 0, "--double must be True or False, got 0"),
        ("steps", True, "--steps must be a whole number, got True"),
        ("steps", "1000", "--steps must be a whole number, got '1000'"),
        pytest.param("steps", 10**5_000, "got a number with too many digits", id="huge"),
        pytest.param("learning_rate", 10**400, "--learning-rate must be a number", id="large"),
        ("learning_rate", 2**53 + 1, "--learning-rate must be a number, got 9007199254740993"),
        ("batch_size", 32.5, "--batch-size must be a whole number, got 32.5"),
        ("batch_size", None, "--batch-size must be a whole number, got None"),
        ("max_updates", "all", "--max-updates must be a whole number or None, got 'all'"),
        ("hidden", "64,64", r"--hidden must be whole numbers such as \(128, 128\), got '64,64'"),
        ("hidden", [64.5], r"--hidden must be whole numbers such as \(128, 128\), got \[64.5\]"),
        ("hidden", 64, r"--hidden must be whole numbers such as \(128, 128\), got 64"),
        ("hidden", np.ones((2, 2)), r"--hidden must be whole numbers .* got array\(\[\[1., 1.\], "),
        ("noise", 3, "--noise must be one of factorised, independent, indexed, got 3"),
        (
            "env_kwargs",
            {"size": {1, 2}},
            "--env-kwargs must be what JSON can hold, which {1, 2} is",
        ),
        ("env_kwargs", {1: 2}, "--env-kwargs must be what JSON can hold, which {1: 2} is not"),
        (
            "env_kwargs",
            {"x": math.nan},
            "--env-kwargs must be what JSON can hold, which nan is not",
        ),
        pytest.param("env_kwargs", "[" * 100_000, "at most 20 deep", id="deep"),
        ("env", Path("x"), "--env must be text, got PosixPath"),
    ],
)
def test_refuses_what_is_not(option: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config(**{option: given})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def owning(name: str) -> dict[str, Any]:
    """Choose a variant that has an option."""
    owned = {section: owners(section) for section in VARIANTS}
    return {section: variants[name][0] for section, variants in owned.items() if name in variants}


@pytest.mark.parametrize("value", [object(), b"x", 1j, math.nan, [None], {"x": object()}])
def test_no_option_takes_nonsense(value: Any) -> None:
    for name in option_hints():
        with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} must "):
            Config(**owning(name), **{name: value})


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_no_number_is_infinite(value: float) -> None:
    for name, hint in option_hints().items():
        if hint.kind in (int, float):
            with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')} must "):
                Config(**owning(name)).replace(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-3}, "unknown option 'lr': did you mean learning_rate?"),
        ({"total_timesteps": 10}, "unknown option 'total_timesteps': did you mean steps?"),
        ({"learning_rte": 1e-3}, "unknown option 'learning_rte': did you mean learning_rate?"),
        ({"verbose": 0}, "unknown option 'verbose': did you mean quiet?"),
        ({"callback": print}, "unknown option 'callback': did you mean callbacks"),
        ({"xyzzy": 0}, "unknown option 'xyzzy': noisydqn train --help-all lists the options"),
        ({"preset": "cartpole"}, "preset='cartpole': give it first, as in train('cartpole')"),
        ({"steps": "many"}, "--steps must be a whole number, got 'many'"),
        ({"config": {"steps": 3}}, "the config is {'steps': 3}, expected a Config or a name"),
        ({"config": "cartpol"}, "no environment 'cartpol': did you mean"),
        ({"out": ""}, "--out must be a path, got ''"),
        ({"out": 3}, "--out must be a path, got 3"),
        ({"out": "~nobody-here/x"}, "--out ~nobody-here/x cannot be used"),
    ],
)
def test_train_refuses_before_it_begins(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        noisydqn.train(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_replace_refuses_unknown_options() -> None:
    with pytest.raises(ConfigError, match="unknown option 'gamma': did you mean discount"):
        Config().replace(gamma=0.9)


def test_other_libraries_names_lead_to_options_that_exist() -> None:
    assert OTHER_NAMES.keys() <= {*option_hints(), *ARGUMENTS}
    others = " ".join(OTHER_NAMES.values()).split()
    assert not set(others) & option_hints().keys()
    assert len(set(others)) == len(others)


def test_a_stored_config_is_converted_too(tmp_path: Path) -> None:
    """An integer that was written as 100000.0."""
    write_config(RunFolder.at(tmp_path), Config())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 1e5, "seed": 3.0}))
    assert read_config(File.at(path)).admit(trust=False) == Config(steps=100_000, seed=3)


def test_runs_that_share_a_program_are_told_by_their_options() -> None:
    one = Config(seed=1, steps=9, video_seconds=0, stop_at_return=3, window=2, evaluation_every=7)
    assert one.program == Config().program
    assert one.replace(batch_size=8).program != one.program


def test_public_names_are_listed() -> None:
    assert set(noisydqn.__all__) <= set(dir(noisydqn))
    for name in noisydqn.__all__:
        assert getattr(noisydqn, name) is not None
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(dir(noisydqn))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distribution": "implicit-quantile", "v_min": -10.0},
            "--v-min -10.0 and --distribution implicit-quantile exclude each other: it belongs to "
            "--distribution categorical",
        ),
        ({"atoms": 51}, "--atoms 51 and --distribution expected exclude each other"),
        (
            {"distribution": "categorical", "quantiles": 8},
            "--quantiles 8 and --distribution categorical exclude each other: it belongs to "
            "--distribution quantile or implicit-quantile",
        ),
        (
            {"distribution": "quantile", "acting_quantiles": 8},
            "--acting-quantiles 8 and --distribution quantile exclude each other",
        ),
        (
            {"distribution": "quantile", "loss": "squared"},
            "--loss squared and --distribution quantile exclude each other: it belongs to "
            "--distribution expected",
        ),
        ({"distribution": "categorical", "v_max": -10}, "--v-min -10.0 must be below --v-max -10"),
        ({"distribution": "categorical", "v_max": math.inf}, "--v-max must be a number, got inf"),
        ({"distribution": "categorical", "atoms": 1}, "--atoms must be at least 2, got 1"),
        ({"distribution": "quantile", "quantiles": 0}, "--quantiles must be at least 1, got 0"),
        (
            {"torso": "nature", "torso_widths": (16, 32)},
            "--torso-widths 16 32 and --torso nature exclude each other: it belongs to mlp, impala",
        ),
        ({"torso": "mlp", "torso_widths": (16, 0)}, "--torso-widths must be at least 1 everywhere"),
        ({"torso": "mlp", "torso_widths": ()}, "--torso-widths must name a width, as --torso mlp"),
        ({"torso": "resnet"}, "--torso must be one of auto, flat, mlp, .* got 'resnet'"),
        (
            {"updates_per_step": 0, "updates_per_episode": 4, "learn_every": 2},
            "--updates-per-episode 4 and --learn-every 2 exclude each other",
        ),
        (
            {"learn_every": 2**30, "num_envs": 2**10},
            "--num-envs 1024 times --learn-every 1073741824 times --updates-per-step 0.5 makes",
        ),
        ({"stop_at_evaluation": 220.0}, "--stop-at-evaluation 220.0 needs --stop-at-return"),
        (
            {"noise_in": "head", "exploration": "greedy"},
            "--noise-in head and --exploration greedy exclude each other",
        ),
        (
            {"dueling": False, "dueling_hidden": (64, 32)},
            "--dueling-hidden 64 32 and --no-dueling exclude each other: give --dueling, or leave",
        ),
        ({"dueling_hidden": (0,)}, "--dueling-hidden must be at least 1 everywhere"),
        (
            {"munchausen_scale": 0.8},
            "--munchausen-scale 0.8 and --no-munchausen exclude each other: give --munchausen",
        ),
        ({"munchausen": True, "munchausen_temperature": 0.0}, "--munchausen-temperature must be"),
        ({"munchausen": True, "munchausen_minimum": 1.0}, "--munchausen-minimum must be a number"),
        ({"munchausen": True, "munchausen_scale": 1.5}, "--munchausen-scale must be between 0"),
    ],
)
def test_refuses_options_in_combination(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Config(**options)
    assert "\n" not in str(caught.value)


def test_distributions_have_their_papers_sizes_unless_given() -> None:
    def made(distribution: Any, **options: Any) -> object:
        return Config(distribution=distribution, **options).distribution

    assert made("expected") == Expected("smooth-l1")
    assert made("expected", loss="squared") == Expected("squared")
    assert made("categorical") == Categorical(51, -10.0, 10.0)
    assert made("categorical", atoms=11, v_min=0.0, v_max=5.0) == Categorical(11, 0.0, 5.0)
    assert made("quantile") == Quantile(200)
    assert made("implicit-quantile") == ImplicitQuantile(64, 32)
    assert made("implicit-quantile", quantiles=8, acting_quantiles=4) == ImplicitQuantile(8, 4)
    assert build.make_agent(Config().program).munchausen is None
    agent = build.make_agent(Config(munchausen=True, munchausen_minimum=-2.0).program)
    assert agent.munchausen == Munchausen(scale=0.9, temperature=0.03, minimum=-2.0)


def test_a_long_gradient_is_clipped() -> None:
    """As Adam's first moment after one update shows it."""
    gradient = jnp.array([3.0, 4.0])
    for bound, expected in ((None, [3, 4]), (1.0, [0.6, 0.8]), (10.0, [3, 4])):
        optimizer = build.make_agent(Config(max_gradient_norm=bound).program).descent.optimizer
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
        first_moment = optax.tree.get(state, "mu")
        np.testing.assert_allclose(first_moment, 0.1 * np.array(expected), rtol=1e-5)


def test_options_that_older_configs_lack_keep_what_their_absence_implied() -> None:
    config = Config(**IMPLIED)
    stored = {name: x for name, x in config.flat().items() if name not in IMPLIED}
    assert from_stored(stored, Path("config.json")).admit(trust=False) == config


def test_options_that_configs_of_version_2_lack_keep_what_their_absence_implied() -> None:
    """Normalized hidden layers say nothing of convolutions."""
    config = Config(torso="nature", layer_norm=True)
    added = {name for options in ADDED.values() for name in options}
    stored = {name: x for name, x in to_stored(config).items() if name not in added}
    stored["version"] = 2
    assert "torso_layer_norm" not in stored
    assert from_stored(stored, Path("config.json")).admit(trust=False) == config
    assert not config.network.torso_layer_norm


def test_seeds_stay_within_32_bits() -> None:
    with pytest.raises(UserError, match="--seed plus --num-seeds must be at most 4294967296"):
        Config(seed=2**32 - 1, num_seeds=2)


def test_zero_is_a_value() -> None:
    config = Config(sigma_init=0.0, discount=0.0, importance_exponent=0.0, seed=0, video_seconds=0)
    assert config.network.sigma_init == 0.0


def test_replace_checks_again() -> None:
    assert PRESETS["catcher"].replace(seed=4).run.seed == 4
    with pytest.raises(UserError, match="--steps"):
        PRESETS["catcher"].replace(steps=0)
