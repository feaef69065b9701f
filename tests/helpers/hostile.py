"""Readers of what others may have written, each fed with bytes; what `fuzz.py` and the tests of hostile inputs share.

A reader takes them in, or raises one of the errors that a command turns into a line. Anything else, a line that does
not name the file, or a character that a terminal obeys, is a fault of ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from events import epoch_result
from miniatures import write_hdf5
from PIL import Image
from scipy.io import savemat
from searches import completed, write_search

from orchestrator.__main__ import run
from orchestrator.base.errors import OrchestratorError
from orchestrator.show.logs import log_lines
from orchestrator.show.status import status_document
from orchestrator.space.problems import SpaceError
from orchestrator.space.search_space import SearchSpace, builtin_spaces
from orchestrator.stores.base import SearchFolder
from orchestrator.stores.local import local_search
from orchestrator.study.description import read_description
from orchestrator.study.events import SearchCreated, SessionEnded, SessionStarted
from orchestrator.study.journal import Record, encode
from orchestrator.study.lease import current_holder
from orchestrator.summary import read_summary
from trainer.checkpoint import load_checkpoint
from trainer.data.dataset import Splits
from trainer.data.frames import read_frame
from trainer.data.pack import check_pack, packed_data_set, read_packed
from trainer.data.packing import pack_data_set
from trainer.data.readers.mars import read_mars
from trainer.data.readers.matlab import read_matrix
from trainer.data.splits import ValidationConfig, cut_validation, read_validation, write_validation
from trainer.data.synthetic.dataset import write_synthetic
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.evaluation.embed import read_embeddings
from trainer.evaluation.evaluate import trained_network
from trainer.evaluation.query_metrics import read_query_metrics
from trainer.model.network import ModelConfig
from trainer.result import read_evaluation, read_results

EXPECTED = (OrchestratorError, SpaceError, DataError, ConfigError, CheckpointError)
IDENTITIES = 6


class Fault(AssertionError):
    """Something that a reader must not do."""


class Reader(NamedTuple):
    """A reader under test."""

    seeds: Callable[[Path], list[bytes]]
    """Honest inputs, from which hostile ones are made; may use the folder."""
    feed: Callable[[bytes, Path], None]
    """Feeds the bytes, laid down in the folder."""
    words: Sequence[bytes] = ()
    """What honest inputs consist of."""


def check(reader: Reader, data: bytes, folder: Path) -> bool:
    """Whether the reader took the bytes in.

    Raises:
        Fault: it failed in a way that no reader may.
    """
    try:
        reader.feed(data, folder)
    except EXPECTED as error:
        text = str(error)
        lines = text.splitlines()
        if not isinstance(error, SpaceError) and len(lines) != 1:
            raise Fault(f"not one line: {text!r}") from error
        if not all(line.isprintable() for line in lines):
            raise Fault(f"a terminal may obey it: {text!r}") from error
        if str(folder) not in text and not isinstance(error, SpaceError):
            raise Fault(f"names no file: {text!r}") from error
        return False
    except (Exception, RecursionError) as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    return True


def mutated(seed: bytes, words: Sequence[bytes], chance: random.Random, edits: int) -> bytes:
    """The bytes with so many changes: bits flipped, pieces cut, doubled, moved, overwritten, words put in."""
    data = bytearray(seed)
    for _ in range(edits):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size] * chance.choice((1, 2, 50))
            case 3:
                data[at : at + size] = chance.randbytes(size)
            case 4:
                data[at : at + size] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
            case 5:
                other = chance.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
            case _ if words:
                data[at : at + chance.choice((0, size))] = chance.choice(words)
    return bytes(data)


def _of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """Feeds the bytes to a reader of files, in a file of this name."""

    def feed(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return feed


# --- YAML


def _spaces(folder: Path) -> list[bytes]:
    return [(files("search_spaces") / f"{name}.yaml").read_bytes() for name in builtin_spaces()]


def _descriptions(folder: Path) -> list[bytes]:
    return [(_search(folder).path / "search.yaml").read_bytes()]


# --- the journal


def _search(folder: Path) -> SearchFolder:
    if (folder / "honest" / "journal.jsonl").exists():
        return local_search(folder / "honest")
    return write_search(folder / "honest", SearchSpace.load("smoke.yaml"), [*completed(0, 0.5), *completed(1, 0.4)])


def _journals(folder: Path) -> list[bytes]:
    created = SearchCreated(search="honest", space="0" * 64, seed=0)
    short = [created, SessionStarted(session=1, host="here", pid=1), SessionEnded(state="finished", reason="all")]
    lines = b"".join(encode(Record(number, 1e9 + number, event)) for number, event in enumerate(short, 1))
    return [_search(folder).journal.read_bytes(), lines]


def _read_journal(data: bytes, folder: Path) -> None:
    """The bytes with checksums that are right, as who forges a journal would compute them."""
    honest = _search(folder.parent / "searches")
    place = local_search(folder / "forged")
    place.path.mkdir(exist_ok=True)
    if not place.description.exists():
        place.description.write_bytes(honest.description.read_bytes())
    place.journal.write_bytes(with_checksums(data))
    before = _tree(folder)
    json.dumps(status_document(read_summary(place)))
    for line in log_lines(place, None, follow=False):
        if not line.isprintable():
            raise Fault(f"a terminal may obey it: {line!r}")
    if _tree(folder) != before:
        raise Fault("reading changed something on disk")


def with_checksums(data: bytes) -> bytes:
    """The lines of a journal, each with the checksum of what it holds."""
    lines = []
    for line in data.split(b"\n"):
        body, separator, _ = line.rpartition(b',"crc":"')
        lines.append(b'%s,"crc":"%08x"}' % (body, zlib.crc32(body)) if separator else line)
    return b"\n".join(lines)


def _tree(folder: Path) -> set[Path]:
    return set(folder.parent.rglob("*"))


# --- data sets


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Warnings of the trainer are no news where inputs are broken by the thousand."""
    logger = logging.getLogger("trainer")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@cache
def _data(folder: Path) -> Path:
    """A tiny data set in the layout of MARS."""
    root = folder / "mars"
    if not root.exists():
        with _without_warnings():
            write_synthetic(root, size="tiny", seed=0, workers=1)
    return root


def _matrices(folder: Path) -> list[bytes]:
    info = _data(folder) / "info"
    compressed = io.BytesIO()
    savemat(compressed, {"track_train_info": np.array([[1, 8, 1, 1]], dtype=np.float64)}, do_compression=True)
    return [*(path.read_bytes() for path in sorted(info.glob("*.mat"))), compressed.getvalue()]


def _read_matrices(path: Path) -> None:
    for name in ("track_train_info", "track_test_info", "query_IDX"):
        with contextlib.suppress(DataError):
            read_matrix(path, name)
    read_matrix(path, "track_train_info")


def _images(folder: Path) -> list[bytes]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8))
    found = []
    for form in ("JPEG", "PNG", "BMP", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, form)
        found.append(buffer.getvalue())
    return found


def _read_image(path: Path) -> None:
    frame = read_frame(str(path), 24, 12)
    if frame.shape != (24, 12, 3) or frame.dtype != np.uint8:
        raise Fault(f"no frame: {frame.shape} {frame.dtype}")


@cache
def _splits(folder: Path) -> Splits:
    return read_mars(_data(folder))


def _validations(folder: Path) -> list[bytes]:
    train = _splits(folder).train
    path = folder / "split.json"
    write_validation(path, cut_validation(train, ValidationConfig(share=0.4)), train)
    return [path.read_bytes()]


def _read_validation(data: bytes, folder: Path) -> None:
    """With a digest that is right, where the bytes are an object at all."""
    path = folder / "split.json"
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        if isinstance(content, dict):
            content.pop("sha256", None)
            digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            data = json.dumps(content | {"sha256": digest}).encode()
    path.write_bytes(data)
    train = _splits(folder.parent / "data").train
    split = read_validation(path, train)
    for part in (split.train, split.query, split.gallery, split.distractors):
        [train[index] for index in part]


def _packs(folder: Path) -> list[bytes]:
    """The header, a line break of its own kind, and the table."""
    root = folder / "packed"
    if not root.exists():
        pack_data_set("mars", _data(folder), root)
    return [(root / "index.json").read_bytes().strip() + b"\n\n" + (root / "index.npz").read_bytes()]


def _read_pack(data: bytes, folder: Path) -> None:
    """With digests that are right, as who forges a pack would compute them."""
    honest = folder.parent / "data" / "packed"
    root = folder / "packed"
    if not root.exists():
        root.mkdir()
        for path in honest.glob("frames-*.pack"):
            (root / path.name).symlink_to(path)
    header, _, table = data.partition(b"\n\n")
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(header)
        if isinstance(content, dict) and "table_sha256" in content:
            header = json.dumps(content | {"table_sha256": hashlib.sha256(table).hexdigest()}).encode()
    (root / "index.json").write_bytes(header)
    (root / "index.npz").write_bytes(table)
    if (name := packed_data_set(root)) is None:
        return
    splits = read_packed(root, name)
    for tracklet in (*splits.train[:3], *splits.gallery[:3]):
        with contextlib.suppress(DataError):
            read_frame(tracklet.frames[0], 32, 16)
    check_pack(root)


def _hdf5(folder: Path) -> list[bytes]:
    write_hdf5(folder / "tables.mat", {"track_train_info": np.array([[1.0, 8.0, 1.0, 1.0]]).T})
    return [(folder / "tables.mat").read_bytes()]


# --- what a training leaves


def _checkpoints(folder: Path) -> list[bytes]:
    state = {
        **{"format": 2, "config": {"seed": 0}, "epoch": 1},
        **{"model": {"classifier.weight": torch.ones(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}},
        "history": [epoch_result(1).model_dump(mode="json")],
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return [buffer.getvalue(), old.getvalue()]


def _read_checkpoint(data: bytes, folder: Path) -> None:
    """With a digest that is right: it tells of accidents, not of who wrote the file."""
    path = folder / "best.pt"
    path.write_bytes(data)
    path.with_name("best.pt.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  best.pt\n")
    with contextlib.suppress(CheckpointError):
        trained_network(ModelConfig(backbone="tiny", weights="none"), path)
    load_checkpoint(path)


def _per_query(folder: Path) -> list[bytes]:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        average_precision=np.array([0.5, np.nan]),
        valid=np.array([True, False]),
        identity=np.array([1, 2]),
        camera=np.array([1, 2]),
        frames=np.array([8, 8]),
        first_frame=np.array(["a.jpg", "b.jpg"]),
        gallery_cameras=np.array([1, 2]),
        by_camera=np.array([[0.5, np.nan], [np.nan, np.nan]]),
    )
    return [buffer.getvalue()]


def _embeddings(folder: Path) -> list[bytes]:
    buffer = io.BytesIO()
    np.savez(buffer, vectors=np.ones((2, 3), dtype=np.float32), attention_entropy=0.5)
    return [buffer.getvalue()]


def _read_embeddings(path: Path) -> None:
    """Damage is no error there: they are made again."""
    with _without_warnings():
        read_embeddings(path, torch.device("cpu"))


def _results(folder: Path) -> list[bytes]:
    return [b"".join(epoch_result(epoch, 0.5).model_dump_json().encode() + b"\n" for epoch in (1, 2))]


def _read_results(data: bytes, folder: Path) -> None:
    """The same bytes as a trial's results, as its evaluation, and as the lease of its search."""
    for name in ("results.jsonl", "evaluation.json", "lease"):
        (folder / name).write_bytes(data)
    current_holder(folder / "lease")
    with contextlib.suppress(DataError):
        read_evaluation(folder / "evaluation.json")
    read_results(folder / "results.jsonl")


# --- the command line


# Those that would start Ray are turned away by the address of a cluster that is not there.
VERBS = (
    *("status", "logs", "stop", "compare", "export", "reproduce", "tables", "purge", "simulate", "extend"),
    *("space check", "space show", "space diff", "data check", "data stats", "data pack", "config", "evaluate"),
    *("launch --dry-run --space", "completion", "--version"),
    *("launch --address=127.0.0.1:1 --space", "resume --address=127.0.0.1:1", "finalize --address=127.0.0.1:1"),
)
WITHOUT_STORAGE = ("space", "data", "config", "completion", "evaluate", "--version")


def _lines(folder: Path) -> list[bytes]:
    return [
        b"status\nhonest\n--json",
        b"logs\nhonest/t0000",
        b"compare\nhonest\nhonest",
        b"space check\nsmoke.yaml\n--set\noptim.epochs=3",
        b"launch --dry-run --space\nnone.yaml\n--name\n../x",
        b"stop\nhonest/t0001",
    ]


def _command(data: bytes, folder: Path) -> None:
    """One argument per line, the verb in the first; it sees a storage with one finished search."""
    honest = _search(folder.parent / "searches")
    data = data.replace(b"\0", b"")  # an argument of a process holds none
    first, *words = data.decode(errors="surrogateescape").split("\n")
    verb = first if first in VERBS else VERBS[zlib.crc32(data) % len(VERBS)]
    # They wait for more to happen, or lead to another cluster.
    words = [word for word in words if not re.match(r"--(w|fo|a|su)|-f|-F", word)]
    where = ("--storage", str(honest.path.parent)) if verb.partition(" ")[0] not in WITHOUT_STORAGE else ()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
        code = run([*verb.split(" "), *words, *where])
    if code not in (0, 1, 2, 3, 4, 5, 130):  # the last one is a question that nobody is there to answer
        raise Fault(f"exit code {code}: {err.getvalue()[-300:]!r}")
    if "Traceback" in err.getvalue():
        raise Fault(err.getvalue()[-2000:])
    if code and not err.getvalue().strip():
        raise Fault(f"exit code {code} without a word")
    hostile = [line for line in err.getvalue().splitlines() if not line.replace("\t", "").isprintable()]
    if hostile:
        raise Fault(f"a terminal may obey it: {hostile[0]!r}")
    strays = [path for path in folder.parent.iterdir() if path.name not in ("searches", "data", folder.name)]
    if strays:
        raise Fault(f"written outside of its folder: {strays}")


OF_SEARCHES = ("journal", "cli", "description")
"""Readers whose honest inputs are those of a search; the others' are of a data set."""
READERS: dict[str, Reader] = {
    "yaml": Reader(
        _spaces,
        _of_file("space.yaml", lambda path: SearchSpace.load(str(path)).any_sample()),
        (
            *(b"extends: ", b"range: [", b"log: true", b"values: [", b"when: ", b"!!python/object:os.system"),
            *(b"&a", b"*a", b"\t", b": ", b"...", b"[" * 30, b"1e999", b".nan", b"9" * 30),
        ),
    ),
    "description": Reader(
        _descriptions,
        _of_file("search.yaml", read_description),
        (b"search: ", b"../", b"options:", b"null", b"[", b"{", b"\x1b", b'"\\e[31m"', b"9" * 20),
    ),
    "journal": Reader(
        _journals,
        _read_journal,
        (
            *(b"../../x", b"1e999", b"NaN", b"null", b"[", b'{"a":', b"-1", b"\\u001b[31m", b'"t0009"', b"1" * 30),
            *(b"\n", b"t0000", b"t0001", b"[" * 3000, b"1e300", b'"repeats":"t0000"', b'"finalization":1'),
        ),
    ),
    "mat": Reader(
        _matrices,
        _of_file("table.mat", _read_matrices),
        (b"\x0f\0\0\0", b"\x0e\0\0\0", b"\xff\xff\xff\x7f", b"query_IDX"),
    ),
    "hdf5": Reader(
        _hdf5,
        _of_file("tables.mat", lambda path: read_matrix(path, "track_train_info")),
        (b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"\xff" * 8, b"track_train_info"),
    ),
    "image": Reader(
        _images,
        _of_file("frame.jpg", _read_image),
        (b"\xff\xd8", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff", b"IHDR\0\0\xff\xff", b"RIFF", b"BM"),
    ),
    "split": Reader(
        _validations, _read_validation, (b"[", b"-1", b"1e9", b"null", b'"identities"', b"9" * 30, b"true", b"[" * 3000)
    ),
    "pack": Reader(
        _packs, _read_pack, (b"../", b"-1", b"frames-000.pack", b"[", b"null", b"PK\x03\x04", b"9" * 20, b"|O", b"mars")
    ),
    "checkpoint": Reader(
        _checkpoints,
        _read_checkpoint,
        (
            *(b"cposix\nsystem\n", b"\x80\x02", b"R", b"torch._utils\n_rebuild_tensor_v2\n", b"ctorch\nload\n"),
            *(b"\xff\xff\xff\x7f", b"K\x00", b"J\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"PK\x05\x06"),
        ),
    ),
    "per_query": Reader(
        _per_query,
        _of_file("per_query.npz", lambda path: read_query_metrics(path.parent)),
        (b"'|O'", b"fortran_order", b"(99999999999,)", b"<U99999999", b"PK\x05\x06", b"'<M8'"),
    ),
    "embeddings": Reader(
        _embeddings,
        _of_file("kept.npz", _read_embeddings),
        (b"'|O'", b"(99999999999,)", b"<f4", b"<U9999", b"PK\x05\x06", b"fortran_order"),
    ),
    "results": Reader(
        _results,
        _read_results,
        (
            *(b'{"host":"a","boot":"b","pid":1,"started":1}', b"1e999", b"null", b"[" * 3000, b"NaN", b"\n", b"9" * 30),
            *(b'"validation":', b'"epoch":-1', b"\xff"),
        ),
    ),
    "cli": Reader(
        _lines,
        _command,
        (
            *(b"--", b"\n", b"\n--json", b"\n--set\n", b"../../../etc/passwd", b"\x1b[31m", b"\xff", b"-1"),
            *(b"honest/", b"=" * 9, b"best", b"\n--out\n", b"\n--format\n", b"t0000"),
            *(verb.encode() for verb in VERBS),
        ),
    ),
}


def folders(base: Path) -> Iterator[Path]:
    """Where seeds are made, and where inputs are laid down."""
    for name in ("searches", "data", "input"):
        (base / name).mkdir(parents=True, exist_ok=True)
        yield base / name
