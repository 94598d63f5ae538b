"""Jobs on a cluster: options, addresses, the pool, what runs on a node, and job scripts."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands import refused

from noisydqn import UserError, cluster
from noisydqn.checkpoint.lock import Lock
from noisydqn.cli import main
from noisydqn.cli.cluster import ClusterArgs, with_address
from noisydqn.cluster import check_answers, fitting
from noisydqn.folders import File, Folder
from noisydqn.study import ray_pool
from noisydqn.study.pool import Ended
from noisydqn.study.ray_pool import RayPool, run_command, taken_cores
from noisydqn.study.slurm import script

GRID = ("--env", "CartPole-v1", "--seeds", "2", "--steps", "400")

# Options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--ray", "--ray=local"),
        ("--ray --seeds 3", "--ray=local --seeds 3"),
        ("--ray study.toml", "--ray=local study.toml"),
        ("--ray auto", "--ray auto"),
        ("--ray local x", "--ray local x"),
        ("--ray 10.0.0.1:6379", "--ray 10.0.0.1:6379"),
        ("--ray ray://head:10001", "--ray ray://head:10001"),
        ("--ray=head:1", "--ray=head:1"),
        ("--env X", "--env X"),
    ],
)
def test_an_address_may_be_left_out(words: str, expected: str) -> None:
    assert with_address(words.split()) == expected.split()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--gpus", "1"],
            "--gpus needs --ray, as jobs of this machine share what it has: add",
        ),
        (["--ray", "--gpus", "-1"], "--gpus must be zero or more, got -1"),
        (["--nodes", "3"], "--nodes needs --slurm: a cluster that runs has the nodes that it has"),
        (["--slurm", "job.sh", "--nodes", "0"], "--nodes must be between 1 and 10000, got 0"),
        (["--slurm", "job.sh", "--ray"], "--slurm and --ray exclude each other: the job script st"),
        (["--slurm", "job.sh"], "--slurm needs --out, the folder in which a resubmitted job cont"),
        (["--slurm", "/proc/job.sh", "--out", "x"], "--slurm /proc/job.sh cannot be written: "),
        (["--ray", "auto", "--cores", "0"], "--cores must be at least 1, got 0"),
    ],
)
def test_bad_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["compare", *GRID], ["tune", "CartPole-v1", "--search", "n_step=1,3"]):
        assert message in refused(capsys, *command, *argv)
    assert not list(tmp_path.iterdir())


def test_help_says_what_the_options_are(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compare", "tune"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        for name in ClusterArgs.__dataclass_fields__:
            assert f"  --{name} " in printed, name


def test_what_is_repeated_to_resume() -> None:
    assert ClusterArgs().repeated(trust=False) == ""
    assert ClusterArgs(ray="head:1", gpus=0.25).repeated(trust=True) == (
        "--trust --ray head:1 --gpus 0.25"
    )


def test_ray_is_an_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    line = refused(capsys, "compare", *GRID, "--ray")
    assert "needs the package ray, which is not installed: pip install 'noisydqn[ray]'" in line


@pytest.mark.parametrize("more", [["--cores", "9"], ["--gpus", "1"]])
def test_jobs_that_no_node_has_room_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    closed: list[str] = []

    class Small:
        def __init__(self, address: str) -> None:
            self.address = address

        def capacity(self, cores: int, gpus: float) -> int:
            return fitting({"CPU": 8.0}, cores, gpus)

        def close(self) -> None:
            closed.append(self.address)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "RayCluster", Small)
    line = refused(capsys, "compare", *GRID, "--ray", "head:1", *more)
    what = "9 cores" if more[0] == "--cores" else "1 cores and 1 GPUs"
    assert f"no node of the Ray cluster has the {what} of a job: give --cores and --gpus" in line
    assert closed == ["head:1"]
    assert main(["compare", *GRID, "--ray", "head:1", "--plan"]) == 0
    assert "with 2 jobs at a time" in capsys.readouterr().out


# Addresses


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def answering(server: socket.socket, answer: bytes) -> str:
    """Answer the first connection with some bytes; returns the address."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)
            time.sleep(1)

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["nowhere", "head:", ":x", "ray://head:10001", "./x:3"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match=f"--ray {address} is not an address: give local, auto"):
        check_answers(address, address)


def test_an_address_that_does_not_answer(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    with pytest.raises(UserError, match=r"--ray .* does not answer \(Connection refused\): start"):
        check_answers("x", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match="does not answer"):
        check_answers("x", "127.0.0.1:99999")


def test_an_address_that_is_silent(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"does not answer \(.*timed out"):
        check_answers("x", answering(server, b""))
    assert time.monotonic() - began < 5


def test_an_address_of_something_else(server: socket.socket) -> None:
    with pytest.raises(UserError, match="is answered by something else than Ray: give the HOST"):
        check_answers("x", answering(server, b"HTTP/1.1 400 Bad Request\r\n\r\n"))


def test_an_address_that_speaks_its_protocol(server: socket.socket) -> None:
    check_answers("x", answering(server, bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])))


def test_a_wrong_address_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    assert "does not answer" in refused(capsys, "compare", *GRID, "--ray", "127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster.find_running() == "head:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    services = pytest.importorskip("ray._private.services")
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    with pytest.raises(UserError, match="--ray auto finds no Ray on this machine: start it with"):
        cluster.find_running()


# The pool


def test_jobs_that_fit_on_a_node() -> None:
    assert fitting({"CPU": 7.0}, 2, 0) == 3
    assert fitting({"CPU": 8.0, "GPU": 1.0}, 1, 0.25) == 4
    assert fitting({"CPU": 2.0, "GPU": 1.0}, 1, 0.25) == 2
    assert fitting({"CPU": 8.0}, 1, 1.0) == 0
    assert fitting({}, 1, 0) == 0


class FakeRay:
    """The parts of Ray that the pool uses: tasks end as `codes` says, by their first argument."""

    def __init__(self) -> None:
        self.codes: dict[str, int | Exception] = {}
        self.options: dict[str, Any] = {}
        self.cancelled: list[tuple[str, bool]] = []

    def remote(self, function: object = None, *arguments: object) -> Any:
        if arguments:
            assert isinstance(function, list)
            return function[0]
        assert function is run_command
        return self

    def wait(
        self, references: list[str], *, num_returns: int, timeout: float
    ) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout) == (len(references), 0)
        return [x for x in references if x in self.codes], []

    def get(self, reference: str, *, timeout: float) -> int:
        assert timeout > 0
        code = self.codes[reference]
        if isinstance(code, Exception):
            raise code
        return code

    def cancel(self, reference: str, *, force: bool) -> None:
        self.cancelled.append((reference, force))


class FakeCluster:
    """A cluster whose nodes have some cores each; None is a dead node."""

    def __init__(self, *cores: int | None) -> None:
        self.cores: list[int | None] = list(cores)
        self.ray = _Options()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": x is not None, "Resources": {"CPU": float(x or 0)}} for x in self.cores]

    def capacity(self, cores: int, gpus: float) -> int:
        return sum(fitting(x["Resources"], cores, gpus) for x in self.nodes())


class _Options(FakeRay):
    def __init__(self) -> None:
        super().__init__()

    def remote(self, function: object = None, *arguments: object) -> Any:
        if arguments:
            return super().remote(function, *arguments)
        return _Task(self)


class _Task:
    def __init__(self, ray: FakeRay) -> None:
        self._ray = ray

    def options(self, **options: Any) -> "_Task":
        self._ray.options = options
        return self

    def remote(self, *arguments: object) -> Any:
        return self._ray.remote(*arguments)


@pytest.fixture
def warned() -> list[str]:
    return []


def pool_of(cluster: FakeCluster, warned: list[str], slots: int = 10) -> RayPool:
    return RayPool(cluster, slots, 1, 0.0, warned.append)  # pyright: ignore[reportArgumentType]


def test_tasks_state_their_resources_and_are_retried(warned: list[str]) -> None:
    cluster = FakeCluster(2)
    pool_of(cluster, warned)
    assert cluster.ray.options == {"num_cpus": 1, "num_gpus": 0.0, "max_retries": 20}


def test_slots_follow_the_nodes(warned: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", 0.0)
    cluster = FakeCluster(2, 3)
    pool = pool_of(cluster, warned)
    assert pool.slots == 5
    assert pool_of(cluster, warned, slots=4).slots == 4
    cluster.cores[1] = None
    assert pool.slots == 2
    assert warned == [
        "1 of 2 nodes of the Ray cluster are gone: their jobs continue on others from their newest "
        "checkpoints"
    ]
    cluster.cores.append(4)
    assert pool.slots == 6
    monkeypatch.setattr(ray_pool, "LOST_SECONDS", 0.0)
    cluster.cores[:] = [None, None, None, 0]
    time.sleep(0.01)
    with pytest.raises(UserError, match="no node of the Ray cluster could run a job for 0 minutes"):
        _ = pool.slots


def test_tasks_end_with_the_codes_of_their_commands(tmp_path: Path, warned: list[str]) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    cluster = FakeCluster(4)
    pool = pool_of(cluster, warned)
    logs = {key: File.at(tmp_path / f"{key}.log") for key in ("a", "b", "c", "d")}
    for key, log in logs.items():
        pool.start(key, [key], log)
    assert pool.ended() == []
    cluster.ray.codes = {
        "a": 0,
        "b": exceptions.TaskCancelledError(),
        "c": exceptions.WorkerCrashedError(),
    }
    assert sorted(pool.ended()) == [Ended("a", 0), Ended("b", 143), Ended("c", 1)]
    assert logs["a"].read() == b""
    assert logs["c"].read().startswith(b"noisydqn: WorkerCrashedError: The worker died")
    pool.end("d")
    pool.stop()
    pool.kill()
    assert cluster.ray.cancelled == [("d", False), ("d", False), ("d", True)]


def test_a_wait_has_a_limit(
    tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(ray_pool, "ANSWER_SECONDS", 0.1)
    cluster = FakeCluster(4)
    pool = pool_of(cluster, warned)
    pool.start("a", ["a"], File.at(tmp_path / "a.log"))
    pool.wait()
    assert cluster.ray.cancelled == [("a", True)]


# On a node


def test_a_node_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no file .*: put --out into a folder that all nodes"):
        run_command(["train", "--out", "x"], str(tmp_path / "no.log"), {}, "/", 1)


def test_cores_are_taken_once() -> None:
    usable = sorted(os.sched_getaffinity(0))
    with taken_cores(1) as first:
        assert first == usable[:1]
        with taken_cores(len(usable)) as rest:
            assert rest == ()
    with taken_cores(len(usable)) as all_of_them:
        assert all_of_them == usable


def command_on_node(tmp_path: Path, *words: str) -> tuple[int, str]:
    (log := tmp_path / "log").touch()
    arguments = [*words, "--out", str(tmp_path / "run")]
    code = run_command(arguments, str(log), {"NOISYDQN_CACHE": ""}, str(tmp_path), 1)
    return code, log.read_text()


@pytest.mark.slow
def test_a_command_runs_on_a_node(tmp_path: Path) -> None:
    code, printed = command_on_node(tmp_path, "train", "CartPol-v1")
    assert code == 2
    assert "noisydqn: no environment 'CartPol-v1'" in printed


def test_a_cancelled_task_stops_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises KeyboardInterrupt in the task."""
    asked: list[int] = []
    number, sleep = 0, time.sleep

    def interrupted(seconds: float) -> None:
        nonlocal number
        number += 1
        if number in (2, 3):  # the second one changes nothing
            raise KeyboardInterrupt
        sleep(min(seconds, 0.02))

    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(143)))\n"
        "print(flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(ray_pool.time, "sleep", interrupted)
    monkeypatch.setattr(process, "terminate", lambda: asked.append(1) or os.kill(process.pid, 15))
    watched = ray_pool._watched  # pyright: ignore[reportPrivateUsage]
    assert watched(process) == 143
    assert asked == [1]
    process.stdout.close()


def test_a_node_that_has_died_stops_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's process is then the child of another one, and crashes, so that Ray notices."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    parents = iter((7, 7, 7))
    crashed: list[int] = []
    monkeypatch.setattr(ray_pool.os, "getppid", lambda: next(parents, 1))
    monkeypatch.setattr(ray_pool.os, "_exit", crashed.append)
    watched = ray_pool._watched  # pyright: ignore[reportPrivateUsage]
    assert watched(process) == -signal.SIGTERM
    assert crashed == [1]


def test_a_folder_that_is_held_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for = ray_pool._wait_for  # pyright: ignore[reportPrivateUsage]
    wait_for(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    lock = Lock(Folder(tmp_path), lambda _: None)
    lock.take()
    threading.Timer(0.5, lock.release).start()
    began = time.monotonic()
    wait_for(tmp_path)
    assert 0.3 < time.monotonic() - began < 20
    with Lock(Folder(tmp_path), lambda _: None):
        monkeypatch.setattr(ray_pool, "LOCKED_SECONDS", 0.3)
        wait_for(tmp_path)  # train says who holds it


# Slurm


def test_a_job_script_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["compare", *GRID, "--slurm", "job.sh", "--nodes", "3", "--out", "runs/my grid"]
    assert main(argv) == 0
    assert capsys.readouterr().out == "job.sh\nnext: sbatch job.sh\n"
    text = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --nodes=3\n" in text
    grid = shlex.join([*GRID, "--out", "runs/my grid", "--resume"])
    assert f'noisydqn compare {grid} --ray "$head:$port" &\n' in text
    assert f"cd {tmp_path}\n" in text
    assert subprocess.run(["bash", "-n", "job.sh"], check=False).returncode == 0  # noqa: S607
    assert "--slurm job.sh exists, nothing was changed" in refused(capsys, *argv)
    again = ["tune", "--out", "x", "--resume", "--slurm=two.sh"]
    assert main(again) == 0
    assert 'noisydqn tune --out x --resume --ray "' in (tmp_path / "two.sh").read_text()


STUBS = {
    "scontrol": "printf 'localhost\\nother\\n'",
    "srun": 'echo "srun $*" >> calls; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": 'echo "ray $*" >> calls; if [ "$1" = start ]; then exec sleep 60; fi',
    "sleep": 'if [ "$1" = 60 ]; then exec /bin/sleep 60; fi; exec /bin/sleep 0.1',
    "noisydqn": 'echo "noisydqn $*" >> calls; trap "echo saved >> calls; exit 143" TERM; '
    "if [ -e quick ]; then exit 3; fi; while true; do /bin/sleep 0.1; done",
}
"""Commands of a cluster that only note how they were called."""


@pytest.mark.parametrize("ends", ["by itself", "by a signal"])
def test_a_job_script_runs(tmp_path: Path, server: socket.socket, ends: str) -> None:
    """With a port at which something listens, as Ray's head would."""
    for name, body in STUBS.items():
        (path := tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    text = script(["noisydqn", "compare", "a b"], 2, str(tmp_path))
    port = server.getsockname()[1]
    (tmp_path / "job.sh").write_text(text.replace("port=6379", f"port={port}"))
    if ends == "by itself":
        (tmp_path / "quick").touch()
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_ON_NODE": "8",
    }
    process = subprocess.Popen(
        ["bash", str(tmp_path / "job.sh")],  # noqa: S607
        env=environment,
        start_new_session=True,
    )
    calls, deadline = tmp_path / "calls", time.monotonic() + 60
    while time.monotonic() < deadline:
        if calls.exists() and "noisydqn" in calls.read_text():
            break
        time.sleep(0.05)
    if ends == "by a signal":
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)  # to the script alone, as Slurm does
    assert process.wait(60) == {"by itself": 3, "by a signal": 143}[ends]
    lines = calls.read_text().splitlines()
    head = "srun --overlap --nodes=1 --ntasks=1 --nodelist=localhost ray start --head"
    assert any(line.startswith(head) for line in lines)
    assert any(
        line.startswith("srun --overlap --nodes=1 --ntasks=1 --exclude=localhost ray start")
        for line in lines
    )
    assert f"noisydqn compare a b --ray localhost:{port}" in lines
    assert ("saved" in lines) == (ends == "by a signal")
