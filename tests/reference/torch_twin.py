"""One update in PyTorch, written from the papers: the peer of `Agent.update`.

Networks are dictionaries of arrays by the names of noisydqn's tree. It runs in double precision
and shares no code with the package. Not checked for types: PyTorch's own are in part unknown.
"""

import dataclasses
import math

import numpy as np
import torch
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is to be learned, and how."""

    distribution: str
    double: bool
    munchausen: tuple[float, float, float] | None  # scale, temperature, minimum
    num_actions: int
    learning_rate: float
    epsilon: float
    atoms: int = 0
    v_min: float = 0.0
    v_max: float = 0.0
    acting_quantiles: int = 0


def as_tensors(arrays):
    return {
        name: torch.from_numpy(np.array(x)).to(
            torch.int64 if x.dtype.kind == "i" else torch.float64
        )
        for name, x in arrays.items()
    }


def linear(network, noise, name, x):
    if f"{name}.weight" in network:
        return functional.linear(x, network[f"{name}.weight"], network[f"{name}.bias"])
    weight, bias = network[f"{name}.weight_mu"], network[f"{name}.bias_mu"]
    if f"{name}.input" in noise:
        out = noise[f"{name}.output"]
        weight_noise, bias_noise = torch.outer(out, noise[f"{name}.input"]), out
    else:
        weight_noise, bias_noise = noise[f"{name}.weight"], noise[f"{name}.bias"]
    weight = weight + network[f"{name}.weight_sigma"] * weight_noise
    return functional.linear(x, weight, bias + network[f"{name}.bias_sigma"] * bias_noise)


def depth(network, stack):
    return len({name.split(".")[1] for name in network if name.startswith(f"{stack}.")})


def forward(rule, network, noise, x, taus=None):
    """Outputs [B, A, N]; `taus` [B, N] are an implicit quantile network's."""
    if taus is not None:
        x = x[:, None, :]

    def embedded(x):
        if taus is None:
            return x
        count = network["embedding.linear.weight"].shape[1]
        cosines = torch.cos(math.pi * torch.arange(count) * taus[..., None])
        return x * torch.relu(linear(network, noise, "embedding.linear", cosines))

    def head(name, x):
        for i in range(depth(network, f"{name}_hidden")):
            x = torch.relu(linear(network, noise, f"{name}_hidden.{i}", x))
        return linear(network, noise, name, x)

    streams = depth(network, "value_hidden") > 0
    for i in range(depth(network, "hidden")):
        if not streams and i == depth(network, "hidden") - 1:
            x = embedded(x)
        x = torch.relu(linear(network, noise, f"hidden.{i}", x))
    if streams:
        x = embedded(x)
    advantage = head("advantage", x)
    if taus is not None:
        advantage = advantage.transpose(1, 2)  # [B, A, N]
    else:
        advantage = advantage.unflatten(1, (rule.num_actions, -1))
    if not any(name.startswith("value.") for name in network):
        return advantage
    value = head("value", x)
    value = value.transpose(1, 2) if taus is not None else value[:, None, :]
    return value + advantage - advantage.mean(dim=1, keepdim=True)


def q_values(rule, network, noise, x):
    if rule.distribution == "implicit-quantile":
        number = rule.acting_quantiles
        taus = ((torch.arange(number) + 0.5) / number).to(torch.float64)
        return forward(rule, network, noise, x, taus.expand(len(x), number)).mean(dim=2)
    out = forward(rule, network, noise, x)
    if rule.distribution == "categorical":
        support = torch.linspace(rule.v_min, rule.v_max, rule.atoms, dtype=torch.float64)
        return (out.softmax(dim=2) * support).sum(dim=2)
    return out.mean(dim=2)


def onto_support(rule, atoms, probabilities):
    """The distributing of probability between two neighbours, as most programs write it."""
    spacing = (rule.v_max - rule.v_min) / (rule.atoms - 1)
    place = (atoms.clamp(rule.v_min, rule.v_max) - rule.v_min) / spacing
    lower = place.floor().long().clamp(max=rule.atoms - 2)
    upper = lower + 1
    projected = torch.zeros(*place.shape[:-1], rule.atoms, dtype=torch.float64)
    projected.scatter_add_(-1, lower, probabilities * (upper - place))
    projected.scatter_add_(-1, upper, probabilities * (place - lower))
    return projected


def categorical_loss(rule, taken, out_t, policy, bonus, r_t, discount_t):
    support = torch.linspace(rule.v_min, rule.v_max, rule.atoms, dtype=torch.float64)
    moved = support + bonus[..., None]  # [B, A, N]
    atoms = r_t[:, None, None] + discount_t[:, None, None] * moved
    target = onto_support(rule, atoms, out_t.softmax(dim=2))
    target = (policy[..., None] * target).sum(dim=1)
    return functional.kl_div(taken.log_softmax(dim=1), target, reduction="none").sum(dim=1)


def quantile_loss(taken, taus, out_t, policy, bonus, r_t, discount_t):
    mixed = (policy[..., None] * (out_t + bonus[..., None])).sum(dim=1)
    target = r_t[:, None] + discount_t[:, None] * mixed  # [B, N']
    u = target[:, None, :] - taken[:, :, None]
    huber = torch.where(u.abs() <= 1, 0.5 * u**2, u.abs() - 0.5)
    weight = (taus[:, :, None] - (u.detach() < 0).double()).abs()
    return (weight * huber).mean(dim=2).sum(dim=1)


def next_actions(rule, q_selector):
    """Probabilities and bonuses [B, A] of the next state's actions."""
    if rule.munchausen is None:
        policy = functional.one_hot(q_selector.argmax(dim=1), rule.num_actions).double()
        return policy, torch.zeros_like(policy)
    temperature = rule.munchausen[1]
    log_policy = (q_selector / temperature).log_softmax(dim=1)
    return log_policy.exp(), -temperature * log_policy


def losses(rule, online, target, noises, taus, batch):
    """Losses and errors [B]."""
    s_tm1, a_tm1, r_t, discount_t, s_t = (
        batch[name] for name in ("s_tm1", "a_tm1", "r_t", "discount_t", "s_t")
    )
    rows = torch.arange(len(a_tm1))
    taken = forward(rule, online, noises[0], s_tm1, taus[0])[rows, a_tm1]
    with torch.no_grad():
        out_t = forward(rule, target, noises[1], s_t, taus[1])
        selecting = (online, noises[2]) if rule.double else (target, noises[1])
        policy, bonus = next_actions(rule, q_values(rule, *selecting, s_t))
        if rule.munchausen is not None:
            scale, temperature, minimum = rule.munchausen
            q_tm1 = q_values(rule, target, noises[1], s_tm1)
            log_policy = temperature * (q_tm1 / temperature).log_softmax(dim=1)[rows, a_tm1]
            r_t = r_t + scale * log_policy.clamp(minimum, 0)
    if rule.distribution == "categorical":
        loss = categorical_loss(rule, taken, out_t, policy, bonus, r_t, discount_t)
        return loss, loss
    if rule.distribution == "expected":
        error = r_t + discount_t * (policy * (out_t[..., 0] + bonus)).sum(dim=1) - taken[:, 0]
        return functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none"), error
    fractions = taus[0]
    if fractions is None:
        number = taken.shape[1]
        fractions = ((torch.arange(number) + 0.5) / number).double().expand_as(taken)
    loss = quantile_loss(taken, fractions, out_t, policy, bonus, r_t, discount_t)
    return loss, loss


def update(rule, online, target, noises, taus, batch):
    """The online network's arrays after one update, and the errors [B]."""
    online, target, batch = (as_tensors(arrays) for arrays in (online, target, batch))
    noises = [as_tensors(noise) for noise in noises]
    taus = [None if tau is None else torch.from_numpy(np.array(tau)).double() for tau in taus]
    for tensor in online.values():
        tensor.requires_grad_()
    optimizer = torch.optim.Adam(online.values(), lr=rule.learning_rate, eps=rule.epsilon)
    loss, error = losses(rule, online, target, noises, taus, batch)
    (batch["weights"] * loss).mean().backward()
    optimizer.step()
    return {name: x.detach().numpy() for name, x in online.items()}, error.detach().numpy()
