"""The version of this package: always the server's."""

__version__ = "0.1.0"
