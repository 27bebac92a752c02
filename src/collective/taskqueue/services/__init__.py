"""The task queue over HTTP: services of plone.restapi, ``@tasks`` and ``@taskqueues``."""
