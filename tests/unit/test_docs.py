"""Every snippet of the documentation is run, or is part of code that other tests run."""

from collective.taskqueue import config
from collective.taskqueue.cli.main import COMMANDS
from collective.taskqueue.cli.main import taskqueue
from collective.taskqueue.cli.settings import VARIABLE
from collective.taskqueue.consumer.consumer import Consumer
from collective.taskqueue.interfaces import ITaskStorage
from collective.taskqueue.worker.options import worker_options
from commandlines import options_of
from contextlib import chdir
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive
from docutils.parsers.rst import directives
from importlib.metadata import metadata
from packaging.requirements import Requirement
from paste.deploy.loadwsgi import loadcontext
from paste.deploy.loadwsgi import SERVER
from pathlib import Path
from readme import addon_files
from textwrap import indent
from zope.dottedname.resolve import resolve
import collective.taskqueue
import pytest
import re
import shlex
import subprocess
import sys
import yaml
import ZConfig
import Zope2.Startup


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.rst", "CONTRIBUTING.rst", "RELEASING.rst", "CHANGES.rst")]
PAGES += [*sorted((ROOT / "docs").rglob("*.rst")), ROOT / "news" / "README.rst"]
PAGES += sorted((ROOT / "examples").rglob("README.rst"))

DEMO = ROOT / "examples" / "demo" / "src" / "taskqueue_demo"

#: What may be quoted: the demo add-on and the tests that are examples themselves.
QUOTED = [path for kind in ("py", "zcml", "xml") for path in sorted(DEMO.rglob(f"*.{kind}"))]
QUOTED += sorted((ROOT / "tests").rglob("test_example_*.py"))

#: Examples of deployments; other tests use them.
DEPLOYMENTS = [
    path
    for kind in ("buildout", "compose", "cookiecutter", "kubernetes", "systemd")
    for path in sorted((ROOT / "examples" / kind).rglob("*.*"))
    if path.is_file()
]

#: Requests and responses, as they were; see `tests/rest/test_recordings.py`.
RECORDINGS = {
    path.read_text(encoding="utf-8") for path in (ROOT / "tests/rest/recordings").glob("*.http")
}

#: What is no room: registrations, and the vocabulary for forms.
GLUE = {"configure.zcml"}

ZOPE_CONF = """\
instancehome {folder}
clienthome {folder}
"""

#: For what does not say itself where its objects are.
MAIN = """\
<zodb_db main>
    mount-point /
    <mappingstorage />
</zodb_db>
"""


class OfSphinx(Directive):
    """A directive of Sphinx, which `make docs` checks; here it is skipped."""

    optional_arguments = 1
    option_spec = dict.fromkeys(("hidden", "members"), directives.flag)
    has_content = True

    def run(self):
        return []


for name in ("autointerface", "automodule", "toctree"):
    directives.register_directive(name, OfSphinx)


def read(path):
    """Return a page as a tree; a warning of docutils is an error here."""
    settings = {"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    return publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=settings)


def snippets():
    """Return language and text of every code block of every page.

    The files of the add-on in README.rst are left out: tests/acceptance/test_readme.py runs them.
    """
    addon = addon_files().values()
    return [
        pytest.param(
            next((name for name in block["classes"] if name != "code"), ""),
            block.astext(),
            id=f"{path.stem}-{number}",
        )
        for path in PAGES
        for number, block in enumerate(read(path).findall(nodes.literal_block), 1)
        if f"{block.astext()}\n" not in addon
    ]


@pytest.mark.parametrize(("language", "text"), snippets())
def test_snippet(language, text, tmp_path):
    """It does what the page says; see `CHECKS` for what that means."""
    CHECKS[language](text, tmp_path)


def check_quotation(text, folder):
    """Code stands word for word in a file that is run, indented or not."""
    sources = [path.read_text(encoding="utf-8") for path in QUOTED]
    spellings = [f"{indent(text, ' ' * width)}\n" for width in (0, 2, 4)]
    assert any(f"\n{spelling}" in source for spelling in spellings for source in sources), text


def check_recording(text, folder):
    """A request and its response are what a test has recorded."""
    assert f"{text}\n" in RECORDINGS, text


def check_zope_conf(text, folder):
    """Zope's own schema takes it, and every storage that it names can be made."""
    path = folder / "zope.conf"
    main = "" if "<zodb_db main>" in text else MAIN
    path.write_text(f"{text}\n{ZOPE_CONF.format(folder=folder)}{main}")
    schema = ZConfig.loadSchema(str(Path(Zope2.Startup.__file__).parent / "wsgischema.xml"))
    found, _ = ZConfig.loadConfig(schema, str(path))
    queues = config.resolve(found.product_config, {}).queues
    assert queues
    for settings in queues:
        storage = resolve(config.STORAGES.get(settings.type, settings.type))(settings)
        assert ITaskStorage.providedBy(storage)


def check_environment(text, folder):
    """The variables configure queues whose storages can be made."""
    environ = dict(line.split("=", 1) for line in text.splitlines())
    for number, name in enumerate(environ):
        if name.endswith("_FILE"):
            path = folder / str(number)
            path.write_text("s3cret\n")
            environ[name] = str(path)
    queues = config.load(None, environ).queues
    assert queues
    for settings in queues:
        storage = resolve(config.STORAGES[settings.type])(settings)
        assert ITaskStorage.providedBy(storage)


def check_command(text, folder):
    """It calls targets that the Makefile has, options that a worker has, or Docker Compose."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("taskqueue worker "):
            assert options_of(line.split()[2:], folder)
            continue
        if line.startswith("docker compose "):
            check_docker_compose(line, folder)
            continue
        if line.startswith(("mkdir ", "openssl ")):
            subprocess.run(["bash", "-euc", line], cwd=folder, check=True, timeout=60)
            continue
        target = re.fullmatch(r"make ([a-z-]+)(?: [A-Z]+=(?P<value>\S+))*", line)
        assert target, line
        assert re.search(rf"^{target[1]}:.*## ", makefile, re.MULTILINE), line
        if target["value"] and target["value"].startswith("examples/"):
            assert (ROOT / target["value"]).is_file(), line


def check_docker_compose(line, folder):
    """The service is one of examples/compose, and a call of `taskqueue` in it is good."""
    found = re.fullmatch(
        r"docker compose (build|exec|ps|run|up)((?: --\w+(?:=\S+)?)*)(?: ([a-z]+))?(?: (.+))?", line
    )
    assert found, line
    name, _, service, command = found.groups()
    text = (ROOT / "examples" / "compose" / "docker-compose.yml").read_text(encoding="utf-8")
    assert (name in ("exec", "run")) == bool(service)
    assert service is None or service in yaml.safe_load(text)["services"]
    if command and "taskqueue" in command:
        check_command_line(command.removeprefix("/app/bin/"), folder)


def check_ini(text, folder):
    """A part of zope.ini: the log, or a worker."""
    if "[server:" not in text:
        check_logging(text, folder)
        return
    ini = folder / "zope.ini"
    ini.write_text(f"[server:main]\nuse = egg:waitress#main\n{text}")
    name = re.search(r"\[server:(\w+)\]", text)[1]
    # The factory would handle signals of this process; its settings are what it is called with.
    context = loadcontext(SERVER, f"config:{ini}", name=name)
    assert context.entry_point_name == "worker"
    texts = {key: value.split() for key, value in context.local_conf.items()}
    assert worker_options(str(ini), {}, texts)


def check_command_line(text, folder):
    """Each line is a call of `taskqueue` that its parser takes, or sets its variable."""
    (folder / "data.json").touch()
    for line in text.splitlines():
        words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line))
        if words[0] == "export":
            assert words[1].startswith(f"{VARIABLE}=")
            continue
        assert words[0] == "taskqueue", line
        # Parses the options of the group, then those of the command, and calls neither.
        number = next(each for each, word in enumerate(words[1:], 1) if word in COMMANDS)
        name, rest = words[number], words[number + 1 :]
        taskqueue.make_context("taskqueue", words[1 : number + 1])
        with chdir(folder), taskqueue.get_command(None, name).make_context(name, rest):
            pass


def check_installation(text, folder):
    """It installs this package, for pip and for buildout, with extras that there are."""
    ours = metadata("collective.taskqueue")
    found = re.findall(r"collective\.taskqueue(?:\[\w+\])?(?: >= [\w.]+)?(?=[\s\"]|$)", text)
    assert found
    for requirement in map(Requirement, found):
        assert requirement.extras <= set(ours.get_all("Provides-Extra"))
        # Both the checkout and the release that follows it.
        assert requirement.specifier.contains(ours["Version"], prereleases=True)
        assert requirement.specifier.contains("2.0.0a1", prereleases=True)


def check_logging(text, folder):
    """Python's logging takes it, and it catches the line of a task."""
    (folder / "zope.ini").write_text(text)
    script = """\
import logging.config
logging.config.fileConfig("zope.ini")
logging.getLogger("collective.taskqueue.access").info("task 1")
"""
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, timeout=60)
    assert "INFO [collective.taskqueue.access] task 1" in (folder / "tasks.log").read_text()


def check_outline(text, folder):
    """A drawing: every function that it names is where it says."""
    names = re.findall(r"\b([a-z]+(?:\.[a-z]+)*)\.([a-z]+)\b", text)
    assert names
    for room, name in names:
        if room == "storage":
            assert name in ITaskStorage
        elif room == "consumer":
            assert callable(getattr(Consumer, name))
        else:
            assert callable(resolve(f"collective.taskqueue.{room}.{name}"))


def check_drawing(text, folder):
    """A drawing of a walk: its methods are steps of a walk, which another test takes."""
    walks = (ROOT / "docs" / "explanation" / "walks.rst").read_text(encoding="utf-8")
    names = re.findall(r"\b[A-Z]\w+\.\w+", text)
    assert names
    for name in names:
        assert f".{name}`` " in walks, name


def check_example(text, folder):
    """It stands word for word, indented or not, in a file that is an example of a deployment."""
    sources = [path.read_text(encoding="utf-8") for path in DEPLOYMENTS]
    spellings = [f"{indent(text, ' ' * width)}\n" for width in range(0, 13, 2)]
    assert any(f"\n{spelling}" in source for spelling in spellings for source in sources), text


CHECKS = {
    "python": check_quotation,
    "xml": check_quotation,
    "http": check_recording,
    "apacheconf": check_zope_conf,
    "console": check_command,
    "shell": check_installation,
    "sh": check_environment,
    "bash": check_command_line,
    "cfg": check_installation,
    "buildout": check_example,
    "systemd": check_example,
    "yaml": check_example,
    "ini": check_ini,
    "text": check_drawing,
    "": check_outline,
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path):
    """Every link that is not to the web leads to a file of this repository."""
    for link in read(path).findall(nodes.reference):
        if not link["refuri"].startswith("https://"):
            assert (path.parent / link["refuri"]).is_file(), link["refuri"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names(path):
    """Every file that is named exists, and so does everything of this package."""
    for literal in read(path).findall(nodes.literal):
        text = literal.astext()
        if re.match(r"(src|tests|docs|examples|news|benchmarks)/[^<]*$", text):
            assert (ROOT / text).exists(), text
        elif re.fullmatch(r"(?!.*\.access$)collective\.taskqueue(\.\w+)+", text):
            resolve(text)
        elif re.fullmatch(r"make [a-z-]+", text):
            check_command(text, None)


def test_recordings():
    """The pages show all of them; what no page shows need not be recorded."""
    cases = [case.values for case in snippets()]
    assert {f"{text}\n" for language, text in cases if language == "http"} == RECORDINGS


def test_rooms():
    """The page about the design names every room that there is, and no other."""
    (table, _) = read(ROOT / "docs" / "explanation" / "design.rst").findall(nodes.table)
    named = [row.astext().split()[0] for row in table.findall(nodes.row)]
    package = Path(collective.taskqueue.__file__).parent
    rooms = {path.name for path in package.iterdir() if path.name[0] not in "_."}
    assert sorted(named) == sorted(rooms - GLUE)


def test_news():
    """Every fragment is of a kind that towncrier knows, and is good reStructuredText."""
    names = [path.name for path in (ROOT / "news").iterdir() if path.name != "README.rst"]
    for name in names:
        assert re.fullmatch(r"(\d+|\+[a-z]+)\.(breaking|feature|bugfix)(\.\d+)?", name)
        assert read(ROOT / "news" / name).astext()


def test_pre_commit_has_the_tools_of_make_lint():
    """Else a commit would be brought into a form that CI refuses."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pinned,) = set(re.findall(r"ruff==[\d.]+", hooks))
    assert pinned in constraints.splitlines()
