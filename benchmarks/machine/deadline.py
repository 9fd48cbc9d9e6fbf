"""How long a run may take."""

import time
from dataclasses import dataclass, field


class DeadlineError(RuntimeError):
    """A run exceeded its time limit."""


@dataclass
class Deadline:
    """Seconds that one run may take, counted from now; unlimited by default."""

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False  # a check found that the time was up

    @property
    def over(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.began > self.seconds

    def check(self, where: str) -> None:
        """Stop the run if its time is up; `where` says how far it got, as in "in epoch 3".

        Raises:
            DeadlineError: the time is up.
        """
        if self.over:
            self.stopped = True
            raise DeadlineError(f"its {self.seconds:g} s were over {where}")
