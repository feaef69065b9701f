"""Storage by URI: the same contract for a folder and for a real S3 protocol, also when they fail."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from events import epoch_result, suggested
from object_store import CREDENTIALS, Machines, ObjectStore
from proxy import Proxy
from searches import a_search, completed
from waiting import PATIENCE_S, wait_until

from orchestrator.__main__ import run
from orchestrator.base.errors import EnvironmentProblem, JournalError, LeaseError, SearchError
from orchestrator.runner import control
from orchestrator.runner.finalize import record_test_set_use
from orchestrator.stores import push, remote_lease, segments
from orchestrator.stores.address import is_uri, parsed
from orchestrator.stores.base import SearchFolder, existing_search, searches
from orchestrator.stores.cache import local_storage, mirror_of, remote, storage_name, storage_uri
from orchestrator.stores.loading import load_search
from orchestrator.stores.pull import bring_search, forget_when
from orchestrator.stores.push import open_recorder, publish
from orchestrator.stores.remote import Remote, StorageProblem
from orchestrator.stores.remote_lease import LeaseLost, RemoteLease, driver_of
from orchestrator.stores.storage_probe import check_token, leave_token, remove_token
from orchestrator.study.events import Event, TrialStarted
from orchestrator.study.journal import Record, encode, read_journal
from trainer.evaluation.test_set_record import place_in_search

NAME = "first"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in earnest takes hundredths here."""
    monkeypatch.setattr(remote_lease, "PAUSE_S", 0.1)
    monkeypatch.setattr(push, "INTERVAL_S", 0.02)
    monkeypatch.setattr(push, "REQUESTS_PERIOD_S", 0.05)


def published(uri: str, *, name: str = NAME, far_ahead: int = 0) -> SearchFolder:
    """A finished search in the storage, made on this machine."""
    folder = a_search(mirror_of(uri) / name)
    with folder.journal.open("ab") as journal:
        for number in range(len(read_journal(folder.journal)) + 1, far_ahead + 1):
            journal.write(encode(Record(number, 1e9, suggested(number))))
    publish(folder)
    return folder


# What a URI may be


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


def test_a_path_is_no_uri() -> None:
    assert not any(is_uri(path) for path in ("runs", "/data/runs", "./s3:/x", "C:/runs", "a:b"))
    assert all(is_uri(uri) for uri in ("s3://b/p", "gs://b", "file:///runs"))


def test_a_slash_at_the_end_makes_no_other_storage(machines: Machines) -> None:
    assert mirror_of("s3://bucket/prefix/") == mirror_of("s3://bucket/prefix")
    assert mirror_of("s3://bucket/prefix") != mirror_of("s3://bucket/other")


def test_the_mirror_is_private_and_knows_its_storage(machines: Machines) -> None:
    mirror = mirror_of("s3://bucket/prefix")
    assert mirror.stat().st_mode & 0o777 == 0o700
    assert storage_uri(mirror) == "s3://bucket/prefix" == storage_name(mirror)
    assert storage_uri(mirror.parent) is None
    assert local_storage("runs") == Path("runs")


# Objects


def test_an_object_is_what_was_written_last(uri: str) -> None:
    files = Remote(uri)
    files.check()
    assert files.entry("a/b") is None
    with pytest.raises(FileNotFoundError):
        files.read("a/b")
    for content in (b"first", b"", b"second"):
        files.write("a/b", content)
        assert files.read("a/b") == content
    files.delete("a/b")
    files.delete("a/b")
    assert files.entry("a/b") is None


def test_a_listing_names_what_is_there(uri: str) -> None:
    files = Remote(uri)
    assert files.entries() == files.entries("a", recursive=True) == []
    files.write("a/x", b"1")
    files.write("a/b/y", b"22")
    assert [(entry.path, entry.size, entry.is_folder) for entry in files.entries("a")] == [
        ("a/b", 0, True),
        ("a/x", 1, False),
    ]
    found = files.entries("a", recursive=True)
    assert [entry.path for entry in found if not entry.is_folder] == ["a/b/y", "a/x"]
    assert abs(found[-1].time - time.time()) < 60
    files.delete_folder("a")
    assert not [entry for entry in files.entries("a", recursive=True) if not entry.is_folder]


def test_a_file_arrives_as_it_was_sent(uri: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 50_000
    (tmp_path / "sent").write_bytes(content)
    files = Remote(uri)
    assert files.write_from("file", tmp_path / "sent") == files.read_to("file", tmp_path / "folder/got")
    assert (tmp_path / "folder/got").read_bytes() == content


def test_a_bucket_that_is_not_there_and_missing_credentials_are_one_line_each(
    store: ObjectStore, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.bucket()
    with pytest.raises(StorageProblem, match="no bucket 'other'"):
        Remote(uri.replace("s3://bucket", "s3://other/bucket")).check()
    Remote(uri).write("x", b"")
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageProblem, match=r"^s3://bucket-.*credentials of this machine") as refusal:
        Remote(uri).read("x")
    assert "\n" not in str(refusal.value)


# The journal in parts


def test_parts_are_whole_lines_and_together_the_journal() -> None:
    lines = b"".join(encode(Record(number, 1e9, suggested(number))) for number in range(1, 3001))
    parts, rest = [], lines
    while rest:
        parts.append(segments.first_part(rest))
        rest = rest[len(parts[-1]) :]
    assert b"".join(parts) == lines
    assert len(parts) > 1
    assert all(part.endswith(b"\n") and len(part) >= segments.PART_BYTES for part in parts[:-1])
    number = 1
    for part in parts:
        number = segments.check_part(part, number)
    assert number == 3001


def test_a_part_with_a_damaged_missing_or_cut_line_is_refused() -> None:
    lines = [encode(Record(number, 1e9, suggested(number))) for number in range(1, 5)]
    with pytest.raises(ValueError, match="line 2 of the journal: its checksum"):
        segments.check_part(b"".join([lines[0], lines[1].replace(b"t0002", b"t0009"), lines[2]]), 1)
    with pytest.raises(ValueError, match="line 2 of the journal is not there"):
        segments.check_part(lines[0] + lines[2], 1)
    with pytest.raises(ValueError, match="line 2"):
        segments.check_part(lines[0] + lines[1][:-9], 1)


# A search that another machine looks at


def test_another_machine_sees_the_search(uri: str, machines: Machines) -> None:
    there = load_search(published(uri))
    machines.become("other")
    storage = local_storage(uri)
    assert [folder.name for folder in searches(storage)] == [NAME]
    found = load_search(existing_search(storage, NAME))
    assert found.folder.path != there.folder.path
    assert found.description == there.description
    assert found.study.all_trials.keys() == there.study.all_trials.keys()
    assert found.state == "finished"


def test_a_search_that_is_nowhere_is_said_to_be_missing_in_the_uri(uri: str, machines: Machines) -> None:
    published(uri)
    with pytest.raises(SearchError, match=rf"no search 'other' in {uri[:12]}.*there: first"):
        existing_search(mirror_of(uri), "other")


def test_what_is_recorded_here_is_seen_there_and_the_other_way_round(uri: str, machines: Machines) -> None:
    published(uri)
    for index, machine in enumerate(("other", "here", "third", "other"), 2):
        machines.become(machine)
        with open_recorder(existing_search(mirror_of(uri), NAME)) as recorder:
            for event in completed(index, 0.5):
                recorder.record(event)
        assert driver_of(SearchFolder(mirror_of(uri) / NAME)) is None
    machines.become("fourth")
    assert list(load_search(existing_search(mirror_of(uri), NAME)).study.trials) == [f"t{i:04d}" for i in range(6)]


def test_that_the_test_set_was_opened_for_a_trial_is_seen_on_every_machine(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    folder = existing_search(mirror_of(uri), NAME)
    record_test_set_use(folder, "t0001", folder.trial("t0001") / "checkpoint/best.pt", "evaluate")
    machines.become("third")
    (use,) = load_search(existing_search(mirror_of(uri), NAME)).study.test_set_uses
    assert use.asked.weights == "trials/t0001/checkpoint/best.pt"


def test_a_network_inside_a_storage_folder_is_not_taken_for_one_without_a_search(
    tmp_path: Path, machines: Machines
) -> None:
    published((tmp_path / "store").as_uri())
    weights = tmp_path / "store" / NAME / "trials/t0001/checkpoint/best.pt"
    assert place_in_search(weights) == (tmp_path / "store" / NAME, "t0001")
    with pytest.raises(SearchError, match="is written through its URI"):
        record_test_set_use(SearchFolder(tmp_path / "store" / NAME), "t0001", weights, "evaluate")


def test_a_running_search_is_sent_while_it_runs(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with open_recorder(folder) as recorder:
        recorder.record(suggested(7))
        machines.become("other")
        wait_until(lambda: "t0007" in fresh(uri).study.trials)
        assert fresh(uri).is_driven


def test_a_long_journal_is_sent_in_parts_and_only_new_ones_are_fetched(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "PART_BYTES", 2000)
    monkeypatch.setattr(push, "PART_BYTES", 2000)
    folder = published(uri, far_ahead=60)
    files = Remote(uri)
    parts = files.entries(f"{NAME}/journal")
    assert len(parts) > 5
    machines.become("other")
    bring_search(SearchFolder(mirror_of(uri) / NAME))
    machines.become("here")
    with open_recorder(folder) as recorder:
        for index in range(100, 130):
            recorder.record(suggested(index))
    later = files.entries(f"{NAME}/journal")
    full = [part for part in parts if part.size >= 2000]
    assert later[: len(full)] == full, "a part that is full is never sent again"
    assert len(later) > len(parts)
    machines.become("other")
    read: list[str] = []
    monkeypatch.setattr(Remote, "read", lambda self, path, was=Remote.read: (read.append(path), was(self, path))[1])
    there = SearchFolder(mirror_of(uri) / NAME)
    bring_search(there)
    assert there.journal.read_bytes() == folder.journal.read_bytes()
    assert read == [part.path for part in later[len(full) :]]


def fresh(uri: str):  # type: ignore[no-untyped-def]
    """The search as it is now."""
    forget_when()
    return load_search(existing_search(mirror_of(uri), NAME))


# What may go wrong


def test_a_damaged_and_a_missing_part_are_named(uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "PART_BYTES", 2000)
    published(uri, far_ahead=60)
    files = Remote(uri)
    part = f"{NAME}/journal/000002.jsonl"
    content = files.read(part)
    files.write(part, content.replace(b"sobol", b"grids", 1))
    machines.become("other")
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: damaged: line \d+ of the journal: its checksum"):
        existing_search(mirror_of(uri), NAME)
    files.delete(part)
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: is missing"):
        existing_search(mirror_of(uri), NAME)
    files.write(part, content[:-10])
    with pytest.raises(JournalError, match=r"journal/000002\.jsonl: damaged"):
        existing_search(mirror_of(uri), NAME)
    assert not (mirror_of(uri) / NAME / "journal.jsonl").exists()


def test_events_that_were_never_sent_go_when_the_machine_resumes(uri: str, machines: Machines) -> None:
    folder = published(uri)
    append(folder, suggested(5))
    assert "t0005" in fresh(uri).study.trials, "what is here goes on where the storage's ends"
    with open_recorder(folder):
        pass
    machines.become("other")
    assert "t0005" in fresh(uri).study.trials


def test_where_another_machine_went_on_unsent_events_are_set_aside(
    uri: str, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    folder = published(uri)
    append(folder, suggested(5))
    machines.become("other")
    with open_recorder(existing_search(mirror_of(uri), NAME)) as recorder:
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
    push.forget(SearchFolder(mirror_of(uri) / NAME))
    assert not [entry for entry in Remote(uri).entries(recursive=True) if not entry.is_folder]
    machines.become("other")
    with pytest.raises(SearchError, match="no search 'first'"):
        existing_search(mirror_of(uri), NAME)


def test_a_name_that_another_machine_took_is_refused(uri: str, machines: Machines) -> None:
    published(uri)
    machines.become("other")
    folder = a_search(mirror_of(uri) / NAME)
    with pytest.raises(SearchError, match="already a search of this name"):
        publish(folder)


def append(folder: SearchFolder, event: Event) -> None:
    """As a driver does whose storage is out of reach."""
    with folder.journal.open("ab") as journal:
        journal.write(encode(Record(len(read_journal(folder.journal)) + 1, 1e9, event)))


def test_the_search_does_not_wait_for_a_storage_that_is_gone_and_sends_all_when_it_is_back(
    store: ObjectStore, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.address.ATTEMPTS", 1)
    monkeypatch.setattr(push, "LONGEST_PAUSE_S", 0.1)
    with Proxy(store.port) as proxy:
        uri = store.bucket(proxy.port)
        folder = published(uri)
        with open_recorder(folder) as recorder:
            proxy.become("refuse")
            for index in range(10, 30):
                recorder.record(suggested(index))
            assert recorder.uplink is not None
            link = recorder.uplink
            assert link.unsent, "recording has ended, and nothing can have been sent"
            wait_until(lambda: link.problem is not None)
            assert "cannot be reached" in (link.problem or "")
            proxy.become("pass")
            wait_until(lambda: not link.unsent)
        machines.become("other")
        assert "t0029" in fresh(uri).study.trials


def test_what_could_not_be_sent_is_told_at_the_end_and_sent_by_the_next_session(
    store: ObjectStore, machines: Machines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.stores.address.ATTEMPTS", 1)
    monkeypatch.setattr(push, "CLOSE_PATIENCE_S", 0.1)
    with Proxy(store.port) as proxy:
        uri = store.bucket(proxy.port)
        folder = published(uri)
        with open_recorder(folder) as recorder:
            proxy.become("refuse")
            recorder.record(suggested(10))
        assert "lacks" in (told := capsys.readouterr().err)
        assert "cannot be reached" in told and "resume" in told
        proxy.become("pass")
        monkeypatch.setattr(push, "CLOSE_PATIENCE_S", PATIENCE_S)
        Remote(uri).delete_folder(f"{NAME}/lease")  # as if that process had ended, which was this one
        with open_recorder(folder):
            pass
        machines.become("other")
        assert "t0010" in fresh(uri).study.trials


def test_an_upload_that_fails_some_times_is_tried_again(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "LONGEST_PAUSE_S", 0.05)
    folder = published(uri)
    left = [4]
    write = Remote.write

    def failing(self: Remote, path: str, content: bytes) -> None:
        if "/journal/" in path and left[0]:
            left[0] -= 1
            raise StorageProblem("not now")
        write(self, path, content)

    with open_recorder(folder) as recorder:
        monkeypatch.setattr(Remote, "write", failing)
        recorder.record(suggested(10))
        wait_until(lambda: recorder.uplink is not None and not recorder.uplink.unsent)
    assert not left[0]
    machines.become("other")
    assert "t0010" in fresh(uri).study.trials


# Who may write


def test_of_two_machines_one_drives(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with open_recorder(folder):
        machines.become("other")
        with (
            pytest.raises(LeaseError, match=r"first: already driven by process .* last heard of"),
            open_recorder(existing_search(mirror_of(uri), NAME)),
        ):
            raise AssertionError("both drive it")
    with open_recorder(existing_search(mirror_of(uri), NAME)) as recorder:
        recorder.record(suggested(9))


def test_of_many_that_ask_at_the_same_time_one_gets_the_lease(uri: str) -> None:
    leases = [RemoteLease(remote(uri), NAME) for _ in range(8)]
    start = threading.Barrier(len(leases))
    taken: list[RemoteLease] = []

    def take(lease: RemoteLease) -> None:
        start.wait()
        try:
            lease.acquire()
        except LeaseError:
            return
        taken.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_one_whose_write_took_long_does_not_break_the_lease_of_another(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RemoteLease(remote(uri), NAME)
    write, slow = Remote.write, [True]

    def slowly(self: Remote, path: str, content: bytes) -> None:
        if slow:
            slow.clear()
            other.acquire()
        write(self, path, content)

    monkeypatch.setattr(Remote, "write", slowly)
    with pytest.raises(LeaseError, match="already driven"):
        RemoteLease(remote(uri), NAME).acquire()
    monkeypatch.setattr(remote_lease, "HEARTBEAT_S", 0.0)
    other.keep()


def test_a_driver_that_was_taken_for_dead_writes_no_more(
    uri: str, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lease, "HEARTBEAT_S", 0.05)
    folder = published(uri)
    with pytest.raises(LeaseError, match="is that of process"), open_recorder(folder) as recorder:
        monkeypatch.setattr(remote_lease, "_lives", lambda claim, now: False)
        RemoteLease(remote(uri), NAME).acquire()
        wait_until(lambda: recorder.uplink is not None and recorder.uplink.lost)
        recorder.record(suggested(9))
    assert "t0009" not in folder.journal.read_text()


def test_a_holder_that_is_deposed_while_it_looks_is_told_by_whom(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, heir = RemoteLease(remote(uri), NAME), RemoteLease(remote(uri), NAME)
    first.acquire()
    monkeypatch.setattr(remote_lease, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(remote_lease, "_lives", lambda claim, now: False)
    read, meanwhile = Remote.read, [heir.acquire]

    def read_later(self: Remote, path: str) -> bytes:
        if meanwhile:
            meanwhile.pop()()
        return read(self, path)

    monkeypatch.setattr(Remote, "read", read_later)
    with pytest.raises(LeaseLost, match="is that of process"):
        first.keep()


def test_a_holder_on_another_machine_is_given_up_after_a_while_by_the_clock_of_the_storage(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RemoteLease(remote(uri), NAME)
    there = remote_lease.this_process()._replace(host="elsewhere", boot="x")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(remote_lease, "this_process", lambda: there)
        first.acquire()
    with pytest.raises(LeaseError, match="on elsewhere, last heard of"):
        RemoteLease(remote(uri), NAME).acquire()
    monkeypatch.setattr(time, "time", lambda was=time.time: was() + 3600)
    with pytest.raises(LeaseError):
        RemoteLease(remote(uri), NAME).acquire()
    monkeypatch.setattr(remote_lease, "STALE_AFTER_S", 0.0)
    RemoteLease(remote(uri), NAME).acquire()
    monkeypatch.setattr(remote_lease, "HEARTBEAT_S", 0.0)
    with pytest.raises(LeaseLost):
        first.keep()


def test_a_damaged_lease_counts_by_its_age(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote(uri).write(f"{NAME}/lease/0123", b"{half")
    with pytest.raises(LeaseError, match="an unknown host"):
        RemoteLease(remote(uri), NAME).acquire()
    monkeypatch.setattr(remote_lease, "STALE_AFTER_S", 0.0)
    RemoteLease(remote(uri), NAME).acquire()


# Requests


def test_a_request_of_another_machine_reaches_the_driver(uri: str, machines: Machines) -> None:
    folder = published(uri)
    with open_recorder(folder) as recorder:
        recorder.record(suggested(7))
        recorder.record(TrialStarted(trial="t0007", attempt=1))
        assert recorder.uplink is not None
        wait_until(lambda: recorder.uplink is not None and not recorder.uplink.unsent)
        requests = control.Requests(folder)

        def drive() -> None:
            wait_until(requests.pending)
            for request in requests.pending():
                requests.done(request)

        driver = threading.Thread(target=drive)
        driver.start()
        machines.become("other")
        there = existing_search(mirror_of(uri), NAME)
        answer = control.stop(there, "t0007", patience=PATIENCE_S)
        driver.join()
    assert answer.done and "t0007: stopped" in answer.text


def test_a_trial_of_a_search_that_nobody_drives_is_given_up_from_any_machine(uri: str, machines: Machines) -> None:
    folder = published(uri)
    append(folder, suggested(7))
    with open_recorder(folder):
        pass
    machines.become("other")
    assert control.stop(existing_search(mirror_of(uri), NAME), "t0007").done
    machines.become("here")
    assert fresh(uri).study.trials["t0007"].is_over


# Whether others reach it


def test_a_token_is_found_where_it_was_left(uri: str, machines: Machines) -> None:
    token = leave_token(mirror_of(uri))
    machines.become("other")
    assert check_token(uri, token) is None
    assert "not what the driver left" in (check_token(uri, "0" * 16) or "")
    remove_token(uri, token)
    assert check_token(uri, token) is not None


def test_a_path_that_only_the_driver_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    token = leave_token(tmp_path / "runs")
    assert check_token(tmp_path / "runs", token) is None
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert "is not there on this node" in (check_token(tmp_path / "runs", token) or "")
    (tmp_path / "runs").mkdir()
    assert "is another folder on this node" in (check_token(tmp_path / "runs", token) or "")


def test_a_storage_that_cannot_be_written_leaves_no_token(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        leave_token(tmp_path / "runs")


# The command line


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


@pytest.mark.parametrize("below", ["", "reidsearch/storage/runs", ".cache/reidsearch/storage/runs"])
def test_a_folder_that_is_no_mirror_reaches_nothing_whatever_it_holds(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storage-uri.txt").write_text("s3://bucket/runs?endpoint_override=http://elsewhere.example\n")
    assert storage_uri(folder) is None
    assert searches(folder) == []


def test_purge_of_a_folder_that_is_called_like_a_mirror_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    theirs = a_search(tmp_path / "victim" / NAME)
    received = tmp_path / "received/reidsearch/storage/runs"
    a_search(received / NAME)
    (received / "storage-uri.txt").write_text((tmp_path / "victim").as_uri() + "\n")
    assert run(["purge", NAME, "--yes", "--storage", str(received)]) == 0
    assert theirs.journal.is_file() and not (received / NAME).exists()
