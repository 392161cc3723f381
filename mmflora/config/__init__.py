"""From a config to a checked run: scopes, walks, checks, processes."""
