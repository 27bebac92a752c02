"""zope.conf under Zope's own WSGI schema."""

from Zope2.Startup.options import ZopeWSGIOptions
import pytest


@pytest.fixture(scope="module")
def schema():
    """The schema as Zope loads it."""
    options = ZopeWSGIOptions()
    options.load_schema()
    return options.schema


@pytest.fixture
def load(schema, tmp_path):
    """Load a zope.conf whose line 3 is the first of the text; return its product_config."""

    def load(text, imports="%import collective.taskqueue"):
        path = tmp_path / "zope.conf"
        path.write_text(f"instancehome {tmp_path}\n{imports}\n{text}\n")
        options = ZopeWSGIOptions(str(path))
        options.schema = schema
        options.load_configfile()
        return options.configroot.product_config

    return load
