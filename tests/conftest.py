"""The same examples each time, so that a change is to blame for what fails; the slow tests look for new ones."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
