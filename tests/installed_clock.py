"""Importing this, before anything that takes the time, installs the clock of tests/clocks.py."""

from tests import clocks

clocks.install()
