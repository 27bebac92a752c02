"""A storage of one's own, for queues whose `type` is the dotted path of this class."""

from collective.taskqueue.errors import StorageUnavailable
from collective.taskqueue.storages.local import LocalStorage


class BoundedStorage(LocalStorage):
    """The local storage, with a limit: a commit that would exceed it fails."""

    limit = 10_000

    def stage(self, batch_id, tasks, witness=None):
        if self.admin.counts()["queued"] + len(tasks) > self.limit:
            raise StorageUnavailable(f"queue {self.settings.queue} is full, nothing is committed")
        super().stage(batch_id, tasks, witness)
