"""What an attempt sends to a storage with a URI and fetches from it, and data sets staged on nodes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from object_store import Machines, ObjectStore
from proxy import Proxy
from searches import a_search
from waiting import PATIENCE_S, wait_until

from orchestrator.runner import attempt as attempts
from orchestrator.runner.attempt import ERROR_FILE, RESULTS_FILE, TrialSpec, WorkerMessage, run_attempt
from orchestrator.stores import trial_files
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.cache import mirror_of, remote
from orchestrator.stores.push import publish
from orchestrator.stores.remote import Remote, StorageProblem
from orchestrator.stores.staging import DataSource, data_here, index_digest, staged
from orchestrator.stores.trial_files import Note, TrialUpload, bring_trial, note_here, read_note, stop_name
from trainer import TrialConfig
from trainer.data import read_splits
from trainer.data.packing import pack_data_set
from trainer.data.splits import cut_validation, write_validation
from trainer.errors import DataError

NAME = "first"
TRIAL = "t0000"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in earnest takes hundredths here."""
    monkeypatch.setattr(trial_files, "STOP_PERIOD_S", 0.05)
    monkeypatch.setattr(trial_files, "LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def bucket(store: ObjectStore, machines: Machines) -> str:
    """Where training once is enough."""
    return store.bucket()


def assigned(uri: str, config: TrialConfig) -> TrialSpec:
    """The first attempt of a trial of a search that is in the storage with its validation split."""
    folder = a_search(mirror_of(uri) / NAME)
    train = read_splits(config.data).train
    write_validation(folder.split, cut_validation(train, config.data.validation), train)
    publish(folder)
    text = config.model_dump_json()
    return TrialSpec(search=folder.path, trial=TRIAL, attempt=1, threads=1, storage=uri, config=text, start=5)


def later(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"attempt": spec.attempt + 1, "start": spec.start + 7})


def messages(spec: TrialSpec, heard: Callable[[WorkerMessage], None] = lambda message: None) -> list[WorkerMessage]:
    sent: list[WorkerMessage] = []
    run_attempt(spec, lambda message: (sent.append(message), heard(message))[1])
    return sent


def epochs(sent: list[WorkerMessage]) -> list[int]:
    return [message.epoch_result.epoch for message in sent if message.epoch_result is not None]


def out_of(uri: str) -> Path:
    return SearchFolder(mirror_of(uri) / NAME).trial(TRIAL)


def objects(uri: str) -> set[str]:
    prefix = f"{NAME}/trials/{TRIAL}/"
    entries = remote(uri).entries(prefix.rstrip("/"), recursive=True)
    return {entry.path.removeprefix(prefix) for entry in entries if not entry.is_folder}


# An attempt


def test_an_attempt_leaves_everything_in_the_storage_and_another_machine_gets_it(
    uri: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    spec = assigned(uri, tiny_config)
    machines.become("node")
    sent = messages(spec)
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert epochs(sent) == [1, 2, 3, 4]
    assert objects(uri) >= {
        *("config.json", "log.txt", "results.jsonl", "uploaded.json"),
        *("checkpoint/last.pt", "checkpoint/last.pt.sha256", "checkpoint/best.pt", "checkpoint/best.pt.sha256"),
    }
    assert not {path for path in objects(uri) if path.startswith((".uploading", "lock")) or path.endswith(".tmp")}
    trained = out_of(uri)
    machines.become("third")
    bring_trial(SearchFolder(mirror_of(uri) / NAME), TRIAL, "checkpoint/best.pt", "log.txt")
    fetched = out_of(uri)
    assert fetched != trained
    for path in ("checkpoint/best.pt", "checkpoint/best.pt.sha256"):
        assert (fetched / path).read_bytes() == (trained / path).read_bytes()
    assert (trained / "log.txt").read_text().startswith((fetched / "log.txt").read_text())
    assert not (fetched / "checkpoint/last.pt").exists()


def test_another_node_goes_on_from_the_checkpoint_with_the_same_figures(
    bucket: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    whole = epochs_of(messages(assigned(bucket, tiny_config)))
    second = bucket.replace("searches", "others")
    machines.become("driver-of-the-second")
    spec = assigned(second, tiny_config)
    machines.become("node")

    def stop_after_two(message: WorkerMessage) -> None:
        if message.epoch_result is not None and message.epoch_result.epoch == 2:
            remote(second).write(f"{NAME}/trials/{TRIAL}/{stop_name(spec.start)}", b"")
            wait_until(lambda: (out_of(second) / "stop").exists())

    sent = messages(spec, stop_after_two)
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "stopped"
    machines.become("other-node")
    rest = messages(later(spec))
    assert rest[-1].attempt_result is not None and rest[-1].attempt_result.state == "completed"
    assert "attempt 1" in (out_of(second) / "log.txt").read_text(), "what the first node logged is there, too"
    assert epochs_of(rest) == whole


def epochs_of(sent: list[WorkerMessage]) -> list[dict[str, object]]:
    """What epochs say but for the time that they took."""
    timed = {"time", "seconds", "images_per_second", "data_wait_share", "evaluation_seconds"}
    return [message.epoch_result.model_dump(exclude=timed) for message in sent if message.epoch_result is not None]


def test_a_request_to_stop_is_of_one_attempt(bucket: str, machines: Machines, tiny_config: TrialConfig) -> None:
    spec = assigned(bucket, tiny_config)
    remote(bucket).write(f"{NAME}/trials/{TRIAL}/{stop_name(spec.start)}", b"")
    assert epochs(messages(later(spec))) == [1, 2, 3, 4]


def test_a_damaged_checkpoint_in_the_storage_is_not_used_and_that_is_told(
    bucket: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    spec = assigned(bucket, tiny_config)
    messages(spec)
    path = f"{NAME}/trials/{TRIAL}/checkpoint/last.pt"
    content = bytearray(remote(bucket).read(path))
    content[len(content) // 2] ^= 1
    remote(bucket).write(path, bytes(content))
    machines.become("node")
    with pytest.raises(StorageProblem, match=r"checkpoint/last\.pt: damaged"):
        bring_trial(SearchFolder(mirror_of(bucket) / NAME), TRIAL, "checkpoint/*")
    sent = messages(later(spec))
    assert epochs(sent) == [1, 2, 3, 4]
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert "checkpoint/last.pt of t0000: damaged" in (out_of(bucket) / ERROR_FILE).read_text()
    note = read_note(remote(bucket), NAME, TRIAL)
    assert note is not None
    digest = hashlib.sha256(remote(bucket).read(path)).hexdigest()
    assert note.files["checkpoint/last.pt"].sha256 == (digest,)


def test_a_trial_is_completed_only_when_everything_is_sent(
    store: ObjectStore, machines: Machines, tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.address.ATTEMPTS", 1)
    monkeypatch.setattr(attempts, "SEND_PATIENCE_S", 0.5)
    with Proxy(store.port) as proxy:
        uri = store.bucket(proxy.port)
        spec = assigned(uri, tiny_config)
        machines.become("node")
        failing = messages(spec, lambda message: proxy.become("refuse") if epochs([message]) == [2] else None)
        assert epochs(failing) == [1, 2, 3, 4], "the training does not wait"
        attempt_result = failing[-1].attempt_result
        assert attempt_result is not None and (attempt_result.state, attempt_result.failure) == ("failed", "error")
        assert "could be sent within" in attempt_result.reason
        proxy.become("pass")
        monkeypatch.setattr(attempts, "SEND_PATIENCE_S", PATIENCE_S)
        trained = (out_of(uri) / RESULTS_FILE).read_bytes()
        again = messages(later(spec))
        assert again[-1].attempt_result is not None and again[-1].attempt_result.state == "completed"
        assert (out_of(uri) / RESULTS_FILE).read_bytes() == trained, "nothing is trained again: the same times"
        assert "checkpoint/last.pt" in objects(uri)


def test_an_upload_that_fails_some_times_is_tried_again(
    bucket: str, machines: Machines, tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, left = assigned(bucket, tiny_config), [5]
    write_from = Remote.write_from

    def failing(self: Remote, path: str, source: Path) -> str:
        if left[0]:
            left[0] -= 1
            raise StorageProblem("not now")
        return write_from(self, path, source)

    monkeypatch.setattr(Remote, "write_from", failing)
    sent = messages(spec)
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert not left[0]


def test_without_its_storage_an_attempt_fails_with_the_reason(
    machines: Machines, tiny_config: TrialConfig, tmp_path: Path
) -> None:
    uri = "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:1"
    text = tiny_config.model_dump_json()
    spec = TrialSpec(search=tmp_path, trial=TRIAL, attempt=1, threads=1, storage=uri, config=text, start=1)
    (message,) = messages(spec)
    assert message.attempt_result is not None and message.attempt_result.failure == "error"
    assert "cannot be reached" in message.attempt_result.reason


# The files of a trial, one by one


def uploaded(uri: str, start: int = 1, **files: bytes) -> TrialUpload:
    """A trial's folder with these files, sent."""
    folder = SearchFolder(mirror_of(uri) / NAME)
    upload = TrialUpload(remote(uri), folder, TRIAL, start)
    upload.bring(read_note(remote(uri), NAME, TRIAL))
    for name, content in files.items():
        path = out_of(uri) / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    upload.send(None)
    return upload


def bring(uri: str, pattern: str = "*") -> Path:
    bring_trial(SearchFolder(mirror_of(uri) / NAME), TRIAL, pattern)
    return out_of(uri)


def test_only_what_has_changed_is_sent_again(uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = uploaded(uri, checkpoint__last_pt=b"1", log_txt=b"one\n")
    sent: list[str] = []
    write_from = Remote.write_from
    monkeypatch.setattr(
        Remote, "write_from", lambda self, path, source: (sent.append(path), write_from(self, path, source))[1]
    )
    upload.send(None)
    assert sent == []
    (out_of(uri) / "log.txt").write_bytes(b"one\ntwo\n")
    upload.send(None)
    assert [path.rpartition("/")[2] for path in sent] == ["log.txt"]


def test_a_line_that_is_being_written_is_not_sent(uri: str, machines: Machines) -> None:
    uploaded(uri, results_jsonl=b'{"epoch": 1}\n{"epo')
    machines.become("other")
    assert (bring(uri) / "results.jsonl").read_bytes() == b'{"epoch": 1}\n'


def test_a_crash_between_two_files_leaves_each_whole(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(uri, checkpoint__best_pt=b"best 1", checkpoint__last_pt=b"last 1")
    for name in ("best", "last"):
        (out_of(uri) / f"checkpoint/{name}.pt").unlink()
        (out_of(uri) / f"checkpoint/{name}.pt").write_bytes(f"{name} 2".encode())
    write_from = Remote.write_from

    def dying(self: Remote, path: str, source: Path) -> str:
        if path.endswith("last.pt"):
            raise StorageProblem("the node is gone")
        return write_from(self, path, source)

    monkeypatch.setattr(Remote, "write_from", dying)
    with pytest.raises(StorageProblem):
        upload.send(None)
    machines.become("other")
    out = bring(uri)
    assert [(out / f"checkpoint/{name}.pt").read_bytes() for name in ("best", "last")] == [b"best 2", b"last 1"]


def test_an_object_that_arrived_cut_short_is_no_checkpoint(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(uri, checkpoint__last_pt=b"last 1")
    (out_of(uri) / "checkpoint/last.pt").unlink()
    (out_of(uri) / "checkpoint/last.pt").write_bytes(b"last 2")

    def half(self: Remote, path: str, source: Path) -> str:
        self.write(path, source.read_bytes()[:3])
        raise StorageProblem("the node is gone")

    monkeypatch.setattr(Remote, "write_from", half)
    with pytest.raises(StorageProblem):
        upload.send(None)
    machines.become("other")
    with pytest.raises(StorageProblem, match="damaged"):
        bring(uri)
    assert not (out_of(uri) / "checkpoint/last.pt").exists()


def test_what_is_later_here_is_kept_and_what_is_later_there_is_fetched(uri: str, machines: Machines) -> None:
    uploaded(uri, start=1, checkpoint__last_pt=b"1")
    machines.become("other")
    uploaded(uri, start=9, checkpoint__last_pt=b"9")
    machines.become("here")
    assert (bring(uri) / "checkpoint/last.pt").read_bytes() == b"9"
    machines.become("other")
    (out_of(uri) / "checkpoint/last.pt").write_bytes(b"10, not sent yet")
    assert (bring(uri) / "checkpoint/last.pt").read_bytes() == b"10, not sent yet"


def test_nothing_is_fetched_over_an_attempt_that_runs_here(uri: str, machines: Machines) -> None:
    uploaded(uri, log_txt=b"there\n")
    machines.become("other")
    from orchestrator.base.locking import exclusive

    out_of(uri).mkdir(parents=True)
    with exclusive(out_of(uri) / "lock", 1):
        bring(uri)
    assert not (out_of(uri) / "log.txt").exists()


def test_a_note_that_was_tampered_with_writes_nowhere_else(uri: str, machines: Machines) -> None:
    uploaded(uri, log_txt=b"fine\n")
    note = json.loads(remote(uri).read(f"{NAME}/trials/{TRIAL}/uploaded.json"))
    for path in ("../../escaped", "/tmp/escaped", "a/../../../b"):
        note["files"][path] = note["files"]["log.txt"]
    remote(uri).write(f"{NAME}/trials/{TRIAL}/uploaded.json", json.dumps(note).encode())
    found = read_note(remote(uri), NAME, TRIAL)
    assert found is not None and list(found.files) == ["log.txt"]
    remote(uri).write(f"{NAME}/trials/{TRIAL}/uploaded.json", b'{"files": {"x": {"sha256": []}}}')
    assert read_note(remote(uri), NAME, TRIAL) is None


def test_an_ordinary_storage_has_nothing_to_bring(tmp_path: Path) -> None:
    bring_trial(SearchFolder(tmp_path / NAME), TRIAL, "*")
    assert not list(tmp_path.iterdir())
    assert note_here(tmp_path) is None
    assert Note(start=2, count=1).follows(Note(start=1, count=9))


# Data sets on nodes


@pytest.fixture(scope="module")
def pack(mini_mars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack_data_set("mars", mini_mars, out)
    return out


@pytest.fixture(params=["path", "file", "s3"])
def source(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path, machines: Machines, pack: Path) -> str:
    """The pack at a path of its own, or in a storage."""
    if request.param == "path":
        shutil.copytree(pack, tmp_path / "pack")
        return str(tmp_path / "pack")
    uri = store.bucket() if request.param == "s3" else (tmp_path / "data").as_uri()
    for file in pack.rglob("*"):
        if file.is_file():
            remote(uri).write_from(str(file.relative_to(pack)), file)
    return uri


def change(source: str, name: str) -> None:
    """One byte of the pack at its source."""
    if "://" not in source:
        content = bytearray((Path(source) / name).read_bytes())
        content[len(content) // 2] ^= 1
        (Path(source) / name).write_bytes(content)
        return
    content = bytearray(remote(source).read(name))
    content[len(content) // 2] ^= 1
    remote(source).write(name, bytes(content))


def test_a_staged_data_set_is_the_one_that_was_packed(source: str, tmp_path: Path, tiny_config: TrialConfig) -> None:
    root = staged(source, index_digest(source), tmp_path / "cache")
    config = tiny_config.data.model_copy(update={"root": root})
    assert [len(part) for part in read_splits(config)] == [len(part) for part in read_splits(tiny_config.data)]
    assert (root / "info/synth_truth.json").is_file(), "generated data stay marked"


def test_of_several_trials_one_fetches_and_later_ones_find_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, fetched = index_digest(source), []
    from orchestrator.stores import staging

    fetch = staging._fetch
    monkeypatch.setattr(staging, "_fetch", lambda *given: (fetched.append(1), fetch(*given))[1])
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(staged(source, digest, tmp_path / "cache"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(staged(source, digest, tmp_path / "cache"))
    assert len(set(found)) == 1 and len(found) == 5
    assert fetched == [1]


def test_a_file_that_arrives_damaged_is_fetched_once_more(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.stores import staging

    opened, hurt = staging._opened(source), []

    def damaging(name: str, target: Path) -> str:
        digest = opened.copy(name, target)
        if name.endswith(".pack") and not hurt:
            hurt.append(name)
            return "0" * 64
        return digest

    monkeypatch.setattr(staging, "_opened", lambda source: opened._replace(copy=damaging))
    assert staged(source, index_digest(source), tmp_path / "cache").is_dir()
    assert hurt == ["frames-000.pack"]


def test_a_data_set_that_is_damaged_at_its_source_is_refused_and_leaves_nothing(source: str, tmp_path: Path) -> None:
    digest = index_digest(source)
    change(source, "frames-000.pack")
    with pytest.raises(DataError, match=r"frames-000\.pack: damaged"):
        staged(source, digest, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache/data").iterdir() if path.suffix != ".lock"]


def test_another_pack_at_the_same_place_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not the one that the search was launched with"):
        staged(source, "0" * 64, tmp_path / "cache")


def test_a_copy_that_lost_bytes_is_fetched_again(source: str, tmp_path: Path) -> None:
    digest = index_digest(source)
    root = staged(source, digest, tmp_path / "cache")
    with (root / "frames-000.pack").open("r+b") as file:
        file.truncate(10)
    assert (staged(source, digest, tmp_path / "cache") / "frames-000.pack").stat().st_size > 10


def test_no_pack_and_no_room_are_said(tmp_path: Path, pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no packed data set is there"):
        index_digest(str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(Exception, match="free on this node"):
        staged(str(pack), index_digest(str(pack)), tmp_path / "cache")


def test_a_trial_on_staged_data_has_the_figures_and_the_configuration_of_one_that_is_not(
    machines: Machines, tmp_path: Path, pack: Path, tiny_config: TrialConfig
) -> None:
    uri = (tmp_path / "store").as_uri()
    spec = assigned(uri, tiny_config)
    machines.become("node")
    data = DataSource(pack=str(pack), sha256=index_digest(str(pack)))
    on_pack = messages(spec.model_copy(update={"data": data}))
    assert (out_of(uri) / "config.json").read_text() == spec.config
    assert remote(uri).read(f"{NAME}/trials/{TRIAL}/config.json").decode() == spec.config
    machines.become("driver2")
    other = assigned((tmp_path / "store2").as_uri(), tiny_config)
    assert epochs_of(messages(other)) == epochs_of(on_pack)


def test_generated_data_are_drawn_on_the_node_that_lacks_them(
    machines: Machines, tmp_path: Path, mini_mars: Path
) -> None:
    missing = tmp_path / "of-another-machine/mini-mars-tiny"
    root = data_here(DataSource(generated="tiny"), missing, tmp_path)
    assert root == tmp_path / "mini-mars-tiny"
    truth = "info/synth_truth.json"
    assert json.loads((root / truth).read_text())["occluded"] == json.loads((mini_mars / truth).read_text())["occluded"]
    assert data_here(DataSource(generated="tiny"), mini_mars, tmp_path / "other") == mini_mars


def test_the_server_that_forks_attempts_has_no_client_of_a_storage() -> None:
    program = "import sys; import orchestrator.runner.attempt_server; print('pyarrow._s3fs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
