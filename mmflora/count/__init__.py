"""How many parameters a config trains, and which rank meets a budget."""
