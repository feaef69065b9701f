"""A storage in a bucket: the same contract for one in memory and for a real server, also when they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from events import epoch_result, suggested
from object_store import CREDENTIALS, Machines
from object_store import ObjectStore as Server
from proxy import Proxy
from searches import a_search, completed
from waiting import PATIENCE_S, wait_until

from orchestrator.__main__ import run
from orchestrator.base.errors import EnvironmentProblem, JournalError, LeaseError, SearchError
from orchestrator.runner import control
from orchestrator.runner.finalize import record_test_set_use
from orchestrator.stores import journal_upload, object_lease, open_store, segments
from orchestrator.stores.base import SearchFolder, StorageProblem, existing_search, searches
from orchestrator.stores.local import LocalStore
from orchestrator.stores.object_lease import LeaseLost, ObjectLease
from orchestrator.stores.object_store import ObjectStore, forget_when
from orchestrator.stores.objects import ConflictError, Objects, Version, objects_at
from orchestrator.stores.segments import Tail, check_lines, segment_path
from orchestrator.stores.storage_probe import check_token, leave_token, remove_token
from orchestrator.stores.uri import is_uri, parsed
from orchestrator.study import lease
from orchestrator.study.events import Event, TrialStarted
from orchestrator.study.journal import Record, encode, read_journal
from orchestrator.study.lease import Holder, this_process
from orchestrator.summary import Summary, read_summary
from trainer.result import DataRecord

NAME = "first"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Periods of seconds are hundredths here."""
    monkeypatch.setattr(journal_upload, "INTERVAL_S", 0.02)
    monkeypatch.setattr(journal_upload, "REQUESTS_PERIOD_S", 0.05)


def published(uri: str, *, name: str = NAME, far_ahead: int = 0) -> SearchFolder:
    """A finished search in the storage, made on this machine."""
    store = open_store(uri)
    folder = SearchFolder(a_search(store.path / name).path, store)
    with folder.journal.open("ab") as journal:
        for number in range(len(read_journal(folder.journal)) + 1, far_ahead + 1):
            journal.write(encode(Record(number, 1e9, suggested(number))))
    store.publish(folder)
    return folder


def found(uri: str) -> SearchFolder:
    """The search as this machine finds it."""
    return existing_search(open_store(uri), NAME)


def fresh(uri: str) -> Summary:
    """The search as it is now."""
    forget_when()
    return read_summary(found(uri))


def append(folder: SearchFolder, event: Event) -> None:
    """What a driver records while its storage cannot be reached."""
    with folder.journal.open("ab") as journal:
        journal.write(encode(Record(len(read_journal(folder.journal)) + 1, 1e9, event)))


def give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every driver is considered dead."""
    monkeypatch.setattr(Holder, "lives", lambda self, age: False)


# The URI


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("ftp://host/folder", "no storage that is known"),
        ("s3://key:secret@bucket/prefix", "no credentials in the URI"),
        ("s3://", "names no bucket"),
        ("gs:///prefix", "names no bucket"),
        ("file://host/folder", "names no host"),
        ("s3://bucket/a/../b", "no parts of"),
        ("s3://bucket/a?access_key=x", "'access_key' is no setting"),
        ("file:///folder?region=x", "'region' is no setting"),
        ("s3://bucket/a#b", "'#b' is no setting"),
    ],
)
def test_a_uri_that_cannot_be_a_storage_is_refused_with_the_reason(uri: str, fault: str) -> None:
    with pytest.raises(SearchError, match=fault) as refusal:
        parsed(uri)
    assert "secret" not in str(refusal.value)


def test_a_path_is_no_uri_and_a_file_uri_is_a_path() -> None:
    assert not any(is_uri(path) for path in ("runs", "/data/runs", "./s3:/x", "C:/runs", "a:b"))
    assert all(is_uri(uri) for uri in ("s3://b/p", "gs://b", "file:///runs"))
    for storage in ("runs", "file:///data/some%20runs"):
        assert open_store(storage).uri is None
    assert open_store("file:///data/some%20runs").path == Path("/data/some runs")


def test_the_copy_is_private_and_opens_as_its_bucket(machines: Machines) -> None:
    store = open_store("s3://bucket/prefix/")
    assert store.path.stat().st_mode & 0o777 == 0o700
    assert store.name == store.uri == open_store(store.path).uri == "s3://bucket/prefix"
    assert open_store("s3://bucket/prefix").path == store.path != open_store("s3://bucket/other").path
    assert open_store(store.path.parent).uri is None


@pytest.mark.parametrize("below", ["", "reidsearch/storage/runs", ".cache/reidsearch/storage/runs"])
def test_a_folder_that_is_no_copy_reaches_nothing_whatever_it_holds(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storage-uri.txt").write_text("s3://bucket/runs?endpoint_override=http://elsewhere.example\n")
    assert open_store(folder).uri is None
    assert searches(open_store(folder)) == []


# Objects


def test_an_object_is_what_was_written_last(uri: str) -> None:
    files = Objects(uri)
    files.check()
    assert not files.exists("a/b")
    with pytest.raises(FileNotFoundError):
        files.read("a/b")
    for content in (b"first", b"", b"second"):
        files.write("a/b", content)
        assert files.read("a/b") == content
    files.delete(["a/b"])
    files.delete(["a/b"])
    assert not files.exists("a/b")


def test_a_listing_names_what_is_there(uri: str) -> None:
    files = Objects(uri)
    assert files.listing("") == files.listing("a") == files.files("a") == files.folders() == []
    files.write("a/x", b"1")
    files.write("a/b/y", b"22")
    assert [(each.path, each.size) for each in files.listing("a")] == [("a/b/y", 2), ("a/x", 1)]
    assert [each.path for each in files.files("a")] == ["a/x"]
    assert files.folders() == ["a"]
    assert abs(files.now() - time.time()) < 60
    assert [each.path for each in files.listing("")] == ["a/b/y", "a/x"]


def test_a_file_arrives_as_it_was_sent(uri: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 50_000
    (tmp_path / "sent").write_bytes(content)
    files = objects_at(uri)
    with (tmp_path / "sent").open("rb") as file:
        files.write("file", file)
    files.fetch("file", tmp_path / "folder/got")
    assert (tmp_path / "folder/got").read_bytes() == content


def test_a_write_whose_condition_is_not_met_is_refused(uri: str) -> None:
    files = objects_at(uri)
    first = files.create("a", b"1")
    with pytest.raises(ConflictError):
        files.create("a", b"2")
    second = files.replace("a", b"2", first)
    for version in (first, Version('"another"', None)):
        with pytest.raises(ConflictError):
            files.replace("a", b"3", version)
    with pytest.raises(ConflictError):
        files.replace("not there", b"3", second)
    assert files.read("a") == b"2"


def test_a_write_that_succeeded_though_its_answer_was_lost_is_no_conflict(uri: str) -> None:
    files = objects_at(uri)
    first = files.create("a", b"1")
    assert files.create("a", b"1") == first
    second = files.replace("a", b"2", first)
    assert files.replace("a", b"2", first) == second


def test_a_storage_without_conditional_writes_is_refused_at_launch_in_one_line(
    uri: str, monkeypatch: pytest.MonkeyPatch, machines: Machines
) -> None:
    objects_at(uri).probe()
    assert objects_at(uri).listing("") == [], "the probe leaves nothing"

    def careless(self: Objects, path: str, content: bytes, *condition: object) -> Version:
        self.write(path, content)
        return Version(None, None)

    monkeypatch.setattr(Objects, "create", careless)
    monkeypatch.setattr(Objects, "replace", careless)
    with pytest.raises(
        StorageProblem, match="has no conditional writes, by which a search is kept from two"
    ) as refusal:
        published(uri)
    assert refusal.value.exit_code == 5 and "\n" not in str(refusal.value)
    assert objects_at(uri).listing("") == []


def test_a_bucket_that_is_not_there_and_missing_credentials_are_one_line_each(
    store: Server, machines: Machines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = store.bucket()
    with pytest.raises(StorageProblem, match="no bucket 'other'"):
        Objects(uri.replace("s3://bucket", "s3://other/bucket")).check()
    with pytest.raises(StorageProblem, match="no bucket 'other'"):
        Objects(uri.replace("s3://bucket", "s3://other/bucket")).write("x", b"")
    Objects(uri).write("x", b"")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageProblem, match=r"^s3://bucket-.*credentials of this machine") as refusal:
        Objects(uri).read("x")
    assert "\n" not in str(refusal.value)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n")
    assert Objects(uri).read("x") == b""


# The lease


def test_of_many_that_ask_at_the_same_time_one_gets_the_lease(uri: str) -> None:
    leases = [ObjectLease(objects_at(uri), NAME) for _ in range(8)]
    start = threading.Barrier(len(leases))
    taken: list[ObjectLease] = []

    def take(each: ObjectLease) -> None:
        start.wait()
        with suppress(LeaseError):
            each.acquire()
            taken.append(each)

    threads = [threading.Thread(target=take, args=(each,)) for each in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


EIGHT = """
import os, sys, traceback
from orchestrator.base.errors import LeaseError
from orchestrator.stores import open_store
from orchestrator.stores.base import existing_search
start, starter = os.pipe()
finish, finisher = os.pipe()
answered, answer = os.pipe()
for number in range(8):
    if os.fork() == 0:
        os.close(starter), os.close(finisher)
        os.environ["XDG_CACHE_HOME"] = f"{sys.argv[2]}/{number}"
        folder = existing_search(open_store(sys.argv[1]), "first")
        os.read(start, 1)
        try:
            with folder.store.record(folder):
                os.write(answer, b"w")
                os.read(finish, 1)
        except LeaseError:
            os.write(answer, b"r")
        except BaseException:
            traceback.print_exc()
            os.write(answer, b"e")
        os._exit(0)
os.close(starter)
print(b"".join(os.read(answered, 1) for number in range(8)).decode())
os.close(finisher)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def test_of_eight_processes_that_start_at_the_same_time_one_drives(
    store: Server, machines: Machines, tmp_path: Path
) -> None:
    uri = store.bucket()
    published(uri)
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, uri, str(tmp_path)], capture_output=True, text=True, timeout=PATIENCE_S * 4
    )
    assert sorted(done.stdout.strip()) == ["r"] * 7 + ["w"], done.stderr


def test_of_two_machines_one_drives(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with folder.store.record(folder):
        machines.become("other")
        there = found(uri)
        with (
            pytest.raises(LeaseError, match=r"first: already driven by process .* last heard of"),
            there.store.record(there),
        ):
            raise AssertionError("both drive it")
    with there.store.record(found(uri)) as recorder:
        recorder.record(suggested(9))


def test_a_holder_on_another_machine_is_given_up_after_a_while_by_the_clock_of_the_storage(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ObjectLease(objects_at(uri), NAME)
    there = this_process()._replace(host="elsewhere", boot="x")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(object_lease, "this_process", lambda: there)
        first.acquire()
    with pytest.raises(LeaseError, match="on elsewhere, last heard of"):
        ObjectLease(objects_at(uri), NAME).acquire()
    with monkeypatch.context() as late:
        late.setattr(time, "time", lambda was=time.time: was() + 3600)
        with pytest.raises(LeaseError):
            ObjectLease(objects_at(uri), NAME).acquire()
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.0)
    ObjectLease(objects_at(uri), NAME).acquire()
    monkeypatch.setattr(object_lease, "HEARTBEAT_S", 0.0)
    with pytest.raises(LeaseLost, match="is that of process"):
        first.keep()


def test_a_damaged_lease_counts_by_its_age(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects_at(uri).write(f"{NAME}/lease.json", b"{half")
    with pytest.raises(LeaseError, match="an unknown host"):
        ObjectLease(objects_at(uri), NAME).acquire()
    monkeypatch.setattr(lease, "STALE_AFTER_S", -5.0)
    ObjectLease(objects_at(uri), NAME).acquire()


def test_a_heartbeat_whose_answer_was_lost_costs_no_lease(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lease, "HEARTBEAT_S", 0.0)
    held = ObjectLease(objects_at(uri), NAME)
    held.acquire()
    replace = Objects.replace

    def deaf(self: Objects, path: str, content: bytes, version: Version) -> Version:
        replace(self, path, content, version)
        raise StorageProblem("no answer")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Objects, "replace", deaf)
        with pytest.raises(StorageProblem):
            held.keep()
    held.keep()
    held.keep()


def test_a_driver_that_was_replaced_writes_nothing_more_and_nothing_of_it_is_seen(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published(uri)
    with pytest.raises(LeaseError, match="is that of process"), folder.store.record(folder) as recorder:
        give_up(monkeypatch)
        machines.become("other")
        there = found(uri)
        with there.store.record(there) as successor:
            # Its copy of the journal is its own; the storage refuses the segment.
            recorder.record(suggested(9))
            upload = recorder.upload
            assert isinstance(upload, journal_upload.ObjectUpload)
            wait_until(lambda: upload.lost is not None)
            successor.record(suggested(8))
            recorder.record(suggested(10))
    machines.become("third")
    assert not {"t0009", "t0010"} & fresh(uri).study.trials.keys()
    assert "t0008" in fresh(uri).study.trials


def test_the_storage_refuses_the_next_segment_of_a_driver_as_soon_as_another_has_the_search(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the successor has not written an event yet, and where the last segment is full."""
    published(uri)
    give_up(monkeypatch)
    for size in (segments.SEGMENT_BYTES, 1):
        monkeypatch.setattr(segments, "SEGMENT_BYTES", size)
        store = open_store(uri)
        assert isinstance(store, ObjectStore)
        writer, _ = store.take_over(found(uri), "earlier")
        successor, _ = store.take_over(found(uri), "later")
        number = len(read_journal(found(uri).journal)) + 1
        with pytest.raises(ConflictError):
            writer.append(encode(Record(number, 1e9, suggested(99))))
        successor.append(encode(Record(number, 1e9, suggested(number))))
        machines.become(f"reader-{size}")
        assert "t0099" not in fresh(uri).study.trials
        assert f"t{number:04d}" in fresh(uri).study.trials


KILLED = """
import os, sys
from events import suggested
from orchestrator.stores import open_store, journal_upload
from orchestrator.stores.base import search_folder
journal_upload.INTERVAL_S = 0.001
store = open_store(sys.argv[1])
with store.record(search_folder(store, "first")) as recorder:
    for number in range(10, 100000):
        recorder.record(suggested(number))
        os.write(1, b"%d\\n" % number)
"""


def test_kills_while_writing_lose_nothing_that_was_acknowledged(store: Server, machines: Machines) -> None:
    uri = store.bucket()
    published(uri)
    acknowledged = 0
    for after in (1, 30, 200):
        script = KILLED.replace("range(10,", f"range({max(10, acknowledged + 1)},")
        child = subprocess.Popen(
            [sys.executable, "-c", script, uri],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(["tests/helpers", *sys.path])},
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after)]
        child.kill()
        lines += child.stdout.readlines()
        child.wait()
        acknowledged = max(int(line) for line in lines if line.endswith(b"\n"))
        here = found(uri)
        with here.store.record(here) as recorder:
            assert f"t{acknowledged:04d}" in recorder.study.trials
    machines.become("other")
    there = fresh(uri).study.trials
    assert {f"t{number:04d}" for number in range(10, acknowledged + 1)} <= there.keys()


# The journal in segments


def test_segments_are_whole_lines_and_together_the_journal(uri: str) -> None:
    lines = rest = b"".join(encode(Record(number, 1e9, suggested(number))) for number in range(1, 3001))
    writer = segments.SegmentWriter(objects_at(uri), NAME, Tail(1, b"", None))
    writer.fence("a driver")
    while rest:
        rest = rest[writer.append(rest) :]
    listed = objects_at(uri).listing(f"{NAME}/journal")
    parts = [objects_at(uri).read(each.path) for each in listed]
    assert b"".join(parts) == b"# a driver\n" + lines
    assert len(parts) > 1
    assert all(part.endswith(b"\n") and len(part) >= segments.SEGMENT_BYTES for part in parts[:-1])
    found, known = segments.read_segments(objects_at(uri), NAME, listed, {}, b"")
    assert found == lines and list(known) == [segment_path(NAME, number) for number in range(1, len(parts) + 1)]


def test_a_segment_whose_answer_was_lost_is_written_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [encode(Record(number, 1e9, suggested(number))) for number in range(1, 5)]
    writer = segments.SegmentWriter(objects_at(uri), NAME, Tail(1, b"", None))
    create = Objects.create

    def deaf(self: Objects, path: str, content: bytes) -> Version:
        create(self, path, content)
        raise StorageProblem("no answer")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Objects, "create", deaf)
        with pytest.raises(StorageProblem):
            writer.append(lines[0])
    # By now there is more to send.
    assert writer.append(b"".join(lines)) == len(lines[0])
    assert writer.append(b"".join(lines[1:])) == len(b"".join(lines[1:]))
    assert objects_at(uri).read(segment_path(NAME, 1)) == b"".join(lines)


def test_a_damaged_missing_or_cut_line_is_refused() -> None:
    lines = [encode(Record(number, 1e9, suggested(number))) for number in range(1, 5)]
    assert check_lines(b"".join(lines), 1) == 5
    with pytest.raises(ValueError, match="line 2 of the journal: its checksum"):
        check_lines(b"".join([lines[0], lines[1].replace(b"t0002", b"t0009"), lines[2]]), 1)
    with pytest.raises(ValueError, match="line 2 of the journal is not there"):
        check_lines(lines[0] + lines[2], 1)
    with pytest.raises(ValueError, match="line 2"):
        check_lines(lines[0] + lines[1][:-9], 1)


# A search that another machine looks at


def test_another_machine_sees_the_search(uri: str, machines: Machines) -> None:
    there = read_summary(published(uri))
    machines.become("other")
    assert [folder.name for folder in searches(open_store(uri))] == [NAME]
    other = read_summary(found(uri))
    assert other.folder.path != there.folder.path
    assert other.description == there.description
    assert other.study.all_trials.keys() == there.study.all_trials.keys()
    assert other.state == "finished"


def test_a_search_that_is_nowhere_is_said_to_be_missing_in_the_uri(uri: str, machines: Machines) -> None:
    published(uri)
    with pytest.raises(SearchError, match=rf"no search 'other' in {uri[:12]}.*there: first"):
        existing_search(open_store(uri), "other")


def test_what_is_recorded_here_is_seen_there_and_the_other_way_round(uri: str, machines: Machines) -> None:
    published(uri)
    for index, machine in enumerate(("other", "here", "third", "other"), 2):
        machines.become(machine)
        folder = found(uri)
        with folder.store.record(folder) as recorder:
            for event in completed(index, 0.5):
                recorder.record(event)
        assert folder.store.driver(folder) is None
    machines.become("fourth")
    assert list(read_summary(found(uri)).study.trials) == [f"t{i:04d}" for i in range(6)]


def test_that_the_test_set_was_opened_for_a_trial_is_seen_on_every_machine(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    folder = found(uri)
    data = DataRecord(name="prid2011", fingerprint="ab")
    record_test_set_use(folder, "t0001", folder.trial("t0001") / "checkpoint/best.pt", "evaluate", data)
    machines.become("third")
    (use,) = read_summary(found(uri)).study.test_set_uses
    assert (use.asked.weights, use.asked.data) == ("trials/t0001/checkpoint/best.pt", data)


def test_a_running_search_is_sent_while_it_runs(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with folder.store.record(folder) as recorder:
        recorder.record(suggested(7))
        machines.become("other")
        wait_until(lambda: "t0007" in fresh(uri).study.trials)
        there = found(uri)
        assert there.store.driver(there) is not None


def test_a_long_journal_is_sent_in_segments_and_only_new_ones_are_fetched(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2000)
    folder = published(uri, far_ahead=60)
    files = objects_at(uri)
    parts = files.listing(f"{NAME}/journal")
    assert len(parts) > 5
    machines.become("other")
    found(uri)
    machines.become("here")
    with folder.store.record(folder) as recorder:
        for index in range(100, 130):
            recorder.record(suggested(index))
    later = files.listing(f"{NAME}/journal")
    full = [part for part in parts if part.size >= 2000]
    assert later[: len(full)] == full, "a segment that is full is never sent again"
    assert len(later) > len(parts)
    machines.become("other")
    read: list[str] = []
    monkeypatch.setattr(Objects, "get", lambda self, path, was=Objects.get: (read.append(path), was(self, path))[1])
    assert found(uri).journal.read_bytes() == folder.journal.read_bytes()
    assert read == [part.path for part in later[len(full) :]]


# What may go wrong


def test_a_damaged_and_a_missing_segment_are_named(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2000)
    published(uri, far_ahead=60)
    files = objects_at(uri)
    part = f"{NAME}/journal/000002.jsonl"
    content = files.read(part)
    files.write(part, content.replace(b"sobol", b"grids", 1))
    machines.become("other")
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: damaged: line \d+ of the journal: its checksum"):
        found(uri)
    files.delete([part])
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: is missing"):
        found(uri)
    files.write(part, content[:-10])
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: damaged"):
        found(uri)
    assert not (open_store(uri).path / NAME / "journal.jsonl").exists()


def test_events_that_were_never_sent_go_when_the_machine_resumes(uri: str, machines: Machines) -> None:
    folder = published(uri)
    append(folder, suggested(5))
    assert "t0005" in fresh(uri).study.trials, "what is here goes on where the storage's ends"
    with folder.store.record(folder):
        pass
    machines.become("other")
    assert "t0005" in fresh(uri).study.trials


def test_where_another_machine_went_on_unsent_events_are_set_aside(
    uri: str, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    folder = published(uri)
    append(folder, suggested(5))
    machines.become("other")
    there = found(uri)
    with there.store.record(there) as recorder:
        recorder.record(suggested(6))
    machines.become("here")
    assert list(fresh(uri).study.trials)[2:] == ["t0006"]
    (other,) = folder.path.glob("journal.other-*.jsonl")
    assert "t0005" in other.read_text()
    assert other.name in caplog.text


def test_a_search_that_was_deleted_elsewhere_is_not_there_any_more(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    fresh(uri)
    machines.become("here")
    folder = found(uri)
    folder.store.delete(folder)
    assert objects_at(uri).listing("") == []
    machines.become("other")
    with pytest.raises(SearchError, match="no search 'first'"):
        found(uri)


def test_a_name_that_another_machine_took_is_refused(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    store = open_store(uri)
    with pytest.raises(SearchError, match="already a search of this name"):
        store.publish(SearchFolder(a_search(store.path / NAME).path, store))


def test_the_search_does_not_wait_for_a_storage_that_is_gone_and_sends_all_when_it_is_back(
    store: Server, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.objects.ATTEMPTS", 1)
    monkeypatch.setattr(journal_upload, "LONGEST_PAUSE_S", 0.1)
    with Proxy(store.port) as proxy:
        uri = store.bucket(proxy.port)
        folder = published(uri)
        with folder.store.record(folder) as recorder:
            proxy.become("refuse")
            for index in range(10, 30):
                recorder.record(suggested(index))
            link = recorder.upload
            assert isinstance(link, journal_upload.ObjectUpload)
            assert link.unsent, "recording has ended, and nothing can have been sent"
            wait_until(lambda: link.problem is not None)
            assert "cannot be reached" in (link.problem or "")
            proxy.become("pass")
            wait_until(lambda: not link.unsent)
        machines.become("other")
        assert "t0029" in fresh(uri).study.trials


def test_what_could_not_be_sent_is_told_at_the_end_and_sent_by_the_next_session(
    store: Server, machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.stores.objects.ATTEMPTS", 1)
    monkeypatch.setattr(journal_upload, "CLOSE_PATIENCE_S", 0.1)
    with Proxy(store.port) as proxy:
        uri = store.bucket(proxy.port)
        folder = published(uri)
        with folder.store.record(folder) as recorder:
            proxy.become("refuse")
            recorder.record(suggested(10))
        assert "lacks" in (told := capsys.readouterr().err)
        assert "cannot be reached" in told and "resume" in told
        proxy.become("pass")
        monkeypatch.setattr(journal_upload, "CLOSE_PATIENCE_S", PATIENCE_S)
        objects_at(uri).delete([f"{NAME}/lease.json"])  # as if that process had ended, which was this one
        with folder.store.record(folder):
            pass
        machines.become("other")
        assert "t0010" in fresh(uri).study.trials


def test_an_upload_that_fails_some_times_is_tried_again(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_upload, "LONGEST_PAUSE_S", 0.05)
    folder = published(uri)
    left = [4]
    replace = Objects.replace

    def failing(self: Objects, path: str, content: bytes, version: Version) -> Version:
        if "/journal/" in path and left[0]:
            left[0] -= 1
            raise StorageProblem("not now")
        return replace(self, path, content, version)

    with folder.store.record(folder) as recorder:
        monkeypatch.setattr(Objects, "replace", failing)
        recorder.record(suggested(10))
        upload = recorder.upload
        assert isinstance(upload, journal_upload.ObjectUpload)
        wait_until(lambda: not upload.unsent)
    assert not left[0]
    machines.become("other")
    assert "t0010" in fresh(uri).study.trials


# Requests


def test_a_request_of_another_machine_reaches_the_driver(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with folder.store.record(folder) as recorder:
        recorder.record(suggested(7))
        recorder.record(TrialStarted(trial="t0007", attempt=1))
        upload = recorder.upload
        assert isinstance(upload, journal_upload.ObjectUpload)
        wait_until(lambda: not upload.unsent)
        requests = control.Requests(folder)

        def drive() -> None:
            wait_until(requests.pending)
            for request in requests.pending():
                requests.done(request)

        driver = threading.Thread(target=drive)
        driver.start()
        machines.become("other")
        there = found(uri)
        answer = control.stop(there, "t0007", patience=PATIENCE_S)
        driver.join()
    assert answer.done and "t0007: stopped" in answer.text


def test_a_trial_of_a_search_that_nobody_drives_is_given_up_from_any_machine(uri: str, machines: Machines) -> None:
    folder = published(uri)
    append(folder, suggested(7))
    with folder.store.record(folder):
        pass
    machines.become("other")
    assert control.stop(found(uri), "t0007").done
    machines.become("here")
    assert fresh(uri).study.trials["t0007"].is_over


# Whether others reach it


def test_a_token_is_found_where_it_was_left(uri: str, machines: Machines) -> None:
    token = leave_token(open_store(uri))
    machines.become("other")
    assert check_token(uri, token) is None
    assert "not what the driver left" in (check_token(uri, "0" * 16) or "")
    remove_token(open_store(uri), token)
    assert check_token(uri, token) is not None


def test_a_path_that_only_the_driver_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    token = leave_token(LocalStore(tmp_path / "runs"))
    assert check_token(str(tmp_path / "runs"), token) is None
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert "is not there on this node" in (check_token(str(tmp_path / "runs"), token) or "")
    (tmp_path / "runs").mkdir()
    assert "is another folder on this node" in (check_token(str(tmp_path / "runs"), token) or "")


def test_a_storage_that_cannot_be_written_leaves_no_token(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        leave_token(LocalStore(tmp_path / "runs"))


# The command line


@pytest.mark.parametrize("uri", ["s3"], indirect=True)
def test_the_commands_take_a_uri(uri: str, machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    published(uri)
    machines.become("other")
    assert run(["status", NAME, "--storage", uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["storage"] == parsed(uri).uri
    assert run(["status", "--storage", uri]) == 0
    assert NAME in capsys.readouterr().out
    assert run(["logs", NAME, "--storage", uri]) == 0


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("ftp://x/y", 3, "no storage that is known"),
        ("s3://key:secret@bucket/x", 3, "no credentials in the URI"),
        ("s3://b/x?scheme=http&endpoint_override=127.0.0.1:1", 5, "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(
    given: str, code: int, said: str, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", NAME, "--storage", given]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "secret" not in error


def test_epochs_are_as_they_were_after_the_way_through_the_storage(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    assert fresh(uri).study.trials["t0001"].results[0] == epoch_result(3, 0.6)


@pytest.mark.parametrize("uri", ["s3"], indirect=True)
def test_purge_deletes_every_object_of_the_search(
    uri: str, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    published(uri)
    objects_at(uri).write(f"{NAME}/trials/t0000/log.txt.0", b"")
    machines.become("other")
    assert run(["purge", NAME, "--yes", "--keep-mlflow", "--storage", uri]) == 0, capsys.readouterr().err
    assert objects_at(uri).listing("") == []
    assert not (open_store(uri).path / NAME).exists()


def test_purge_of_a_folder_that_is_called_like_a_copy_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    theirs = a_search(tmp_path / "victim" / NAME)
    received = tmp_path / "received/reidsearch/storage/runs"
    a_search(received / NAME)
    (received / "storage-uri.txt").write_text((tmp_path / "victim").as_uri() + "\n")
    assert run(["purge", NAME, "--yes", "--storage", str(received)]) == 0
    assert theirs.journal.is_file() and not (received / NAME).exists()
