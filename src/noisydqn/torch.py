"""The noisy layer for PyTorch: `NoisyLinear`, in place of `torch.nn.Linear`.

The layer is that of `noisydqn.NoisyLinear` (Fortunato et al. 2018, equation 9): the same
parameters and the same noise give the same outputs and gradients. Only the source of the noise
differs. In JAX noise is an argument. A PyTorch module is called with its input alone, so this
layer samples its own noise. Its mode says when; training or evaluation makes no difference:

| mode | noise |
|---|---|
| `"sample"` | a new sample in every forward pass, shared by the whole batch |
| `"frozen"` | one sample, held until `reset_noise` |
| `"mean"` | none: the mean weights |

    model = torch.nn.Sequential(NoisyLinear(4, 64), torch.nn.ReLU(), NoisyLinear(64, 2))
    set_mode(model, "mean")    # evaluate without noise
    set_mode(model, "frozen")  # hold one sample in every layer
    reset_noise(model)         # hold another

The file is long because the conversions and the layer share its private state.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict, TypeGuard, Unpack

from noisydqn.errors import MissingExtraError, UserError
from noisydqn.nets.initial import (
    INDEX_DIM,
    NoiseKind,
    NoiseMode,
    check_mode,
    initial_values,
    noise_size,
)

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
    index_dim: int
    sigma_init: float | None
    mode: NoiseMode
    follow_training: bool
    generator: torch.Generator | None


class NoisyLinear(nn.Module):
    """A linear layer whose weights and biases are `mu + sigma * epsilon`.

    The layer works with `torch.compile`, CUDA graphs and `copy.deepcopy`:

    - A CUDA graph samples the noise itself. A held sample is replaced in place, so the graph sees
      `reset_noise`. A `generator` must be registered by `register_generator_state`.
    - `torch.compile` cannot trace a `generator`, so a layer that has one splits the graph in two.
    - A copy samples its own noise, from the same generator if one was given.

    The state dict holds the learned parameters and no noise. Held noise is a buffer beside them.
    It is never uninitialized: `to_empty` keeps it, or samples it if the layer was on the device
    "meta".

    Args:
        in_features: number of inputs, p.
        out_features: number of outputs, q.
        bias: whether the layer has a bias.
        device: device of the parameters.
        dtype: dtype of the parameters.
        noise: `"factorised"` samples p + q normals and multiplies them (equations 10 and 11);
            `"independent"` samples p * q + q; `"indexed"` samples a point on the unit sphere in M
            dimensions, which each weight's sigma, [M], is multiplied with.
        index_dim: M of indexed noise.
        sigma_init: for factorised noise sigma_0, so that every sigma starts at
            `sigma_0 / sqrt(p)` (default 0.5); for independent noise the initial sigma (default
            0.017); for indexed noise sigma_0, every sigma is normal with deviation
            `sigma_0 / sqrt(p)` (default 0.5).
        mode: `"sample"`, `"frozen"` or `"mean"`, see above.
        follow_training: if true, the layer uses its means while `training` is false, so that
            `eval()` turns the noise off and `train()` turns it on again. Collecting experience in
            evaluation mode then does not explore.
        generator: source of initial values and noise, on the layer's device; None uses PyTorch's
            default generator.

    Raises:
        ValueError: a size is not an integer above 0, `sigma_init` is negative, the mode or kind of
            noise is unknown, or the dtype is not floating-point.
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
        index_dim: int = INDEX_DIM,
        sigma_init: float | None = None,
        mode: NoiseMode = "sample",
        follow_training: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._initial = initial_values(in_features, out_features, noise, sigma_init, index_dim)
        check_mode(mode)
        self.in_features, self.out_features = in_features, out_features
        self.noise: NoiseKind = noise
        self.index_dim = index_dim
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
        index = (index_dim,) if noise == "indexed" else ()
        self.weight_sigma = empty(out_features, in_features, *index)
        self.register_parameter("bias_mu", empty(out_features) if bias else None)
        self.register_parameter("bias_sigma", empty(out_features, *index) if bias else None)
        held = torch.empty(self.noise_size, device=device, dtype=dtype)
        self.register_buffer("held_normals", held, persistent=False)
        self.reset_parameters()

    @property
    def noise_size(self) -> int:
        """Number of normals in one noise sample.

        p + q (factorised), p * q + q (independent) or M (indexed).
        """
        return noise_size(self.in_features, self.out_features, self.noise, self.index_dim)

    def reset_parameters(self) -> None:
        """Initialize again: `mu` uniform within ±1/sqrt(p) or, if independent, ±sqrt(3/p).

        Every sigma gets the same value or, if indexed, a normal one.
        """
        bound, sigma = self._initial
        for mu in (self.weight_mu, self.bias_mu):
            if mu is not None:
                nn.init.uniform_(mu, -bound, bound, generator=self.generator)
        for deviation in (self.weight_sigma, self.bias_sigma):
            if deviation is not None and self.noise == "indexed":
                nn.init.normal_(deviation, 0.0, sigma, generator=self.generator)
            elif deviation is not None:
                nn.init.constant_(deviation, sigma)
        self.reset_noise()

    @torch.no_grad()
    def reset_noise(self, normals: Tensor | None = None) -> None:
        """Hold another noise sample, which the mode `"frozen"` uses.

        Args:
            normals: unit normals [noise_size] that form the noise: of inputs and outputs
                (factorised), of weights, row by row, and biases (independent), or of the index,
                before it is scaled to length 1 (indexed). None samples them.
        """
        if self.held_normals.is_meta and not self.weight_mu.is_meta:
            # `load_state_dict(..., assign=True)` replaced the parameters.
            self.held_normals = torch.empty_like(self.held_normals, device=self.weight_mu.device)
        if normals is None:
            self.held_normals.normal_(generator=self.generator)
        else:
            self.held_normals.copy_(normals)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoisyLinear":
        """Move or convert the layer, as `to`, `half` and `to_empty` do.

        `to_empty` returns uninitialized tensors, so held noise is copied here or sampled.
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

    def _deviations(self, normals: Tensor) -> tuple[Tensor, Tensor | None]:
        """Form what a noise sample adds to the weights [q, p] and biases [q]."""
        inputs, outputs, bias_sigma = self.in_features, self.out_features, self.bias_sigma
        if self.noise == "indexed":
            index = normals / normals.square().sum().sqrt()
            return self.weight_sigma @ index, None if bias_sigma is None else bias_sigma @ index
        if self.noise == "factorised":
            scaled = normals.sign() * normals.abs().sqrt()
            of_inputs, of_outputs = scaled.split([inputs, outputs])
            weight, bias = torch.outer(of_outputs, of_inputs), of_outputs
        else:
            weight, bias = normals.split([inputs * outputs, outputs])
            weight = weight.view(outputs, inputs)
        return self.weight_sigma * weight, None if bias_sigma is None else bias_sigma * bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` [..., p] under one noise sample; return [..., q]."""
        check_mode(self.mode)
        if self.mode == "mean" or (self.follow_training and not self.training):
            return nn.functional.linear(x, self.weight_mu, self.bias_mu)
        of_weight, of_bias = self._deviations(self._normals())
        weight = self.weight_mu + of_weight
        if self.bias_mu is None or of_bias is None:
            return nn.functional.linear(x, weight)
        return nn.functional.linear(x, weight, self.bias_mu + of_bias)

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias_mu is not None}, noise={self.noise}, mode={self.mode}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "NoisyLinear":
        """Copy the layer but share its generator, whose copy would repeat the same noise."""
        if self.generator is not None:
            memo[id(self.generator)] = self.generator
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def noisy_layers(model: nn.Module) -> list[NoisyLinear]:
    """List the noisy layers of a model."""
    return [module for module in model.modules() if isinstance(module, NoisyLinear)]


def reset_noise(model: nn.Module) -> None:
    """Hold another noise sample in every noisy layer of a model, independent of the others."""
    for layer in noisy_layers(model):
        layer.reset_noise()


def set_mode(model: nn.Module, mode: NoiseMode) -> None:
    """Set the mode of every noisy layer of a model.

    Raises:
        ValueError: the mode is unknown.
    """
    check_mode(mode)
    for layer in noisy_layers(model):
        layer.mode = mode


def make_noisy(model: nn.Module, **options: Unpack[NoisyOptions]) -> nn.Module:
    """Turn every `nn.Linear` of a model into a fresh noisy layer, before it is trained.

    Each layer is changed in place. It stays the same object under every name that it has, with its
    device, dtype, `training` flag, hooks and other attributes. Layers that shared a parameter share
    its mean and sigma; each samples its own noise. Frozen parameters stay frozen. All weights are
    initialized again, so call this before you make an optimizer.

    A layer in `eval()` stays there, and that alone does not turn its noise off: with
    `follow_training=True` it uses its means until `train()`.

    Other kinds of layers stay as they are, including `nn.MultiheadAttention`, which reads its
    weights itself. A `nn.TransformerEncoderLayer` gets noise in its two feed-forward layers. It
    loses its fast path in evaluation, which would read their weights.

    Args:
        model: a model, or a linear layer; changed in place. Noisy layers in it stay as they are.
        options: arguments of each `NoisyLinear`, such as `sigma_init=0.1`.

    Returns:
        The model.

    Raises:
        UserError: the model has no linear layer, or one that cannot become noisy: of a subclass
            (`LazyLinear` before its first batch, one with a parametrization), with weights
            that are computed or shared with another kind of layer, scripted, or wrapped for
            distributed training. The model is then unchanged.
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
    """List the layers to make noisy.

    Raises:
        UserError: as `make_noisy`.
    """
    linears: dict[str, nn.Linear] = {}
    others: dict[int, str] = {}  # the module of each parameter that stays as it is
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
    """Say why a module cannot become noisy, and what to do; None if it can, or need not."""
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
    """Tell whether a module is a linear layer that is called; attention only reads weights."""
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
    """Turn a linear layer into a noisy one in place, so that every reference sees it."""
    replaced = {"_parameters", "_buffers", "_non_persistent_buffers_set"}
    kept = {name: value for name, value in vars(module).items() if name not in replaced}
    module.__class__ = NoisyLinear
    vars(module).update(vars(layer) | kept)


class _Space(Protocol):
    @property
    def shape(self) -> tuple[int, ...] | None: ...


def _flat_size(space: _Space) -> int:
    """Count the inputs after Stable-Baselines3's preprocessing, which makes integers one-hot."""
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
        observation_space: a space of one array, which is flattened, or of integers, which become
            one-hot.
        hidden: widths of the layers.
        options: arguments of each `NoisyLinear`.

    Raises:
        UserError: an observation is not a single array.
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
