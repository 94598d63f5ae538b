"""What is not what its name says is neither pulled nor pushed."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from tests.hub import Hub, make_run, raising, serve, tree

from noisydqn import PRESETS, UserError, hub
from noisydqn.config.stored import VERSION, to_stored
from noisydqn.runs import shared


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub."""
    return serve(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder."""
    return make_run(tmp_path / "run")


def other_arrays(data: bytes) -> bytes:
    """The arrays of a policy in half the precision."""
    arrays = {name: x.astype(np.float16) for name, x in safetensors.numpy.load(data).items()}
    return safetensors.numpy.save(arrays, about(data))


def about(data: bytes) -> dict[str, str]:
    """What a file of safetensors says about itself."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header["__metadata__"]


def exported(data: bytes) -> bytes:
    """The same arrays in the format of another program."""
    return safetensors.numpy.save(safetensors.numpy.load(data), {"format": "pt"})


def flipped(data: bytes) -> bytes:
    """The same with one bit changed."""
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def padded(data: bytes) -> bytes:
    """The same with more in its header than a policy has."""
    return safetensors.numpy.save(
        safetensors.numpy.load(data), {**about(data), "more": "x" * 2**20}
    )


def deep(data: bytes) -> bytes:
    """Arrays whose description is nested."""
    return safetensors.numpy.save(safetensors.numpy.load(data), {"noisydqn": nested(b"").decode()})


def nested(data: bytes) -> bytes:
    """An object that holds lists ten thousand deep."""
    del data
    return b'{"version": %d, "steps": ' % VERSION + b"[" * 10_000 + b"]" * 10_000 + b"}"


HOSTILE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("config.json", lambda _: b"\x80\x04garbage", "config.json cannot be used (JSON is malformed"),
    ("config.json", lambda _: b"[]", "config.json cannot be used (Expected `object`"),
    (
        "config.json",
        lambda x: x.replace(b'"version": %d' % VERSION, b'"version": 99'),
        f"version 99, expected {VERSION}",
    ),
    ("config.json", lambda x: x.replace(b'"steps"', b'"stops"'), "unknown option 'stops'"),
    ("config.json", lambda x: x.replace(b'"env"', b'"' + b"e" * 9_999 + b'"'), "unknown option"),
    ("config.json", nested, "config.json cannot be used ("),
    ("spaces.json", lambda _: b"{}", "spaces.json cannot be used (Object missing required field"),
    ("spaces.json", nested, "spaces.json cannot be used ("),
    ("summary.json", lambda _: b"[1]", "summary.json cannot be used (Expected `object`"),
    ("summary.json", lambda _: b'{"evaluation": [1]}', "summary.json cannot be used (Expected"),
    ("summary.json", nested, "summary.json cannot be used ("),
    ("best.safetensors", lambda _: b"", "best.safetensors cannot be used ("),
    ("best.safetensors", lambda x: x[:-1], "best.safetensors cannot be used ("),
    ("best.safetensors", lambda x: x + b"more", "best.safetensors cannot be used ("),
    ("best.safetensors", flipped, "(its values are not those that were written)"),
    ("final.safetensors", flipped, "final.safetensors cannot be used (its values are not those"),
    ("final.safetensors", exported, "an unknown format version None, expected noisydqn-policy"),
    ("final.safetensors", other_arrays, "(it holds arrays of F16)"),
    ("final.safetensors", deep, "final.safetensors cannot be used ("),
    ("final.safetensors", padded, "(it holds more than its arrays)"),
    ("metrics.csv", lambda _: b"\xff\xd8\xff\xe0", "metrics.csv cannot be used ('utf-8' codec"),
    ("metrics.csv", lambda x: x + b"\0\0", "metrics.csv cannot be used (it is not text)"),
    ("episodes.csv", lambda _: b"user,password\n", "(its columns are not step, return, length)"),
    ("episodes.csv", lambda _: b"\n", "(its columns are not step, return, length)"),
    ("evaluations.csv", lambda _: b"step,seconds\n", "not step, seconds, mean_return)"),
    ("curves.png", lambda _: b"<html>", "curves.png cannot be used (it is not a PNG)"),
    ("policy.mp4", lambda _: b"<html></html>", "policy.mp4 cannot be used (it is not an MP4)"),
    ("policy.mp4", lambda _: b"", "policy.mp4 cannot be used (it is not an MP4)"),
]


@pytest.mark.parametrize(("name", "change", "said"), HOSTILE)
def test_what_is_no_run_is_not_pulled(
    name: str, change: Callable[[bytes], bytes], said: str, stub: Hub, run: Path, tmp_path: Path
) -> None:
    (run / name).write_bytes(change((run / name).read_bytes()))
    commit = stub.commit("me/catcher", run)
    before = tree(tmp_path)
    for out in (None, tmp_path / "new"):
        with pytest.raises(UserError) as caught:
            hub.pull("me/catcher", out)
        line = str(caught.value)
        assert line.startswith(f"me/catcher at commit {commit} holds no run that can be used, ")
        assert said in line
        assert line.endswith("; name another repository, or another --revision")
        assert "\n" not in line
        assert len(line) < 700
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [hostile for hostile in HOSTILE if hostile[0] not in ("config.json", "best.safetensors")],
)
def test_what_is_no_run_is_not_pushed(
    name: str, change: Callable[[bytes], bytes], said: str, stub: Hub, run: Path
) -> None:
    (run / name).write_bytes(change((run / name).read_bytes()))
    with pytest.raises(UserError) as caught:
        hub.push(run, "me/catcher")
    assert str(caught.value).startswith(f"{run} was not shared: {name} ")
    assert said in str(caught.value)
    assert not stub.root.exists()


CODE = [
    {"env": "python:canary.sing", "env_kwargs": '{"command": "true"}'},
    {"env": "python:os.system", "env_kwargs": '{"command": "touch sung"}'},
    {"env": "canary:Bird-v0"},
    {"torso": "python:canary.sing"},
    {"exploration": "python:canary.sing"},
]


@pytest.mark.parametrize("code", CODE)
def test_code_that_a_config_names_is_not_imported(
    code: dict[str, str],
    stub: Hub,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "canary.py").write_text("open('sung', 'w').close()\ndef sing(*_, **__): ...\n")
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    config = PRESETS["catcher"].replace(hidden=(8,), **code)
    (run / "config.json").write_text(json.dumps(to_stored(config)))
    stub.commit("me/catcher", run)
    fetched = hub.pull("me/catcher")
    assert (fetched / "config.json").read_bytes() == (run / "config.json").read_bytes()
    monkeypatch.setattr(stub, "upload_folder", lambda **_: None)
    hub.push(fetched, "me/again")
    assert "canary" not in sys.modules
    assert not (tmp_path / "sung").exists()


# Sizes and kinds of files


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"config.json": 2**24 + 1}, "config.json has 16,777,217 bytes, expected at most 16,777,2"),
        ({"best.safetensors": 2**40}, "best.safetensors has 1,099,511,627,776 bytes, expected at"),
        ({"policy.mp4": 2**30 + 1}, "policy.mp4 has 1,073,741,825 bytes"),
        ({"metrics.csv": 2**28 + 1}, "metrics.csv has 268,435,457 bytes"),
        ({"curves.png": 2**26 + 1}, "curves.png has 67,108,865 bytes"),
        (
            {"best.safetensors": 2**30, "final.safetensors": 2**30, "policy.mp4": 2**20},
            "bytes together, expected at most 2,147,483,648",
        ),
        ({"summary.json": None}, "the hub does not say how large summary.json is"),
    ],
)
def test_too_much_is_refused_before_it_is_fetched(
    sizes: dict[str, int | None],
    said: str,
    stub: Hub,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub.commit("me/catcher", run)
    stub.sizes = sizes
    before = tree(tmp_path)
    monkeypatch.setattr(stub, "hf_hub_download", raising(AssertionError("it was fetched")))
    with pytest.raises(UserError, match="me/catcher at its newest commit holds no run") as caught:
        hub.pull("me/catcher")
    assert said in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("missing", ["config.json", "best.safetensors"])
def test_a_repository_without_a_run(missing: str, stub: Hub, run: Path) -> None:
    (run / missing).rename(run / missing.upper())
    stub.commit("me/other", run)
    with pytest.raises(UserError, match=f"me/other at main holds no run .*: {missing} is missing"):
        hub.pull("me/other", revision="main")
    assert len(stub.asked) == 1


def test_a_hub_that_names_no_commit(stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.commit("me/catcher", run)
    for sha in (None, "main"):
        info = SimpleNamespace(sha=sha, siblings=None)
        monkeypatch.setattr(stub, "model_info", lambda *_, info=info, **__: info)
        with pytest.raises(UserError, match="the hub names no commit; name another repository"):
            hub.pull("me/catcher")


def to_link(place: Path) -> None:
    """Replace a file by a link to one of the user's."""
    shutil.move(place, "secret")
    place.symlink_to(Path("secret").absolute())


def to_folder(place: Path) -> None:
    """Replace a file by a folder."""
    place.unlink()
    place.mkdir()


def to_pipe(place: Path) -> None:
    """Replace a file by a pipe, which would block whoever reads it."""
    place.unlink()
    os.mkfifo(place)


KINDS: list[tuple[Callable[[Path], object], str]] = [
    (to_link, "cannot be read (it is a link"),
    (to_folder, "cannot be read (it is not a regular file)"),
    (to_pipe, "cannot be read (it is not a regular file)"),
]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *KINDS,
        (lambda place: place.write_bytes(b"step"), "came with 4 bytes, expected 32"),
        (lambda place: place.write_bytes(b""), "came with 0 bytes, expected"),
        (Path.unlink, "came with 0 bytes, expected"),
    ],
)
def test_what_comes_is_what_was_listed(
    change: Callable[[Path], object], said: str, stub: Hub, run: Path, tmp_path: Path
) -> None:
    stub.commit("me/catcher", run)
    stub.meanwhile = lambda place: change(place) if place.name == "metrics.csv" else None
    with pytest.raises(UserError) as caught:
        hub.pull("me/catcher", tmp_path / "new")
    assert f"nothing was fetched: metrics.csv {said}" in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(f"{hub.STAGE}*"))


@pytest.mark.parametrize(("change", "said"), KINDS)
def test_only_files_of_the_run_are_pushed(
    change: Callable[[Path], object], said: str, stub: Hub, run: Path
) -> None:
    change(run / "metrics.csv")
    with pytest.raises(UserError) as caught:
        hub.push(run, "me/catcher")
    assert str(caught.value).startswith(f"{run} was not shared: metrics.csv {said}")
    assert str(caught.value).endswith(
        "; put a whole copy of the file in its place, or move it elsewhere"
    )
    assert not stub.root.exists()


def test_a_file_with_a_second_name_is_not_pushed(stub: Hub, run: Path, tmp_path: Path) -> None:
    """It may be one of the user's that lies elsewhere."""
    (tmp_path / "other.csv").hardlink_to(run / "metrics.csv")
    with pytest.raises(UserError, match=r"metrics\.csv has a second name \(it is a hard link\);"):
        hub.push(run, "me/catcher")
    assert not stub.root.exists()
    shutil.copyfile(tmp_path / "other.csv", tmp_path / "copy")
    (tmp_path / "copy").rename(run / "metrics.csv")
    assert hub.push(run, "me/catcher")


def test_too_much_is_not_pushed(stub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"was not shared: its files have .* expected at most 100"):
        hub.push(run, "me/catcher")
    with (run / "curves.png").open("ab") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(UserError, match=r"curves\.png has 67,108,865 bytes, expected at most 67,1"):
        hub.push(run, "me/catcher")
    assert not stub.root.exists()
