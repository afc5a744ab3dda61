"""Computations with a runner for a device that has neither torch nor lana."""
