"""Install the project as pyproject.toml describes it, for tools that know only setup.py."""

from setuptools import setup

setup()
