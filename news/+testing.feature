``collective.taskqueue.testing`` has layers and helpers for the tests of an add-on, and ``make demo`` starts a Plone
site with an add-on that queues tasks.
