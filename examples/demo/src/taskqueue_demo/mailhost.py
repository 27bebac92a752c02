"""A mail host for examples: a letter that is sent becomes a file in a folder."""

from AccessControl.class_init import InitializeClass
from App.config import getConfiguration
from pathlib import Path
from Products.MailHost.MailHost import MailHost
from uuid import uuid4
from zope.interface import implementer
from zope.sendmail.interfaces import IMailer
import time


class FolderMailHost(MailHost):
    """Plone's mail host in all but the last step: its mailer writes files.

    So a letter is written when the transaction commits, and not at all if it aborts.
    """

    meta_type = "Folder Mail Host"

    def _makeMailer(self):
        return FolderMailer(Path(getConfiguration().clienthome) / "mails")


InitializeClass(FolderMailHost)


@implementer(IMailer)
class FolderMailer:
    """Writes each letter into a file of its own; their names sort by time."""

    def __init__(self, folder):
        self.folder = folder

    def vote(self, fromaddr, toaddrs, message):
        """Refuse the commit while that is possible: raises if there is no folder to write to."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def send(self, fromaddr, toaddrs, message):
        path = self.folder / f"{time.time_ns()}-{uuid4().hex}.eml"
        # So a reader of the folder finds complete letters only.
        draft = path.with_suffix(".draft")
        draft.write_bytes(message)
        draft.rename(path)

    def abort(self):
        """Nothing was written."""
