"""The command line: one file per command; each reads arguments, calls one function and prints."""

from prefloop.cli.app import main

__all__ = ["main"]
