"""Engines: `map(function, units)` over independent pieces of work."""
