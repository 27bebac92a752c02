"""Processes that run tasks and answer no browser.

``options.py`` has the options of a worker, whether they come from the command line or from a
zope.ini, and ``exits.py`` its exit codes. ``run.py`` runs it. ``process.py`` loads Zope and is one
worker, ``logs.py`` its log; ``loop.py`` is what it does until it ends, ``limits.py`` when it ends
by itself, ``signals.py`` what it is told by signals, ``stacks.py`` what its threads do.

``supervisor.py`` keeps several such processes running, and never loads Zope itself; ``child.py``
is one of them as the supervisor sees it, ``channel.py`` what the two tell each other, and
``__main__.py`` is how a child starts.

``health.py`` is what is wrong with a worker; ``probe.py`` answers orchestrators over HTTP,
``notifier.py`` tells systemd. ``server.py`` is the
entry point of runwsgi, ``instance.py`` the one of ``bin/instance``.
"""
