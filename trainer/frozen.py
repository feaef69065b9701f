"""The one kind of configuration: frozen, strict, documented field by field."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """A configuration that cannot change and refuses what it does not know.

    Unknown keys, NaN and infinity are errors. The docstring under a field is its description.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
