"""Training works whatever settings of JAX a program has made."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noisydqn
from noisydqn import UserError
from noisydqn.export import export_run
from noisydqn.settings import own_settings

STRICT = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_transfer_guard": "disallow",
    "jax_disable_most_optimizations": True,  # compiled sooner
}


@pytest.fixture
def strict() -> Iterator[None]:
    """All of them for all threads, as environment variables make them."""
    before = dict(jax.config.values)
    with ExitStack() as stack:
        for name, value in STRICT.items():
            jax.config.update(name, value)
            stack.callback(jax.config.update, name, before[name])
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
def test_everything_works_under_strict_settings(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"num_envs": 2, "hidden": (8,), "batch_size": 4, "replay_capacity": 64}
    budget = {"steps": 32, "chunk_steps": 16, "learning_starts": 8, "evaluation_every": 16}
    after = {"evaluation_episodes": 1, "video_seconds": 0.1, "evaluation_max_steps": 20}
    config = noisydqn.PRESETS["cartpole"].replace(**options, **budget, **after)
    noisydqn.train(config, out=out, quiet=True)
    noisydqn.resume(out, steps=48, quiet=True)
    policy = noisydqn.load_policy(out)
    assert policy.values(np.zeros(4)).dtype == np.float32
    assert int(policy(np.zeros(4))) in (0, 1)
    assert len(noisydqn.evaluate(out, episodes=1).returns) == 1
    assert noisydqn.record(out, seconds=0.1).name == "policy-2.mp4"
    assert export_run(out, "safetensors").name == "policy.safetensors"
    assert noisydqn.load_policy(out / "policy.safetensors").spec.num_actions == 2
    assert jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.usefixtures("strict")
def test_catcher_for_gymnasium_works_under_strict_settings() -> None:
    env = gymnasium.make("noisydqn/Catcher-v0", render_mode="rgb_array")
    screen, _ = env.reset(seed=0)
    shown, reward, *_ = env.step(np.int64(1))
    assert screen.dtype == shown.dtype == np.uint8
    assert reward == 0.0
    assert np.array_equal(np.asarray(env.render()), shown)


@pytest.mark.usefixtures("strict")
def test_settings_of_the_program_are_restored() -> None:
    with own_settings():
        assert jnp.asarray(np.zeros(2)).dtype == jnp.float32
    with jax.transfer_guard("allow"):
        assert jnp.asarray(np.zeros(2)).dtype == jnp.float64


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def devices() -> None:
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(UserError, match=r"^JAX has no device"), own_settings():
        pass


@pytest.mark.parametrize("cores", [1, 2])
def test_programs_run_in_the_thread_that_calls_them_on_a_single_core(cores: int) -> None:
    program = f"""
import jax
from noisydqn import settings
settings.usable_cores = lambda: range({cores})
settings.dispatch_for_cores()
print(jax.config.read("jax_cpu_enable_async_dispatch"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True
    )
    assert done.stdout.split() == [str(cores > 1)]
