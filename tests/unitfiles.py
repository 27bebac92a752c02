"""Reads the units of systemd in examples/systemd, as far as tests need it."""

from __future__ import annotations

from pathlib import Path


UNITS = Path(__file__).parents[1] / "examples" / "systemd"

#: Read for each unit whose name begins with `plone-`.
COMMON = UNITS / "plone-.service.d" / "common.conf"


class Unit:
    """The section [Service] of a unit, with what it has from the file for all of them."""

    def __init__(self, name: str) -> None:
        self.path = UNITS / name
        self._settings = [*_settings(COMMON), *_settings(self.path)]

    def all(self, key: str) -> list[str]:
        """Return all values of a key."""
        return [value for found, value in self._settings if found == key]

    def one(self, key: str) -> str:
        """Return the last value of a key, which is the one that counts."""
        return self.all(key)[-1]

    def words(self, key: str) -> list[str]:
        """Return the words of a value; the units need no quotes."""
        return self.one(key).split()

    def environment(self) -> dict[str, str]:
        """Return the variables that are set, without those of the file that is named."""
        return dict(value.split("=", 1) for value in self.all("Environment"))


def environment_file(path: Path) -> dict[str, str]:
    """Return the variables of a file for `EnvironmentFile`."""
    return dict(line.split("=", 1) for line in _lines(path))


def _settings(path: Path) -> list[tuple[str, str]]:
    section, found = "", []
    for line in _lines(path):
        if line.startswith("["):
            section = line
        elif section == "[Service]":
            key, _, value = line.partition("=")
            found.append((key, value))
    return found


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
