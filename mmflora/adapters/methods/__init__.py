"""The methods: one file adds one method."""
