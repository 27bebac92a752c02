"""The queues of this process, for forms."""

from __future__ import annotations

from collective.taskqueue.interfaces import ITaskQueue
from typing import Any
from zope.component import getUtilitiesFor
from zope.interface import provider
from zope.schema.interfaces import IVocabularyFactory
from zope.schema.vocabulary import SimpleTerm
from zope.schema.vocabulary import SimpleVocabulary


@provider(IVocabularyFactory)
def queues(context: Any = None) -> SimpleVocabulary:
    """Return the vocabulary of queues: the token is the name, the value the queue."""
    return SimpleVocabulary(
        [
            SimpleTerm(value=queue, token=name, title=name)
            for name, queue in sorted(getUtilitiesFor(ITaskQueue))
        ]
    )
