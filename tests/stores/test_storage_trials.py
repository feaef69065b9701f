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
from orchestrator.runner.attempt import run_attempt
from orchestrator.runner.trial_spec import ERROR_FILE, RESULTS_FILE, TrialSpec, WorkerMessage
from orchestrator.stores import open_store, trial_files
from orchestrator.stores.base import SearchFolder, StorageProblem, search_folder
from orchestrator.stores.local import local_search
from orchestrator.stores.objects import ConflictError, Objects, objects_at
from orchestrator.stores.staging import DataSource, data_here, index_digest, staged
from orchestrator.stores.trial_files import Note, TrialObjects, TrialUpload, stop_name
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
    store = open_store(uri)
    folder = SearchFolder(a_search(store.path / NAME).path, store)
    train = read_splits(config.data).train
    write_validation(folder.split, cut_validation(train, config.data.validation), train)
    store.publish(folder)
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
    return search_folder(open_store(uri), NAME).trial(TRIAL)


def objects(uri: str) -> set[str]:
    prefix = f"{NAME}/trials/{TRIAL}/"
    return {each.path.removeprefix(prefix) for each in objects_at(uri).listing(prefix.rstrip("/"))}


def noted(uri: str) -> Note:
    """The note in the storage."""
    found, _ = TrialObjects(objects_at(uri), NAME, TRIAL, out_of(uri)).read_note()
    assert found is not None
    return found


# An attempt


def test_an_attempt_leaves_everything_in_the_storage_and_another_machine_gets_it(
    uri: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    spec = assigned(uri, tiny_config)
    machines.become("node")
    sent = messages(spec)
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert epochs(sent) == [1, 2, 3, 4]
    files = noted(uri).files
    assert files.keys() >= {"config.json", "log.txt", "results.jsonl", "checkpoint/last.pt", "checkpoint/best.pt"}
    assert objects(uri) == {"uploaded.json", *(f"{path}.{digest}" for path, digest in files.items())}
    assert not {path for path in files if path.startswith("lock") or path.endswith((".tmp", ".sha256"))}
    trained = out_of(uri)
    machines.become("third")
    pull(uri, "checkpoint/best.pt", "log.txt")
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
            objects_at(second).write(f"{NAME}/trials/{TRIAL}/{stop_name(spec.start)}", b"")
            wait_until(lambda: (out_of(second) / "stop").exists())

    sent = messages(spec, stop_after_two)
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "stopped"
    machines.become("other-node")
    rest = messages(later(spec))
    assert rest[-1].attempt_result is not None and rest[-1].attempt_result.state == "completed"
    assert "attempt 1" in (out_of(second) / "log.txt").read_text(), "what the first node logged is there, too"
    assert epochs_of(rest) == whole


def test_a_trial_that_paused_on_one_node_ends_on_another_as_if_it_had_never_paused(
    bucket: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    whole = epochs_of(messages(assigned(bucket, tiny_config)))
    best = noted(bucket).files["checkpoint/best.pt"]
    second = bucket.replace("searches", "others")
    machines.become("driver-of-the-second")
    spec = assigned(second, tiny_config)
    machines.become("node")
    sent = messages(spec.model_copy(update={"until": 2}))
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "paused"
    assert noted(second).files.keys() >= {"checkpoint/last.pt", "results.jsonl"}, "all is sent before it is paused"
    machines.become("other-node")
    rest = messages(later(spec))
    assert rest[-1].attempt_result is not None and rest[-1].attempt_result.state == "completed"
    assert epochs_of(rest) == whole
    assert noted(second).files["checkpoint/best.pt"] == best, "to the last bit"


def epochs_of(sent: list[WorkerMessage]) -> list[dict[str, object]]:
    """What epochs say except for the time that they took."""
    timed = {"time", "seconds", "images_per_second", "data_wait_share", "evaluation_seconds"}
    return [message.epoch_result.model_dump(exclude=timed) for message in sent if message.epoch_result is not None]


def test_a_request_to_stop_is_of_one_attempt(bucket: str, machines: Machines, tiny_config: TrialConfig) -> None:
    spec = assigned(bucket, tiny_config)
    objects_at(bucket).write(f"{NAME}/trials/{TRIAL}/{stop_name(spec.start)}", b"")
    assert epochs(messages(later(spec))) == [1, 2, 3, 4]


def test_a_damaged_checkpoint_in_the_storage_is_not_used_and_that_is_told(
    bucket: str, machines: Machines, tiny_config: TrialConfig
) -> None:
    spec = assigned(bucket, tiny_config)
    messages(spec)
    path = f"{NAME}/trials/{TRIAL}/checkpoint/last.pt.{noted(bucket).files['checkpoint/last.pt']}"
    content = bytearray(objects_at(bucket).read(path))
    content[len(content) // 2] ^= 1
    objects_at(bucket).write(path, bytes(content))
    machines.become("node")
    with pytest.raises(StorageProblem, match=r"checkpoint/last\.pt: damaged"):
        pull(bucket, "checkpoint/*")
    sent = messages(later(spec))
    assert epochs(sent) == [1, 2, 3, 4]
    assert sent[-1].attempt_result is not None and sent[-1].attempt_result.state == "completed"
    assert "checkpoint/last.pt of t0000: damaged" in (out_of(bucket) / ERROR_FILE).read_text()
    digest = noted(bucket).files["checkpoint/last.pt"]
    assert hashlib.sha256(objects_at(bucket).read(f"{path.rpartition('.')[0]}.{digest}")).hexdigest() == digest


def test_a_trial_is_completed_only_when_everything_is_sent(
    store: ObjectStore, machines: Machines, tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.objects.ATTEMPTS", 1)
    monkeypatch.setattr(attempts, "UPLOAD_PATIENCE_S", 0.5)
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
        monkeypatch.setattr(attempts, "UPLOAD_PATIENCE_S", PATIENCE_S)
        trained = (out_of(uri) / RESULTS_FILE).read_bytes()
        again = messages(later(spec))
        assert again[-1].attempt_result is not None and again[-1].attempt_result.state == "completed"
        assert (out_of(uri) / RESULTS_FILE).read_bytes() == trained, "nothing is trained again: the same times"
        assert "checkpoint/last.pt" in noted(uri).files


def test_an_upload_that_fails_some_times_is_tried_again(
    bucket: str, machines: Machines, tiny_config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, left = assigned(bucket, tiny_config), [5]
    write = Objects.write

    def failing(self: Objects, path: str, content: object) -> None:
        if left[0]:
            left[0] -= 1
            raise StorageProblem("not now")
        write(self, path, content)

    monkeypatch.setattr(Objects, "write", failing)
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
    upload = TrialUpload(TrialObjects(objects_at(uri), NAME, TRIAL, out_of(uri)), start)
    upload.pull()
    for name, content in files.items():
        replace(uri, name.replace("__", "/").replace("_", "."), content)
    upload.send(None)
    return upload


def replace(uri: str, path: str, content: bytes) -> None:
    """A new file of the trial on this machine."""
    file = out_of(uri) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def pull(uri: str, *patterns: str) -> Path:
    folder = search_folder(open_store(uri), NAME)
    folder.store.pull_trial(folder, TRIAL, *(patterns or ("*",)))
    return out_of(uri)


def test_only_what_has_changed_is_sent_again(uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = uploaded(uri, checkpoint__last_pt=b"1", log_txt=b"one\n")
    sent: list[str] = []
    write = Objects.write
    monkeypatch.setattr(Objects, "write", lambda self, path, file: (sent.append(path), write(self, path, file))[1])
    upload.send(None)
    assert sent == []
    (out_of(uri) / "log.txt").write_bytes(b"one\ntwo\n")
    upload.send(None)
    assert [path.rpartition("/")[2].partition(".txt")[0] for path in sent] == ["log"]


def test_what_was_replaced_is_deleted(uri: str, machines: Machines) -> None:
    upload = uploaded(uri, checkpoint__last_pt=b"last 1", log_txt=b"one\n")
    replace(uri, "checkpoint/last.pt", b"last 2")
    upload.send(None)
    assert objects(uri) == {"uploaded.json", *(f"{path}.{digest}" for path, digest in noted(uri).files.items())}


def test_a_state_that_is_dropped_is_gone_here_and_there_and_the_rest_stays(uri: str, machines: Machines) -> None:
    uploaded(uri, checkpoint__last_pt=b"last 1", checkpoint__best_pt=b"best 1", log_txt=b"one\n")
    folder = search_folder(open_store(uri), NAME)
    for _ in range(2):
        folder.store.delete_file(folder, TRIAL, "checkpoint/last.pt")
        assert noted(uri).files.keys() == {"checkpoint/best.pt", "log.txt"}
        assert objects(uri) == {"uploaded.json", *(f"{path}.{digest}" for path, digest in noted(uri).files.items())}
    assert not (out_of(uri) / "checkpoint/last.pt").exists() and (out_of(uri) / "checkpoint/best.pt").exists()
    machines.become("other")
    assert (pull(uri) / "checkpoint/best.pt").read_bytes() == b"best 1"


def test_a_line_that_is_being_written_is_not_sent(uri: str, machines: Machines) -> None:
    uploaded(uri, results_jsonl=b'{"epoch": 1}\n{"epo')
    machines.become("other")
    assert (pull(uri) / "results.jsonl").read_bytes() == b'{"epoch": 1}\n'


def test_a_crash_between_two_files_leaves_those_of_one_moment(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(uri, checkpoint__best_pt=b"best 1", checkpoint__last_pt=b"last 1")
    for name in ("best", "last"):
        replace(uri, f"checkpoint/{name}.pt", f"{name} 2".encode())
    write = Objects.write

    def dying(self: Objects, path: str, file: object) -> None:
        if "last.pt" in path:
            raise StorageProblem("the node is gone")
        write(self, path, file)

    monkeypatch.setattr(Objects, "write", dying)
    with pytest.raises(StorageProblem):
        upload.send(None)
    machines.become("other")
    out = pull(uri)
    assert [(out / f"checkpoint/{name}.pt").read_bytes() for name in ("best", "last")] == [b"best 1", b"last 1"]


def test_an_object_that_was_damaged_is_no_checkpoint(uri: str, machines: Machines) -> None:
    uploaded(uri, checkpoint__last_pt=b"last 1")
    (path,) = (path for path in objects(uri) if "last.pt" in path)
    objects_at(uri).write(f"{NAME}/trials/{TRIAL}/{path}", b"las")
    machines.become("other")
    with pytest.raises(StorageProblem, match=r"last\.pt: damaged"):
        pull(uri)
    assert not (out_of(uri) / "checkpoint/last.pt").exists()


def test_the_files_of_an_attempt_that_was_given_up_are_refused_and_never_seen(uri: str, machines: Machines) -> None:
    earlier = uploaded(uri, checkpoint__last_pt=b"1")
    machines.become("other")
    uploaded(uri, checkpoint__last_pt=b"2")
    machines.become("here")
    replace(uri, "checkpoint/last.pt", b"1 again")
    with pytest.raises(ConflictError):
        earlier.send(None)
    machines.become("third")
    assert (pull(uri) / "checkpoint/last.pt").read_bytes() == b"2"


def test_a_note_whose_answer_was_lost_is_no_conflict(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = uploaded(uri, log_txt=b"one\n")
    put = Objects.replace

    def deaf(self: Objects, *given: object) -> None:
        put(self, *given)  # type: ignore[arg-type]
        raise StorageProblem("no answer")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Objects, "replace", deaf)
        replace(uri, "log.txt", b"two\n")
        with pytest.raises(StorageProblem):
            upload.send(None)
    replace(uri, "log.txt", b"three\n")
    upload.send(None)
    machines.become("other")
    assert (pull(uri) / "log.txt").read_bytes() == b"three\n"


def test_what_is_later_here_is_kept_and_what_is_later_there_is_fetched(uri: str, machines: Machines) -> None:
    uploaded(uri, start=1, checkpoint__last_pt=b"1")
    machines.become("other")
    uploaded(uri, start=9, checkpoint__last_pt=b"9")
    machines.become("here")
    assert (pull(uri) / "checkpoint/last.pt").read_bytes() == b"9"
    machines.become("other")
    (out_of(uri) / "checkpoint/last.pt").write_bytes(b"10, not sent yet")
    assert (pull(uri) / "checkpoint/last.pt").read_bytes() == b"10, not sent yet"


def test_nothing_is_fetched_over_an_attempt_that_runs_here(uri: str, machines: Machines) -> None:
    uploaded(uri, log_txt=b"there\n")
    machines.become("other")
    from orchestrator.base.process import exclusive

    out_of(uri).mkdir(parents=True)
    with exclusive(out_of(uri) / "lock", 1):
        pull(uri)
    assert not (out_of(uri) / "log.txt").exists()


def test_a_note_that_was_tampered_with_writes_nowhere_else(uri: str, machines: Machines) -> None:
    uploaded(uri, log_txt=b"fine\n")
    path = f"{NAME}/trials/{TRIAL}/uploaded.json"
    note = json.loads(objects_at(uri).read(path))
    for name in ("../../escaped", "/tmp/escaped", "a/../../../b"):
        note["files"][name] = note["files"]["log.txt"]
    note["files"]["other"] = "../../escaped"
    objects_at(uri).write(path, json.dumps(note).encode())
    assert list(noted(uri).files) == ["log.txt"]
    objects_at(uri).write(path, b'{"files": {"x": []}}')
    assert TrialObjects(objects_at(uri), NAME, TRIAL, out_of(uri)).read_note()[0] is None


def test_a_storage_that_is_a_folder_has_nothing_to_pull(tmp_path: Path) -> None:
    folder = local_search(tmp_path / NAME)
    folder.store.pull_trial(folder, TRIAL, "*")
    assert not list(tmp_path.iterdir())
    assert Note(start=2, count=1).follows(Note(start=1, count=9))


# Data sets on nodes


@pytest.fixture(scope="module")
def pack(mini_mars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack_data_set("mars", mini_mars, out)
    return out


@pytest.fixture(params=["path", "s3"])
def source(request: pytest.FixtureRequest, store: ObjectStore, tmp_path: Path, machines: Machines, pack: Path) -> str:
    """The pack at a path of its own, or in a storage."""
    if request.param == "path":
        shutil.copytree(pack, tmp_path / "pack")
        return str(tmp_path / "pack")
    uri = store.bucket()
    for file in pack.rglob("*"):
        if file.is_file():
            objects_at(uri).write(str(file.relative_to(pack)), file.read_bytes())
    return uri


def change(source: str, name: str) -> None:
    """One byte of the pack at its source."""
    if "://" not in source:
        content = bytearray((Path(source) / name).read_bytes())
        content[len(content) // 2] ^= 1
        (Path(source) / name).write_bytes(content)
        return
    content = bytearray(objects_at(source).read(name))
    content[len(content) // 2] ^= 1
    objects_at(source).write(name, bytes(content))


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
    machines: Machines, pack: Path, tiny_config: TrialConfig
) -> None:
    uri = "memory://staged/searches"
    spec = assigned(uri, tiny_config)
    machines.become("node")
    data = DataSource(pack=str(pack), sha256=index_digest(str(pack)))
    on_pack = messages(spec.model_copy(update={"data": data}))
    assert (out_of(uri) / "config.json").read_text() == spec.config
    digest = noted(uri).files["config.json"]
    assert objects_at(uri).read(f"{NAME}/trials/{TRIAL}/config.json.{digest}").decode() == spec.config
    machines.become("driver2")
    other = assigned("memory://staged-2/searches", tiny_config)
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
    program = "import sys; import orchestrator.runner.attempt_server; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
