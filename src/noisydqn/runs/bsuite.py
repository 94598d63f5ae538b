"""The sweep of bsuite: an agent is trained on each setting, and recorded as bsuite records it.

The results of one agent are in a folder:

    agent.json                              its options
    runs/deep_sea-7/                        the run on setting deep_sea/7, without its checkpoints
    seed0/bsuite_id_-_deep_sea-7.csv        bsuite's record of it; one folder for each seed

`bsuite.logging.csv_load.load_bsuite` reads the folder of a seed.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noisydqn.checkpoint.writer import clear
from noisydqn.config.config import Config
from noisydqn.config.stored import to_stored
from noisydqn.envs.bsuite import BEST_EPISODE, DEEP_SEAS, RAW_RETURN, sweep
from noisydqn.envs.names import BSUITE
from noisydqn.errors import UserError, in_one_line
from noisydqn.folders import File, Folder, json_bytes
from noisydqn.options import MAX_COUNT, MAX_SEED
from noisydqn.presets import config_for
from noisydqn.runs.api import train
from noisydqn.runs.callbacks import Callback, Training
from noisydqn.runs.folder import MAX_JSON_BYTES, RunFolder
from noisydqn.runs.plots import Columns, read_columns
from noisydqn.runs.result import Result

SEEDS_APART = 1_000
"""Distance between the seeds of two settings. Many settings are the same but for the seed."""
LARGEST_SEED = MAX_SEED - 100 * SEEDS_APART
"""The largest seed of an agent; no experiment has 100 settings."""

RATIOS = (1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
"""bsuite logs an episode whose number is one of these times a power of ten."""

RUN_COLUMNS = ("step", "return", "length", "success")
"""Columns of `episodes.csv` that every run has; others are counts of the environment."""


@dataclasses.dataclass(frozen=True)
class Agent:
    """An agent whose results a folder holds.

    Args:
        folder: the folder.
        config: its options; the environment and the seed are those of its first setting.
        episodes: the most training episodes in a setting; None takes bsuite's own numbers.
    """

    folder: Path
    config: Config
    episodes: int | None = None

    @staticmethod
    def create(folder: Path, episodes: int | None, **options: Any) -> "Agent":
        """Make an agent, with the options that suit bsuite but for those given.

        A run has no limit of steps, as its episodes are counted, and makes no video.

        Raises:
            UserError: an option cannot be used, or the folder holds results of other options.
        """
        learner: Any = options.get("learner")
        base = config_for(BSUITE, learner if isinstance(learner, str) else None)
        base = base.replace(steps=MAX_COUNT, stop_at_return=None, video_seconds=0)
        config = base.replace(**options)
        run = config.run
        if run.num_seeds > SEEDS_APART:
            raise UserError(f"--num-seeds must be at most {SEEDS_APART} for bsuite")
        if run.seed > LARGEST_SEED:
            raise UserError(f"--seed must be at most {LARGEST_SEED} for bsuite, got {run.seed}")
        agent = Agent(folder, config, episodes)
        agent._claim()
        return agent

    def _claim(self) -> None:
        """Write the options, or compare them with those that the folder holds."""
        files, wanted = Folder(self.folder), {**to_stored(self.config), "episodes": self.episodes}
        try:
            files.make()
            file = files.file("agent.json")
            if not file.taken():
                file.write(json_bytes(wanted))
                return
            held: dict[str, Any] = msgspec.json.decode(file.read(MAX_JSON_BYTES), type=dict)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.folder} cannot be used ({in_one_line(error)}): give another --out or "
                "--label"
            ) from error
        for name, value in msgspec.json.decode(json_bytes(wanted)).items():
            if held.get(name) != value:
                raise UserError(
                    f"{self.folder} holds results with {name} {held.get(name)}, not {value}: give "
                    "another --label"
                )

    def num_episodes(self, bsuite_id: str) -> int:
        """Return the training episodes in a setting: bsuite's number, or fewer."""
        most = sweep().EPISODES[bsuite_id]
        return most if self.episodes is None else min(self.episodes, most)

    def records(self, bsuite_id: str) -> list[File]:
        """Return the file of each seed's record of a setting."""
        first, name = self.config.run.seed, f"bsuite_id_-_{_plain(bsuite_id)}.csv"
        seeds = range(first, first + self.config.run.num_seeds)
        return [Folder(self.folder / f"seed{seed}").file(name) for seed in seeds]

    def run(self, bsuite_id: str, *, cache: Path | str | None = None) -> Result | None:
        """Train on a setting and record it; None if that was done before.

        A run that was interrupted is resumed.

        Raises:
            UserError: as `train`.
        """
        records = self.records(bsuite_id)
        if all(record.taken() for record in records):
            return None
        seed = self.config.run.seed + SEEDS_APART * _place(bsuite_id)
        result = train(
            self.config.replace(seed=seed),
            env=f"{BSUITE}{bsuite_id}",
            out=self.folder / "runs" / _plain(bsuite_id),
            resume=True,
            quiet=True,
            cache=cache,
            callbacks=[_Enough(self.num_episodes(bsuite_id))],
        )
        if result.interrupted:
            return result
        for record, of_seed in zip(records, result.seeds, strict=True):
            episodes = read_columns(RunFolder.at(of_seed.folder).episodes)
            rows = record_of(bsuite_id, episodes, self.num_episodes(bsuite_id))
            record.folder.make()
            record.write(_as_csv(rows))
        for folder in {result.folder, *(of_seed.folder for of_seed in result.seeds)}:
            checkpoints = RunFolder.at(folder).checkpoints
            if checkpoints.exists():  # they hold the whole replay buffer
                clear(checkpoints, 0, range(0))
        return result


def run_sweep(
    agent: Agent,
    bsuite_ids: Sequence[str],
    *,
    say: Callable[[str], None],
    cache: Path | str | None = None,
) -> int | None:
    """Train an agent on settings of bsuite.

    Args:
        agent: the agent; settings that it has records of are left out.
        bsuite_ids: the settings, such as "deep_sea/7".
        say: receives a line about each setting.
        cache: folder of compiled programs, as in `train`.

    Returns:
        The signal that stopped the sweep, or None. The same call continues it.

    Raises:
        UserError: as `train`.
    """
    for i, bsuite_id in enumerate(bsuite_ids):
        result = agent.run(bsuite_id, cache=cache)
        if result is not None and result.interrupted:
            return result.signal
        say(f"{i + 1} of {len(bsuite_ids)}: {bsuite_id}, {_outcome(result)}")
    return None


def _outcome(result: Result | None) -> str:
    if result is None:
        return "done before"
    steps = sum(seed.summary["steps"] for seed in result.seeds)
    seconds = max(seed.summary["train_seconds"] for seed in result.seeds)
    return f"{steps:,} steps, {seconds:.0f} s"


class _Enough(Callback):
    """Ends training after a number of episodes."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def on_chunk(self, training: Training, chunk: Any, /) -> bool:
        """Tell whether there were enough."""
        del chunk
        return training.num_episodes >= self.episodes


def is_logged(episode: int) -> bool:
    """Tell whether bsuite logs an episode, counted from 1."""
    power = 10 ** (len(str(episode)) - 1)
    return any(round(ratio * 10) * power == episode * 10 for ratio in RATIOS)


def record_of(bsuite_id: str, episodes: Columns, number: int) -> list[dict[str, float]]:
    """Make bsuite's record of a run: a row for each episode that bsuite logs.

    Args:
        bsuite_id: the setting.
        episodes: the columns of the run's `episodes.csv`.
        number: episodes that count; those after them are ignored.
    """
    columns = {name: np.array(x[:number], np.float64) for name, x in episodes.items()}
    lengths, returns = columns["length"], columns["return"]
    counted = {
        "steps": np.cumsum(lengths),
        "episode": np.arange(1, len(lengths) + 1),
        "total_return": np.cumsum(returns),
        "episode_len": lengths,
        "episode_return": returns,
    }
    if bsuite_id.partition("/")[0] in DEEP_SEAS:
        counted["total_bad_episodes"] = np.cumsum(1 - columns["success"])
        counted["denoised_return"] = np.cumsum(columns["treasures"])
    else:
        for name in [name for name in columns if name not in RUN_COLUMNS]:
            counted[name] = np.cumsum(columns[name])
        if bsuite_id.startswith("cartpole"):
            best = np.maximum.accumulate(columns[RAW_RETURN])
            counted[BEST_EPISODE] = np.maximum(best, 0)
    logged = [i for i in range(len(lengths)) if is_logged(i + 1)]
    return [{name: float(x[i]) for name, x in counted.items()} for i in logged]


def _as_csv(rows: Sequence[dict[str, float]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({name: f"{x:.10g}" for name, x in row.items()} for row in rows)
    return text.getvalue().encode()


def _plain(bsuite_id: str) -> str:
    """Spell a setting as bsuite names files."""
    return bsuite_id.replace("/", "-")


def _place(bsuite_id: str) -> int:
    """Return the number of a setting in its experiment."""
    return int(bsuite_id.partition("/")[2])


def agents_in(out: Path) -> Iterator[Path]:
    """Yield the folders of the agents whose results are in a folder, by name."""
    for folder in sorted(out.iterdir()) if out.is_dir() else ():
        if (folder / "agent.json").is_file():
            yield folder
