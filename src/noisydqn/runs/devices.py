"""A check before a run that its data, or its seeds, can be divided over the devices it asks for."""

from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.errors import UserError, counted
from noisydqn.learner.options import divisor_below, neighbors
from noisydqn.runners.placement import devices_for


def check_devices(config: Config, env: Environment) -> None:
    """Check `--devices`.

    Raises:
        UserError: there are fewer devices, the environment is not in JAX, something is not a
            multiple of them, or an option does not work on several.
    """
    devices, name = config.runner.devices, config.environment.env
    if devices == 1:
        return
    if not env.by_kind(device=lambda _: True, host=lambda _: False):
        raise UserError(
            f"--devices {devices} is for environments in JAX; {name} is of Gymnasium: leave it "
            "out, or train on one in JAX, such as gymnax:CartPole-v1"
        )
    devices_for(devices)
    if (seeds := config.run.num_seeds) > 1:
        _check_divides("num-seeds", seeds, devices)
        return
    if getattr(config.exploration, "acting_noise_shared", False):
        raise UserError(
            f"--acting-noise-shared and --devices {devices} exclude each other: every device acts "
            "under noise of its own; give --no-acting-noise-shared"
        )
    num_envs = config.runner.num_envs
    _check_divides("num-envs", num_envs, devices)
    config.learner.check_devices(num_envs // devices, devices)


def _check_divides(name: str, number: int, devices: int) -> None:
    if number % devices == 0:
        return
    raise UserError(
        f"--{name} {number} cannot be divided evenly over --devices {devices}: give "
        f"--{name} {neighbors(number, devices)}, or --devices "
        f"{divisor_below(number, devices)}"
    )


def describe_devices(config: Config) -> str | None:
    """Say in one line what is divided over several devices; None on one."""
    devices, seeds = config.runner.devices, config.run.num_seeds
    if devices == 1:
        return None
    if seeds > 1:
        return f"devices: {devices}, {counted(seeds // devices, 'seed')} on each"
    envs = counted(config.runner.num_envs // devices, "environment")
    return f"devices: {devices}, {envs} on each; batches are divided, gradients averaged"
