"""Every option of a training run: one frozen dataclass, checked when it is made.

The command line is generated from it, so the text under a field is that flag's help. Steps are
decisions of the agent, summed over all environments (in Catcher one decision lasts two frames);
updates are optimizer steps; episodes are games.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal

import tyro

from noisydqn.errors import ConfigError, UserError
from noisydqn.imports import PYTHON
from noisydqn.options import (
    MAX_COUNT,
    JsonObject,
    convert_fields,
    field_names,
    flag,
    refuse_unknown,
    shown,
)

CATCHER = "noisydqn/Catcher-v0"

RATIO_DENOMINATOR = 1_000
"""Updates per step are kept as a fraction with no larger denominator."""

MAX_SEED = 2**32 - 1
MAX_FILM_SECONDS = 3_600
MAX_N_STEP = 100  # the sum of rewards is unrolled
MAX_FRAMES = 16


TORSOS = ("auto", "flat", "mlp", "catcher", "minatar", "nature", "impala", "notebook")

EXPLORATIONS = ("noisy", "epsilon-greedy", "both", "greedy", "boltzmann")

AROUND_PROGRAM = (
    "preset seed num_seeds steps max_seconds stop_at_return window stop_at_evaluation "
    "vectorization step_timeout "
    "checkpoint_seconds keep evaluation_every evaluation_episodes evaluation_max_steps film_seconds"
)
"""Options of what happens around a compiled program, which is the same for all their values."""

OPTIONS_OF_DISTRIBUTIONS = {
    "loss": ("expected",),
    "atoms": ("categorical",),
    "v_min": ("categorical",),
    "v_max": ("categorical",),
    "quantiles": ("quantile", "implicit-quantile"),
    "acting_quantiles": ("implicit-quantile",),
}
"""Options that only some distributions have."""


def check_seed(flag: str, seed: int) -> None:
    """Refuse a seed that is no 32-bit number.

    Raises:
        UserError: it is not.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"{flag} must be between 0 and {MAX_SEED}, got {seed}")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of a training run."""

    preset: Annotated[str, tyro.conf.Suppress] = "default"
    env: Annotated[str, tyro.conf.Suppress] = CATCHER

    # The environment
    env_kwargs: Annotated[str, JsonObject] = "{}"
    """Environment: arguments for it, as a JSON object, such as '{"gravity": -5}'."""
    max_episode_steps: int | None = None
    """Environment: steps after which an episode is cut; the cut is no termination. If not given,
    the environment's own limit."""
    vectorization: Literal["auto", "sync", "subprocess", "own"] = "auto"
    """Environment: how Gymnasium's run side by side: "sync" in this process, "subprocess" one
    process each (for slow ones), "own" by the environment's vector entry point; "auto" is "own"
    for Atari, else "sync"."""
    step_timeout: float = 600.0
    """Environment: seconds that a step or a reset in a worker process may take. After that the run
    is saved and ends: the worker hangs."""
    frame_stack: int = 1
    """Environment: newest observations that the network sees together."""
    reward_scale: float = 1.0
    """Environment: what rewards are multiplied with for learning."""
    reward_clip: float | None = None
    """Environment: bound on a reward, before scaling, for learning."""

    # The run
    seed: int = 0
    """Run: seed of everything random. The same seed gives the same weights, bit for bit."""
    num_seeds: int = 1
    """Run: train this many seeds (seed, seed + 1, ...), each in a folder of its own: at once where
    the environment is in JAX, else one after the other."""
    steps: int = 200_000
    """Run: environment steps (decisions, summed over environments) to train for, rounded up to a
    multiple of the environments."""
    max_updates: int | None = None
    """Run: make no more than this many updates, and stop after the chunk that reaches it."""
    max_seconds: float | None = None
    """Run: stop after the chunk that reaches this training time, with compiling."""
    stop_at_return: float | None = None
    """Run: stop when the mean return of the newest training episodes reaches this."""
    window: int = 50
    """Run: how many episodes that mean is taken over."""
    stop_at_evaluation: float | None = None
    """Run: evaluate after each chunk that ends with such a mean, and stop when the mean return
    without noise reaches this too. If not given, the training episodes decide alone."""
    num_envs: int = 4
    """Run: environments that are played in step."""
    chunk_steps: int = 1_000
    """Run: environment steps in a chunk; progress is shown after each. Where the environment is
    in JAX a chunk is one compiled call."""
    checkpoint_seconds: float = 300.0
    """Run: seconds between checkpoints, made after the chunk that reaches them (0: only at the
    end, and when the run is interrupted)."""
    keep: int = 2
    """Run: checkpoints that are kept, the newest. They share what has not changed between them."""

    # Preprocessing
    normalize_observations: Literal["running", "scale"] = "scale"
    """Preprocessing: "running" centers and scales each element by its running mean and variance,
    "scale" divides bytes by 255 and takes all else as it is."""
    observation_clip: float | None = 10.0
    """Preprocessing: bound on a "running" normalized observation (None: no bound)."""
    normalize_rewards: bool = False
    """Preprocessing: divide rewards by the running deviation of the discounted return."""

    # Network
    torso: str = "auto"
    """Network: "flat" is for vectors, as they are; "mlp" plain layers before those of `hidden`;
    "catcher" two small convolutions, "minatar" one, "nature" the three of Mnih et al. 2015,
    "impala" the residual ones of Espeholt et al. 2018, "notebook" the first notebook's two with
    max-pooling; "auto" goes by the observation: images and boards [height, width, channels] have
    minatar below 36 pixels and nature from there on, all else is flat. "python:module.function" is
    called with the observation's shape and a key, and makes an equinox.Module of your own."""
    torso_widths: tuple[int, ...] | None = None
    """Network: mlp: widths of its layers (128 128 if not given); impala: channels of its stages
    (16 32 32 if not given)."""
    hidden: tuple[int, ...] = (128, 128, 128)
    """Network: widths of the layers between torso and heads; noisy, unless exploration has no
    noise."""
    layer_norm: bool = False
    """Network: layer normalization before the ReLU of each layer of `hidden`, `dueling_hidden` and
    an mlp torso."""
    dueling: bool = True
    """Network: separate heads for value and advantage. Without `dueling_hidden` each is one layer:
    together they can express no more than one head, though they learn and explore otherwise."""
    dueling_hidden: tuple[int, ...] = ()
    """Network: widths of hidden layers that the value head and the advantage head each have to
    themselves, after those of `hidden`; noisy as those are. Needs --dueling."""
    distribution: Literal["expected", "categorical", "quantile", "implicit-quantile"] = "expected"
    """Network: what is learned of an action's return: its mean, or its distribution as logits of
    atoms (C51), as quantiles (QR), or as a function of the fraction (IQN)."""
    atoms: int | None = None
    """Network: categorical: how many atoms (51 if not given)."""
    v_min: float | None = None
    """Network: categorical: lowest atom, in rewards as they are learned from, that is scaled and
    normalized (-10 if not given)."""
    v_max: float | None = None
    """Network: categorical: highest atom, in the same units (10 if not given)."""
    quantiles: int | None = None
    """Network: quantile: how many (200 if not given); implicit-quantile: how many an update draws
    for each of a transition's states (64 if not given)."""
    acting_quantiles: int | None = None
    """Network: implicit-quantile: how many an action value is the mean of (32 if not given)."""

    # Exploration
    exploration: str = "noisy"
    """Noise: "noisy" acts under the noise of its layers; "epsilon-greedy", "greedy" and "boltzmann"
    (actions sampled from the softmax of their values) have plain layers; "both" is epsilon-greedy
    with noisy layers. "python:module.Class" is an Explorer of your own, made without arguments."""
    epsilon: float = 1.0
    """Noise: share of random actions at the start, where exploration is by epsilon."""
    epsilon_final: float = 0.05
    """Noise: share of random actions at the end of `epsilon_steps`; goes there linearly."""
    epsilon_steps: int = 20_000
    """Noise: environment steps over which epsilon goes from start to end."""
    temperature: float = 1.0
    """Noise: temperature of the softmax over action values, in units of scaled rewards, where
    exploration is by "boltzmann"."""
    noise: Literal["factorised", "independent"] = "factorised"
    """Noise: Gaussian noise as products of p + q draws a layer, or p * q + q independent ones."""
    noise_in: Literal["all", "head"] = "all"
    """Noise: which layers are noisy: those of `hidden` and `dueling_hidden` and the outputs, or the
    outputs alone."""
    sigma_init: float | None = None
    """Noise: factorised: sigma_0, each sigma starts at sigma_0 / sqrt(p) (0.5 if not given);
    independent: where each sigma starts (0.017 if not given)."""
    sigma_distribution: Literal["constant", "kaiming-uniform"] = "constant"
    """Noise: "kaiming-uniform" starts each sigma uniform within ±sigma_init * sqrt(6 / p)."""
    sigma_penalty: float = 0.0
    """Noise: coefficient of the mean |sigma| of each noisy layer in the loss."""
    acting_noise: Literal["step", "update", "episode"] = "update"
    """Noise: how long a draw is held while acting. Before learning starts, "update" renews it
    when an update would be made."""
    acting_noise_shared: bool = False
    """Noise: all environments act under one draw (else each has its own)."""

    # Learning
    learning_rate: float = 5e-4
    """Learning: step size of the optimizer at the start."""
    learning_rate_final: float | None = None
    """Learning: step size at the end of `schedule_updates`; goes there linearly. Constant if not
    given."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Learning: the optimizer."""
    adam_epsilon: float = 1e-8
    """Learning: epsilon of Adam."""
    weight_decay: float = 0.01
    """Learning: decoupled weight decay, with adamw only."""
    loss: Literal["smooth-l1", "squared"] | None = None
    """Learning: loss of the temporal-difference error, where the expected return is learned
    (smooth-l1 if not given); a distribution has a loss of its own."""
    max_gradient_norm: float | None = None
    """Learning: longer gradients are shortened to this norm. Not if not given."""
    double: bool = True
    """Learning: double Q-learning; with Munchausen targets the online network's policy weighs the
    target network's values."""
    munchausen: bool = False
    """Learning: Munchausen targets: a soft policy at the later state, and the log-probability of
    the earlier state's action as a reward."""
    munchausen_scale: float | None = None
    """Learning: alpha, what that reward is multiplied with (0.9 if not given)."""
    munchausen_temperature: float | None = None
    """Learning: tau, temperature of the policies, in units of scaled rewards (0.03 if not
    given)."""
    munchausen_minimum: float | None = None
    """Learning: l_0, lower bound of tau times the log-probability (-1 if not given)."""
    discount: float = 0.99
    """Learning: gamma, the discount of one step."""
    n_step: int = 5
    """Learning: rewards summed before bootstrapping, in steps."""
    batch_size: int = 64
    """Learning: transitions in an update."""
    updates_per_step: float = 0.5
    """Learning: updates for each environment step; may be below 1."""
    updates_per_episode: int = 0
    """Learning: updates after each episode; needs 0 updates per step."""
    learn_every: int = 1
    """Learning: steps of all environments after which the updates due are made, one after the
    other. More than 1 is faster with few environments; the actions between are chosen with older
    weights."""
    learning_starts: int = 1_000
    """Learning: environment steps before the first update."""
    random_steps: int = 0
    """Learning: environment steps with uniformly random actions at the start."""
    target_period: int = 1
    """Learning: updates between renewals of the target network."""
    target_rate: float = 0.005
    """Learning: how far the target network moves to the online network then; 1 copies it."""

    # Replay
    replay: Literal["prioritized", "uniform"] = "prioritized"
    """Replay: sample in proportion to the priorities, or uniformly."""
    replay_capacity: int = 100_000
    """Replay: environment steps held, at least n + 2 for each environment."""
    priority_exponent: float = 0.5
    """Replay: alpha at the start; 0 is uniform."""
    priority_exponent_final: float = 0.5
    """Replay: alpha at the end of its schedule."""
    importance_exponent: float = 0.4
    """Replay: beta at the start; 1 corrects the sampling wholly."""
    importance_exponent_final: float = 1.0
    """Replay: beta at the end of its schedule."""
    schedule_updates: int = 50_000
    """Learning, Replay: updates over which step size, alpha and beta go from start to end."""
    priority_offset: float = 1e-4
    """Replay: added to |TD error| to make a priority."""

    # Evaluation
    evaluation_every: int = 0
    """Evaluation: environment steps between evaluations with mean weights, made after the chunk
    that reaches them (0: only at the end)."""
    evaluation_episodes: int = 10
    """Evaluation: episodes in each."""
    evaluation_max_steps: int = 27_000
    """Evaluation: steps after which an episode of an evaluation is truncated, so that a policy that
    never ends one cannot stall the run (27,000 are half an hour of Atari)."""
    film_seconds: float = 20.0
    """Evaluation: length of the film of the best weights (0: no film)."""

    def __post_init__(self) -> None:
        convert_fields(self)
        at_least_one = (
            "num_seeds steps num_envs chunk_steps batch_size target_period frame_stack window "
            "replay_capacity schedule_updates evaluation_episodes max_updates max_episode_steps "
            "epsilon_steps quantiles acting_quantiles keep learn_every evaluation_max_steps"
        )
        not_negative = (
            "updates_per_step updates_per_episode learning_starts random_steps learning_rate_final "
            "sigma_init sigma_penalty weight_decay evaluation_every film_seconds "
            "checkpoint_seconds"
        )
        positive = (
            "observation_clip learning_rate adam_epsilon priority_offset reward_scale reward_clip "
            "max_seconds target_rate max_gradient_norm munchausen_temperature step_timeout "
            "temperature"
        )
        fraction = (
            "discount epsilon epsilon_final target_rate priority_exponent priority_exponent_final "
            "importance_exponent importance_exponent_final munchausen_scale"
        )
        shortest = float(1 / RATIO_DENOMINATOR)
        self._check(at_least_one, lambda x: x >= 1, "at least 1")
        self._check(not_negative, lambda x: x >= 0, "zero or more")
        self._check(positive, lambda x: x > 0, "above zero")
        self._check(fraction, lambda x: 0 <= x <= 1, "between 0 and 1")
        limit = MAX_FILM_SECONDS
        self._check("film_seconds", lambda x: x <= limit, f"at most {limit}")
        self._check("n_step", lambda x: 1 <= x <= MAX_N_STEP, f"between 1 and {MAX_N_STEP}")
        self._check(
            "hidden dueling_hidden torso_widths",
            lambda x: min(x, default=1) >= 1,
            "at least 1 everywhere",
        )
        self._check("updates_per_step", lambda x: not 0 < x < shortest, f"0 or at least {shortest}")
        self._check("frame_stack", lambda x: x <= MAX_FRAMES, f"at most {MAX_FRAMES}")
        numbers = "stop_at_return stop_at_evaluation v_min v_max"
        self._check(numbers, lambda x: abs(x) < math.inf, "a number")
        self._check("atoms", lambda x: x >= 2, "at least 2")
        self._check("munchausen_minimum", lambda x: -math.inf < x <= 0, "a number up to 0")
        check_seed("--seed", self.seed)
        self._check_env_kwargs()
        self._check_torso()
        self._check_exploration()
        self._check_combinations()

    def _check_torso(self) -> None:
        if self.torso not in TORSOS and not self.torso.startswith(PYTHON):
            raise ConfigError(
                f"--torso must be one of {', '.join(TORSOS)} or python:module.function, got "
                f"{self.torso!r}"
            )
        if self.torso_widths is not None and self.torso not in ("mlp", "impala"):
            raise ConfigError(
                f"--torso-widths {' '.join(map(str, self.torso_widths))} and --torso {self.torso} "
                "exclude each other: it belongs to mlp and impala"
            )
        if self.torso_widths == ():
            raise ConfigError(f"--torso-widths must name a width, as --torso {self.torso} has some")

    def _check_exploration(self) -> None:
        if self.exploration not in EXPLORATIONS and not self.exploration.startswith(PYTHON):
            raise ConfigError(
                f"--exploration must be one of {', '.join(EXPLORATIONS)} or python:module.Class, "
                f"got {self.exploration!r}"
            )

    def _check_env_kwargs(self) -> None:
        try:
            kwargs = json.loads(self.env_kwargs)
        except (ValueError, RecursionError):
            kwargs = None
        if not isinstance(kwargs, dict):
            raise ConfigError(
                f"--env-kwargs must be a JSON object such as '{{\"gravity\": -5}}', "
                f"got {shown(self.env_kwargs)}"
            )

    def _check(self, names: str, holds: Callable[[Any], bool], wanted: str) -> None:
        """Check options; None passes, infinity and counts beyond 32 bits do not."""
        for name in names.split():
            value = getattr(self, name)
            if value is None:
                continue
            if not holds(value) or value == float("inf"):
                raise ConfigError(f"{flag(name)} must be {wanted}, got {value}")
            if isinstance(value, int) and value > MAX_COUNT:
                raise ConfigError(f"{flag(name)} must be at most {MAX_COUNT}, got {value}")

    def _check_combinations(self) -> None:
        if (self.updates_per_step > 0) == (self.updates_per_episode > 0):
            raise ConfigError(
                f"--updates-per-step {self.updates_per_step} and --updates-per-episode "
                f"{self.updates_per_episode}: one must be 0 and the other above"
            )
        if self.updates_per_episode > 0 and self.learn_every > 1:
            raise ConfigError(
                f"--updates-per-episode {self.updates_per_episode} and --learn-every "
                f"{self.learn_every} exclude each other: updates go by episodes or by steps"
            )
        due = self.num_envs * self.learn_every * self.update_ratio
        if self.updates_per_step > 0 and due > MAX_COUNT / RATIO_DENOMINATOR:
            raise ConfigError(
                f"--num-envs {self.num_envs} times --learn-every {self.learn_every} times "
                f"--updates-per-step {self.updates_per_step} makes {float(due):,.0f} updates at "
                f"once, expected at most {MAX_COUNT // RATIO_DENOMINATOR:,}: lower one of them"
            )
        if self.stop_at_evaluation is not None and self.stop_at_return is None:
            raise ConfigError(
                f"--stop-at-evaluation {self.stop_at_evaluation} needs --stop-at-return: training "
                "episodes say from when on it is worth an evaluation"
            )
        if self.seed + self.num_seeds - 1 > MAX_SEED:
            raise ConfigError(f"--seed plus --num-seeds must be at most {MAX_SEED + 1}")
        if self.sigma_distribution == "kaiming-uniform" and self.sigma_init is None:
            raise ConfigError("--sigma-distribution kaiming-uniform needs --sigma-init")
        if self.noise_in == "head" and not self.noisy:
            raise ConfigError(
                f"--noise-in head and --exploration {self.exploration} exclude each other: no "
                "layer is noisy then"
            )
        if self.dueling_hidden and not self.dueling:
            raise ConfigError(
                f"--dueling-hidden {' '.join(map(str, self.dueling_hidden))} and --no-dueling "
                "exclude each other: give --dueling, or leave it out"
            )
        self._check_learning_rule()

    def _check_learning_rule(self) -> None:
        """Refuse options of another distribution, or of Munchausen targets where there are none."""
        for name, distributions in OPTIONS_OF_DISTRIBUTIONS.items():
            if getattr(self, name) is not None and self.distribution not in distributions:
                raise ConfigError(
                    f"{flag(name)} {getattr(self, name)} and --distribution {self.distribution} "
                    f"exclude each other: it belongs to {' and '.join(distributions)}"
                )
        for name in ("munchausen_scale", "munchausen_temperature", "munchausen_minimum"):
            if getattr(self, name) is not None and not self.munchausen:
                raise ConfigError(
                    f"{flag(name)} {getattr(self, name)} and --no-munchausen exclude each other: "
                    "give --munchausen, or leave it out"
                )
        low, high = self.v_min, self.v_max
        low, high = -10.0 if low is None else low, 10.0 if high is None else high
        if not low < high:
            raise ConfigError(f"--v-min {low} must be below --v-max {high}")

    @property
    def noisy(self) -> bool:
        """Whether the layers have noise."""
        if self.exploration.startswith(PYTHON):
            from noisydqn.runners.exploration import make_explorer

            return make_explorer(self).noisy_layers
        return self.exploration in ("noisy", "both")

    @cached_property
    def update_ratio(self) -> Fraction:
        """Updates per unit, a unit being a step or an episode."""
        if self.updates_per_episode > 0:
            return Fraction(self.updates_per_episode)
        return Fraction(self.updates_per_step).limit_denominator(RATIO_DENOMINATOR)

    @property
    def total_steps(self) -> int:
        """The steps of a whole run: a multiple of the environments."""
        return math.ceil(self.steps / self.num_envs) * self.num_envs

    @property
    def of_program(self) -> "Config":
        """The same for all runs that share a compiled program."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return self.replace(**{name: defaults[name] for name in AROUND_PROGRAM.split()})

    def replace(self, **changes: Any) -> "Config":
        """A copy with some options changed, checked again.

        Raises:
            ConfigError: an option does not exist or cannot have that value.
        """
        refuse_unknown(changes, field_names(type(self)))
        return dataclasses.replace(self, **changes)
