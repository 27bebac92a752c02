"""The catalogues of translations have all texts of the code; `make locales` updates them."""

from babel.messages.pofile import read_po
from pathlib import Path
import pytest
import re
import subprocess
import sys


ROOT = Path(__file__).parents[2]
DOMAIN = "collective.taskqueue"
LOCALES = ROOT / "src/collective/taskqueue/site/locales"
CATALOGUES = sorted(LOCALES.glob("*/LC_MESSAGES/*.po"))

#: The extraction takes a second; only a failure takes this long.
TIMEOUT = 120.0


def read(path):
    with path.open("rb") as lines:
        return read_po(lines)


def texts(catalogue):
    """Return ids and what is said without a translation."""
    return {message.id: " ".join(message.auto_comments) for message in catalogue if message.id}


def test_the_template_has_the_texts_of_the_code(tmp_path):
    command = [Path(sys.executable).with_name("pot-create"), "--domain", DOMAIN]
    command += ["--output", tmp_path / "new.pot", "src"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=TIMEOUT)
    found = texts(read(tmp_path / "new.pot"))
    assert found == texts(read(LOCALES / f"{DOMAIN}.pot"))
    assert {"Task queue", "collective.taskqueue: Add task", "unavailable_title"} <= set(found)


def test_german_is_there():
    assert [path.parts[-3] for path in CATALOGUES] == ["de"]


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parts[-3])
def test_every_text_is_translated(path):
    """No text is missing, left over, empty or guessed, and all values are put in."""
    catalogue = read(path)
    assert path.stem == DOMAIN
    assert not catalogue.obsolete
    assert texts(catalogue) == texts(read(LOCALES / f"{DOMAIN}.pot"))
    for message in catalogue:
        assert message.string, message.id
        assert not message.fuzzy, message.id
        if message.id:
            values = set(re.findall(r"\$\{\w+\}", f"{message.id} {message.auto_comments}"))
            assert set(re.findall(r"\$\{\w+\}", message.string)) == values
