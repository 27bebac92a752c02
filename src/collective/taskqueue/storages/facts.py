"""What a storage is like at one moment, for a person who checks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The product behind a storage, asked without changing anything in it."""

    #: Name and version, such as ``Redis 7.0.15``.
    product: str
    #: Seconds that the clock of the storage is ahead of that of this machine.
    skew: float
    #: Parts of a sentence that say what may be good to know.
    notes: tuple[str, ...] = ()
    #: Sentences that say what is wrong.
    faults: tuple[str, ...] = ()
    #: The version of its tables, None if there are none; and the version that this package makes,
    #: None for a storage without tables.
    tables: int | None = None
    tables_known: int | None = None
