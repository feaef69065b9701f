"""No file of this project reads code out of data, starts a shell or listens everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import ROOT
from forbidden import forbidden

FOLDERS = ("trainer", "orchestrator", "benchmarks", "search_spaces", "cluster", "tests")
# What is used all the same: file and rule, and why.
EXCEPTIONS = {
    ("trainer/checkpoint.py", "pickle"): "names the error that torch.load(weights_only=True) raises",
    ("trainer/model/weights.py", "pickle"): "names the error that torch.load(weights_only=True) raises",
    ("trainer/data/readers/hdf5_child.py", "native reader"): "the child process, with limits, that nothing depends on",
    ("trainer/child.py", "child"): "where children are started, with nothing of the current folder",
    ("orchestrator/base/provenance.py", "child"): "git, which is no Python",
    ("orchestrator/cluster/slurm.py", "child"): "bash, which is no Python",
    ("orchestrator/doctor/kubernetes.py", "child"): "starts kubectl",
    ("orchestrator/base/hints.py", "child"): "names the command of this environment, and starts nothing",
    ("benchmarks/bench_decoders.py", "image"): "decodes what it encoded itself",
    ("benchmarks/bench_loader.py", "image"): "decodes what the generator of data wrote",
    ("tests/helpers/forbidden.py", "bind"): "looks for it",
    ("tests/cluster/test_ray.py", "bind"): "asks whether it counts as loopback",
    ("tests/trainer/training/test_checkpoint.py", "shell"): "what a hostile checkpoint would run, and does not get to",
}
# Tests write hostile files and look at what others wrote; what they may do to that end.
IN_TESTS = {"pickle", "image", "native reader", "eval", "child"}
# Run from the checkout, by those who have it.
IN_BENCHMARKS = {"child"}


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 200
    return found


def allowed_in(path: str) -> set[str]:
    """Rules that do not hold in the folder of a file."""
    return {"tests": IN_TESTS, "benchmarks": IN_BENCHMARKS}.get(path.partition("/")[0], set())


def test_no_source_file_holds_a_forbidden_construct_but_for_those_that_are_listed() -> None:
    wrong, used = [], set()
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if name == Path(__file__).relative_to(ROOT).as_posix():
            continue  # spells them out below
        for finding in forbidden(path.read_text(encoding="utf-8")):
            place = (name, finding.rule)
            used.add(place)
            if place not in EXCEPTIONS and finding.rule not in allowed_in(name):
                wrong.append(f"{name}:{finding.line}: {finding.rule}: {finding.text}")
    assert wrong == []
    assert set(EXCEPTIONS) <= used, "an exception that nothing needs any more"


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("pickle", "import pickle"),
        ("pickle", "import pickle as p\np.loads(x)"),
        ("pickle", "from pickle import loads"),
        ("pickle", "from ray import cloudpickle"),
        ("pickle", "import ray\nray.cloudpickle.loads(x)"),
        ("pickle", "import dill"),
        ("pickle", "import joblib"),
        ("pickle", "import shelve"),
        ("pickle", "import marshal"),
        ("pickle", "import importlib\nimportlib.import_module('pickle')"),
        ("pickle", "__import__('cloudpickle').loads(x)"),
        ("pickle", "import numpy as np\nnp.load(f, allow_pickle=True)"),
        ("pickle", "import numpy as np\nnp.load(f, allow_pickle=trusted)"),
        ("pickle", "from pandas import read_pickle as read\nread(f)"),
        ("pickle", "from ray.tune import Tuner\nTuner.restore(path)"),
        ("pickle", "import mlflow.pytorch\nmlflow.pytorch.load_model(uri)"),
        ("yaml", "import yaml\nyaml.load(x)"),
        ("yaml", "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)"),
        ("yaml", "import yaml as y\ny.unsafe_load(x)"),
        ("yaml", "from yaml import full_load as f\nf(x)"),
        ("yaml", "import yaml\nyaml.parse(x, Loader=yaml.Loader)"),
        ("yaml", "from yaml import CLoader\nread(x, Loader=CLoader)"),
        ("yaml", "import yaml\nclass Own(yaml.FullLoader): ..."),
        ("yaml", "import yaml\nread(x, Loader=chosen)"),
        ("torch.load", "import torch\ntorch.load(f)"),
        ("torch.load", "import torch as t\nt.load(f, weights_only=False)"),
        ("torch.load", "from torch import load as l\nl(f)"),
        ("torch.load", "import torch\nread = torch.load\nread(f)"),
        ("torch.load", "import torch\ngetattr(torch, 'load')(f)"),
        ("torch.load", "import torch\ntorch.load(f, weights_only=flag)"),
        ("torch.load", "import torch\ntorch.jit.load(f)"),
        ("eval", "eval(x)"),
        ("eval", "exec(x)"),
        ("eval", "compile(x, 'f', 'exec')"),
        ("eval", "e = eval\ne(x)"),
        ("eval", "import builtins\nlist(map(eval, x))"),
        ("shell", "import os\nos.system(x)"),
        ("shell", "from os import popen\npopen(x)"),
        ("shell", "import subprocess\nsubprocess.run(x, shell=True)"),
        ("shell", "from subprocess import run as r\nr(x, shell=True)"),
        ("shell", "import subprocess as s\ns.Popen(x, shell=flag)"),
        ("shell", "import subprocess\nsubprocess.getoutput(x)"),
        ("shell", "import os\ngetattr(os, 'system')(x)"),
        ("mktemp", "import tempfile\ntempfile.mktemp()"),
        ("archive", "import tarfile\ntarfile.open(f).extractall(p)"),
        ("archive", "import tarfile\ntarfile.open(f).extractall(p, filter='fully_trusted')"),
        ("archive", "from zipfile import ZipFile\nZipFile(f).extractall(p)"),
        ("archive", "import shutil\nshutil.unpack_archive(f)"),
        ("verify", "import requests\nrequests.get(u, verify=False)"),
        ("verify", "import ssl\nssl._create_unverified_context()"),
        ("bind", "server.bind(('0.0.0.0', 80))"),
        ("native reader", "from scipy.io import loadmat\nloadmat(f)"),
        ("native reader", "import h5py\nh5py.File(f)"),
        ("image", "from PIL import Image\nImage.open(f)"),
        ("child", "import sys\nCOMMAND = (sys.executable, '-m', 'a')"),
        ("child", "from sys import executable as python\nrun(python)"),
        ("child", "import subprocess\nsubprocess.Popen(['python', '-m', 'a'])"),
        ("child", "from subprocess import run as r\nr(command)"),
        ("child", "import multiprocessing as m\nm.get_context('spawn')"),
        ("child", "from concurrent.futures import ProcessPoolExecutor as P\nP()"),
        ("child", "import os\nos.execvp(a, b)"),
    ],
)
def test_a_forbidden_construct_is_found_however_it_is_spelled(rule: str, source: str) -> None:
    assert rule in {finding.rule for finding in forbidden(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(x)",
        "model.eval()",
        "model.compile()",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.safe_load(x)\nyaml.parse(x, Loader=yaml.SafeLoader)",
        "from trainer.child import start_child\nstart_child(['ls'], shell=False)",
        "import subprocess\nchild: subprocess.Popen[str] = start(stdin=subprocess.PIPE)",
        "import tarfile\ntarfile.open(f).extractall(p, filter='data')",
        "from PIL import Image\nImage.open(f, formats=['PNG'])",
        "import tempfile\ntempfile.mkdtemp()",
        "'pickle, yaml.load and eval(x) in a text'",
    ],
)
def test_what_is_allowed_is_not_found(source: str) -> None:
    assert forbidden(source) == []
