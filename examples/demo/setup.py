from setuptools import find_packages
from setuptools import setup


setup(
    name="taskqueue-demo",
    version="1.0",
    description="A small add-on that uses collective.taskqueue",
    package_dir={"": "src"},
    packages=find_packages("src"),
    include_package_data=True,
    zip_safe=False,
    install_requires=["collective.taskqueue", "plone.api", "plone.restapi"],
    entry_points={"plone.autoinclude.plugin": ["target = plone"]},
)
