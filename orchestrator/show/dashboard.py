"""`reidsearch dashboard`: the report's page of every search, served to one user of this machine and kept up to date."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from plotly.offline import get_plotlyjs
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.base.errors import EnvironmentProblem, OrchestratorError, SearchError
from orchestrator.base.escaping import visible
from orchestrator.base.hints import hint
from orchestrator.base.process import until_interrupted
from orchestrator.runner import control
from orchestrator.show import compare_view
from orchestrator.show.compare import compare
from orchestrator.show.report import charts, page
from orchestrator.show.report.live_page import Link, SearchPage
from orchestrator.show.status import SEARCH_COLUMNS, search_cells
from orchestrator.space.problems import SpaceError
from orchestrator.stores.base import SearchFolder, Store, existing_search, searches
from orchestrator.summary import read_summary

HOST, PORT = "127.0.0.1", 8350
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data: "
    "blob:; connect-src 'self'; font-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
KEPT = 4  # searches of which everything read is kept in memory
LIST_S = 0.5  # of reading searches for their list; the others follow in its next version
MOST_MORE = 100_000  # trials of one extension


class Dashboard:
    """Answers the requests of one user, who knows the token, about the searches of one storage."""

    def __init__(self, store: Store, token: str, *, images: bool = False) -> None:
        """Shows pictures of real people only with `images`."""
        self._store, self._link, self._images = store, Link(token), images
        self._pages: dict[str, SearchPage] = {}
        self._lock = threading.Lock()  # of the pages: requests are answered by several threads
        self._rows: dict[str, tuple[object, tuple[str, ...]]] = {}
        folder = Path(page.__file__).parent
        own = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.js", "dashboard.js")}
        self._assets = {**own, "plotly.js": get_plotlyjs()}
        versions = {name: f"{zlib.crc32(text.encode()):08x}" for name, text in self._assets.items()}
        self._values = {"link": self._link, "token": token, "storage": store.name, "versions": versions}

    def app(self) -> Starlette:
        """The program that a server runs."""
        return Starlette(
            routes=[
                Route("/", self._index),
                Route("/_/{file}", self._asset),
                Route("/{name}", self._search),
                Route("/{name}/trials.csv", self._csv),
                Route("/{name}/figures/{figure}", self._figure),
                Route("/{name}/{trial}/{picture}", self._picture),
                Route("/{name}/{action}", self._act, methods=["POST"]),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
                Middleware(BaseHTTPMiddleware, dispatch=self._guarded),
                Middleware(GZipMiddleware, compresslevel=1),
            ],
            exception_handlers={kind: self._refused for kind in (OrchestratorError, SpaceError, OSError)},
        )

    def prepare(self, name: str) -> None:
        """Reads a search, so that its page is there when it is asked for, and says what is wrong with it."""
        with suppress(OrchestratorError, SpaceError, OSError):
            self._page(name).text(None, **self._values)

    async def _guarded(self, request: Request, answer: RequestResponseEndpoint) -> Response:
        """Answers who knows the token; what changes a search needs it in a header, from a page of this server."""
        given = request.headers.get("X-Token", "")
        if request.method not in ("GET", "HEAD"):
            origin = urlsplit(request.headers.get("Origin", ""))
            given = given if origin.netloc == request.headers["Host"] else ""
        elif request.url.path.startswith("/_/"):
            given = self._link.token  # of the libraries everybody has a copy
        else:
            given = request.query_params.get("token", given)
        if secrets.compare_digest(given.encode(), self._link.token.encode()):
            response = await answer(request)
        else:
            response = PlainTextResponse("the dashboard's address, as it was printed, holds a token", 403)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.update(HEADERS)
        return response

    def _refused(self, request: Request, error: Exception) -> Response:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return PlainTextResponse(visible(text), 404 if request.method == "GET" else 409)

    def _asset(self, request: Request) -> Response:
        if (text := self._assets.get(request.path_params["file"])) is None:
            return PlainTextResponse("no such file", 404)
        # A page names the version of each file.
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "max-age=31536000, immutable"})

    def _index(self, request: Request) -> Response:
        if names := [name for each in request.query_params.getlist("compare") for name in each.split(",") if name]:
            return self._comparison(names)
        end = time.monotonic() + LIST_S
        found = searches(self._store)
        rows = [(folder.name, self._row(folder, is_late=time.monotonic() > end)) for folder in found]
        values = {"title": "Searches", "live": True, "compared": None, "head": SEARCH_COLUMNS, "rows": rows}
        return _changed(request, page.render("dashboard.html.j2", report=None, later=None, **values, **self._values))

    def _row(self, folder: SearchFolder, *, is_late: bool) -> tuple[str, ...]:
        found = folder.journal.stat()
        stamp = (found.st_ino, found.st_size, folder.store.driver(folder))
        known, cells = self._rows.get(folder.name, (None, ()))
        if known != stamp and not is_late:
            try:
                cells = search_cells(read_summary(folder))
            except (OrchestratorError, SpaceError, OSError) as error:
                cells = ("unreadable", str(error))
            self._rows[folder.name] = (stamp, cells)
        return cells or ("being read",)

    def _comparison(self, names: list[str]) -> Response:
        summaries = {name: read_summary(existing_search(self._store, name.partition("/")[0])) for name in names}
        values: dict[str, Any] = {"problem": None, "comparison": None}
        try:
            found = compare(self._store, names)
            values |= {"comparison": found, "metrics": compare_view.metric_rows(found)}
            values |= {"settings": compare_view.setting_rows(found)}
            values |= {"verdicts": [line for pair in found.pairs for line in compare_view.pair_lines(pair)]}
        except SearchError as error:
            values |= {"problem": str(error), "head": SEARCH_COLUMNS}
            values["rows"] = [(name, *search_cells(summary)) for name, summary in summaries.items()]
        metric = next(iter(summaries.values())).metric
        figure = charts.best_so_far_chart({each.name: each.trace for each in summaries.values()}, metric)
        values |= {"title": ", ".join(names), "live": False, "compared": names, "figure": figure}
        text = page.render("dashboard.html.j2", report=None, later=None, metric=metric, **values, **self._values)
        return Response(text, media_type="text/html")

    def _page(self, name: str) -> SearchPage:
        """The page of a search that exists; of the least recently opened ones nothing is kept."""
        folder = existing_search(self._store, name)
        with self._lock:
            found = self._pages.pop(name, None) or SearchPage(folder, self._link, images=self._images)
            self._pages[name] = found
            for old in [*self._pages][:-KEPT]:
                del self._pages[old]
        return found

    def _search(self, request: Request) -> Response:
        found = self._page(request.path_params["name"])
        return _changed(request, found.text(request.query_params.get("trial"), **self._values))

    def _csv(self, request: Request) -> Response:
        return Response(self._page(request.path_params["name"]).csv(), media_type="text/csv")

    def _figure(self, request: Request) -> Response:
        text = self._page(request.path_params["name"]).figure(request.path_params["figure"])
        return (
            PlainTextResponse("no such chart", 404) if text is None else Response(text, media_type="application/json")
        )

    def _picture(self, request: Request) -> Response:
        """A sheet of a trial."""
        name, trial, picture = (request.path_params[part] for part in ("name", "trial", "picture"))
        problems: list[str] = []
        content = self._page(name).picture(trial, picture, problems)
        if content is None:
            return PlainTextResponse("; ".join(problems) or "no such picture", 404)
        return Response(content, media_type="image/webp")

    async def _act(self, request: Request) -> Response:
        try:
            asked = await request.json()
            trial, more = asked.get("trial"), asked.get("more")
        except (ValueError, AttributeError):
            return PlainTextResponse("not understood", 400)
        name = request.path_params["name"]
        folder, shown = existing_search(self._store, name), self._page(name)
        match request.path_params["action"], trial, more:
            case "stop", (None | str()), _:
                with shown.stopping(trial):
                    return PlainTextResponse((await run_in_threadpool(control.stop, folder, trial)).text)
            case "extend", _, int() if 0 < more <= MOST_MORE:
                return PlainTextResponse(await run_in_threadpool(_extend, folder, more))
        return PlainTextResponse("not understood", 400)


def _extend(folder: SearchFolder, more: int) -> str:
    from orchestrator.runner import extension  # imports torch

    changes = extension.extend(folder, trials=f"+{more}", overrides=())
    return "; ".join([*changes, f"next: {hint('resume', folder.name, storage=folder.storage)}"])


def _changed(request: Request, text: str) -> Response:
    """The page, or that the browser has it already."""
    version = f'"{zlib.crc32(text.encode()):08x}"'
    if request.headers.get("If-None-Match") == version:
        return Response(status_code=304)
    return Response(text, media_type="text/html", headers={"ETag": version})


def serve(store: Store, name: str | None, port: int, say: Callable[[str], None], *, images: bool) -> None:
    """Serves the pages of a storage and says the address of the search `name`, until Ctrl-C or SIGTERM.

    Raises:
        SearchError: there is no such search.
        EnvironmentProblem: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    dashboard = Dashboard(store, token, images=images)
    if name is not None:
        existing_search(store, name)
        threading.Thread(target=dashboard.prepare, args=(name,), daemon=True).start()
    config = uvicorn.Config(
        dashboard.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    try:
        with until_interrupted(), socket.create_server((HOST, port)) as listening:
            say(f"http://{HOST}:{listening.getsockname()[1]}/{name or ''}?token={token}")
            say("Ctrl-C ends it")
            uvicorn.Server(config).run(sockets=[listening])
    except OSError as error:
        raise EnvironmentProblem(
            f"port {port} of {HOST} is taken ({os.strerror(error.errno or 0)}), perhaps by another `dashboard`; choose "
            "another with --port, or any free one with --port 0"
        ) from error
