"""Every option of a training run, in sections that belong to the packages that use them.

Options have one flat name each: `Config(steps=50_000, atoms=21)`, `config.replace(seed=1)`,
`--atoms 21` and a line of `config.json` say the same. They are read by section:
`config.run.steps`. A variant, such as a distribution, is a dataclass that owns its options; its
own flat name (`distribution="categorical"`) chooses it.

Steps are decisions of the agent, summed over all environments (in Catcher one decision lasts two
frames); updates are optimizer steps; episodes are games.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tyro

from noisydqn.config.run import RunOptions
from noisydqn.distributions import DISTRIBUTIONS, Distribution, Expected
from noisydqn.envs.options import EnvironmentOptions
from noisydqn.errors import ConfigError
from noisydqn.imports import PYTHON
from noisydqn.learner.options import (
    LEARNERS,
    NEEDS_SAMPLES,
    LearnerOptions,
    LearningOptions,
    ReplayOptions,
    divisor_below,
)
from noisydqn.nets.options import NetworkOptions
from noisydqn.options import (
    NAME,
    Hint,
    convert,
    flag,
    help_of,
    hints_of,
    refuse_unknown,
    shown,
)
from noisydqn.preprocessing.options import PreprocessingOptions
from noisydqn.runners.exploration import EXPLORERS, Imported, Noisy
from noisydqn.runners.explorer import Explorer
from noisydqn.runners.options import ActorOptions, ProgramOptions, RunnerOptions

SECTIONS: dict[str, type] = {
    "environment": EnvironmentOptions,
    "run": RunOptions,
    "runner": RunnerOptions,
    "actors": ActorOptions,
    "preprocessing": PreprocessingOptions,
    "network": NetworkOptions,
    "learning": LearningOptions,
}
"""Sections of fixed options, in the order of `--help-all`."""

VARIANTS: dict[str, Mapping[str, type]] = {
    "learner": LEARNERS,
    "distribution": DISTRIBUTIONS,
    "exploration": EXPLORERS,
}
"""Sections of which there are variants, by the name that chooses one."""

ABOUT_VARIANTS = {
    "learner": "What the agent learns from, and how",
    "distribution": "What the network learns about returns",
    "exploration": "How actions are chosen in training",
}
"""The first words of the help on a section with variants."""


OF_NOISE = ("noise", "noise_in", "update_noise", *NEEDS_SAMPLES)
"""Options that need noisy layers."""
OF_INDEX = ("index_dim", "prior_scale", "target_perturbation")
"""Options that need indexed noise."""


def _defaults() -> dict[str, Any]:
    fixed = {section: kind() for section, kind in SECTIONS.items()}
    variants = {"learner": ReplayOptions(), "distribution": Expected(), "exploration": Noisy()}
    return {"preset": "default", **fixed, **variants}


def homes() -> dict[str, str]:
    """Return the section of each option that no variant owns, by its flat name."""
    return {name: section for section, kind in SECTIONS.items() for name in hints_of(kind)}


def owners(section: str) -> dict[str, list[str]]:
    """Return the variants of a section that own each of its options, by the option's flat name."""
    owned: dict[str, list[str]] = {}
    for variant, kind in VARIANTS[section].items():
        for name in hints_of(kind):
            owned.setdefault(name, []).append(variant)
    return owned


def option_hints() -> dict[str, Hint]:
    """Return the type hint of every option by its flat name."""
    hints = {"preset": Hint(str, False, (tyro.conf.Suppress,))}
    for kind in SECTIONS.values():
        hints |= hints_of(kind)
    for section, kinds in VARIANTS.items():
        hints[section] = Hint(str, False, ())
        for kind in kinds.values():
            hints |= hints_of(kind)
    return hints


def option_texts() -> dict[str, str]:
    """Return the help of every option by its flat name."""
    texts = {"preset": "Name of the options that these change"}
    for kind in SECTIONS.values():
        texts |= help_of(kind)
    for section, kinds in VARIANTS.items():
        texts[section] = ABOUT_VARIANTS[section]
        for name, variants in owners(section).items():
            texts[name] = help_of(kinds[variants[0]])[name]
    return texts


@dataclasses.dataclass(frozen=True, init=False)
class Config:
    """Options of a training run.

    Args:
        options: values by flat name; others have their defaults. A variant is given by its name,
            or as an instance of its dataclass.

    Raises:
        ConfigError: an option does not exist, cannot have its value, or excludes another.
    """

    preset: str
    environment: EnvironmentOptions
    run: RunOptions
    runner: RunnerOptions
    actors: ActorOptions
    preprocessing: PreprocessingOptions
    network: NetworkOptions
    distribution: Distribution
    exploration: Explorer
    learning: LearningOptions
    learner: LearnerOptions

    def __init__(self, **options: Any) -> None:
        self._set(_changed(_defaults(), options))

    def _set(self, sections: Mapping[str, Any]) -> None:
        for name, value in sections.items():
            object.__setattr__(self, name, value)
        own = isinstance(self.exploration, Imported)  # code of the user's, which is not run here
        if not own and not self.exploration.noisy_layers:
            name = variant_name("exploration", self.exploration)
            self.network.check_noise(name)
            self.learning.check_noise(name)
        if self.network.prior_scale > 0 and self.distribution.support is not None:
            raise ConfigError(
                f"--prior-scale {self.network.prior_scale} and --distribution "
                f"{variant_name('distribution', self.distribution)} exclude each other: its "
                "outputs are logits, which no value can be added to; give --prior-scale 0"
            )
        self.learner.check(self.runner.num_envs, self.learning, self.network)
        if self.actors.actors > 0:
            self._check_actors()
        if self.learning.schedule_share is not None and self._num_updates is None:
            raise ConfigError(
                f"--schedule-share {self.learning.schedule_share} and --updates-per-episode "
                "exclude each other, as the number of updates is not known: give "
                "--schedule-updates"
            )

    def _check_actors(self) -> None:
        """Refuse what actors cannot do.

        Raises:
            ConfigError: they cannot.
        """
        actors, num_envs = self.actors.actors, self.runner.num_envs
        if not isinstance(self.learner, ReplayOptions):
            raise ConfigError(
                f"--actors {actors} and --learner parallel exclude each other, as its rollouts are "
                "of the newest weights: give --learner replay, or leave out --actors"
            )
        if num_envs % actors:
            raise ConfigError(
                f"--actors {actors} does not divide --num-envs {num_envs}, and all have equal "
                f"shares: give --actors {divisor_below(num_envs, actors)}, or "
                f"--num-envs {math.ceil(num_envs / actors) * actors}"
            )
        if isinstance(self.exploration, Noisy) and self.exploration.acting_noise_shared:
            raise ConfigError(
                f"--actors {actors} and --acting-noise-shared exclude each other: environments of "
                "actors act under noise of their own"
            )

    def replace(self, **changes: Any) -> "Config":
        """Return a copy with some options changed, given by their flat names.

        Raises:
            ConfigError: as when a config is made.
        """
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        config = object.__new__(Config)
        config._set(_changed(sections, changes))
        return config

    def flat(self) -> dict[str, Any]:
        """Return all options by their flat names, without those of variants that are not chosen."""
        options: dict[str, Any] = {"preset": self.preset}
        for name, section in homes().items():
            options[name] = getattr(getattr(self, section), name)
        for section in VARIANTS:
            variant = getattr(self, section)
            options[section] = variant_name(section, variant)
            own = hints_of(type(variant))
            options |= {name: getattr(variant, name) for name in owners(section) if name in own}
        return options

    @property
    def program(self) -> ProgramOptions[Any]:
        """The options that a compiled program depends on; shares of the run as numbers."""
        learning, exploration, steps = self.learning, self.exploration, self.total_steps
        updates = self._num_updates
        if learning.schedule_share is not None and updates is not None:
            number = max(round(learning.schedule_share * updates), 1)
            learning = dataclasses.replace(learning, schedule_updates=number, schedule_share=None)
        return ProgramOptions(
            self.preprocessing,
            self.network,
            self.distribution,
            exploration.of_run(steps),
            learning,
            self.learner,
            self.runner,
        )

    @property
    def _num_updates(self) -> int | None:
        """The updates of a whole run, if they are known."""
        return self.learner.num_updates(self.total_steps, self.runner.num_envs)

    @property
    def total_steps(self) -> int:
        """The steps of a whole run: a multiple of the environments, with actors of segments."""
        unit = self.runner.num_envs * (self.actors.actor_steps if self.actors.actors else 1)
        return math.ceil(self.run.steps / unit) * unit


def variant_name(section: str, variant: Any) -> str:
    """Return the name that chooses a variant."""
    if isinstance(variant, Imported):
        return variant.name
    return next(name for name, kind in VARIANTS[section].items() if type(variant) is kind)


def _changed(sections: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections with some options changed, checked again."""
    refuse_unknown(options, option_hints())
    options = {**_put_back(sections, options), **options}
    changed = dict(sections)
    if "preset" in options:
        changed["preset"] = convert("preset", options["preset"], option_hints()["preset"])
        NAME.check("preset", changed["preset"])
    for section in SECTIONS:
        own = {name: x for name, x in options.items() if homes().get(name) == section}
        if own:
            changed[section] = dataclasses.replace(changed[section], **own)
    for section in VARIANTS:
        changed[section] = _changed_variant(section, changed[section], options)
    return changed


def _put_back(sections: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of options of noise that others make pointless, but for those given.

    So a preset's noise does not stand in the way of another kind of noise or exploration. One that
    is given beside them stays, and is refused.
    """
    exploration = options.get("exploration")
    if isinstance(exploration, str) and exploration in EXPLORERS:
        exploration = EXPLORERS[exploration]()
    plain = (
        isinstance(exploration, Explorer)
        and not isinstance(exploration, Imported)  # which may have noisy layers
        and not exploration.noisy_layers
    )
    names: tuple[str, ...] = ()
    if plain:
        names = (*OF_NOISE, *OF_INDEX)
    elif options.get("noise", "indexed") != "indexed":
        names = OF_INDEX
    defaults = {
        field.name: field.default
        for section in ("network", "learning", "learner")
        for field in dataclasses.fields(sections[section])
    }
    if "learner" in options:  # which starts from its own defaults
        names = tuple(name for name in names if name in homes())
    return {name: defaults[name] for name in names if name in defaults and name not in options}


def _changed_variant(section: str, current: Any, options: Mapping[str, Any]) -> Any:
    """Return the variant that is chosen, with its options changed.

    Another variant than the current one starts from its defaults.
    """
    kinds: Mapping[str, type] = VARIANTS[section]
    variant: Any = current
    user = section == "exploration"  # which may be by a name of the user's
    if section in options:
        chosen = options[section]
        if isinstance(chosen, str) and chosen in kinds:
            variant = current if type(current) is kinds[chosen] else kinds[chosen]()
        elif type(chosen) in kinds.values() or (user and isinstance(chosen, Imported)):
            variant = chosen
        elif user and isinstance(chosen, str) and chosen.startswith(PYTHON):
            NAME.check(section, chosen)
            variant = Imported(chosen)
        else:
            raise ConfigError(
                f"{flag(section)} must be one of {', '.join(kinds)}, got {shown(chosen)}"
            )
    changes: dict[str, Any] = {}
    for name, variants in owners(section).items():
        if name not in options:
            continue
        if name not in hints_of(type(variant)):
            raise ConfigError(
                f"{flag(name)} {options[name]} and {flag(section)} "
                f"{variant_name(section, variant)} exclude each other: it belongs to "
                f"{flag(section)} {' or '.join(variants)}"
            )
        changes[name] = convert(name, options[name], hints_of(type(variant))[name])
    return dataclasses.replace(variant, **changes) if changes else variant
