"""Whether a worker is alive and ready, and what is wrong if it is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """The state of one worker; each text names what is wrong."""

    #: Why the process should be replaced; empty if it is alive.
    dead: tuple[str, ...] = ()
    #: Why it cannot run tasks right now, besides these.
    unready: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether its threads work, or wait for a storage."""
        return not self.dead

    @property
    def ready(self) -> bool:
        """Whether Zope is loaded, consumers take tasks, and their storages are available."""
        return not self.dead and not self.unready
