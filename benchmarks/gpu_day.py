"""All that is to be measured once a GPU is there, in one run of at most ten minutes and without a network.

    python -m benchmarks.gpu_day --out FOLDER [--only step loading ...] [--small]

Each part is a process of its own with a time limit, and the failure of one leaves the others alone. What a part has
found is kept as it goes, so that a part that is ended at its limit has given what it had. FOLDER gets `gpu_day.json`,
written anew after every part, the same as a table in `gpu_day.md`, printed at the end, and what each part said.
The exit code is 1 where a part failed. What was expected was computed for an H100 beforehand, from published rates of
ResNet-50. `--small` measures nothing of use: it shows on a CPU that everything runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import bench_loader, bench_losses, peers
from benchmarks.bench_ranking import IDENTITIES as EVALUATED_IDENTITIES
from benchmarks.bench_rerank import embeddings
from benchmarks.bench_step import FRAMES, IDENTITIES, compared, in_memory_batch, step_config, whole_step
from benchmarks.measuring import environment, measure
from trainer.checkpoint import seconds_to_copy, seconds_to_save
from trainer.compute import float32_products, limit_gpu_memory, prepare_process, synchronize, tried_convolutions
from trainer.config import TrialConfig
from trainer.evaluation.embed import embed
from trainer.evaluation.metrics import rank_embeddings
from trainer.evaluation.rerank import k_reciprocal_distance
from trainer.losses.reid_loss import ReidLoss
from trainer.training.learner import Learner
from trainer.training.step_cost import saved_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
WHOLE_S = 570.0  # starts and ends besides
GRACE_S = 5.0  # between SIGTERM and SIGKILL
MARS, SMALL_MARS = (1980, 11310), (60, 240)  # queries, gallery
CLIPS = 32  # the paper's batch: 128 images
FILE_SIZE = {"height": 256, "width": 128}
FP32, BF16 = {"precision": "fp32", "tf32": False}, {"precision": "bf16", "tf32": False}
STEPS: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
    ("fp32, 256x128", FILE_SIZE, FP32),
    ("TF32, 256x128", FILE_SIZE, {"precision": "fp32", "tf32": True}),
    ("bf16, 256x128", FILE_SIZE, BF16),
    ("bf16, 224x112", {"height": 224, "width": 112}, BF16),
    ("bf16 compiled, 256x128", FILE_SIZE, {**BF16, "compile": True}),
)
TINY = {"backbone": "tiny", "height": 64, "width": 32}
WORKERS = (0, 1, 2, 4, 8)
STEPPING_S, SHARING_S = 2.0, 5.0
EPOCHS = 30  # of each trial of the search

# By the name of what is measured; for an H100.
EXPECTED = {
    "step, fp32, 256x128": "900 to 1,300",
    "step, bf16, 256x128": "2,500 to 3,200",
    "step, bf16, 224x112": "3,200 to 4,000",
    "step, bf16 compiled, 256x128": "4,000 to 6,500",
    "memory of the step, fp32, 256x128": "9.6",
    "memory of the step, bf16, 256x128": "5.6",
    "decoding alone, files, 0 workers": "2,200 to 3,800",
    "saving last.pt": "3 to 5",
}


class Row(NamedTuple):
    """One figure."""

    what: str
    value: float | str
    unit: str = ""


class Part(NamedTuple):
    """Some figures that are measured together."""

    rows: Callable[[bool], Iterator[Row]]
    """Measures; the argument is whether sizes are small."""
    limit_s: float


def main() -> int:
    """Runs the parts, or one of them in this process; 1 where one failed."""
    asked = _arguments()
    if asked.part is not None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what it started, too
        prepare_process()
        with (asked.out / f"{asked.part}.jsonl").open("w", buffering=1) as file:
            file.writelines(json.dumps(row) + "\n" for row in PARTS[asked.part].rows(asked.small))
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + WHOLE_S
    found: dict[str, dict[str, Any]] = {}
    for name in asked.only:
        command = [sys.executable, "-m", "benchmarks.gpu_day", "--out", str(asked.out.resolve()), "--part", name]
        limit_s = min(PARTS[name].limit_s, end - time.monotonic())
        found[name] = run_part(command + ["--small"] * asked.small, asked.out / name, limit_s)
        print(f"{name}: {found[name]['problem'] or 'done'} ({found[name]['seconds']} s)", file=sys.stderr, flush=True)
        (asked.out / "gpu_day.json").write_text(json.dumps({"small": asked.small, "parts": found}, indent=1))
        (asked.out / "gpu_day.md").write_text(table(found, expected={} if asked.small else EXPECTED))
    print((asked.out / "gpu_day.md").read_text())
    return 1 if any(part["problem"] for part in found.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_part(command: Sequence[str], at: Path, limit_s: float) -> dict[str, Any]:
    """What a part wrote to `at`.jsonl, what it said being in `at`.log; a problem is None or one line."""
    rows, log = at.with_suffix(".jsonl"), at.with_suffix(".log")
    rows.unlink(missing_ok=True)
    began, problem = time.monotonic(), None
    if limit_s <= 0:
        return {"rows": [], "problem": "no time was left for it", "seconds": 0.0}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=REPOSITORY
        )
        try:
            if code := process.wait(limit_s):
                problem = f"exit code {code}: {(log.read_text(errors='replace').strip() or 'no word').splitlines()[-1]}"
        except subprocess.TimeoutExpired:
            problem = f"ended at its limit of {limit_s:.0f} s"
        finally:
            _end(process)
    lines = rows.read_text().splitlines() if rows.exists() else []
    seconds = round(time.monotonic() - began, 1)
    return {"rows": [json.loads(line) for line in lines], "problem": problem, "seconds": seconds}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends all that a part started and that is still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue


def table(found: Mapping[str, Mapping[str, Any]], expected: Mapping[str, str]) -> str:
    """The figures of all parts as a table in markdown."""
    lines = ["| part | what | measured | | expected (computed for an H100) |", "|---|---|---|---|---|"]
    for name, part in found.items():
        for what, value, unit in part["rows"]:
            text = value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
            lines.append(f"| {name} | {what} | {text} | {unit} | {expected.get(what, '')} |")
        if part["problem"]:
            lines.append(f"| {name} | **failed** | {part['problem'].replace('|', '/')} | | |")
    return "\n".join(lines) + "\n"


def _machine(small: bool) -> Iterator[Row]:
    yield from (Row(what, str(value)) for what, value in environment().items())
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    yield Row("CUDA, cuDNN of torch", f"{torch.version.cuda}, {cudnn}")
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next((line.split(":")[1].split() for line in cpu.splitlines() if line.startswith("flags")), [])
    yield Row("processor", next((line.split(":")[1].strip() for line in cpu.splitlines() if "model name" in line), ""))
    yield Row("its flags", " ".join(flag for flag in flags if flag.startswith(("avx", "amx", "fma"))))
    yield Row("memory", round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1), "GiB")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield Row("capability", f"{properties.major}.{properties.minor}")
        yield Row("memory of the GPU", round(properties.total_memory / 2**30, 1), "GiB")
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        yield Row("driver", subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())


def _tests(small: bool) -> Iterator[Row]:
    # What other tests share needs packages that these do not.
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-m", "gpu"]
    command = [sys.executable, "-m", "pytest", *options, "tests/trainer/test_on_a_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, flush=True)
    yield Row("tests marked gpu", done.stdout.strip().splitlines()[-1].strip("= "))
    if done.returncode:
        raise SystemExit("; ".join(line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))))


def _step(small: bool) -> Iterator[Row]:
    for name, model, compute in (("tiny, fp32", TINY, FP32), ("tiny, bf16", TINY, BF16)) if small else STEPS:
        if _device().type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        config = step_config(dict(model), dict(compute), clips=_clips(small))
        found = compared(config, device=_device(), runs=5 if small else 15)
        yield Row(f"step, {name}", found["images_per_second"], "images/s")
        yield Row(f"bare network, {name}", found["bare_images_per_second"], "images/s")
        yield Row(f"step over bare network, {name}", found["step_over_bare_wall"])
        yield Row(f"rate of a large product, {name}", round(found["product_gigaflop_per_second"] / 1000, 1), "TFLOP/s")
        if _device().type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            yield Row(f"memory of the step, {name}", round(peak, 2), "GiB, the bare network beside it")


def _loading(small: bool) -> Iterator[Row]:
    """Trainings' steps on batches from the loader, and the loader alone."""
    device, config = _device(), _config(small)
    learner = Learner(config, IDENTITIES, device, own_weights=True)
    learner.begin_epoch(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        float32_products(config.compute, device),
        tried_convolutions(device),
    ):
        drawn = bench_loader.draw_tracklets(Path(folder))
        for source, stored in bench_loader.sources(drawn, Path(folder)).items():
            if source == "packed bytes":
                continue
            many = stored(config.input_size) * (8 if small else 32)
            for workers in WORKERS[:2] if small else WORKERS:
                loader = bench_loader.loader_of(many, config.clips, config.input_size, workers=workers, device=device)
                name = f"{source}, {workers} workers"
                alone = _rate(loader, lambda batch: None, small)
                yield Row(f"decoding alone, {name}", alone, "images/s")
                rate = _rate(loader, lambda batch: learner.step([batch], lambda *_: None), small)
                yield Row(f"training, {name}", rate, "images/s")


def _rate(loader: Any, consume: Callable[[Any], object], small: bool) -> float:
    """Images per second in the long run: what was ready beforehand is not counted."""
    batches = (batch for _ in count() for batch in loader)  # epoch after epoch
    for batch in islice(batches, 2 if small else 20):
        consume(batch)
    synchronize(_device())
    began, images = time.monotonic(), 0
    for batch in batches:
        consume(batch)
        images += batch.frames.shape[0] * batch.frames.shape[1]
        if time.monotonic() - began > (0.3 if small else STEPPING_S):
            break
    synchronize(_device())
    return round(images / (time.monotonic() - began), 1)


def _losses(small: bool) -> Iterator[Row]:
    device, config = _device(), _config(small)
    loss = ReidLoss(bench_losses.CONFIG, bench_losses.IDENTITIES, bench_losses.EMBEDDING).to(device)
    clips = bench_losses.clips(CLIPS, device)
    step = whole_step(config, in_memory_batch(config, device), device)

    def losses() -> None:
        bench_losses.step(bench_losses.ours, loss, clips)
        synchronize(device)

    found = measure({"losses": losses, "step": step}, runs=5 if small else 30, warmup=2)
    yield Row("all losses, forward and backward", round(1000 * found["losses"].wall_s, 3), "ms")
    yield Row("the step", round(1000 * found["step"].wall_s, 3), "ms")
    yield Row("losses over step", round(found["losses"].wall_s / found["step"].wall_s, 4))


def _evaluation(small: bool) -> Iterator[Row]:
    """Embedding as many tracklets as MARS tests with, of few pictures; ranking and re-ranking as many embeddings."""
    device, config = _device(), _config(small)
    queries, gallery = SMALL_MARS if small else MARS
    with tempfile.TemporaryDirectory() as folder, float32_products(config.compute, device):
        stored = bench_loader.sources(bench_loader.draw_tracklets(Path(folder)), Path(folder))["packed pixels"]
        tracklets = stored(config.input_size)
        tracklets = (tracklets * (1 + (queries + gallery) // len(tracklets)))[: queries + gallery]
        model = Learner(config, IDENTITIES, device, own_weights=True).evaluated
        began = time.monotonic()
        waited_s = embed(model, tracklets, config).waited_s
        synchronize(device)
        seconds = time.monotonic() - began
    del model
    frames = len(tracklets) * config.evaluation.clips * FRAMES
    yield Row(f"embedding {frames} frames", round(seconds, 2), "s")
    yield Row("the same", round(frames / seconds, 1), "images/s")
    yield Row("of which waiting for frames", round(waited_s, 2), "s")
    case = peers.case(queries, gallery, 2048, EVALUATED_IDENTITIES)
    compact = embeddings(queries + gallery)
    figures: dict[str, float] = {}
    for place in dict.fromkeys(("cpu", device.type)):
        moved = peers.Case(*(each.to(place) for each in case))
        left, right = (each.to(place) for each in compact)

        def rank(moved: peers.Case = moved, place: str = place) -> None:
            figures[place] = rank_embeddings(*moved, metric="cosine").mean_ap

        def rerank(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            k_reciprocal_distance(left, right)

        for name, each in measure({"ranking": rank, "re-ranking": rerank}, runs=5).items():
            yield Row(
                f"{name}, {queries} queries in {gallery}, on the {place.replace('cuda', 'GPU')}", each.wall_s, "s"
            )
    yield Row("mAP of GPU and CPU differ by", max(figures.values()) - min(figures.values()))


def _saving(small: bool) -> Iterator[Row]:
    config = _config(small)
    learner = Learner(config, IDENTITIES, _device(), own_weights=True)
    learner.begin_epoch(0)
    learner.step([in_memory_batch(config, _device())], lambda *_: None)  # the optimizer's moments
    synchronize(_device())
    best = {"model": learner.weights()}
    for name, state in (("best.pt", best), ("last.pt", {**best, "learner": learner.state()})):
        with tempfile.TemporaryDirectory() as folder:
            yield Row(f"size of {name}", round(saved_bytes(state) / 2**20), "MiB")
            yield Row(f"saving {name}", round(seconds_to_save(state, Path(folder)), 2), "s")
    yield Row("the training stands still for", round(seconds_to_copy(state, _device()), 3), "s")


def _sharing(small: bool) -> Iterator[Row]:
    """One trial, then two at once, each with half of the memory of one GPU, as a search with half GPUs runs them."""
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    for trials in (1, 2):
        rates = _side_by_side(trials, small)
        for number, (images, memory) in enumerate(rates, 1):
            yield Row(f"{trials} at once, trial {number}", images, "images/s")
            yield Row(f"{trials} at once, trial {number}, memory", memory, "GiB")
        yield Row(f"{trials} at once, together", round(sum(images for images, _ in rates), 1), "images/s")


def _side_by_side(trials: int, small: bool) -> list[tuple[float, float]]:
    fresh = multiprocessing.get_context("spawn")
    start, answers = fresh.Barrier(trials), fresh.Queue()
    processes = [fresh.Process(target=_half, args=(start, answers, small), daemon=True) for _ in range(trials)]
    for process in processes:
        process.start()
    return [answers.get(timeout=60) for _ in processes]


def _half(start: Any, answers: Any, small: bool) -> None:
    device, config = _device(), _config(small)
    limit_gpu_memory(0.5)
    batch = in_memory_batch(config, device)
    step = whole_step(config, batch, device)
    for _ in range(3):
        step()
    start.wait(60)
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < (0.3 if small else SHARING_S):
        step()
        steps += 1
    rate = steps * batch.frames.shape[0] * batch.frames.shape[1] / (time.monotonic() - began)
    memory = torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else 0.0
    answers.put((round(rate, 1), round(memory, 2)))


def _decoding(small: bool) -> Iterator[Row]:
    """JPEGs of MARS's size, decoded by a GPU and by one core; GPUs decode in no training."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    with tempfile.TemporaryDirectory() as folder:
        paths = [path for tracklet in bench_loader.draw_tracklets(Path(folder)) for path in tracklet.frames]
        files = [read_file(path) for path in paths]

    def frames(device: str) -> Callable[[], object]:
        def decode() -> None:
            decode_jpeg(files, ImageReadMode.RGB, device=device)
            synchronize(torch.device(device))

        return decode

    for place in dict.fromkeys(("cpu", _device().type)):
        seconds = measure({"decode": frames(place)}, runs=5)["decode"].wall_s
        name = "one core" if place == "cpu" else "the GPU"
        yield Row(f"torchvision.io.decode_jpeg on {name}", round(len(files) / seconds), "images/s")


def _search(small: bool) -> Iterator[Row]:
    """Four trials by the real command; an attempt is killed, then the driver, and the search is resumed."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
    running, kills = importlib.import_module("running"), importlib.import_module("kills")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        search = running.Search(Path(folder), "gpu-day")
        share = ["--gpus-per-trial", "0.5"] if _device().type == "cuda" else []
        try:
            search.launch("--trials", "4", "--concurrent", "2", *share, *kills.SLOW)
            search.until(lambda status: _finished_epochs(status) >= 3)
            os.kill(kills.processes_of(search.process.pid, "attempt")[0], signal.SIGKILL)
            before = _finished_epochs(search.status())
            search.until(lambda status: _finished_epochs(status) >= before + 10)
            search.kill()
            search.resume()
            code = search.wait()
            print(search.log.read_text(), flush=True)
            status = search.status()
        finally:
            if search.process is not None and search.process.poll() is None:
                search.kill()
        epochs = [[line["epoch"] for line in running.results_of(search.folder, f"t{n:04}")] for n in range(4)]
    yield Row("whole search with both kills", round(time.monotonic() - began, 1), "s")
    yield Row("exit code after the resume", str(code))
    yield Row("trials", ", ".join(f"{name} {count}" for name, count in status["counts"].items() if count))
    yield Row("attempts", str(sum(trial["attempts"] for trial in status["trials"])))
    if code or any(each != list(range(1, EPOCHS + 1)) for each in epochs):
        raise SystemExit(f"exit code {code}, and the trials' epochs are {epochs}")


def _finished_epochs(status: Mapping[str, Any]) -> int:
    return sum(trial["epoch"] or 0 for trial in status["trials"])


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _clips(small: bool) -> int:
    return 8 if small else CLIPS


def _config(small: bool) -> TrialConfig:
    """The paper's batch at 256x128 in bf16; a tiny network in fp32 where sizes are small."""
    config = step_config(TINY if small else dict(FILE_SIZE), dict(FP32 if small else BF16), clips=_clips(small))
    return config.model_copy(update={"clips": config.clips.model_copy(update={"workers": 0 if small else 8})})


PARTS: Mapping[str, Part] = {
    "machine": Part(_machine, 30),
    "step": Part(_step, 150),
    "loading": Part(_loading, 100),
    "losses": Part(_losses, 40),
    "evaluation": Part(_evaluation, 80),
    "saving": Part(_saving, 40),
    "sharing": Part(_sharing, 80),
    "decoding": Part(_decoding, 40),
    "tests": Part(_tests, 120),
    "search": Part(_search, 180),
}

if __name__ == "__main__":
    sys.exit(main())
