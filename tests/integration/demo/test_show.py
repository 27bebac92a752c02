"""The instance of `make demo`, as far as it can be looked at without starting it."""

from pathlib import Path
from runpy import run_path
from xml.etree import ElementTree
from ZODB.interfaces import IBlobStorage
from Zope2.Startup.options import ZopeWSGIOptions
import pytest
import taskqueue_demo


SHOW = run_path(str(Path(__file__).parents[3] / "examples" / "demo" / "show.py"))

DEMO = Path(taskqueue_demo.__file__).parent


def test_files_can_be_uploaded(tmp_path):
    """G4 of issue 12: each database of the instance has a place for blobs."""
    (tmp_path / "var").mkdir()
    conf = tmp_path / "zope.conf"
    conf.write_text(SHOW["ZOPE_CONF"].format(home=tmp_path, queue=SHOW["QUEUES"]["local"]))
    options = ZopeWSGIOptions(str(conf))
    options.load_schema()
    options.load_configfile()
    for database in options.configroot.databases:
        storage = database.config.storage.open()
        assert IBlobStorage.providedBy(storage)
        storage.close()


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.zcml")), ids=lambda path: path.name)
def test_every_view_asks_for_a_permission(path):
    """G4 of issue 12: what tasks call, too: everybody who may add tasks may have it called."""
    pages = [item for item in ElementTree.parse(path).iter() if item.get("permission")]
    assert pages
    assert [item.get("name") for item in pages if item.get("permission") == "zope.Public"] == []
    views = [item for item in ElementTree.parse(path).iter() if item.tag.endswith("page")]
    assert [item.get("name") for item in views if not item.get("permission")] == []
