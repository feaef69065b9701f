"""How long a search has run and held GPUs, added up from the times of its events."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Spending:
    """Time between the events of each session; what lies between two sessions costs nothing.

    A session that was killed counts up to its last event, which is all that is known of it.
    """

    seconds: float = 0.0
    """Wall time of all sessions."""
    gpu_seconds: float = 0.0
    """The same, times the GPUs that running trials held."""
    latest: float | None = None
    """When the last event of the running session was written; None between sessions."""
    held: dict[str, float] = field(default_factory=dict)
    """GPUs by running trial."""

    def begin(self, moment: float) -> None:
        """A session starts."""
        self.latest = moment
        self.held.clear()

    def advance(self, moment: float) -> None:
        """Time passes; a clock that was set back costs nothing."""
        if self.latest is not None:
            self.seconds, self.gpu_seconds = self.until(moment)
            self.latest = max(moment, self.latest)

    def end(self) -> None:
        """The session is over."""
        self.latest = None
        self.held.clear()

    def until(self, moment: float) -> tuple[float, float]:
        """Seconds and GPU seconds if the running session lasts to that moment."""
        passed = 0.0 if self.latest is None else max(0.0, moment - self.latest)
        return self.seconds + passed, self.gpu_seconds + passed * sum(self.held.values())
