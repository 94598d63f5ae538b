"""Initial values and noise sizes of the noisy layer, the same in every framework.

This module imports no framework, so the layers for PyTorch and Keras do not need JAX.
"""

import math
from typing import Literal, NamedTuple, SupportsIndex

NoiseKind = Literal["factorised", "independent", "indexed"]
NoiseMode = Literal["sample", "mean", "frozen"]
"""The noise of a layer that samples its own: a new sample in every forward pass, none (the mean
weights), or one sample that is held until `reset_noise`."""

NOISE_MODES: tuple[NoiseMode, ...] = ("sample", "mean", "frozen")

SIGMA_INIT_FACTORISED = 0.5
"""sigma_0 of the paper's section 3.2: each sigma starts at `sigma_0 / sqrt(p)`."""

SIGMA_INIT_INDEPENDENT = 0.017
"""Each sigma starts at this value when the noise is independent (section 3.2)."""

INDEX_DIM = 8
"""Dimensions M of the index of indexed noise."""


class InitialValues(NamedTuple):
    """Initial values: every `mu` uniform within ±`bound`, every `sigma` at `sigma`.

    With indexed noise every sigma is normal with standard deviation `sigma`.
    """

    bound: float
    sigma: float


def initial_values(
    in_features: int,
    out_features: int,
    noise: NoiseKind,
    sigma_init: float | None,
    index_dim: int = INDEX_DIM,
) -> InitialValues:
    """Compute the initial values of weights and biases (Fortunato et al. 2018, section 3.2).

    Indexed noise starts like factorised noise: an index of length 1 makes a deviation of
    `sigma_0 / sqrt(p)` from each weight's mean.

    Raises:
        ValueError: a size is not an integer above 0, `sigma_init` is negative, or the kind of
            noise is unknown.
    """
    for size in (in_features, out_features):
        if not isinstance(size, SupportsIndex):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"a noisy layer needs whole numbers of inputs and outputs, got {size!r}"
            )
    if in_features < 1 or out_features < 1:
        raise ValueError(
            f"a noisy layer needs at least one input and one output, got {in_features} inputs "
            f"and {out_features} outputs"
        )
    if not isinstance(index_dim, SupportsIndex) or index_dim < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"index_dim must be a whole number above 0, got {index_dim!r}")
    if noise in ("factorised", "indexed"):
        bound = 1 / math.sqrt(in_features)
        sigma_0 = SIGMA_INIT_FACTORISED if sigma_init is None else sigma_init
        sigma = sigma_0 / math.sqrt(in_features)
    elif noise == "independent":
        bound = math.sqrt(3 / in_features)
        sigma = SIGMA_INIT_INDEPENDENT if sigma_init is None else sigma_init
    else:
        raise ValueError(f'noise must be "factorised", "independent" or "indexed", got {noise!r}')
    if not sigma >= 0:
        raise ValueError(f"sigma_init must be zero or more, got {sigma_init}")
    return InitialValues(bound, sigma)


def noise_size(
    in_features: int, out_features: int, noise: NoiseKind, index_dim: int = INDEX_DIM
) -> int:
    """Count the normals of one noise sample.

    p + q (factorised), p * q + q (independent) or M (indexed).
    """
    if noise == "indexed":
        return index_dim
    if noise == "factorised":
        return in_features + out_features
    return in_features * out_features + out_features


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in NOISE_MODES:
        raise ValueError(f'mode must be "sample", "mean" or "frozen", got {mode!r}')
