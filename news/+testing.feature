``collective.taskqueue.testing`` has a layer and two helpers for the tests of an add-on, and ``make demo`` starts a Plone
site with an add-on that queues tasks.
