"""Rules about recorded runs: each looks for one thing that keeps runs from learning.

A rule is a pure function of a run's options and tables. It returns what looks wrong, with the
numbers, and what to try, with the option's flag; None if nothing does. Rules judge what a run
recorded and nothing else, so they stay silent where a column is missing or there is too little of
it. Where a rule has to choose, it stays silent: a false alarm costs a day, too.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from noisydqn.report.records import Run, Series

FEW_EPISODES = 30
"""With fewer training episodes, returns are not judged."""
FEW_ROWS = 8
"""With fewer rows of metrics, losses are not judged."""
RECENT = 0.2
"""Share of a run, at its end, whose episodes an evaluation is compared with."""
GONE = 0.01
"""Share of greedy actions that noise changes, below which it does not explore."""
HIGH_EPSILON = 0.2
FEW_IN_REPLAY = 5
"""Episodes that a replay buffer should hold."""


class Finding(NamedTuple):
    """Something that looks wrong with a run."""

    rule: str
    problem: str  # with the numbers
    remedy: str  # with the flags of options


Rule = Callable[[Run], Finding | None]


# What runs recorded


def column(run: Run, name: str) -> np.ndarray:
    """Return a column of the metrics, [rows]; no rows if it was not recorded."""
    return run.tables.get("metrics", {}).get(name, np.zeros(0))


def known(values: np.ndarray) -> np.ndarray:
    """Return the values that are numbers."""
    return values[np.isfinite(values)]


def newest(values: np.ndarray) -> float:
    """Return the median of the last quarter of the known values; NaN if there are none."""
    values = known(values)
    return float(np.median(values[-max(len(values) // 4, 1) :])) if len(values) else math.nan


def rises(series: Series) -> bool:
    """Tell whether the last third of the values is above the first, beyond chance.

    Beyond chance are two standard errors of the difference of the means.
    """
    third = len(series) // 3
    if third < 2:
        return len(series) > 1 and bool(series.values[-1] > series.values[0])
    first, last = series.values[:third], series.values[-third:]
    error = math.sqrt((np.var(first, ddof=1) + np.var(last, ddof=1)) / third)
    return bool(np.mean(last) - np.mean(first) > 2 * error)


def improves(run: Run) -> bool:
    """Tell whether returns rise, of training or of evaluations, or the run is solved."""
    return run.solved_at is not None or rises(run.episodes) or rises(run.evaluations)


def stagnates(run: Run, rows: int) -> bool:
    """Tell whether returns do not rise, though they should and enough of them is recorded.

    Those of a run that started from another one may be high from the start.

    Args:
        run: the run.
        rows: of the metrics that a rule looks at.
    """
    enough = rows >= FEW_ROWS and len(run.episodes) >= FEW_EPISODES
    return enough and not improves(run) and "started from" not in run.about


def first_update(options: Mapping[str, Any]) -> int:
    """Count the environment steps before the first update."""
    if options["learner"] == "parallel":
        return options["num_envs"] * options["rollout_steps"]
    return max(options["learning_starts"], (options["n_step"] + 1) * options["num_envs"])


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1_000 else f"{x:.3g}"


def _span(low: float, high: float) -> str:
    return _number(low) if low == high else f"{_number(low)} to {_number(high)}"


# Learning that does not take place


def starts_too_late(run: Run) -> Finding | None:
    """Learning starts after the end of the run."""
    first, budget = first_update(run.options), run.budget or run.steps
    if first < budget:
        return None
    lower = "--rollout-steps or --num-envs"
    lower = lower if run.options["learner"] == "parallel" else "--learning-starts"
    return Finding(
        "starts-too-late",
        f"learning starts after {first:,} steps, and the run has {budget:,}: nothing is learned",
        f"raise --steps, or lower {lower}",
    )


def no_updates(run: Run) -> Finding | None:
    """No update was made, though learning should have started."""
    updates = known(column(run, "updates"))
    first = first_update(run.options) + run.options["chunk_steps"]
    if not len(updates) or updates.max() > 0 or run.steps <= first:
        return None
    if run.options.get("updates_per_episode"):
        return Finding(
            "no-updates",
            f"no update was made in {run.steps:,} steps: updates come after episodes, and none "
            "ended",
            "give --updates-per-step 0.5 --updates-per-episode 0, or --max-episode-steps",
        )
    return Finding(
        "no-updates",
        f"no update was made in {run.steps:,} steps",
        "raise --updates-per-step, or lower --learning-starts",
    )


def no_episodes(run: Run) -> Finding | None:
    """No training episode ended."""
    each = run.steps // run.options["num_envs"]
    if "episodes" not in run.tables or len(run.episodes) or each < 1_000:
        return None
    return Finding(
        "no-episodes",
        f"no training episode ended in {each:,} steps of each environment: there are no returns",
        "let the environment end its episodes, or truncate them with --max-episode-steps",
    )


def not_finite(run: Run) -> Finding | None:
    """The loss is NaN or infinite where updates were made."""
    updates, loss, steps = (column(run, name) for name in ("updates", "loss", "step"))
    if not len(updates) == len(loss) == len(steps) > 0:
        return None
    made = np.diff(np.nan_to_num(updates), prepend=0.0) > 0
    bad = np.flatnonzero(made & ~np.isfinite(loss))
    if not len(bad):
        return None
    return Finding(
        "not-finite",
        f"the loss is not a finite number after {steps[bad[0]]:,.0f} steps",
        "lower --learning-rate, clip with --max-gradient-norm 10, or tame extreme rewards with "
        "--reward-clip 1 or a smaller --reward-scale",
    )


# Learning that goes wrong


def loss_grows(run: Run) -> Finding | None:
    """The loss grows twentyfold while returns do not rise."""
    loss = known(column(run, "loss"))
    if not stagnates(run, len(loss)):
        return None
    before, now = float(np.median(loss[: len(loss) // 2])), newest(loss)
    if not now > 20 * before > 0:
        return None
    return Finding(
        "loss-grows",
        f"the loss grew from {_number(before)} to {_number(now)}, and returns did not rise",
        f"clip with --max-gradient-norm 10, or {_steadier(run)}",
    )


def _is_indexed(run: Run) -> bool:
    """Tell whether a run explores by indexed noise."""
    return run.options["noise"] == "indexed" and "acting_noise" in run.options


def returns_flat(run: Run) -> Finding | None:
    """Returns stay where they are while the loss falls."""
    loss, returns = known(column(run, "loss")), run.episodes.values
    if not stagnates(run, len(loss)):
        return None
    before, now = float(np.median(loss[: max(len(loss) // 4, 2)])), newest(loss)
    if not now < 0.7 * before:
        return None
    falls = f"while the loss fell from {_number(before)} to {_number(now)}"
    if np.ptp(returns) == 0:
        found = "" if returns[0] else ": no reward was found"
        deeper = "a larger --prior-scale" if _is_indexed(run) else "--preset sparse"
        return Finding(
            "returns-flat",
            f"all {len(returns):,} training episodes returned {_number(returns[0])}, {falls}"
            f"{found}",
            f"explore more deeply ({deeper}), or shape the reward",
        )
    third = len(returns) // 3
    more = "--exploration noisy"
    if "epsilon" in run.options:
        more = f"a larger --epsilon-share, or {more}"
    if "acting_noise" in run.options:
        more = "a larger --sigma-init, --acting-noise episode"
    ahead = "--n-step" if run.options["learner"] == "replay" else "--return-lambda"
    start, end = float(np.mean(returns[:third])), float(np.mean(returns[-third:]))
    return Finding(
        "returns-flat",
        f"returns stayed flat, {_number(start)} in the first third and {_number(end)} in the last, "
        f"{falls}",
        f"explore more ({more}), look further ahead (a larger --discount or {ahead}), check what "
        "the observations show, or train for more --steps",
    )


def values_impossible(run: Run) -> Finding | None:
    """Action values lie far beyond what the rewards can add up to."""
    low, high = _possible(run)
    if not math.isfinite(low + high) or high <= low:
        return None
    margin = 0.25 * (high - low) + 3 * run.options.get("prior_scale", 0.0)
    top, bottom = newest(column(run, "q_max")), newest(column(run, "q_min"))
    if top > high + margin:
        which, value = "above", top
    elif bottom < low - margin:
        which, value = "below", bottom
    else:
        return None
    return Finding(
        "values-impossible",
        f"action values reach {_number(value)}, far {which} any possible return "
        f"({_span(low, high)}: what the rewards of this run add up to at most)",
        _steadier(run),
    )


def _steadier(run: Run) -> str:
    """Say how learning chases its own errors less."""
    if run.options["learner"] == "parallel":
        return "lower --learning-rate, --return-lambda or --epochs"
    return (
        "let the target network move more slowly (a smaller --target-rate, or a larger "
        "--target-period), keep --double, lower --learning-rate"
    )


def _possible(run: Run) -> tuple[float, float]:
    """Bound discounted returns by the rewards that were recorded, or else by the returns."""
    options = run.options
    horizon = 1 / (1 - options["discount"]) if options["discount"] < 1 else math.nan
    low, high = known(column(run, "reward_min")), known(column(run, "reward_max"))
    if len(low) and len(high):
        least, most = min(low.min(), 0.0), max(high.max(), 0.0)
    elif options["normalize_rewards"] or not len(run.episodes):
        return math.nan, math.nan
    else:  # no reward is likely to be larger than a whole return
        most = float(np.abs(run.episodes.values).max()) * options["reward_scale"]
        least = -most
    if options.get("munchausen"):
        least += options["munchausen_scale"] * options["munchausen_minimum"]
        most += 5 * options["munchausen_temperature"]  # the entropy of some hundred actions
    return least * horizon, most * horizon


def outside_support(run: Run) -> Finding | None:
    """Returns lie outside of the support of a distribution over fixed returns."""
    options = run.options
    if "v_min" not in options:
        return None
    v_min, v_max = options["v_min"], options["v_max"]
    support = f"the support from {_number(v_min)} to {_number(v_max)}"
    low, high = known(column(run, "reward_min")), known(column(run, "reward_max"))
    if len(low) and len(high) and (low.min() < v_min or high.max() > v_max):
        problem = f"single rewards of {_span(low.min(), high.max())} lie outside of {support}"
    else:
        low, high = _discounted(run)
        edge = 0.02 * (v_max - v_min)
        top, bottom = newest(column(run, "q_max")), newest(column(run, "q_min"))
        if high > v_max or low < v_min:
            problem = f"discounted returns of {_span(low, high)} lie outside of {support}"
        elif top > v_max - edge or bottom < v_min + edge:
            value = top if top > v_max - edge else bottom
            problem = f"action values reach {_number(value)}, the edge of {support}"
        else:
            return None
    return Finding(
        "outside-support",
        f"{problem}, so they cannot be told apart",
        "widen --v-min and --v-max, or lower --reward-scale",
    )


def _discounted(run: Run) -> tuple[float, float]:
    """Estimate discounted returns of episodes, nearly the least and the greatest.

    As if an episode's rewards were all alike, and in the units that are learned from.
    """
    options = run.options
    episodes = run.tables.get("episodes", {})
    if options["normalize_rewards"] or options["reward_clip"] is not None:
        return math.nan, math.nan
    if not {"return", "length"} <= episodes.keys() or not len(episodes["return"]):
        return math.nan, math.nan
    lengths, discount = np.maximum(episodes["length"], 1), options["discount"]
    sums = lengths if discount == 1 else (1 - discount**lengths) / (1 - discount)
    values = known(episodes["return"] / lengths * sums * options["reward_scale"])
    if not len(values):
        return math.nan, math.nan
    low, high = np.percentile(values, [5, 95])
    return float(low), float(high)


# Exploration


def noise_gone(run: Run) -> Finding | None:
    """Noise stopped changing actions before returns rose."""
    steps, metrics = column(run, "step"), run.tables.get("metrics", {})
    scaled = "exploration.changed_actions"  # under noise that is scaled to a goal
    change = column(run, scaled if scaled in metrics else "action_change")
    noisy = any(name.startswith("sigma.") for name in metrics)
    if not noisy or not stagnates(run, len(change)):
        return None
    alive = np.flatnonzero(change >= GONE)
    gone = 0 if not len(alive) else int(alive[-1]) + 1
    if gone > 2 * len(change) // 3:
        return None
    since = "from the start" if gone == 0 else f"since step {steps[gone]:,.0f}"
    return Finding(
        "noise-gone",
        f"noise changes less than {GONE:.0%} of greedy actions {since}, and returns did not rise",
        "keep noise alive with --noise-goal 0.05 or --sigma-rate 0.1, or start with a larger "
        "--sigma-init",
    )


def epsilon_high(run: Run) -> Finding | None:
    """Epsilon is still high at the end of the run."""
    options, budget = run.options, run.budget or run.steps
    if "epsilon" not in options or run.solved_at is not None or budget <= 0:
        return None
    share = options.get("epsilon_share")
    over = options["epsilon_steps"] if share is None else share * budget
    progress = min(budget / over, 1.0)
    end = options["epsilon"] + progress * (options["epsilon_final"] - options["epsilon"])
    if end <= HIGH_EPSILON:
        return None
    return Finding(
        "epsilon-high",
        f"at the end of the run {end:.0%} of actions are still random",
        "give --epsilon-share 0.1, or a lower --epsilon-final",
    )


# Data


def replay_small(run: Run) -> Finding | None:
    """The replay buffer holds less than an episode, or only a few."""
    options, lengths = run.options, known(run.tables.get("episodes", {}).get("length", np.zeros(0)))
    if options["learner"] != "replay" or not len(lengths):
        return None
    capacity, length = options["replay_capacity"], float(np.mean(lengths[-20:]))
    if capacity >= run.steps or capacity >= FEW_IN_REPLAY * length:
        return None
    each, wanted = capacity // options["num_envs"], 10 * length
    holds = f"{each:,} steps of each environment" if each < length else f"{capacity:,} steps"
    return Finding(
        "replay-small",
        f"the replay buffer holds {holds}, and the newest episodes last {length:,.0f}",
        f"raise --replay-capacity to {float(f'{wanted:.1g}'):,.0f} or more",
    )


def constant_observations(run: Run) -> Finding | None:
    """Some elements of the observation never change."""
    counts = known(column(run, "constant_observations"))
    if not len(counts) or counts.min() < 1:
        return None
    number = int(counts.min())
    what = "1 element" if number == 1 else f"{number:,} elements"
    return Finding(
        "constant-observations",
        f"{what} of the observation never changed",
        "check that the environment fills them in, or leave them out",
    )


def evaluation_apart(run: Run) -> Finding | None:
    """Evaluations return far more or far less than the training episodes of that time."""
    table, episodes = run.tables.get("evaluations", {}), run.episodes
    if not len(run.evaluations) or len(episodes) < FEW_EPISODES:
        return None
    played = known(table.get("episodes", np.zeros(0)))
    recent = episodes.values[episodes.steps > (1 - RECENT) * run.steps]
    spread = float(np.subtract(*np.percentile(episodes.values, [95, 5])))
    if len(recent) < 10 or spread == 0 or not len(played) or played[-1] < 3:
        return None
    value, mean = float(run.evaluations.values[-1]), float(np.mean(recent))
    numbers = f"the last evaluation returned {_number(value)}, training episodes around it "
    numbers += f"{_number(mean)}"
    if value < np.percentile(recent, 10) and mean - value > 0.25 * spread:
        return Finding(
            "evaluation-apart",
            f"{numbers}: without exploration the policy is far worse",
            "play more with --evaluation-episodes 100 to be sure; stop on evaluations with "
            "--stop-at-evaluation, or end with a smaller --learning-rate-final",
        )
    if value > recent.max() and value - mean > 3 * spread:
        return Finding(
            "evaluation-apart",
            f"{numbers}: exploration costs most of the return",
            "explore less: a smaller --epsilon-final or --sigma-init, or --noise-goal 0.05",
        )
    return None


RULES: tuple[Rule, ...] = (
    *(starts_too_late, no_updates, no_episodes, not_finite, loss_grows),
    *(values_impossible, outside_support, noise_gone, returns_flat, epsilon_high),
    *(replay_small, constant_observations, evaluation_apart),
)
"""All rules, those first whose findings explain the others."""


def diagnose(run: Run) -> list[Finding]:
    """Apply all rules to a run; one that another library recorded has none."""
    if not run.options:
        return []
    return [finding for rule in RULES if (finding := rule(run)) is not None]
