"""Checkpoints: whole or not there, and never silently different."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import WriterGate

from trainer import checkpoint
from trainer.checkpoint import CheckpointWriter, load_checkpoint, on_host, save_checkpoint
from trainer.errors import CheckpointError

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


class Crash(BaseException):
    """Ends the process at a chosen moment."""


def state(value: float) -> dict[str, object]:
    return {"model": {"weight": torch.full((64,), value)}, "epoch": int(value)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, state(1))
    return path


def test_a_saved_state_comes_back(saved: Path) -> None:
    loaded = load_checkpoint(saved)
    assert torch.equal(loaded["model"]["weight"], torch.ones(64))
    assert loaded["epoch"] == 1


def test_the_digest_beside_it_is_what_sha256sum_expects(saved: Path) -> None:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    assert saved.with_name("last.pt.sha256").read_text() == f"{digest}  last.pt\n"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(saved: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    damaged = saved.with_name("damaged.pt")
    damaged.write_bytes(content)
    digest = saved.with_name("last.pt.sha256").read_text()
    damaged.with_name("damaged.pt.sha256").write_text(digest)
    with pytest.raises(CheckpointError, match=r"damaged\.pt: its SHA-256"):
        load_checkpoint(damaged)


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_noticed(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    cut = saved.with_name("cut.pt")
    cut.write_bytes(content[: int(share * len(content))])
    cut.with_name("cut.pt.sha256").write_text(saved.with_name("last.pt.sha256").read_text())
    with pytest.raises(CheckpointError):
        load_checkpoint(cut)


@pytest.mark.parametrize("call", range(6))
def test_a_crash_at_any_rename_or_sync_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(1))
    calls = 0

    def crashing(original):
        def wrapped(*arguments, **settings):
            nonlocal calls
            if calls == call:
                raise Crash
            calls += 1
            return original(*arguments, **settings)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", crashing(os.fsync))
        patched.setattr(Path, "replace", crashing(Path.replace))
        with pytest.raises(Crash):
            save_checkpoint(path, state(2))
    assert load_checkpoint(path)["epoch"] in (1, 2)
    save_checkpoint(path, state(3))
    assert load_checkpoint(path)["epoch"] == 3


FILL_UP = """
import sys
import torch
from pathlib import Path
from trainer.checkpoint import load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(path, {"epoch": 1, "model": torch.zeros(1000)})
try:
    save_checkpoint(path, {"epoch": 2, "model": torch.zeros(10**6)})
except OSError as error:
    print(error)
print(sorted(file.name for file in path.parent.iterdir()), load_checkpoint(path)["epoch"])
"""


def test_on_a_full_disk_the_old_state_stays_and_the_error_says_why(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && "$0" -c "$1" "{disk}/last.pt"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, sys.executable, FILL_UP]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"a disk of its own cannot be had here: {done.stderr.strip()}")
    message, after = done.stdout.splitlines()
    assert message == f"[Errno 28] No space left on device: '{disk}/last.pt.tmp'"
    assert after == "['last.pt', 'last.pt.sha256'] 1"


def test_a_missing_file_and_a_missing_digest_are_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "gone.pt")
    copy = tmp_path / "copy.pt"
    copy.write_bytes(saved.read_bytes())
    with pytest.raises(CheckpointError, match=r"copy\.pt\.sha256 is missing"):
        load_checkpoint(copy)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {marker}",))

    torch.save({"format": 1, "model": Evil()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("evil.pt.sha256").write_text(f"{digest}  evil.pt\n")
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not marker.exists()


def network_state() -> dict[str, Any]:
    """Tensors that share their memory, in other layouts, beside plain values; the state dict has attributes."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    return {
        **{"epoch": 1, "model": network.state_dict(), "learning": network.state_dict()},
        **{"optimizer": optimizer.state_dict(), "terms": [torch.ones(2), torch.zeros(())], "pair": (1, torch.ones(1))},
    }


def test_a_writer_writes_the_bytes_that_the_training_itself_would(tmp_path: Path) -> None:
    state = network_state()
    save_checkpoint(tmp_path / "here.pt", state)
    with CheckpointWriter(CPU) as writer:
        writer.begin({tmp_path / "best.pt": state, tmp_path / "last.pt": state})
    for name in ("best.pt", "last.pt"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "here.pt").read_bytes()
        assert load_checkpoint(tmp_path / name)["epoch"] == 1


def test_what_is_written_is_the_state_of_when_it_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, weight = WriterGate(monkeypatch), torch.ones(64)
    with CheckpointWriter(CPU) as writer:
        writer.begin({tmp_path / "last.pt": {"weight": weight, "same": [weight]}})
        weight.zero_()
        assert not writer.is_idle() and not (tmp_path / "last.pt").exists()
        gate.open.set()
        writer.wait()
        assert writer.is_idle()
    found = load_checkpoint(tmp_path / "last.pt")
    assert found["weight"].sum() == found["same"][0].sum() == 64


def test_there_is_one_copy_at_most_and_none_when_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watched(state: Any, device: torch.device) -> Any:
        alive.append(sum(each() is not None for each in copies))
        copied = on_host(state, device)
        copies.extend(weakref.ref(each["weight"]) for each in copied.values())
        return copied

    monkeypatch.setattr(checkpoint, "on_host", watched)
    weight = torch.ones(64)
    with CheckpointWriter(CPU) as writer:
        for _ in range(5):
            writer.begin({tmp_path / name: {"weight": weight} for name in ("best.pt", "last.pt")})
        writer.wait()
        assert alive == [0] * 5 and not any(each() for each in copies)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.pt.tmp")


def test_a_write_that_fails_is_raised_wherever_the_training_meets_its_writer_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    with CheckpointWriter(CPU) as writer:
        writer.begin({path: state(1)})
        writer.wait()
        monkeypatch.setattr(checkpoint, "_serialise", full)
        writer.begin({path: state(2)})
        meetings: list[Callable[[], object]] = [writer.wait, writer.is_idle, lambda: writer.begin({path: state(3)})]
        for meet in meetings:
            with pytest.raises(OSError, match=r"No space left on device: 'last\.pt\.tmp'"):
                meet()
    assert load_checkpoint(path)["epoch"] == 1


def test_a_process_killed_while_it_saves_leaves_whole_states_that_are_as_new_as_it_said() -> None:
    command = [sys.executable, str(ROOT / "tests/helpers/chaos.py"), "checkpoint", "--kills", "6", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " 0 lost" in done.stdout, done.stdout + done.stderr
