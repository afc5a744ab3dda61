"""The command line: parse, call, print. `lana.config.recipe.Recipe` documents the options, once."""

from lana.cli import device, show, student, tables
from lana.cli.app import EXIT_USER_ERROR, main

__all__ = ["EXIT_USER_ERROR", "device", "main", "show", "student", "tables"]
