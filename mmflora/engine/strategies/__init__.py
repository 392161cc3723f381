"""Training whose weights lie on several processes."""
