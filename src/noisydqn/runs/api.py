"""`train` and `resume`: the arguments of a call become a `Job`."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from noisydqn.config.config import Config, option_hints
from noisydqn.config.gate import ALL, NETWORK
from noisydqn.envs.catalogue import Entry
from noisydqn.envs.given import Given, Instance, JaxInstance, accept, refuse_for_instance
from noisydqn.envs.notices import Notices
from noisydqn.envs.protocol import Environment
from noisydqn.envs.registry import AnyEnvironment, make_environment, with_brought
from noisydqn.errors import UserError
from noisydqn.files import given_path
from noisydqn.imports import find, is_inert, name_of
from noisydqn.nets.torsos import TorsoMaker
from noisydqn.options import argument, refuse_unknown, shown
from noisydqn.presets import DEFAULT_PRESET, IN_JAX, PRESETS, config_for, with_learner
from noisydqn.program_cache import OFF
from noisydqn.runners.exploration import findable
from noisydqn.runners.explorer import Explorer
from noisydqn.runs.actors import Place, open_place
from noisydqn.runs.callbacks import Callback
from noisydqn.runs.claim import Claim, claim_folder, create_folders, is_half_made
from noisydqn.runs.devices import check_devices
from noisydqn.runs.extensions import Extensions, TrackerMaker
from noisydqn.runs.folder import (
    Found,
    RunFolder,
    check_spaces,
    find_config,
    open_folders,
    read_runs,
    with_stored_spaces,
)
from noisydqn.runs.launch import Job, launch
from noisydqn.runs.memory import check_memory
from noisydqn.runs.named import config_named
from noisydqn.runs.result import Result
from noisydqn.runs.resumable import (
    check_checkpoints,
    check_config,
    check_same,
    clear_run,
    refuse_part,
)
from noisydqn.runs.source import Source, read_starts
from noisydqn.runs.start import Start, Which, same_start, save_start
from noisydqn.runs.trackers import Tracker
from noisydqn.runs.tracking import check_installed
from noisydqn.settings import own_settings

ARGUMENTS = [
    *("out", "quiet", "resume", "trust", "cache", "trackers", "callbacks"),
    *("start_from", "from_weights", "from_replay", "ray"),
]
"""Arguments of `train` beside the options of a config, for hints."""


@own_settings()
def train(
    config: Config | str | None = None,
    *,
    env: AnyEnvironment = None,
    torso: str | TorsoMaker | None = None,
    explorer: Explorer | Callable[[], Explorer] | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    resume: bool = False,
    trust: bool = False,
    cache: Path | str | None = None,
    trackers: Sequence[Tracker | TrackerMaker] = (),
    callbacks: Sequence[Callback] = (),
    start_from: Path | str | None = None,
    from_weights: Which = "best",
    from_replay: bool = False,
    ray: str | None = None,
    **options: Any,
) -> Result:
    """Train an agent, evaluate it and record a video, all in a run folder.

        noisydqn.train(env="LunarLander-v3", seed=1)
        noisydqn.train(env=lambda: MyEnv(size=5), steps=50_000)
        noisydqn.train(noisydqn.PRESETS["catcher"])
        noisydqn.train(env="CartPole-v1", explorer=Boltzmann(temperature=0.1))

    `noisydqn train` does the same. Ctrl-C, SIGTERM and SIGHUP end training within seconds: a
    checkpoint and the weights are saved, without an evaluation or a video. A second one quits at
    once.

    Args:
        config: the options, or a NAME as for `noisydqn train`: a preset, an environment, or a run
            whose options are used again; None takes the options that suit `env`.
        env: an id, as on the command line; an environment of Gymnasium; an environment in JAX with
            gymnax's interface (`noisydqn.envs.jax_interface`), which runs on the device, alone or
            in a tuple with its parameters; or a function that makes one of these. An environment
            of Gymnasium is made again from its spec, without later changes; one without a spec is
            used itself. None takes that of `config`.
        torso: a torso, as on the command line, or a module-level function that makes one, any
            `equinox.Module`, from an observation's shape and a key; None takes that of `config`.
        explorer: an explorer of `noisydqn.runners.exploration`; an instance of a module-level
            class that equals what the class makes without arguments; or a module-level function
            that makes an `Explorer`. None takes that of `config`.
        out: the run's folder, new, empty, or left by a run that was killed before it trained;
            None makes a new one under `runs/`.
        quiet: print only warnings.
        resume: if `out` holds a run with these options, resume that run, as `resume` does.
        trust: if `config` names a run, whether code that its config names may be imported and run.
        cache: folder that keeps compiled programs for later runs; "none" keeps nothing. None takes
            `NOISYDQN_CACHE` or a folder in the user's cache folder.
        trackers: consumers of metrics besides the CSV files, TensorBoard and the terminal. Each is
            a `noisydqn.Tracker`, or a function of the run's folder and config that makes one;
            several seeds need functions. One that raises is reported and left out from then on.
            Services such as Weights & Biases are named by the option `track`.
        callbacks: instances of `noisydqn.Callback`, which watch training and may end it.
        start_from: the folder of a run whose weights and running statistics the new run starts
            from. The optimizer and all counts start anew. Its options are the defaults if neither
            `config` names others. It is copied: the new run never reads that folder again.
        from_weights: which weights of that run, "best" or "final".
        from_replay: also start with the replay buffer of that run's newest checkpoint. Its steps
            get the largest priority.
        ray: the address of the Ray cluster on which actors play; None for processes of this
            machine. A run does not keep it.
        options: changes to the config, such as `seed=1`.

    Raises:
        UserError: an option or the environment cannot be used, `out` is not empty or cannot be
            written to, or the run to start from is damaged or has other shapes.
        MissingExtraError: a service of `track` needs a package that is not installed.
        EnvironmentFailedError: an environment failed while training; what was trained is saved.
        ExtensionFailedError: a callback raised; what was trained is saved.
        DivergedError: a loss, a gradient or a weight became NaN or infinite.
    """
    quiet, resume = argument("quiet", quiet, bool), argument("resume", resume, bool)
    cache, extensions = _given_cache(cache), Extensions.accept(trackers, callbacks)
    env, brought = accept(env)
    maker = None if env is None or isinstance(env, str) else env
    options = brought | options
    if torso is not None:
        options["torso"] = torso if isinstance(torso, str) else _torso_name(torso)
    if explorer is not None:
        options["exploration"] = findable(explorer)
    refuse_unknown(options, [*option_hints(), *ARGUMENTS])
    if "preset" in options:
        raise UserError(f"preset={options['preset']!r}: give it first, as in train('cartpole')")
    handed = {"env": env, "torso": torso, "exploration": explorer}
    uses = [name for name in ALL if handed[name] is None and name not in options]
    trust = argument("trust", trust, bool)
    learner: object = options.get("learner")
    learner = learner if isinstance(learner, str) else None
    source = Source.accept(start_from, from_weights, from_replay)
    inherits = config is None
    if inherits and source is not None:
        config = find_config(source.path).admit(uses, trust=trust)
    config = _config(_given_config(config, uses, trust, learner), env, learner).replace(**options)
    extensions.check_seeds(config.run.num_seeds)
    check_installed(config.run.track)
    out = None if out is None else given_path(out)
    if resume and out is None:
        raise UserError("--resume needs --out: name the folder of the run to resume")
    environment = _environment(config, maker, {})
    if inherits and source is not None and "images" not in options:
        environment = with_stored_spaces(open_folders(source.path)[0][0], environment)
    check_devices(config, environment)
    check_memory(config, environment)  # before a folder is made; `launch` shows the warning
    notices, starts = list[str](), list[Start]()
    if source is not None:
        spec = environment.spec
        starts = read_starts(source, config, spec, maker, notices.append, trust=trust)
    with (
        closing(open_place(config, environment, _given_ray(ray))) as place,
        closing(claim_folder(config, out, resume=resume)) as claim,
    ):
        if is_half_made(claim.whole):
            together = environment.trains_seeds_together
            claim.notices += notices
            folders = create_folders(
                config, claim, environment.spec, together=together, fill=partial(_fill, starts)
            )
            starts.clear()  # a replay buffer is large
            job = Job(config, environment, claim, folders, extensions, place)
        else:
            runs = read_runs(claim.whole)
            changes = check_same(config, claim.whole, runs)
            _check_starts(claim.whole, [folder for folder, _ in runs], starts)
            # The options are those that the call gave, not what the file may name.
            entry = Given(maker, {})
            job = _resumed(claim, runs, changes, entry, extensions, lambda *_: place, trust=True)
        return launch(job, quiet=quiet, cache=cache)


@own_settings()
def resume(
    folder: Path | str,
    *,
    env: AnyEnvironment = None,
    steps: int | None = None,
    restart: bool = False,
    quiet: bool = False,
    trust: bool = False,
    cache: Path | str | None = None,
    trackers: Sequence[Tracker | TrackerMaker] = (),
    callbacks: Sequence[Callback] = (),
    ray: str | None = None,
    **unknown: Any,
) -> Result:
    """Resume a run from its newest whole checkpoint, as `noisydqn resume` does.

    The run ends with the same bits as an uninterrupted one, unless `steps` changes or an
    environment is not deterministic. A run that was ended before its first checkpoint starts from
    the beginning; one whose checkpoints are missing does so only with `restart`.

    Args:
        folder: a run's folder, which `train` made.
        env: as in `train`, where the config cannot name the environment.
        steps: a new budget, not below the steps already trained; None keeps the old one.
        restart: remove what was trained, and train from the beginning.
        quiet: print only warnings.
        trust: whether code that the run's config names may be imported and run.
        cache: as in `train`.
        trackers: as in `train`; a run does not keep the trackers that it was started with.
        callbacks: as in `train`; a run does not keep the callbacks that it was started with.
        ray: as in `train`.
        unknown: refused; all other options keep the values that the run was started with.

    Raises:
        UserError: an argument cannot be used, the folder holds no run or no whole checkpoint, its
            config names code and is not trusted or is not the one that the checkpoints were
            trained with, or another process trains it.
        EnvironmentFailedError: as `train`.
        ExtensionFailedError: as `train`.
        DivergedError: as `train`.
    """
    known = ["folder", "env", "steps", "restart", "quiet", "trust"]
    known += ["cache", "trackers", "callbacks", "ray"]
    refuse_unknown(unknown, known, "resume")
    quiet, cache = argument("quiet", quiet, bool), _given_cache(cache)
    extensions = Extensions.accept(trackers, callbacks)
    given = accept(env)
    changes = {} if steps is None else {"steps": steps}
    trust, restart = argument("trust", trust, bool), argument("restart", restart, bool)
    path = given_path(folder, "the run")
    open_folders(path)  # so that only the folder of a run is locked
    ray = _given_ray(ray)
    with ExitStack() as stack:
        claim = stack.enter_context(closing(Claim(RunFolder.at(path))))

        def place(config: Config, environment: Environment) -> Place:
            return stack.enter_context(closing(open_place(config, environment, ray)))

        runs = read_runs(claim.whole)
        job = _resumed(claim, runs, changes, given, extensions, place, trust=trust, restart=restart)
        return launch(job, quiet=quiet, cache=cache)


def _resumed(
    claim: Claim,
    runs: Sequence[Found],
    changes: dict[str, Any],
    given: Given,
    extensions: Extensions,
    place: Callable[[Config, Environment], Place],
    *,
    trust: bool,
    restart: bool = False,
) -> Job:
    """Return the job that resumes the runs found in a folder, with changes to their options.

    Raises:
        UserError: they cannot be resumed, a config names code and is not trusted, or the
            environment is another.
    """
    whole = claim.whole
    folders = [folder for folder, _ in runs]
    refuse_part(whole, folders)
    uses = ALL if given.entry is None else NETWORK
    # The name of an environment that is not used stays in the config, for messages alone.
    configs = [
        stored.admit(uses, trust=trust).replace(**{"env": stored.options["env"], **changes})
        for _, stored in runs
    ]
    first = configs[0]
    seeds = range(first.run.seed, first.run.seed + len(runs))
    if configs != [first.replace(seed=seed) for seed in seeds]:
        raise UserError(
            f"{whole.path} holds runs that were not started together: resume one of them"
        )
    extensions.check_seeds(len(runs))
    environment = _environment(first, given.entry, given.options)
    config = first.replace(num_seeds=len(runs))
    check_devices(config, environment)
    if not restart:
        environment = with_stored_spaces(folders[0], environment)
    opened = place(first, environment)
    _check_places(claim, folders, configs, environment, restart=restart)
    return Job(config, environment, claim, folders, extensions, opened, resumed=True)


def _check_places(
    claim: Claim,
    folders: list[RunFolder],
    configs: list[Config],
    environment: Environment,
    *,
    restart: bool,
) -> None:
    """Lock the folders of a run that is resumed, and check or, to restart it, clear them.

    Raises:
        UserError: another process trains a seed, or the run cannot be resumed.
    """
    together = environment.trains_seeds_together
    places = [claim.whole] if together else folders
    for place in places:
        if place is not claim.whole:
            claim.lock(place)
    if restart:
        clear_run(places, folders)
        return
    for folder in folders:
        check_spaces(folder, environment.spec)
    for i, place in enumerate(places):
        check_checkpoints(place, folders if together else [folders[i]], claim)
        check_config(place, folders[i].config, configs[i])


def _environment(config: Config, entry: Entry | None, brought: Mapping[str, Any]) -> Environment:
    """Make the environment of a run, or the user's instead, with the run's options.

    Raises:
        UserError: the environment cannot be made, or is a single instance and the options need
            several.
    """
    if isinstance(entry, Instance):
        num_envs, run = config.runner.num_envs, config.run
        refuse_for_instance(
            {
                f"--num-envs {num_envs}": num_envs > 1,
                f"--evaluation-every {run.evaluation_every}": run.evaluation_every > 0,
                f"--stop-at-evaluation {run.stop_at_evaluation}": run.stop_at_evaluation
                is not None,
            }
        )
    return make_environment(with_brought(config.environment, brought), entry, Notices(None))


def _fill(starts: Sequence[Start], folders: Sequence[RunFolder]) -> None:
    """Copy what the seeds start from, if anything, into their folders."""
    for folder, start in zip(folders, starts, strict=False):
        save_start(folder, start)


def _check_starts(whole: RunFolder, folders: Sequence[RunFolder], starts: Sequence[Start]) -> None:
    """Refuse to resume a run that started from something else than the call asks for.

    Raises:
        UserError: it did.
    """
    for folder, start in zip(folders, starts, strict=False):
        if not same_start(folder, start):
            raise UserError(
                f"--out {whole.path} holds a run that did not start from "
                f"{start.record.words}: name another folder"
            )


def _given_cache(cache: Path | str | None) -> Path | str | None:
    """Check the folder of compiled programs; None is the default, "none" keeps nothing."""
    if cache is None or cache in OFF:
        return cache
    return given_path(cache, "--cache")


def _given_ray(ray: object) -> str | None:
    """Check the address of a Ray cluster."""
    return argument("ray", ray, str | None)


def _given_config(
    given: object, uses: Sequence[str], trust: bool, learner: str | None
) -> Config | None:
    if given is None or isinstance(given, Config):
        return given
    if isinstance(given, str | Path):
        return config_named(str(given), uses, trust=trust, learner=learner)
    raise UserError(
        f"the config is {shown(given)}, expected a Config or a name: give an environment as env="
    )


def _config(config: Config | None, env: Entry | None, learner: str | None) -> Config:
    if config is not None:
        named = env if env is None or isinstance(env, str) else name_of(env)
        return config if named is None else config.replace(env=named)
    if env is None:
        return with_learner(PRESETS[DEFAULT_PRESET], learner)
    if isinstance(env, str):
        return config_for(env, learner)
    name = name_of(env)
    preset = re.sub(r"[^\w.-]+", "-", name.rpartition(".")[2].strip("<>"))
    base = PRESETS[IN_JAX if isinstance(env, JaxInstance) else "default"]
    return with_learner(base, learner).replace(env=name, preset=preset)


def _torso_name(maker: TorsoMaker) -> str:
    """Return the name by which a loaded run finds its torso.

    Raises:
        UserError: the name finds nothing, or something else.
    """
    name = name_of(maker)
    if is_inert(name) or find(name) is not maker:
        raise UserError(
            f"the torso {name} cannot be found again by its name, so the run could not be loaded: "
            "give a function of a module"
        )
    return name
