"""Installs the project as pyproject.toml describes it, also where only setup.py is known."""

from setuptools import setup

setup()
