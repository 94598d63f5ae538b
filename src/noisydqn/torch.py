"""The noisy layer for PyTorch: `NoisyLinear`, in place of `torch.nn.Linear`.

The same layer as `noisydqn.NoisyLinear` (Fortunato et al. 2018, equation 9): the same parameters
and the same noise give the same outputs and gradients. What is different is where the noise comes
from. In JAX it is an argument; here a module is called with its input alone, so the layer draws
for itself, as its mode says, and never by whether it is training:

| mode | noise |
|---|---|
| `"sample"` | drawn anew in every forward pass, one draw for the whole batch |
| `"frozen"` | the draw that is held, until `reset_noise` |
| `"mean"` | none: the mean weights |

    model = torch.nn.Sequential(NoisyLinear(4, 64), torch.nn.ReLU(), NoisyLinear(64, 2))
    set_mode(model, "mean")    # evaluate without noise
    set_mode(model, "frozen")  # one draw for as long as it is wanted:
    reset_noise(model)         # until here
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict, TypeGuard, Unpack

from noisydqn.errors import MissingExtraError, UserError
from noisydqn.nets.initial import NoiseKind, NoiseMode, check_mode, initial_values, noise_size

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
    from torch.nn.utils import parametrize
except ImportError as error:
    raise MissingExtraError(
        "noisydqn.torch needs PyTorch, which is not installed: pip install 'noisydqn[torch]'"
    ) from error


class NoisyOptions(TypedDict, total=False):
    """Arguments of `NoisyLinear` that `torch.nn.Linear` does not have."""

    noise: NoiseKind
    sigma_init: float | None
    mode: NoiseMode
    follow_training: bool
    generator: torch.Generator | None


class NoisyLinear(nn.Module):
    """A linear layer whose weights and biases are `mu + sigma * epsilon`.

    Safe to compile with `torch.compile`, to capture in a CUDA graph (noise is then drawn by the
    graph; a held draw is renewed in place, so that a graph sees `reset_noise`), and to copy with
    `copy.deepcopy`: a copy draws noise of its own, from the same generator if one was given. The
    state dict holds the learned parameters and no noise. (`torch.compile` cannot look into a
    `generator`: with one of its own, a layer breaks the compiled graph in two. A CUDA graph wants
    it registered by `register_generator_state`.)

    Held noise is a buffer beside the parameters. It is never uninitialized: `to_empty` keeps it, or
    samples it if the layer was on the device "meta".

    Args:
        in_features: number of inputs, p.
        out_features: number of outputs, q.
        bias: whether there is a bias.
        device: where the parameters are.
        dtype: their type.
        noise: `"factorised"` draws p + q normals and takes products of them (equations 10 and
            11); `"independent"` draws p * q + q.
        sigma_init: with factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); with independent noise the starting value itself
            (default 0.017).
        mode: `"sample"`, `"frozen"` or `"mean"`, see above.
        follow_training: if true, the layer uses its means while `training` is false, so that
            `eval()` turns the noise off and `train()` on again. Collecting experience in
            evaluation mode then does not explore.
        generator: of initial values and noise, on the layer's device; None uses PyTorch's own.

    Raises:
        ValueError: a size that is not an integer above 0, a negative `sigma_init`, an unknown mode
            or kind of noise, or a type that is not floating-point.
    """

    in_features: int
    out_features: int
    weight_mu: Tensor
    weight_sigma: Tensor
    bias_mu: Tensor | None
    bias_sigma: Tensor | None
    held_normals: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        noise: NoiseKind = "factorised",
        sigma_init: float | None = None,
        mode: NoiseMode = "sample",
        follow_training: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._initial = initial_values(in_features, out_features, noise, sigma_init)
        check_mode(mode)
        self.in_features, self.out_features = in_features, out_features
        self.noise: NoiseKind = noise
        self.mode: NoiseMode = mode
        self.follow_training = follow_training
        self.generator = generator

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_mu = empty(out_features, in_features)
        if not self.weight_mu.is_floating_point():
            raise ValueError(
                f"a noisy layer needs a floating-point dtype, got {self.weight_mu.dtype}"
            )
        self.weight_sigma = empty(out_features, in_features)
        self.register_parameter("bias_mu", empty(out_features) if bias else None)
        self.register_parameter("bias_sigma", empty(out_features) if bias else None)
        held = torch.empty(self.noise_size, device=device, dtype=dtype)
        self.register_buffer("held_normals", held, persistent=False)
        self.reset_parameters()

    @property
    def noise_size(self) -> int:
        """How many normals one draw takes: p + q (factorised) or p * q + q (independent)."""
        return noise_size(self.in_features, self.out_features, self.noise)

    def reset_parameters(self) -> None:
        """Start anew: `mu` uniform within ±1/sqrt(p) (factorised) or ±sqrt(3/p) (independent)."""
        bound, sigma = self._initial
        for mu in (self.weight_mu, self.bias_mu):
            if mu is not None:
                nn.init.uniform_(mu, -bound, bound, generator=self.generator)
        for deviation in (self.weight_sigma, self.bias_sigma):
            if deviation is not None:
                nn.init.constant_(deviation, sigma)
        self.reset_noise()

    @torch.no_grad()
    def reset_noise(self, normals: Tensor | None = None) -> None:
        """Hold another draw, which `"frozen"` uses.

        Args:
            normals: unit normals [noise_size] to form it from: those of inputs and outputs
                (factorised), or of weights, row by row, and biases (independent). None draws.
        """
        if self.held_normals.is_meta and not self.weight_mu.is_meta:
            # The parameters were replaced, as `load_state_dict(..., assign=True)` does.
            self.held_normals = torch.empty_like(self.held_normals, device=self.weight_mu.device)
        if normals is None:
            self.held_normals.normal_(generator=self.generator)
        else:
            self.held_normals.copy_(normals)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoisyLinear":
        """Move or convert the layer, as `to`, `half` and `to_empty` do.

        `to_empty` gives tensors that nobody wrote to, so held noise is copied here or sampled.
        """
        before = self.held_normals
        super()._apply(fn, recurse)
        if before.is_meta:
            self.reset_noise()
        elif self.held_normals is not before:
            self.held_normals.copy_(before)
        return self

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name in {"weight", "bias"}:
            raise AttributeError(
                f"a NoisyLinear has no {name}, only its mean {name}_mu and deviation {name}_sigma: "
                "call the layer, or read the mean"
            )
        return super().__getattr__(name)

    def _normals(self) -> Tensor:
        device, dtype = self.weight_mu.device, self.weight_mu.dtype
        if self.mode != "frozen":
            size = self.noise_size
            return torch.randn(size, generator=self.generator, device=device, dtype=dtype)
        if self.held_normals.is_meta and not self.weight_mu.is_meta:
            self.reset_noise()
        # A copy, as it may be resampled before the backward pass.
        return self.held_normals.to(device, dtype, copy=True)

    def _epsilon(self) -> tuple[Tensor, Tensor]:
        """eps_w [q, p] and eps_b [q]."""
        normals, inputs, outputs = self._normals(), self.in_features, self.out_features
        if self.noise == "factorised":
            scaled = normals.sign() * normals.abs().sqrt()
            of_inputs, of_outputs = scaled.split([inputs, outputs])
            return torch.outer(of_outputs, of_inputs), of_outputs
        weight, bias = normals.split([inputs * outputs, outputs])
        return weight.view(outputs, inputs), bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` [..., p]; gives [..., q]. All of it shares one draw."""
        check_mode(self.mode)
        if self.mode == "mean" or (self.follow_training and not self.training):
            return nn.functional.linear(x, self.weight_mu, self.bias_mu)
        epsilon_weight, epsilon_bias = self._epsilon()
        weight = self.weight_mu + self.weight_sigma * epsilon_weight
        if self.bias_mu is None or self.bias_sigma is None:
            return nn.functional.linear(x, weight)
        return nn.functional.linear(x, weight, self.bias_mu + self.bias_sigma * epsilon_bias)

    def extra_repr(self) -> str:
        """What `repr` shows beside the name."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias_mu is not None}, noise={self.noise}, mode={self.mode}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "NoisyLinear":
        """A copy that shares the generator: copied too, it would draw the same noise again."""
        if self.generator is not None:
            memo[id(self.generator)] = self.generator
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def noisy_layers(model: nn.Module) -> list[NoisyLinear]:
    """Every noisy layer of a model."""
    return [module for module in model.modules() if isinstance(module, NoisyLinear)]


def reset_noise(model: nn.Module) -> None:
    """Hold another draw in every noisy layer of a model, independent of each other."""
    for layer in noisy_layers(model):
        layer.reset_noise()


def set_mode(model: nn.Module, mode: NoiseMode) -> None:
    """Set the mode of every noisy layer of a model.

    Raises:
        ValueError: it is no mode.
    """
    check_mode(mode)
    for layer in noisy_layers(model):
        layer.mode = mode


def make_noisy(model: nn.Module, **options: Unpack[NoisyOptions]) -> nn.Module:
    """Turn every `nn.Linear` of a model into a fresh noisy layer, before it is trained.

    Each layer is changed in place: it stays the same object under every name that it has, with its
    device, type, `training` flag, hooks and other attributes. Parameters that layers share are
    shared afterwards, as are their means and sigmas; each layer samples noise of its own. What did
    not require gradients does not. Weights start anew, so call this before an optimizer is made.

    A layer in `eval()` stays there, and that alone does not turn its noise off: with
    `follow_training=True` it uses its means until `train()`.

    Layers of other kinds stay as they are. `nn.MultiheadAttention` is one: it computes with its
    weights itself. A `nn.TransformerEncoderLayer` gets noise in its two feed-forward layers and
    loses its fast path in evaluation, which would read their weights.

    Args:
        model: changed in place; may be a linear layer itself, and may hold noisy layers already,
            which stay as they are.
        options: for each `NoisyLinear`, such as `sigma_init=0.1`.

    Returns:
        The model.

    Raises:
        UserError: the model has no linear layer, or one that cannot become noisy: of a subclass
            (`LazyLinear` before its first batch, one with a parametrization), with weights
            that are computed or shared with another kind of layer, scripted, or wrapped for
            distributed training. The model is then as it was.
        ValueError: as `NoisyLinear`.
    """
    plain = _linear_layers(model)
    noisy = [_noisy_twin(linear, options) for linear in plain]
    _share_parameters(plain, noisy)
    for linear, twin in zip(plain, noisy, strict=True):
        _become(linear, twin)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # "neither": the fast path knows these two alone
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return model


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers to make noisy.

    Raises:
        UserError: as `make_noisy`.
    """
    linears: dict[str, nn.Linear] = {}
    others: dict[int, str] = {}  # what has a parameter and is not to become noisy
    for name, module in model.named_modules():
        called = f"{name!r}" if name else "the model itself"
        if reason := _reason_against(module):
            raise UserError(f"make_noisy cannot change {called}: {reason}")
        if _is_called_linear(module):
            linears[called] = module
        else:
            others |= {id(parameter): called for parameter in module.parameters(recurse=False)}
    for called, linear in linears.items():
        for other in (others[id(x)] for x in linear.parameters() if id(x) in others):
            raise UserError(
                f"make_noisy cannot change {called}: it shares a parameter with {other}, which "
                "stays as it is; give each its own parameter"
            )
    if not linears and not noisy_layers(model):
        raise UserError(
            "make_noisy found no torch.nn.Linear in the model, which would explore without noise: "
            "build it with NoisyLinear"
        )
    return list(linears.values())


def _reason_against(module: nn.Module) -> str | None:
    """Why a module cannot become noisy, and what to do; None if it can, or need not."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return "it would not exchange the new parameters' gradients; wrap it after make_noisy"
    if isinstance(module, torch.jit.ScriptModule) and module.original_name == "Linear":
        return "torch.jit compiled it; call make_noisy before that"
    return _reason_against_linear(module) if _is_called_linear(module) else None


def _reason_against_linear(module: nn.Linear) -> str | None:
    if isinstance(module, nn.LazyLinear):
        return "the number of its inputs is not known yet; run one batch through the model first"
    if type(module) is not nn.Linear and not parametrize.is_parametrized(module):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        return f"{kind} is a subclass of Linear; call make_noisy on the parts beside it"
    parameters = dict(module.named_parameters())
    expected = {"weight"} if module.bias is None else {"weight", "bias"}  # pyright: ignore[reportUnnecessaryComparison]
    own = {name for name, parameter in parameters.items() if type(parameter) is nn.Parameter}
    if parameters.keys() != expected or own != expected:
        return (
            "its weights are computed or stored in another form (parametrization, weight norm, "
            "pruning, sharding); call make_noisy before that is applied"
        )
    if "forward" in vars(module):
        return "its forward was replaced; call make_noisy before that"
    return None


def _is_called_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is a linear layer that is called (attention reads its layer's weights)."""
    return isinstance(module, nn.Linear) and type(module) is not NonDynamicallyQuantizableLinear


def _noisy_twin(linear: nn.Linear, options: NoisyOptions) -> NoisyLinear:
    weight, bias = linear.weight, linear.bias is not None  # pyright: ignore[reportUnnecessaryComparison]
    sizes = linear.in_features, linear.out_features
    return NoisyLinear(*sizes, bias, weight.device, weight.dtype, **options)


def _share_parameters(plain: Sequence[nn.Linear], noisy: Sequence[NoisyLinear]) -> None:
    """Have noisy layers share and freeze parameters as the plain ones do."""
    of: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for linear, layer in zip(plain, noisy, strict=True):
        for name, parameter in linear.named_parameters():
            names = f"{name}_mu", f"{name}_sigma"
            fresh = layer.get_parameter(names[0]), layer.get_parameter(names[1])
            for each, shared in zip(names, of.setdefault(id(parameter), fresh), strict=True):
                setattr(layer, each, shared.requires_grad_(parameter.requires_grad))


def _become(module: nn.Module, layer: NoisyLinear) -> None:
    """Make a linear layer into a noisy one, so that whatever refers to it has the noisy one."""
    replaced = {"_parameters", "_buffers", "_non_persistent_buffers_set"}
    kept = {name: value for name, value in vars(module).items() if name not in replaced}
    module.__class__ = NoisyLinear
    vars(module).update(vars(layer) | kept)


class _Space(Protocol):
    @property
    def shape(self) -> tuple[int, ...] | None: ...


def _flat_size(space: _Space) -> int:
    """Number of inputs after Stable-Baselines3's preprocessing, which makes integers one-hot."""
    if space.shape is None:
        raise UserError(
            f"NoisyFeatures needs observations of one array, got {type(space).__name__}: wrap the "
            "environment in gymnasium.wrappers.FlattenObservation"
        )
    counts: Any = getattr(space, "nvec", None)  # of MultiDiscrete
    if counts is None and space.shape == ():
        counts = getattr(space, "n", 1)  # of Discrete
    return math.prod(space.shape) if counts is None else int(torch.as_tensor(counts).sum())


class NoisyFeatures(nn.Sequential):
    """Flat observations through noisy layers with ReLU: a features extractor.

    For `policy_kwargs` of Stable-Baselines3 as `features_extractor_class`, with `net_arch=[]`.

    Args:
        observation_space: of one array, which is flattened, or of integers, which are one-hot.
        hidden: widths of the layers.
        options: for each `NoisyLinear`.

    Raises:
        UserError: observations are several arrays.
    """

    def __init__(
        self,
        observation_space: _Space,
        hidden: tuple[int, ...] = (64, 64),
        **options: Unpack[NoisyOptions],
    ) -> None:
        sizes = (_flat_size(observation_space), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [NoisyLinear(inputs, outputs, **options), nn.ReLU()]
        super().__init__(*layers)
        self.features_dim = sizes[-1]
