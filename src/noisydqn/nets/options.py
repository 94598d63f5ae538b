"""The options of the network and of its noise."""

import dataclasses
from typing import Annotated, Literal

from noisydqn.errors import ConfigError
from noisydqn.imports import PYTHON
from noisydqn.nets.initial import INDEX_DIM
from noisydqn.options import (
    NAME,
    at_least,
    at_most,
    convert_fields,
    each_at_least,
    each_at_most,
    flag,
)

TORSOS = (
    *("auto", "flat", "mlp"),
    *("catcher", "minatar", "nature", "impala", "btr", "hadamax", "notebook"),
)
TORSOS_WITH_WIDTHS = ("mlp", "impala", "btr")
TORSOS_WITH_NORMS = ("auto", "catcher", "minatar", "nature", "impala", "btr", "notebook")
MAX_INDEX = 1_024
"""Limit on the dimensions of an index: sigma has that many numbers for each weight."""
WIDTHS = each_at_most(2**20, length=64)


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The Q-network: torso, hidden layers, dueling and noise."""

    torso: Annotated[str, NAME] = "auto"
    """What turns an observation into features. "flat": a vector as it is; "mlp": plain layers
    before those of `hidden`; "catcher": two small convolutions; "minatar": one; "nature": the
    three of Mnih et al. 2015; "impala": the residual ones of Espeholt et al. 2018; "btr": those of
    "Beyond The Rainbow" (Clark et al. 2024), with twice the channels, spectral normalization and
    max-pooling to 6 x 6; "hadamax": three products of two, with max-pooling (Kooi et al. 2025);
    "notebook": the first notebook's two with max-pooling. "auto" depends on the observation: images
    and boards [height, width, channels] get minatar below 36 pixels and nature from 36 on,
    everything else flat. "python:module.function" names your function, which makes an
    equinox.Module from the observation's shape and a key. Of images and vectors (--images), each
    image gets such a torso."""
    torso_widths: Annotated[tuple[int, ...] | None, each_at_least(1), WIDTHS] = None
    """mlp: widths of its layers (default 128 128); impala and btr: channels of their stages
    (default 16 32 32 and 32 64 64)."""
    vector_widths: Annotated[tuple[int, ...], each_at_least(1), WIDTHS] = ()
    """Widths of plain layers for each vector beside images, before it is joined with their
    features. If none, a vector is joined as it is."""
    torso_layer_norm: bool = False
    """Normalize the channels of each pixel before each ReLU of a torso with convolutions, as PQN
    does (Gallici et al. 2024). hadamax always does."""
    hidden: Annotated[tuple[int, ...], each_at_least(1), WIDTHS] = (128, 128, 128)
    """Widths of the layers between the torso and the heads. They are noisy unless the exploration
    is not."""
    layer_norm: bool = False
    """Normalize before the ReLU of each layer of `hidden`, `dueling_hidden`, `vector_widths` and an
    mlp torso (Ba et al. 2016)."""
    dueling: bool = True
    """Separate heads for value and advantage (Wang et al. 2016). Without `dueling_hidden` each is
    one layer: together they can express no more than a single head, though they learn and explore
    differently."""
    dueling_hidden: Annotated[tuple[int, ...], each_at_least(1), WIDTHS] = ()
    """Widths of the separate hidden layers of the value stream and of the advantage stream, after
    those of `hidden` and noisy like them. Needs --dueling."""
    noise: Literal["factorised", "independent", "indexed"] = "factorised"
    """Noise of a layer with p inputs and q outputs: "factorised" multiplies p + q Gaussian samples,
    "independent" takes p * q + q, "indexed" multiplies a learned matrix for each output by one
    random direction, which all layers share."""
    index_dim: Annotated[int, at_least(1), at_most(MAX_INDEX)] = INDEX_DIM
    """Dimensions M of the direction of indexed noise."""
    prior_scale: Annotated[float, at_least(0)] = 0.0
    """Standard deviation of the values that a fixed random network adds under indexed noise, in
    units of scaled rewards (Osband et al. 2018, randomized prior functions). A larger one explores
    for longer. 0: no such network."""
    noise_in: Literal["all", "head"] | None = None
    """Which layers are noisy: the hidden layers and the heads, or only the heads (default: the
    heads if indexed, else all)."""
    sigma_init: Annotated[float | None, at_least(0)] = None
    """Size of the noise at the start. factorised: sigma_0, each sigma starts at sigma_0 / sqrt(p)
    (default 0.5); independent: the value at which each sigma starts (default 0.017); indexed:
    sigma_0, each sigma starts normally distributed with deviation sigma_0 / sqrt(p) (default
    0.5)."""
    sigma_distribution: Literal["constant", "kaiming-uniform"] = "constant"
    """"kaiming-uniform" starts each sigma uniformly within ±sigma_init * sqrt(6 / p)."""

    def __post_init__(self) -> None:
        convert_fields(self)
        self._check_torso()
        if self.sigma_distribution == "kaiming-uniform" and self.sigma_init is None:
            raise ConfigError("--sigma-distribution kaiming-uniform needs --sigma-init")
        if self.dueling_hidden and not self.dueling:
            raise ConfigError(
                f"--dueling-hidden {' '.join(map(str, self.dueling_hidden))} and --no-dueling "
                "exclude each other: give --dueling, or leave it out"
            )

        self._check_index()

    @property
    def noisy_hidden(self) -> bool:
        """Whether the hidden layers are noisy, if the heads are."""
        if self.noise_in is None:
            return self.noise != "indexed"
        return self.noise_in == "all"

    def check_noise(self, exploration: str) -> None:
        """Refuse options of noise where no layer is noisy.

        Raises:
            ConfigError: one is given.
        """
        given = {"noise_in": self.noise_in == "head", "noise": self.noise == "indexed"}
        for name in (name for name, refused in given.items() if refused):
            raise ConfigError(
                f"{flag(name)} {getattr(self, name)} and --exploration {exploration} exclude each "
                "other: no layer is noisy then"
            )

    def _check_index(self) -> None:
        if self.noise == "indexed":
            if self.sigma_distribution == "kaiming-uniform":
                raise ConfigError(
                    "--sigma-distribution kaiming-uniform and --noise indexed exclude each other: "
                    "its sigmas start normally distributed"
                )
            return
        for name, default in {"index_dim": INDEX_DIM, "prior_scale": 0.0}.items():
            if (value := getattr(self, name)) != default:
                raise ConfigError(
                    f"{flag(name)} {value} and --noise {self.noise} exclude each other: give "
                    "--noise indexed, or leave it out"
                )

    def _check_torso(self) -> None:
        if self.torso not in TORSOS and not self.torso.startswith(PYTHON):
            raise ConfigError(
                f"--torso must be one of {', '.join(TORSOS)} or python:module.function, got "
                f"{self.torso!r}"
            )
        if self.torso_widths is not None and self.torso not in TORSOS_WITH_WIDTHS:
            raise ConfigError(
                f"--torso-widths {' '.join(map(str, self.torso_widths))} and --torso {self.torso} "
                f"exclude each other: it belongs to {', '.join(TORSOS_WITH_WIDTHS)}"
            )
        if self.torso_layer_norm and self.torso not in TORSOS_WITH_NORMS:
            raise ConfigError(
                f"--torso-layer-norm and --torso {self.torso} exclude each other: it belongs to "
                f"{', '.join(TORSOS_WITH_NORMS)}"
            )
        if self.torso_widths == ():
            raise ConfigError(
                f"--torso-widths must name a width, as --torso {self.torso} has at least one layer"
            )
