"""Evaluations of one seed during training, in another thread."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import jax

from noisydqn.compilation import Background, wait
from noisydqn.config.config import Config
from noisydqn.envs.protocol import Environment
from noisydqn.errors import StoppedError
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

    def start(self, steps: int, pool: Background) -> None:
        """Start the evaluation of the policy that was trained for `steps`."""
        key = jax.random.fold_in(self._key, steps)
        job = partial(self.play, self.policies[steps], key)
        self._futures[steps] = pool.submit(job)

    def play(self, policy: Policy, key: jax.Array) -> Evaluation:
        """Play as many episodes as the run's evaluations do."""
        return evaluate(
            self._env,
            policy,
            episodes=self._config.run.evaluation_episodes,
            key=key,
            max_steps=self._config.run.evaluation_max_steps,
            check=self._check,
        )

    def outcome(self, steps: int, *, block: bool) -> Evaluation | None:
        """Return an evaluation's outcome, or None while there is none.

        There is no outcome before the evaluation starts, nor after a stop. Without `block`, there
        is none until the evaluation is done.

        Raises:
            UserError: the environment failed, or no second one could be made.
        """
        future = self._futures.get(steps)
        if future is None or not (block or future.done()):
            return None
        try:
            return wait(future, self._check)
        except StoppedError:
            return None

    def remove(self, steps: int) -> Policy:
        """Remove a finished evaluation and return its policy."""
        self._futures.pop(steps, None)
        return self.policies.pop(steps)
