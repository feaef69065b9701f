"""Constructs that this project does not use, found in its source text by their meaning and not by their spelling.

Names are followed through imports, assignments and `getattr` with a literal; what is computed at run time is not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Finding(NamedTuple):
    """A forbidden construct."""

    line: int
    rule: str
    text: str


# Read code out of data.
UNPICKLERS = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle")
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "eval"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "shell"),
    **dict.fromkeys(("asyncio.create_subprocess_shell", "pty.spawn", "commands.getoutput"), "shell"),
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"), "yaml"),
    **dict.fromkeys(("yaml.full_load", "yaml.full_load_all"), "yaml"),
    **dict.fromkeys(("torch.jit.load", "torch.package.PackageImporter", "torch.hub.load"), "torch.load"),
    **dict.fromkeys(("pandas.read_pickle", "numpy.lib.format.read_array"), "pickle"),
    **dict.fromkeys(("mlflow.pytorch.load_model", "mlflow.pyfunc.load_model", "mlflow.pytorch.log_model"), "pickle"),
    **dict.fromkeys(("ray.tune.Tuner.restore", "ray.tune.ExperimentAnalysis"), "pickle"),
    **dict.fromkeys(("scipy.io.loadmat", "scipy.io.whosmat", "scipy.io.matlab.loadmat"), "native reader"),
    "h5py.File": "native reader",
    "sys.executable": "child",
    "tempfile.mktemp": "mktemp",
    "shutil.unpack_archive": "archive",
    "ssl._create_unverified_context": "verify",
}
LOADERS = ("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader", "yaml.CFullLoader")
SAFE_LOADERS = ("yaml.SafeLoader", "yaml.CSafeLoader")
EVERYWHERE = "0.0.0.0"
# What starts a process. A Python among them imports from the current folder unless `trainer.child` starts it.
STARTERS = {
    *(f"subprocess.{name}" for name in ("Popen", "run", "call", "check_call", "check_output")),
    *(f"multiprocessing.{name}" for name in ("Process", "Pool", "get_context", "set_start_method")),
    *("concurrent.futures.ProcessPoolExecutor", "asyncio.create_subprocess_exec", "os.posix_spawn", "os.posix_spawnp"),
    *(f"os.exec{suffix}" for suffix in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(f"os.spawn{suffix}" for suffix in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
}
# A text without any of these holds nothing of it, and need not be parsed.
TELLING = re.compile(
    "|".join(
        re.escape(word)
        for word in {
            *UNPICKLERS,
            *(name.rpartition(".")[2] for name in CALLS),
            *(name.rpartition(".")[2] for name in STARTERS),
            *("torch", "yaml", "allow_pickle", "shell", "Loader", "verify", "extractall", "Image", EVERYWHERE),
        }
    )
)


def forbidden(source: str) -> list[Finding]:
    """What the source text holds of it, in order."""
    if not TELLING.search(source):
        return []
    nodes = list(ast.walk(ast.parse(source)))
    names = _Names(nodes)
    found = [finding for node in nodes for finding in _in(node, names)]
    return sorted(set(found))


class _Names:
    """What local names stand for."""

    def __init__(self, nodes: Sequence[ast.AST]) -> None:
        self._known: dict[str, str] = {}
        for node in nodes:
            if isinstance(node, ast.Import):
                for each in node.names:
                    self._known[each.asname or each.name.partition(".")[0]] = (
                        each.name if each.asname else each.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for each in node.names:
                    self._known[each.asname or each.name] = f"{node.module}.{each.name}"
        assignments = [node for node in nodes if isinstance(node, ast.Assign)]
        for _ in range(3):  # a name of a name of a name
            for node in assignments:
                if meaning := self.of(node.value):
                    for target in node.targets:
                        if isinstance(target, ast.Name) and target.id not in self._known:
                            self._known[target.id] = meaning

    def of(self, node: ast.expr | None) -> str:
        """The dotted name that an expression stands for; empty where it is none."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.of(node.value)
            return f"{base}.{node.attr}" if base else ""
        if isinstance(node, ast.Call):
            called = self.of(node.func)
            words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            if called == "getattr" and len(node.args) >= 2 and len(words) == 1:
                return f"{self.of(node.args[0])}.{words[0]}"
            if called in ("importlib.import_module", "__import__") and words:
                return words[0]
        return ""


def _in(node: ast.AST, names: _Names) -> Iterator[Finding]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Import):
        for each in node.names:
            if each.name.partition(".")[0] in UNPICKLERS:
                yield Finding(line, "pickle", f"import {each.name}")
    elif isinstance(node, ast.ImportFrom):
        for each in node.names:
            if (node.module or "").partition(".")[0] in UNPICKLERS or each.name in UNPICKLERS:
                yield Finding(line, "pickle", f"from {node.module} import {each.name}")
    elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        meaning = names.of(node)
        if meaning in LOADERS:
            yield Finding(line, "yaml", meaning)
        elif meaning in CALLS and not (meaning == "compile" and isinstance(node, ast.Attribute)):
            yield Finding(line, CALLS[meaning], meaning)
        elif any(part in UNPICKLERS for part in meaning.split(".")[1:]):
            yield Finding(line, "pickle", meaning)  # ray.cloudpickle, for one
    elif isinstance(node, ast.Constant) and node.value == EVERYWHERE:
        yield Finding(line, "bind", EVERYWHERE)
    elif isinstance(node, ast.Call):
        yield from _in_call(node, names)


def _in_call(node: ast.Call, names: _Names) -> Iterator[Finding]:
    called = names.of(node.func)
    keywords = {word.arg: word.value for word in node.keywords if word.arg}
    literal = {name: value.value for name, value in keywords.items() if isinstance(value, ast.Constant)}
    if called in ("importlib.import_module", "__import__") and names.of(node).partition(".")[0] in UNPICKLERS:
        yield Finding(node.lineno, "pickle", names.of(node))
    if called == "getattr" and names.of(node) in CALLS:
        yield Finding(node.lineno, CALLS[names.of(node)], names.of(node))
    if called in STARTERS:
        yield Finding(node.lineno, "child", called)
    if called == "torch.load" and literal.get("weights_only") is not True:
        yield Finding(node.lineno, "torch.load", "torch.load without weights_only=True")
    if "allow_pickle" in keywords and literal.get("allow_pickle") is not False:
        yield Finding(node.lineno, "pickle", "allow_pickle")
    if "shell" in keywords and literal.get("shell") is not False:
        yield Finding(node.lineno, "shell", "shell=")
    if "Loader" in keywords and names.of(keywords["Loader"]) not in SAFE_LOADERS:
        yield Finding(node.lineno, "yaml", "Loader=")
    if "verify" in keywords and literal.get("verify", True) is False:
        yield Finding(node.lineno, "verify", "verify=False")
    if isinstance(node.func, ast.Attribute) and node.func.attr == "extractall" and literal.get("filter") != "data":
        yield Finding(node.lineno, "archive", "extractall without filter='data'")
    if called == "PIL.Image.open" and "formats" not in keywords:
        yield Finding(node.lineno, "image", "Image.open without formats=")
