"""The command line: parse, call, print. What an option means is told by `lana.config.recipe.Recipe`, once."""

from lana.cli import device, show, student, tables
from lana.cli.app import EXIT_USER_ERROR, main

__all__ = ["EXIT_USER_ERROR", "device", "main", "show", "student", "tables"]
