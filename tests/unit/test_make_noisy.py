"""Linear layers of a PyTorch model become noisy where they are, or are refused in a line."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from noisydqn.errors import UserError
from noisydqn.torch import NoisyLinear, make_noisy, noisy_layers

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_make_noisy() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 3, bias=False)))
    assert make_noisy(model, sigma_init=0.1) is model
    first, second = noisy_layers(model)
    assert (first.in_features, first.out_features) == (4, 6)
    assert second.bias_mu is None
    assert second.weight_sigma[0, 0].item() == pytest.approx(0.1 / 6**0.5)
    assert isinstance(make_noisy(nn.Linear(2, 2)), NoisyLinear)
    make_noisy(model, sigma_init=0.2)
    assert noisy_layers(model) == [first, second]
    assert second.weight_sigma[0, 0].item() == pytest.approx(0.1 / 6**0.5)


def test_make_noisy_changes_layers_where_they_are() -> None:
    """So whatever refers to a layer has the noisy one, with all that belonged to the plain one."""
    linear = nn.Linear(4, 4, device="meta", dtype=torch.float64).eval()
    vars(linear)["tag"] = "head"
    linear.bias.requires_grad_(False)
    seen: list[nn.Module] = []
    handle = linear.register_forward_hook(lambda module, *_: seen.append(module))
    model = nn.ModuleDict({"one": linear, "again": linear, "list": nn.ModuleList([linear])})
    model["parent"] = model  # a cycle
    make_noisy(model, follow_training=True)
    layer = noisy_layers(model)[0]
    assert model["one"] is model["again"] is layer is linear
    assert (layer.tag, layer.training) == ("head", False)
    frozen = [name for name, value in layer.named_parameters() if not value.requires_grad]
    assert frozen == ["bias_mu", "bias_sigma"]
    assert [name for name, _ in layer.named_parameters()][:2] == ["weight_mu", "weight_sigma"]
    assert layer.weight_sigma.is_meta
    assert layer.weight_sigma.dtype == torch.float64
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    x = X.double()
    assert torch.equal(layer(x), layer(x))
    assert seen == [layer, layer]
    handle.remove()
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    assert len(seen) == 2


def test_make_noisy_keeps_shared_parameters() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight.requires_grad_(False)
    first, second = noisy_layers(make_noisy(nn.Sequential(one, two)))
    assert first.weight_mu is second.weight_mu
    assert first.weight_sigma is second.weight_sigma
    assert not first.weight_sigma.requires_grad
    assert first.bias_mu is not second.bias_mu
    assert not torch.equal(first(X), second(X))  # noise of its own


@pytest.mark.parametrize("training", [True, False])
def test_make_noisy_in_a_transformer(training: bool) -> None:
    """Whose fast path, in evaluation, would read the weights of the layers instead."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0, batch_first=True)
    model = make_noisy(nn.TransformerEncoder(layer, 2)).train(training)
    assert len(noisy_layers(model)) == 4
    with torch.no_grad():
        mask = torch.tensor([[False, True], [False, False]])
        one, other = [model(X.expand(2, 2, 4), src_key_padding_mask=mask) for _ in range(2)]
    assert not torch.equal(one, other)


class Special(nn.Linear):
    pass


def pruned() -> nn.Linear:
    prune.random_unstructured(linear := nn.Linear(4, 4), "weight", 1)
    return linear


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def replaced() -> nn.Linear:
    linear = nn.Linear(4, 4)
    linear.forward = torch.relu
    return linear


def distributed() -> nn.Module:
    model = nn.Module.__new__(nn.parallel.DistributedDataParallel)  # without other processes
    nn.Module.__init__(model)
    model.module = nn.Linear(4, 4)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(1, 1, 1), "found no torch.nn.Linear"),
        (lambda: nn.MultiheadAttention(4, 2), "found no torch.nn.Linear"),
        (lambda: nn.LazyLinear(4), "run one batch through the model first"),
        (lambda: Special(4, 4), "test_make_noisy.Special is a subclass of Linear"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "its weights are computed"),
        (pruned, "its weights are computed"),
        (tied, "'2.1': it shares a parameter with '2.0'"),
        (replaced, "its forward was replaced"),
        (distributed, "wrap it after make_noisy"),
        (lambda: torch.jit.trace(nn.Linear(4, 3), X), "torch.jit compiled it"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what it makes still exists
def test_make_noisy_refuses(make: Callable[[], nn.Module], message: str) -> None:
    """In one line, before anything is changed."""
    refused, beside = make(), nn.Linear(4, 4)
    model = nn.Sequential(beside, nn.ReLU(), refused)
    if "found no" in message:
        model = refused
    with pytest.raises(UserError, match=message) as raised:
        make_noisy(model)
    assert "\n" not in str(raised.value)
    assert not noisy_layers(model)
