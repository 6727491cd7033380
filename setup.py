"""All about the package stands in pyproject.toml, but for this: web/ is a part of it, as couloir/web_page."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["couloir*"]), "couloir.web_page"],
    package_dir={"couloir.web_page": "web"},
)
