"""Runs of MLflow."""

import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noisydqn.runs.tracking.service import PROJECT, Row, Start

TAG = "noisydqn.id"
"""The tag of a run that holds its id."""
MAX_METRICS, MAX_PARAMETERS = 1_000, 100
"""The most that MLflow takes in one call."""


class Mlflow:
    """A run of MLflow.

    The library's own environment variables decide where it is kept: `MLFLOW_TRACKING_URI` names a
    server, a database or a folder, `MLFLOW_EXPERIMENT_NAME` the experiment.
    """

    def __init__(self, start: Start) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{start.id}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {TAG: start.id} | ({} if start.group is None else {"group": start.group})
            run = self._client.create_run(experiment, tags=tags, run_name=start.name)
            self._id = run.info.run_id
            self._log_options(start)
        self.place = f"{mlflow.get_tracking_uri()}, run {self._id}"

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return self._client.create_experiment(name)
        return experiment.experiment_id

    def _log_options(self, start: Start) -> None:
        """Record the options; those of a resumed run stay, as parameters cannot change."""
        options = [self._entities.Param(name, str(x)) for name, x in start.options.items()]
        for some in _parts(options, MAX_PARAMETERS):
            self._client.log_batch(self._id, params=some)

    def log(self, rows: Sequence[Row]) -> None:
        """Record rows, and wait until they are stored."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, row.step)
            for row in rows
            for name, value in row.values.items()
        ]
        for some in _parts(metrics, MAX_METRICS):
            self._client.log_batch(self._id, metrics=some)

    def video(self, path: Path, step: int) -> None:
        """Record a video as an artifact."""
        del step
        self._client.log_artifact(self._id, str(path))

    def close(self, *, complete: bool) -> None:
        """End the run; one that is not complete is marked as killed."""
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
