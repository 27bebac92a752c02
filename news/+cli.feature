The command ``taskqueue`` looks at queues and steers them, without Zope and beside running instances: ``stats``,
``tasks``, ``show``, ``retry``, ``check`` and others.
