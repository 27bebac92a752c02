``@tasks`` and ``@taskqueues``, services of plone.restapi, add, show and manage tasks over HTTP, with permissions of
their own and an OpenAPI description.
