"""Evaluations of one seed, during training and after it, in another thread."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import jax

from noisydqn.compilation import Background, wait
from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.envs.workers import START_SECONDS
from noisydqn.errors import EnvironmentFailedError, StoppedError
from noisydqn.learner.policy import Policy
from noisydqn.play.evaluate import Evaluation, evaluate


class Evaluations:
    """The policies of one seed whose evaluation is pending, by the steps that trained them.

    Args:
        config: of the run.
        env: the environment.
        key: random key of the episodes; evaluations of different steps play different episodes.
        check: called now and then; it raises `StoppedError` to leave an evaluation.
    """

    def __init__(
        self,
        config: Config,
        env: Environment,
        key: jax.Array,
        check: Callable[[], None],
    ) -> None:
        self.policies: dict[int, Policy] = {}
        self._futures: dict[int, Future[Evaluation]] = {}
        self._config, self._env, self._key, self._check = config, env, key, check
        # The first step comes after making environments and, perhaps, compiling a program.
        longest = env.by_kind(device=lambda _: math.inf, host=lambda host: host.step_timeout)
        self._timeout = max(longest, START_SECONDS)
        self._beat = math.inf  # when the evaluation under way last gave a sign of life

    def start(self, steps: int, pool: Background) -> bool:
        """Start the evaluation of the policy that was trained for `steps`; False if it was."""
        if steps in self._futures:
            return False
        key = jax.random.fold_in(self._key, steps)
        self._futures[steps] = self.submit(self.policies[steps], key, pool)
        return True

    def submit(self, policy: Policy, key: jax.Array, pool: Background) -> Future[Evaluation]:
        """Let a thread play as many episodes as the run's evaluations do."""
        return pool.submit(partial(self._play, policy, key))

    def _play(self, policy: Policy, key: jax.Array) -> Evaluation:
        self._beat = time.monotonic()
        try:
            return evaluate(
                self._env,
                policy,
                episodes=self._config.run.evaluation_episodes,
                key=key,
                max_steps=self._config.run.evaluation_max_steps,
                check=self._live,
            )
        finally:
            self._beat = math.inf

    def _live(self) -> None:
        self._beat = time.monotonic()
        self._check()

    def check(self, future: Future[Evaluation] | None = None) -> None:
        """Interrupt the work at hand if a stop was requested, or if an evaluation hangs.

        Raises:
            StoppedError: a stop was requested.
            EnvironmentFailedError: the evaluation hangs.
        """
        self._check()
        if future is not None and time.monotonic() - self._beat > self._timeout:
            raise EnvironmentFailedError(
                f"an evaluation hangs: its environment took no step within {self._timeout:g} s "
                "(--step-timeout)"
            )

    def outcome(self, steps: int, *, block: bool) -> Evaluation | None:
        """Return an evaluation's outcome, or None while there is none.

        There is no outcome before the evaluation starts, nor after a stop. Without `block`, there
        is none until the evaluation is done.

        Raises:
            UserError: the environment failed or hangs, or no second one could be made.
        """
        future = self._futures.get(steps)
        if future is None:
            return None
        try:
            if block or future.done():
                return wait(future, partial(self.check, future))
            self.check(future)
        except StoppedError:
            pass
        return None

    def remove(self, steps: int) -> Policy:
        """Remove a finished evaluation and return its policy."""
        self._futures.pop(steps, None)
        return self.policies.pop(steps)
