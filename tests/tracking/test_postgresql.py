"""MLflow on PostgreSQL, directly and behind its server, out of reach for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from outage import Journey, check_all_there_once, mlflow_server
from postgresql import binaries, postgresql
from proxy import Mode, Proxy

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'reidsearch[test]'")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    with postgresql() as port:
        yield port


def address(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=2"


LOGIN = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
admin_password = one-of-twelve
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
ADMIN = {"TRACKING_USERNAME": "admin", "TRACKING_PASSWORD": "one-of-twelve"}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["refuse", "hang", "drop"])
def test_a_database_that_is_out_of_reach_does_not_stop_the_search_and_nothing_is_lost_or_doubled(
    database: int, tmp_path: Path, mode: Mode
) -> None:
    with Proxy(database) as proxy:
        course = Journey(tmp_path / "s", address(proxy.port), uid=mode).through(proxy, mode)
    print(f"\n{mode}: {course}")
    assert course.unsent == 0
    check_all_there_once(address(database), mode, course)


def test_a_server_with_a_login_whose_database_goes_away_gets_everything_once_it_is_back(
    database: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's login is not installed: pip install 'mlflow[auth]'")
    login = tmp_path / "basic_auth.ini"
    login.write_text(LOGIN.format(database=f"sqlite:///{tmp_path}/basic_auth.db"))
    for name, value in {"AUTH_CONFIG_PATH": str(login), "FLASK_SERVER_SECRET_KEY": "k", **ADMIN}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    options = ("--app-name", "basic-auth")
    with Proxy(database) as proxy, mlflow_server(tmp_path, address(proxy.port), *options) as port:
        uri = f"http://127.0.0.1:{port}"
        course = Journey(tmp_path / "s", uri, uid="behind").through(proxy, "refuse")
        print(f"\nbehind a server: {course}")
        assert course.unsent == 0
        check_all_there_once(uri, "behind", course)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
        with pytest.raises(MlflowException, match="401"):
            MlflowClient(uri).search_experiments()
