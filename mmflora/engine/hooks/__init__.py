"""Hooks of the runner, one job each."""
