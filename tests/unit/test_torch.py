"""The noisy layer for PyTorch as a module: modes, copies, compiling, files."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from noisydqn.errors import UserError
from noisydqn.torch import NoisyFeatures, NoisyLinear, noisy_layers, reset_noise, set_mode

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def two_layers(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        NoisyLinear(4, 6, generator=generator), nn.ReLU(), NoisyLinear(6, 3, generator=generator)
    )


def test_modes() -> None:
    layer = NoisyLinear(4, 3)
    assert not torch.equal(layer(X), layer(X))
    layer.mode = "frozen"
    held = layer(X)
    assert torch.equal(layer(X), held)
    layer.reset_noise()
    assert not torch.equal(layer(X), held)
    layer.mode = "mean"
    assert torch.equal(layer(X), nn.functional.linear(X, layer.weight_mu, layer.bias_mu))


def test_one_sample_is_shared_by_the_batch() -> None:
    outputs = NoisyLinear(4, 3)(torch.ones(2, 5, 4))
    assert torch.allclose(outputs, outputs[:1, :1].expand_as(outputs))


def test_evaluation_mode_does_not_turn_noise_off_unless_asked_to() -> None:
    layer = NoisyLinear(4, 3).eval()
    assert not torch.equal(layer(X), layer(X))
    following = NoisyLinear(4, 3, follow_training=True)
    assert not torch.equal(following(X), following(X))
    following.eval()
    assert torch.equal(following(X), following(X))


def test_one_call_sets_a_whole_model() -> None:
    model = two_layers()
    assert len(noisy_layers(model)) == 2
    set_mode(model, "frozen")
    held = model(X)
    assert torch.equal(model(X), held)
    draws = [layer.held_normals.clone() for layer in noisy_layers(model)]
    reset_noise(model)
    renewed = [layer.held_normals for layer in noisy_layers(model)]
    assert not any(torch.equal(*pair) for pair in zip(draws, renewed, strict=True))
    assert not set(renewed[0].tolist()) & set(renewed[1].tolist())
    set_mode(model, "mean")
    assert torch.equal(model(X), model(X))


def test_same_seed_same_noise() -> None:
    one, same, other = two_layers(1), two_layers(1), two_layers(2)
    first = one(X)
    assert torch.equal(first, same(X))
    assert not torch.equal(first, one(X))
    assert not torch.equal(first, other(X))


def test_noise_is_not_in_the_state_dict() -> None:
    online, target = two_layers(1), two_layers(2)
    assert len(online.state_dict()) == 8
    set_mode(online, "frozen")
    set_mode(target, "frozen")
    target.load_state_dict(online.state_dict())
    assert not torch.equal(online(X), target(X))
    set_mode(online, "mean")
    set_mode(target, "mean")
    assert torch.equal(online(X), target(X))


def test_a_copy_samples_its_own_noise() -> None:
    model = two_layers()
    twin = copy.deepcopy(model)
    assert not torch.equal(model(X), twin(X))
    layers, twins = noisy_layers(model), noisy_layers(twin)
    assert {id(layer.generator) for layer in layers + twins} == {id(layers[0].generator)}
    for layer, other in zip(layers, twins, strict=True):
        assert layer.weight_mu is not other.weight_mu
        assert torch.equal(layer.weight_mu, other.weight_mu)


@pytest.mark.parametrize("noise", ["factorised", "independent"])
def test_noise_may_be_resampled_before_the_backward_pass(noise: str) -> None:
    layer = NoisyLinear(4, 3, noise=noise, mode="frozen")  # pyright: ignore[reportArgumentType]
    epsilon = layer.held_normals[-3:].clone()
    loss = layer(X).sum()
    layer.reset_noise()
    loss.backward()
    f = epsilon.sign() * epsilon.abs().sqrt() if noise == "factorised" else epsilon
    assert layer.bias_sigma is not None
    assert layer.bias_sigma.grad is not None
    np.testing.assert_allclose(layer.bias_sigma.grad, 2 * f, rtol=1e-6)


def test_compiled() -> None:
    """In one graph, which resamples the noise, sees what is held, and heeds the mode.

    The backend "aot_eager" takes every step of "eager", and traces the gradients besides.
    """
    torch.compiler.reset()
    layer = NoisyLinear(4, 3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(X), compiled(X))
    layer.mode = "frozen"
    held = compiled(X)
    assert torch.equal(held, compiled(X))
    torch.testing.assert_close(held, layer(X))
    layer.reset_noise()
    assert not torch.equal(held, compiled(X))
    torch.testing.assert_close(compiled(X), layer(X))
    layer.mode = "mean"
    torch.testing.assert_close(compiled(X), layer(X))


def test_compiled_with_its_own_generator() -> None:
    """One layer, as PyTorch warns of its own doing where a graph breaks between two."""
    torch.compiler.reset()
    layer, twin = two_layers(3)[0], two_layers(3)[0]
    compiled = torch.compile(layer, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X), twin(X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph() -> None:
    """A graph samples again at each replay, and uses a held sample that was resampled."""
    layer, x = NoisyLinear(4, 3, device="cuda"), X.cuda()
    for mode in ("sample", "frozen"):
        layer.mode = mode
        layer(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = layer(x)
        seen: list[torch.Tensor] = []
        for _ in range(2):
            layer.reset_noise()
            graph.replay()
            seen.append(outputs.clone())
        assert not torch.equal(*seen)


def test_in_place_of_linear() -> None:
    """The same arguments by place, the same shapes, types and devices."""
    plain = nn.Linear(4, 3, False, "cpu", torch.float64)
    layer = NoisyLinear(4, 3, False, "cpu", torch.float64)
    x = torch.ones(2, 5, 4, dtype=torch.float64)
    assert layer(x).shape == plain(x).shape
    assert layer(x).dtype == plain(x).dtype
    assert layer.bias_mu is None
    assert set(layer.state_dict()) == {"weight_mu", "weight_sigma"}
    assert "bias=False" in repr(layer)
    assert NoisyLinear(4, 3, device="meta").weight_mu.is_meta


@pytest.fixture
def empty_is_nan() -> Iterator[None]:
    """PyTorch fills uninitialized memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assigned(layer: NoisyLinear) -> None:
    parameters = NoisyLinear(4, 3, dtype=torch.float64).state_dict()
    layer.load_state_dict(parameters, assign=True)


@pytest.mark.usefixtures("empty_is_nan")
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.to_empty(device="cpu"),
        lambda layer: layer.to("meta").to_empty(device="cpu"),
        lambda layer: layer.half().to_empty(device="cpu"),
        assigned,
    ],
    ids=["to_empty", "meta", "half", "assign"],
)
def test_held_noise_is_never_uninitialized(device: str, move: Callable[[NoisyLinear], Any]) -> None:
    layer = NoisyLinear(4, 3, device=device, mode="frozen")
    move(layer)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)  # which `to_empty` leaves to its caller
    x = X.to(layer.weight_mu)
    held = layer(x)
    assert held.dtype == layer.weight_mu.dtype
    assert held.isfinite().all()
    assert held.unique().numel() > 1  # ones without noise give every output the same value
    assert torch.equal(layer(x), held)
    layer.reset_noise()
    assert not torch.equal(layer(x), held)


def test_given_noise_reaches_a_layer_whose_parameters_came_later() -> None:
    layer, normals = NoisyLinear(4, 3, device="meta", mode="frozen"), torch.arange(7.0)
    layer.load_state_dict(NoisyLinear(4, 3).state_dict(), assign=True)
    layer.reset_noise(normals)
    assert torch.equal(layer.held_normals, normals)


def test_held_noise_is_converted_with_the_layer() -> None:
    layer = NoisyLinear(4, 3)
    held = layer.held_normals
    assert layer.to("cpu").held_normals is held  # a CUDA graph reads this very tensor
    assert torch.equal(layer.double().held_normals, held.double())


def test_a_noisy_layer_says_that_it_has_no_weight() -> None:
    layer = NoisyLinear(4, 3, bias=False)
    for name in ("weight", "bias"):
        assert not hasattr(layer, name)
        with pytest.raises(AttributeError, match=f"has no {name}, only its mean {name}_mu"):
            getattr(layer, name)


def test_features() -> None:
    class Space:
        shape = (2, 2)

    features = NoisyFeatures(Space(), (6, 5))
    assert features.features_dim == 5
    assert features(X.reshape(2, 2, 2)).shape == (2, 5)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (gymnasium.spaces.Discrete(5), 5),
        (gymnasium.spaces.MultiDiscrete([2, 3]), 5),
        (gymnasium.spaces.MultiBinary(4), 4),
        (gymnasium.spaces.Box(0, 1, ()), 1),
    ],
)
def test_features_of_integers_are_one_hot(space: Any, size: int) -> None:
    """As Stable-Baselines3 makes them, see its `get_flattened_obs_dim`."""
    assert noisy_layers(NoisyFeatures(space))[0].in_features == size


def test_features_refuse_several_arrays() -> None:
    space = gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2))
    with pytest.raises(UserError, match="of one array, got Dict: wrap the environment"):
        NoisyFeatures(space)


def test_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match='mode must be "sample", "mean" or "frozen", got \'off\''):
        NoisyLinear(2, 2, mode="off")  # pyright: ignore[reportArgumentType]
    layer = NoisyLinear(2, 2)
    with pytest.raises(ValueError, match="got 'off'"):
        set_mode(layer, "off")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch\.complex64"):
        NoisyLinear(2, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"whole numbers of inputs and outputs, got 4\.0"):
        NoisyLinear(4.0, 2)  # pyright: ignore[reportArgumentType]
    layer.mode = "off"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="got 'off'"):
        layer(torch.ones(2))


def test_without_the_package_there_is_one_line() -> None:
    """And `import noisydqn` works all the same."""
    code = (
        "import importlib, sys; sys.modules |= {'torch': None, 'keras': None}\n"
        "import noisydqn, noisydqn.errors\n"
        "for package in ('torch', 'keras'):\n"
        "    try: importlib.import_module('noisydqn.' + package)\n"
        "    except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, package, named in zip(lines, ("torch", "keras"), ("PyTorch", "Keras"), strict=True):
        assert f"needs {named}" in line
        assert f"pip install 'noisydqn[{package}]'" in line
