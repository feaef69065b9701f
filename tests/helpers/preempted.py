"""A search on two nodes that loses one with notice, as spot machines are, and then the head, and what that costs.

`python tests/helpers/preempted.py` prints the figures; 1 when anything was lost. Nodes are raylets of one machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from running import Search, results_of
from several_nodes import Node, Nodes, several_nodes
from waiting import wait_until

EPOCHS = 150
TRIALS = 4
SETTINGS = (
    *("--set", f"optim.epochs={EPOCHS}", "--set", "clips.frames=4", "--set", "model.height=64"),
    *("--set", "replicates=0", "--set", "algorithm.name=random", "--trials", str(TRIALS)),
    *("--set", "budget.concurrent=null", "--cpus-per-trial", "1"),
)


def main() -> int:
    """Runs the search through both losses."""
    os.environ["PYTHONPATH"] = str(Path(__file__).with_name("evidence"))  # of the nodes
    with tempfile.TemporaryDirectory(prefix="preempted-") as temporary:
        folder = Path(temporary)
        search = Search(folder / "runs", "preempted")
        with several_nodes(folder) as nodes:
            search.environment = nodes.environment
            first = nodes.add()
            nodes.add()
            search.launch("--address", nodes.address, *SETTINGS)
            until_both_train(search, EPOCHS // 10)
            preempt(search, nodes, first)
            until_both_train(search, EPOCHS // 10)
            lose_head(search, nodes)
        with several_nodes(folder) as nodes:
            search.environment = nodes.environment
            nodes.add()
            nodes.add()
            went_on = time.time()
            search.start("resume", search.name, "--address", nodes.address)
            said("the first epoch after `resume`", until_epoch(search, went_on) - went_on)
            exit_code = search.wait()
        return account(search, exit_code)


def until_both_train(search: Search, epochs: int) -> None:
    """Waits for two running trials in the middle of their training."""

    def in_the_middle() -> bool:
        trials = search.status()["trials"]
        running = [trial["epoch"] for trial in trials if trial["status"] == "running"]
        return len(running) == 2 and all(epochs < epoch < EPOCHS - epochs for epoch in running)

    search.until(lambda _: in_the_middle())


def preempt(search: Search, nodes: Nodes, node: Node) -> None:
    """Does what the hook of a pod that ends does: SIGTERM to its trials, and the node goes when they have saved.

    A new node takes its place, as KubeRay has it.
    """
    told, attempts = time.time(), node.attempts()
    (trial,) = {each.cmdline()[0].split()[0].rpartition("/")[2] for each in attempts}
    for attempt in attempts:
        attempt.terminate()
    wait_until(lambda: not any(attempt.is_running() for attempt in attempts))
    said("a trial saves after the notice", time.time() - told)
    there = {attempt.pid for attempt in (*attempts, *node.attempts())}  # the driver may have started it there again
    nodes.remove(node)
    gone = time.time()
    nodes.add()
    moment = until_epoch(search, gone, trial, there)
    said("its next epoch on another node after the node went, where one starts at once", moment - gone)


def lose_head(search: Search, nodes: Nodes) -> None:
    """SIGKILL to the head, without notice; the driver leaves."""
    nodes.remove(nodes.head)
    lost = time.time()
    assert search.wait() == 75, search.log.read_text()
    said("the driver leaves with 75 after the head went", time.time() - lost)


def epochs_of(search: Search, trial: str) -> list[tuple[int, float, int]]:
    """Every epoch that was trained, in order, however often, with moment and process, as attempts noted it."""
    file = search.folder / "trials" / trial / "evidence"
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(int(epoch), float(moment), int(pid)) for what, epoch, moment, pid in lines if what == "saving"]


def until_epoch(search: Search, since: float, trial: str | None = None, not_by: Collection[int] = ()) -> float:
    """The moment of the first epoch that was finished since then, of a trial or any, by a process not among these."""
    found: list[float] = []

    def trained() -> bool:
        trials = [trial] if trial else [path.name for path in (search.folder / "trials").iterdir()]
        epochs = [epoch for key in trials for epoch in epochs_of(search, key)]
        found[:] = sorted(moment for _, moment, pid in epochs if moment > since and pid not in not_by)
        return bool(found)

    wait_until(trained, lambda: search.log.read_text())
    return found[0]


def account(search: Search, exit_code: int) -> int:
    """Prints what was lost."""
    trials = search.status()["trials"]
    trained = {trial["trial"]: [epoch for epoch, _, _ in epochs_of(search, trial["trial"])] for trial in trials}
    repeated = sum(len(epochs) - len(set(epochs)) for epochs in trained.values())
    whole = [
        trial["status"] == "completed"
        and [line["epoch"] for line in results_of(search.folder, trial["trial"])] == list(range(1, EPOCHS + 1))
        for trial in trials
    ]
    attempts = [trial["attempts"] for trial in trials]
    print(f"exit code {exit_code}; {sum(whole)} of {len(trials)} trials completed with every epoch once; {attempts=}")
    print(f"{repeated} of {TRIALS * EPOCHS} epochs trained twice; load {os.getloadavg()[0]:.1f}")
    return 0 if exit_code == 0 and all(whole) and len(trials) == TRIALS else 1


def said(what: str, seconds: float) -> None:
    """Prints a figure at once."""
    print(f"{what}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
