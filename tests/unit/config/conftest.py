"""zope.conf under Zope's own WSGI schema."""

from zopeconf import loaded
import pytest


@pytest.fixture
def load(tmp_path):
    """Load a zope.conf whose line 3 is the first of the text; return its product_config."""

    def load(text, *imports):
        return loaded(tmp_path, text, *imports).product_config

    return load
