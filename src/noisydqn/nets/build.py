"""From options to a network."""

import math
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from noisydqn.dimensions import Sizes
from noisydqn.distributions import Distribution
from noisydqn.errors import UserError
from noisydqn.imports import PYTHON
from noisydqn.nets.hadamax import HadamaxTorso
from noisydqn.nets.impala import BTR_CHANNELS, BTR_POOL, IMPALA_CHANNELS, ImpalaTorso
from noisydqn.nets.network import QNetwork
from noisydqn.nets.noisy import noisy_layers
from noisydqn.nets.options import NetworkOptions
from noisydqn.nets.prior import Prior
from noisydqn.nets.torsos import (
    ConvTorso,
    Flatten,
    MixedTorso,
    MLPTorso,
    NotebookTorso,
    Torso,
    UserTorso,
)
from noisydqn.types import Mixed

CONV_LAYERS = {
    "catcher": ((16, 6, 3), (32, 3, 2)),
    "minatar": ((16, 3, 1),),
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
}
"""(channels, size, stride) of each convolution of a torso."""

NATURE_PIXELS, MINATAR_PIXELS = 36, 3
"""The smallest images for which "auto" takes these torsos."""

MLP_WIDTHS = (128, 128)


def make_network(
    options: NetworkOptions,
    observation: Any,
    seen: Any,
    num_actions: int | Sizes,
    distribution: Distribution,
    *,
    noisy: bool,
    key: PRNGKeyArray,
) -> QNetwork:
    """Make a network with new weights.

    Args:
        options: of the network.
        observation: shape and dtype of one observation, by which the torso is chosen; or a
            `Mixed` of those of its parts.
        seen: the same of what the network sees: one observation, or merged frames.
        num_actions: number of actions, or of choices in each dimension.
        distribution: what is learned about returns.
        noisy: whether the layers have noise.
        key: of the weights.

    Raises:
        UserError: the torso does not fit the observations, or a torso of the user's failed.
    """
    torso_key, network_key, sigma_key = jax.random.split(key, 3)
    sizes = (num_actions,) if isinstance(num_actions, int) else num_actions
    prior = None
    if noisy and options.prior_scale > 0:
        prior_torso_key, prior_key = jax.random.split(jax.random.fold_in(key, 3))
        prior = Prior(
            _make_torso(options, observation, seen, prior_torso_key),
            options.hidden,
            sum(sizes),
            index_dim=options.index_dim,
            scale=options.prior_scale * math.sqrt(len(sizes)),  # their mean has the given one
            key=prior_key,
        )
    network = QNetwork(
        _make_torso(options, observation, seen, torso_key),
        options.hidden,
        sizes,
        distribution=distribution,
        dueling=options.dueling,
        dueling_hidden=options.dueling_hidden,
        noisy=noisy,
        noisy_hidden=options.noisy_hidden,
        layer_norm=options.layer_norm,
        noise=options.noise,
        index_dim=options.index_dim,
        prior=prior,
        sigma_init=options.sigma_init,
        key=network_key,
    )
    if noisy and options.sigma_distribution == "kaiming-uniform":
        network = _with_kaiming_sigmas(network, sigma_key)
    return network


def _with_kaiming_sigmas(network: QNetwork, key: PRNGKeyArray) -> QNetwork:
    """Replace every constant sigma s of a layer with p inputs by samples in ±s * sqrt(6 / p)."""

    def sigmas(network: QNetwork) -> list[Array]:
        layers = noisy_layers(network).values()
        return [sigma for layer in layers for sigma in (layer.weight_sigma, layer.bias_sigma)]

    inputs = [layer.in_features for layer in noisy_layers(network).values() for _ in range(2)]
    sampled = [
        sigma * math.sqrt(6 / p) * jax.random.uniform(sigma_key, sigma.shape, minval=-1)
        for sigma, p, sigma_key in zip(
            sigmas(network), inputs, jax.random.split(key, len(inputs)), strict=True
        )
    ]
    return eqx.tree_at(sigmas, network, sampled)


def choose_torso(shape: tuple[int, ...], dtype: Any) -> str:
    """Choose the torso that "auto" stands for, by shape and dtype of one stored observation.

    Convolutions are for images and boards, [height, width, channels] of any type, or
    [height, width] of bytes or booleans. Other numbers [h, w], such as stacked vectors, are flat.
    """
    has_planes = len(shape) == 3 or (len(shape) == 2 and np.dtype(dtype).kind in "ub")
    if not has_planes or min(shape[:2]) < MINATAR_PIXELS:
        return "flat"
    return "nature" if min(shape[:2]) >= NATURE_PIXELS else "minatar"


def image_torso(options: NetworkOptions, path: str, image: jax.ShapeDtypeStruct) -> str:
    """Return the name of the torso that an image beside vectors gets, whatever its dtype.

    Raises:
        UserError: the image is too small for the torso.
    """
    seen = jax.ShapeDtypeStruct(image.shape, np.uint8)
    return torso_name(options, seen, f"image {path} is", f", or give --images without {path}")


def torso_name(
    options: NetworkOptions,
    observation: jax.ShapeDtypeStruct,
    what: str = "observations are",
    remedy: str = "",
) -> str:
    """Return the name of the torso that observations of a shape and dtype get.

    Args:
        options: of the network.
        observation: shape and dtype of one observation.
        what: it is, in messages.
        remedy: what else can be done, in messages.

    Raises:
        UserError: the torso has convolutions, and the observations are not images or too small;
            or none, though they were to be normalized.
    """
    torso, shape = options.torso, observation.shape
    if torso == "auto":
        torso = choose_torso(shape, observation.dtype)
        if torso == "flat" and options.torso_layer_norm:
            raise UserError(
                f"--torso-layer-norm needs convolutions, but observations are {list(shape)}, for "
                "which --torso auto has none: leave it out, or name a torso"
            )
        return torso
    least = 0
    if torso in CONV_LAYERS:
        least = 1
        for _, size, stride in reversed(CONV_LAYERS[torso]):
            least = (least - 1) * stride + size
    elif torso == "notebook":
        least = NotebookTorso.SMALLEST
    elif torso in ("impala", "btr", "hadamax"):
        least = 1
    if least > 0 and (len(shape) not in (2, 3) or min(shape) < 1 or min(shape[:2]) < least):
        raise UserError(
            f"--torso {torso} needs images of {least} x {least} or more, but {what} "
            f"{list(shape)}: choose --torso auto, flat or mlp{remedy}"
        )
    return torso


def _make_torso(options: NetworkOptions, observation: Any, seen: Any, key: PRNGKeyArray) -> Torso:
    if isinstance(observation, Mixed):
        return _make_mixed(options, observation, seen, key)
    if options.vector_widths:
        raise UserError(
            f"--vector-widths {' '.join(map(str, options.vector_widths))} belongs to observations "
            "of images and vectors, but these are one array: leave it out, or choose --torso mlp"
        )
    return _make_named(options, torso_name(options, observation), seen.shape, key)


def _make_mixed(
    options: NetworkOptions, observation: Mixed, seen: Mixed, key: PRNGKeyArray
) -> MixedTorso:
    """Make a torso for each image and for each vector."""
    image_keys, vector_keys = (
        dict(zip(sorted(parts), jax.random.split(part_key, len(parts)), strict=True))
        for parts, part_key in zip(observation, jax.random.split(key), strict=True)
    )
    images = {
        path: _make_named(
            options, image_torso(options, path, image), seen.images[path].shape, image_keys[path]
        )
        for path, image in observation.images.items()
    }
    widths = options.vector_widths
    vectors: dict[str, Torso] = {
        path: MLPTorso(x.shape[0], widths, layer_norm=options.layer_norm, key=vector_keys[path])
        if widths
        else Flatten(x.shape[0])
        for path, x in seen.vectors.items()
    }
    return MixedTorso(images, vectors)


def _make_named(
    options: NetworkOptions, name: str, shape: tuple[int, ...], key: PRNGKeyArray
) -> Torso:
    if name == "flat":
        return Flatten(math.prod(shape))
    if name == "mlp":
        widths = options.torso_widths or MLP_WIDTHS
        return MLPTorso(math.prod(shape), widths, layer_norm=options.layer_norm, key=key)
    if name.startswith(PYTHON):
        return UserTorso.make(name, shape, key)
    return _make_convolutions(options, name, shape, key)


def _make_convolutions(
    options: NetworkOptions, name: str, shape: tuple[int, ...], key: PRNGKeyArray
) -> Torso:
    if name == "hadamax":
        return HadamaxTorso(shape, key=key)
    layer_norm = options.torso_layer_norm
    if name == "notebook":
        return NotebookTorso(shape, layer_norm=layer_norm, key=key)
    if name in CONV_LAYERS:
        return ConvTorso(shape, CONV_LAYERS[name], layer_norm=layer_norm, key=key)
    btr = name == "btr"
    return ImpalaTorso(
        shape,
        options.torso_widths or (BTR_CHANNELS if btr else IMPALA_CHANNELS),
        layer_norm=layer_norm,
        spectral_norm=btr,
        pool=BTR_POOL if btr else None,
        key=key,
    )
