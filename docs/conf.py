"""How Sphinx builds these pages: `make docs`.

The pages link to each other by relative paths, so that the links work in a file browser, too.
"""

from collective.taskqueue.interfaces import ITaskQueue
from docutils import nodes
from importlib.metadata import version as version_of
from pathlib import Path
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
import posixpath


DOCS = Path(__file__).parent
REPOSITORY = "https://github.com/collective/collective.taskqueue/blob/main"

project = "collective.taskqueue"
author = "Plone Collective"
version = release = version_of(project)

extensions = ["sphinx.ext.autodoc", "repoze.sphinx.autointerface"]
html_theme = "furo"
html_title = f"{project} {release}"

# Docstrings mark code with single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
highlight_language = "none"

# Pygments has no lexer for zope.conf, nor for a request that is followed by its response; those
# for Apache and HTTP colour most of it. The tests compare every snippet with code that is run.
suppress_warnings = ["misc.highlighting_failure"]

# What no page documents: the standard library, and the class behind `ITaskQueue`.
nitpick_ignore_regex = [
    ("py:class", r"collections\.abc\..*"),
    ("py:class", r".*IItem.*"),
    ("py:class", r"collective\.taskqueue\.queue\.TaskQueue"),
]

# zope.interface knows no arguments that are given by keyword only, and takes `view` for the name
# of the last one.
ITaskQueue["add"].kwargs = "options"


class RelativeLinks(SphinxTransform):
    """Make a link to another page one that Sphinx resolves, and checks.

    A link to a file outside of `docs` leads to that file in the repository.
    """

    #: After docutils has found the targets of all references.
    default_priority = 900

    def apply(self, **kwargs):
        for node in list(self.document.findall(nodes.reference)):
            target = node.get("refuri", "")
            if target and not target.startswith("#") and ":" not in target:
                node.replace_self(self.resolved(node, target))

    def resolved(self, node, target):
        folder = posixpath.dirname(self.env.docname)
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("../"):
            node["refuri"] = f"{REPOSITORY}/{path.removeprefix('../')}"
            return node
        return addnodes.pending_xref(
            "",
            nodes.inline("", node.astext()),
            refdomain="std",
            reftype="doc",
            reftarget="/" + path.removesuffix(".rst"),
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )


def setup(app):
    """Called by Sphinx."""
    app.add_transform(RelativeLinks)
