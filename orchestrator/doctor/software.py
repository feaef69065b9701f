"""Checks of versions, of torch with torchvision, of GPUs, and of the JPEG decoder."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from orchestrator.base import provenance
from orchestrator.doctor.findings import Finding
from trainer.errors import ConfigError
from trainer.formatting import first_line
from trainer.plugins import KINDS, PREFIX, installed_plugins, load_plugin

PROJECT = "reidsearch"
SMALLEST_PYTHON = (3, 11)
INSTALL_AGAIN = "install the versions that constraints.txt pins: make install"
# A ResNet-50 with the paper's batch of 32 clips of 4 frames needs more.
SMALL_GPU_BYTES = 8 * 2**30
# The driver's list of GPUs; torch finds none of them if it was built for CPUs, or for a newer driver.
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# NVIDIA, CUDA compatibility: the oldest driver for each major version of CUDA.
OLDEST_DRIVERS = {"12": 525, "13": 580}


def versions() -> Iterator[Finding]:
    """Whether the installed packages satisfy the requirements of this one."""
    from packaging.requirements import Requirement

    python = tuple(map(int, platform.python_version_tuple()[:2]))
    if python < SMALLEST_PYTHON:
        yield Finding("problem", "python", platform.python_version(), "Python 3.11 or later is needed")
    wrong = 0
    for text in requires(PROJECT) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = "not installed"
        if found == "not installed" or not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            needed = f"{requirement.name} {requirement.specifier}"
            yield Finding("problem", "versions", f"{requirement.name} {found}, needed is {needed}", INSTALL_AGAIN)
    if not wrong:
        yield Finding("ok", "versions", ", ".join(f"{name} {found}" for name, found in provenance.versions().items()))


def plugins() -> Iterator[Finding]:
    """Every installed plug-in, which is imported."""
    for kind in KINDS:
        try:
            found = installed_plugins(kind)
        except ConfigError as error:
            yield Finding("problem", "plug-ins", str(error), f"entry points reidsearch.{kind}")
            continue
        for name, plugin in found.items():
            try:
                load_plugin(kind, PREFIX + name)
            except ConfigError as error:
                yield Finding("problem", "plug-ins", str(error), "repair or uninstall the package")
            else:
                yield Finding("ok", "plug-ins", f"{plugin}, of {kind.replace('_', ' ')}")


def torch_pair() -> Iterator[Finding]:
    """Whether torchvision was built for the installed torch; otherwise its first operator fails."""
    pair = f"torch {_version('torch')}, torchvision {_version('torchvision')}"
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        torchvision.ops.nms(boxes, torch.ones(1), 0.5)
    except (ImportError, OSError, RuntimeError) as error:
        advice = "install both for the CPU, or both for the same CUDA: " + INSTALL_AGAIN
        yield Finding("problem", "torch", f"{pair}: do not work together ({first_line(error)})", advice)
        return
    yield Finding("ok", "torch", f"{pair} work together; built for {_built_for(torch.version.cuda)}")


def _built_for(cuda: str | None) -> str:
    return "CPUs" if cuda is None else f"CUDA {cuda}"


def gpus() -> Iterator[Finding]:
    """Every GPU and its memory."""
    try:
        import torch
    except (ImportError, OSError):
        return  # `torch_pair` reports it
    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda)
        return
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        try:
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as error:
            yield Finding("problem", "gpu", f"{number}: {name} cannot be used ({first_line(error)})", "see nvidia-smi")
            continue
        text = f"{number}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if free < SMALL_GPU_BYTES:
            advice = "`launch --dry-run` says whether a trial fits; otherwise fewer identities a batch, or another GPU"
            yield Finding("warn", "gpu", text, advice)
        else:
            yield Finding("ok", "gpu", text)


def _no_gpu(cuda: str | None) -> Finding:
    there = sorted(NVIDIA_GPUS.iterdir()) if NVIDIA_GPUS.is_dir() else []
    if there:
        text = f"the driver{_driver()} lists {len(there)}, torch (built for {_built_for(cuda)}) finds none"
        oldest = OLDEST_DRIVERS.get((cuda or "").partition(".")[0])
        newer = "a newer driver" if oldest is None else f"driver {oldest} or later"
        return Finding("problem", "gpu", text, f"install torch for this driver's CUDA, or {newer}; see nvidia-smi")
    return Finding("warn", "gpu", "none: fine for generated data, but one epoch on MARS would take hours")


def _driver() -> str:
    """The version of NVIDIA's driver, after a space; nothing if it is not known."""
    try:
        found = re.search(r"\b\d{3,}(\.\d+)+\b", NVIDIA_DRIVER.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return ""
    return "" if found is None else f" {found[0]}"


def jpeg_decoder() -> Iterator[Finding]:
    """Encodes and decodes a small picture."""
    try:
        import numpy as np
        import simplejpeg

        picture = np.full((16, 8, 3), 128, dtype=np.uint8)
        decoded = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(picture))
    except (ImportError, OSError, ValueError) as error:
        yield Finding("problem", "jpeg", f"simplejpeg does not decode ({first_line(error)})", INSTALL_AGAIN)
        return
    if decoded.shape != picture.shape or abs(decoded.astype(int) - 128).max() > 2:
        yield Finding("problem", "jpeg", "simplejpeg decodes to other pixels", INSTALL_AGAIN)
    else:
        yield Finding("ok", "jpeg", f"simplejpeg {_version('simplejpeg')} decodes")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
