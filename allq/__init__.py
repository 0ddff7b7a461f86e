"""What every room shares: settings, errors, logging, version. Imports none of the other rooms."""

from allq.version import __version__

__all__ = ["__version__"]
