"""The add-on that README.rst shows, as the files that a reader copies."""

from docutils import nodes
from docutils.core import publish_doctree
from pathlib import Path


README = Path(__file__).parents[1] / "README.rst"
SECTION = "A complete add-on"

#: README says so in one sentence; an empty file has no block of code.
EMPTY = "my-addon/my_addon/__init__.py"


def addon_files() -> dict[str, str]:
    """Return the content of each file by its path: zope.conf, and all others below ``my-addon``.

    The paragraph before a block of code begins with the path of its file.
    """
    settings = {"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    tree = publish_doctree(README.read_text("utf-8"), str(README), settings_overrides=settings)
    (section,) = (
        node for node in tree.findall(nodes.section) if node.children[0].astext() == SECTION
    )
    assert any(literal.astext() == EMPTY for literal in section.findall(nodes.literal))
    files = {EMPTY: ""}
    for before, block in zip(section.children, section.children[1:], strict=False):
        if isinstance(block, nodes.literal_block) and isinstance(before.children[0], nodes.literal):
            files[before.children[0].astext()] = f"{block.astext()}\n"
    return files


def write_addon(folder: Path) -> Path:
    """Write the add-on below `folder`; return the folder to install it from."""
    for name, text in addon_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "my-addon"
