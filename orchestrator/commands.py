"""Commands of `reidsearch` run by a program, each in a process of its own."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from orchestrator.base.errors import PROBLEMS_FILE, EnvironmentProblem, Exit, OrchestratorError, SearchError
from orchestrator.base.hints import STORAGE_VARIABLE
from orchestrator.cli.declared import command_arguments, parameters
from orchestrator.space.problems import SpaceError
from orchestrator.space.schema import setting_kinds
from trainer.child import die_with_parent, python_command, start_child
from trainer.formatting import did_you_mean

# Exit codes of a search that can be loaded.
LOADABLE = (Exit.OK, Exit.SOME_TRIALS_FAILED, Exit.PREEMPTED, Exit.INTERRUPTED)

PERIOD_S = 0.1
# What the command does not inherit. A notebook's kernel claims to be a colour terminal, where a table that is redrawn
# would be shown line by line.
NOT_INHERITED = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")

Function = TypeVar("Function", bound=Callable[..., Any])


class RunningCommand:
    """A command in a process of its own."""

    def __init__(self, verb: str, given: Any, *, detached: bool = False) -> None:
        """Starts it.

        Args:
            verb: of the command.
            given: its options, a dataclass of `orchestrator.cli`.
            detached: whether it goes on when this process ends; otherwise it then ends in good order.
        """
        self._options = type(given)
        # Files, not pipes: a search whose notebook was killed can still print.
        with tempfile.NamedTemporaryFile("w", prefix="reidsearch-") as output:
            self._output = Path(output.name).open()  # noqa: SIM115  # read as long as the command runs
            self._problems = tempfile.NamedTemporaryFile("r", prefix="reidsearch-", encoding="utf-8")  # noqa: SIM115
            self._child = start_child(
                python_command("-m", "orchestrator", verb, *command_arguments(given)),
                {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
                # An argument that is left out where it is the default, which a project file may change.
                | {PROBLEMS_FILE: self._problems.name, STORAGE_VARIABLE: given.storage},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A notebook interrupts all processes of the kernel's session, and a search that gets two signals stops
                # at once.
                start_new_session=True,
                preexec_fn=None if detached else _stop_with_parent,
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._child.pid

    def wait(self, *, show: bool, until: Callable[[], bool] = lambda: False) -> None:
        """Waits until the command has ended, or something else has happened.

        Args:
            show: whether its output is printed, line by line.
            until: looked at every tenth of a second.

        Raises:
            KeyboardInterrupt: this process was interrupted; the command has ended in good order by then.
            SpaceError: the search space is wrong; the message holds all problems.
            OrchestratorError: the command failed; the message is its own, or its last line.
        """
        interrupted, last, is_over = False, "", False
        while not is_over:
            try:
                is_over = self._child.poll() is not None
                for line in self._output:
                    last = line.strip() or last
                    if show:
                        print(line, end="", flush=True)
                if not is_over:
                    if not interrupted and until():
                        return
                    time.sleep(PERIOD_S)
            except KeyboardInterrupt:
                interrupted = True
                self._child.send_signal(signal.SIGINT)
        if interrupted:
            raise KeyboardInterrupt(last)
        if self._child.returncode not in LOADABLE:
            told = Path(self._problems.name).read_text("utf-8")
            said = with_arguments(told, self._options) if told else json.dumps({"of_space": False, "lines": [last]})
            raise _error(self._child.returncode, json.loads(said))


def _stop_with_parent() -> None:
    die_with_parent(signal.SIGTERM)


def _error(code: int, told: Mapping[str, Any]) -> OrchestratorError | SpaceError:
    if told["of_space"]:
        return SpaceError(*told["lines"])
    kind = EnvironmentProblem if code == Exit.ENVIRONMENT else SearchError
    return kind("\n".join(told["lines"]) or f"reidsearch ended with exit code {code}")


def with_arguments(text: str, options: type) -> str:
    """The text with the arguments of functions in place of a command's options, except in whole command lines."""
    ours = {"overrides": "settings", "evaluation": "settings"}
    names = {flag: ours.get(each.name, each.name) for each in parameters(options) for flag in each.declared.flags}

    def replaced(found: re.Match[str]) -> str:
        flag, value = found[1], found[2]
        return f"{names[flag]}{f'={value}' if value else ''}" if flag in names else found[0]

    return re.sub(r"`[^`]*`|reidsearch .*|(--[a-z-]+)(?: ([A-Z]+)\b)?", replaced, text)


# --- arguments of functions as those of commands


def documented(kind: type, *, without: Collection[str]) -> Callable[[Function], Function]:
    """Gives the `**options` of a function the names, defaults and help of a command's options."""

    def made(function: Function) -> Function:
        shown = [each for each in parameters(kind) if each.name not in without]
        hints = get_type_hints(kind)
        own = inspect.signature(function)
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
            for name, _, default in shown
        ]
        setattr(function, "__signature__", own.replace(parameters=[*list(own.parameters.values())[:-1], *named]))  # noqa: B010
        lines = [f"{each.name}: {each.declared.settings['help']}" for each in shown]
        doc = function.__doc__ or ""
        function.__doc__ = re.sub(
            r"^( *)\*\*options:$",
            lambda found: "\n".join(f"{found[1]}{line}" for line in lines),
            doc,
            flags=re.MULTILINE,
        )
        return function

    return made


def check_options(kind: type, options: Mapping[str, Any], *, without: Collection[str]) -> None:
    """Raises TypeError if one of the options is not a field of the dataclass, or is one of those left out."""
    known = [each.name for each in parameters(kind)]
    for name, value in options.items():
        if name in without:
            raise TypeError(f"{name} is an option of the command line only")
        if name not in known:
            ends = f"_{name}"
            paths = [path for path in setting_kinds() if f"_{path.replace('.', '_')}".endswith(ends)]
            meant = f"; a setting is given as settings={{{paths[0]!r}: {value!r}}}" if paths else ""
            raise TypeError(f"no argument {name!r}{meant or did_you_mean(name, known)}")


def setting_words(given: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Settings as `--set` takes them.

    Raises:
        TypeError: they are neither a mapping nor a list of texts.
    """
    if isinstance(given, Mapping):
        return [f"{path}={json.dumps(value, default=_plain)}" for path, value in given.items()]
    if isinstance(given, str) or not all(isinstance(each, str) for each in given):
        raise TypeError(
            f"settings: {given!r} is neither a mapping such as {{'optim.epochs': 10}} nor a list such as "
            "['optim.epochs=10']"
        )
    return list(given)


def _plain(value: Any) -> object:
    """A number of NumPy's as one of Python's, and a path as text."""
    return value.item() if hasattr(value, "item") else str(value)
