"""MLflow out of reach for a while: the search does not notice, and nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from outage import Journey, check_all_there_once, mlflow_server
from proxy import Mode, Proxy

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as port:
        yield port


@pytest.mark.parametrize(
    "mode", ["refuse", "hang", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("slow", "drop"))]
)
def test_an_outage_does_not_stop_the_search_and_nothing_is_lost_or_doubled(
    server: int, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Calls are given up within the outage, not after it.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with Proxy(server) as proxy:
        course = Journey(tmp_path / "s", f"http://127.0.0.1:{proxy.port}", uid=mode).through(proxy, mode)
    print(f"\n{mode}: {course}")
    assert course.unsent == 0
    check_all_there_once(f"http://127.0.0.1:{server}", mode, course)
