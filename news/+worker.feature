``taskqueue worker etc/zope.ini`` runs tasks in processes that answer no browser: with a supervisor that replaces them
without losing a task, probes for orchestrators, and messages for systemd. The options are the same for
``bin/instance taskqueue worker`` and for a server section of zope.ini.
