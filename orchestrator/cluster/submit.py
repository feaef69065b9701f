"""A search submitted to a cluster as a Ray job, with the code of this installation."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from orchestrator.base.errors import EnvironmentProblem, Exit
from orchestrator.cluster.authentication import MODE, admit_dashboard
from orchestrator.cluster.ray import ENVIRONMENT
from trainer.child import HOME
from trainer.formatting import first_line

# Packages that are sent; the environment of the cluster must have all others (constraints.txt).
SHIPPED = ("trainer", "orchestrator", "search_spaces")
SPACE_FILE = "space.yaml"
# `ray.job_submission` connects to these instead of the address that it is given.
ELSEWHERE = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


class Job(NamedTuple):
    """A job that a cluster has accepted."""

    id: str
    client: Any

    def follow(self, out: IO[str]) -> int:
        """Copies what the job prints until it ends; returns its exit code.

        Raises:
            EnvironmentProblem: the connection was lost; the job goes on.
        """
        try:
            asyncio.run(self._copy(out))
            details = self.client.get_job_info(self.id)
        except Exception as error:  # the SDK raises what aiohttp and requests do, and bare RuntimeErrors
            raise EnvironmentProblem(f"{self.id}: the connection was lost ({first_line(error)}); it goes on") from error
        if details.status == "SUCCEEDED":
            return Exit.OK
        if details.status == "STOPPED":
            return Exit.PREEMPTED
        code = details.driver_exit_code
        return Exit.SEARCH_FAILED if code is None else int(code)

    async def _copy(self, out: IO[str]) -> None:
        async for lines in self.client.tail_job_logs(self.id):
            out.write(lines)
            out.flush()


def submit(
    dashboard: str,
    name: str,
    arguments: Sequence[str],
    *,
    space: str | None,
    metadata: Mapping[str, str],
    insecure: bool = False,
) -> Job:
    """Submits `reidsearch ARGUMENTS --address auto` to the cluster behind a dashboard.

    Args:
        dashboard: its address, http://HOST:8265.
        name: of the search; the job's begins with it.
        arguments: of the command, as they are valid on the cluster.
        space: YAML of the space, sent as `SPACE_FILE`, or None.
        metadata: for Ray's list of jobs.
        insecure: whether to accept a cluster that demands no token.

    Raises:
        EnvironmentProblem: it cannot be reached, refuses our token, demands none, or refuses the job.
    """
    os.environ.update(ENVIRONMENT)
    os.environ[MODE] = admit_dashboard(dashboard, insecure=insecure).mode
    for variable in ELSEWHERE:
        os.environ.pop(variable, None)
    from ray.job_submission import JobSubmissionClient

    command = shlex.join(["python", "-m", "orchestrator", *arguments, "--address", "auto"])
    with shipment(space) as folder:
        try:
            client = JobSubmissionClient(dashboard)
            job = client.submit_job(
                entrypoint=command,
                submission_id=f"{name}-{secrets.token_hex(3)}",
                runtime_env={"working_dir": str(folder)},
                metadata=dict(metadata),
            )
        except Exception as error:  # the SDK raises what requests does, and bare RuntimeErrors
            raise EnvironmentProblem(f"{dashboard}: refused the job ({first_line(error)})") from error
    return Job(job, client)


@contextmanager
def shipment(space: str | None) -> Iterator[Path]:
    """A temporary folder with the code of this installation, and the space."""
    above = HOME
    with tempfile.TemporaryDirectory(prefix="reidsearch-") as temporary:
        folder = Path(temporary) / "reidsearch"
        for package in SHIPPED:
            shutil.copytree(above / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        if space is not None:
            (folder / SPACE_FILE).write_text(space, encoding="utf-8")
        yield folder
