"""The entry point of ``bin/instance taskqueue …`` in a buildout with plone.recipe.zope2instance."""

from __future__ import annotations

from typing import Any
import os
import sys


def taskqueue(controller: Any, line: str) -> None:
    """Become the command ``taskqueue`` with the arguments of ``bin/instance taskqueue``.

    `controller` is the one of the recipe. It calls this before Zope is loaded. The command gets
    zope.conf of the instance, and a worker its zope.ini.
    """
    options = controller.options
    # The first is the name of this command. `line` has lost its quotes.
    arguments = list(options.args[1:])
    if arguments[:1] == ["worker"]:
        if not options.wsgi:
            sys.exit("bin/instance taskqueue worker: this instance has no WSGI configuration")
        arguments.insert(1, options.wsgi)
    command = [sys.executable, "-P", "-m", "collective.taskqueue"]
    command += ["--config", options.configfile, *arguments]
    # The script of the buildout has set the path for itself alone.
    environ = {**controller.environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    os.execve(command[0], command, environ)
