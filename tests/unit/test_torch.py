"""The noisy layer for PyTorch as a module: modes, copies, compiling, files."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from noisydqn.torch import (
    NoisyFeatures,
    NoisyLinear,
    make_noisy,
    noisy_layers,
    reset_noise,
    set_mode,
)

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


def test_one_draw_is_shared_by_the_batch() -> None:
    outputs = NoisyLinear(4, 3)(torch.ones(2, 5, 4))
    assert torch.allclose(outputs, outputs[:1, :1].expand_as(outputs))


def test_evaluation_mode_does_not_turn_noise_off_unless_asked_to() -> None:
    layer = NoisyLinear(4, 3).eval()
    assert not torch.equal(layer(X), layer(X))
    following = NoisyLinear(4, 3, follow_training=True)
    assert not torch.equal(following(X), following(X))
    following.eval()
    assert torch.equal(following(X), following(X))


def test_a_whole_model_by_one_call() -> None:
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


def test_a_copy_draws_noise_of_its_own() -> None:
    model = two_layers()
    twin = copy.deepcopy(model)
    assert not torch.equal(model(X), twin(X))
    layers, twins = noisy_layers(model), noisy_layers(twin)
    assert {id(layer.generator) for layer in layers + twins} == {id(layers[0].generator)}
    for layer, other in zip(layers, twins, strict=True):
        assert layer.weight_mu is not other.weight_mu
        assert torch.equal(layer.weight_mu, other.weight_mu)


@pytest.mark.parametrize("noise", ["factorised", "independent"])
def test_noise_may_be_renewed_before_the_backward_pass(noise: str) -> None:
    layer = NoisyLinear(4, 3, noise=noise, mode="frozen")  # pyright: ignore[reportArgumentType]
    epsilon = layer.held_normals[-3:].clone()
    loss = layer(X).sum()
    layer.reset_noise()
    loss.backward()
    f = epsilon.sign() * epsilon.abs().sqrt() if noise == "factorised" else epsilon
    assert layer.bias_sigma is not None
    assert layer.bias_sigma.grad is not None
    np.testing.assert_allclose(layer.bias_sigma.grad, 2 * f, rtol=1e-6)


# What PyTorch's own exporting code warns of has nothing to do with the layer.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    """In one graph, which renews the noise, sees what is held, and heeds the mode."""
    torch.compiler.reset()
    layer = NoisyLinear(4, 3)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
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


@pytest.mark.filterwarnings("default")
def test_compiled_with_a_generator_of_its_own() -> None:
    torch.compiler.reset()
    model, twin = two_layers(3), two_layers(3)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X), twin(X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph() -> None:
    """A graph draws anew at each replay, and sees a draw that was renewed."""
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


def test_make_noisy() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3, bias=False)))
    assert make_noisy(model, sigma_init=0.1) is model
    first, second = noisy_layers(model)
    assert (first.in_features, first.out_features) == (4, 6)
    assert second.bias_mu is None
    assert second.weight_sigma[0, 0].item() == pytest.approx(0.1 / 6**0.5)
    assert isinstance(make_noisy(nn.Linear(2, 2)), NoisyLinear)


def test_features() -> None:
    class Space:
        shape = (2, 2)

    features = NoisyFeatures(Space(), (6, 5))
    assert features.features_dim == 5
    assert features(X.reshape(2, 2, 2)).shape == (2, 5)


def test_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match='mode must be "sample", "mean" or "frozen", got \'off\''):
        NoisyLinear(2, 2, mode="off")  # pyright: ignore[reportArgumentType]
    layer = NoisyLinear(2, 2)
    with pytest.raises(ValueError, match="got 'off'"):
        set_mode(layer, "off")  # pyright: ignore[reportArgumentType]
    layer.mode = "off"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="got 'off'"):
        layer(torch.ones(2))


@pytest.mark.parametrize(("package", "named"), [("torch", "PyTorch"), ("keras", "Keras")])
def test_without_the_package_there_is_one_line(package: str, named: str) -> None:
    """And `import noisydqn` works all the same."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import noisydqn, noisydqn.errors\n"
        f"try: import noisydqn.{package}\n"
        "except ImportError as error: print(error); raise SystemExit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.count("\n") == 1
    assert f"needs {named}" in done.stdout
    assert f"pip install 'noisydqn[{package}]'" in done.stdout
