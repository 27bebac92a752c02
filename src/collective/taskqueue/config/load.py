"""The effective settings of a zope.conf and of the environment, without starting Zope."""

from __future__ import annotations

from collections.abc import Mapping
from collective.taskqueue.config.precedence import resolve
from collective.taskqueue.config.refusal import refuse
from collective.taskqueue.config.settings import Settings
from pathlib import Path


def load(configfile: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the effective settings of all queues and consumers.

    Reads zope.conf, which takes about a second, opens no database, and loads no ZCML. Without a
    file, the environment alone says all. `environ` takes the place of the variables of the
    process, except where the file itself has a ``$(NAME)``.

    Raises ZConfig's `ConfigurationError`, in one sentence, for a mistake in either, and for a
    file that cannot be read.
    """
    if configfile is None:
        return resolve({}, environ)
    if not configfile.is_file():
        refuse(str(configfile), "there is no such file")
    # Zope is slow to import, and not needed for the environment alone.
    from collective.taskqueue.config.sections import checked_with
    from Zope2.Startup.options import ZopeWSGIOptions

    with checked_with(environ):
        root = ZopeWSGIOptions(str(configfile))().configroot
    return resolve(root.product_config, {**environ, **root.environment})
