Examples and how-to guides for systemd, Kubernetes, cookiecutter-zope-instance and buildout, and a page about how many
processes and threads to run. ``taskqueue worker --queue`` wins over ``TASKQUEUE_CONSUMERS`` in the section
``<environment>`` of zope.conf, too.
