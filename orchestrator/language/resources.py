"""What one trial is to be given of a machine."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator

from orchestrator.language.parameters import StrictConfig

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MEMORY = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})")


class Resources(StrictConfig):
    """What one trial is given, wherever it runs; what is null follows from the machines."""

    cpus_per_trial: int | None = Field(None, ge=1)
    """CPU cores; where null, those of a machine are divided among its trials."""
    gpus_per_trial: float | None = Field(None, ge=0, json_schema_extra={"maximum": 1})
    """GPUs: one, a share of one, or 0; where null, one if there are any. A trial trains on one GPU."""
    memory_per_trial: str | None = None
    """Memory such as `16 GiB` that a machine must have left; where null, it is not counted."""

    @field_validator("gpus_per_trial")
    @classmethod
    def _one_or_part_of_one(cls, value: float | None) -> float | None:
        if value is not None and not value <= 1:
            raise ValueError(f"must be at most 1, for a trial trains on one GPU; 0.5 lets two share one (is {value:g})")
        return value

    @field_validator("memory_per_trial")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            memory_bytes(value)
        return value

    def overridden(self, other: Self) -> Self:
        """These, but for what the other ones say."""
        return self.model_copy(update=other.model_dump(exclude_none=True))


def memory_bytes(text: str) -> int:
    """Bytes that a text such as `16 GiB` or `500MB` means.

    Raises:
        ValueError: it means none.
    """
    found = MEMORY.fullmatch(text)
    number = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if number == 0:
        raise ValueError(f"must be a number and one of {', '.join(UNITS)}, such as 16 GiB (is {text!r})")
    return number
