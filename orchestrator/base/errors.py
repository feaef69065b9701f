"""Errors that the command line prints as one line, and exit codes."""

from __future__ import annotations

import errno
from enum import IntEnum

PROBLEMS_FILE = "REIDSEARCH_PROBLEMS_FILE"
"""Environment variable: a file to which a failing command writes the reason, in place of standard error, for the
program that started it: a JSON object with `of_space`, whether the search space is wrong, and `lines`, the problems."""


UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""Error numbers of a standard stream that cannot be written any more."""


class Exit(IntEnum):
    """Exit codes of `reidsearch`."""

    OK = 0
    SEARCH_FAILED = 1
    USAGE = 2
    INVALID = 3
    SOME_TRIALS_FAILED = 4
    ENVIRONMENT = 5
    PREEMPTED = 75
    INTERRUPTED = 130


class OrchestratorError(Exception):
    """An error that a user can act on: one clear line, no traceback."""

    exit_code = Exit.INVALID


class SearchError(OrchestratorError):
    """A search that cannot be created, found, read or continued; the message names it."""


class JournalError(OrchestratorError):
    """A journal that is damaged or cannot be written; the message names the file and the line."""

    exit_code = Exit.ENVIRONMENT


class LeaseError(OrchestratorError):
    """Another process writes this search; the message says which."""


class EnvironmentProblem(OrchestratorError):
    """The machine or the cluster cannot do what was asked; the message says what to change."""

    exit_code = Exit.ENVIRONMENT
