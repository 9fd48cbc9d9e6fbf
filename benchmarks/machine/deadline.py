"""How long a run may take."""

import time
from dataclasses import dataclass, field


class DeadlineError(RuntimeError):
    """A run took longer than it may."""


@dataclass
class Deadline:
    """Seconds that one run may take, counted from here; none by default."""

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False  # a check found it over

    @property
    def over(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.began > self.seconds

    def check(self, where: str) -> None:
        """Raises:
        DeadlineError: the time is over.
        """
        if self.over:
            self.stopped = True
            raise DeadlineError(f"its {self.seconds:g} s were over {where}")
