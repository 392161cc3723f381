"""Comparing methods: runs by task, method and seed, and a report of them."""
