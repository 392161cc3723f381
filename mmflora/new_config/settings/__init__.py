"""What of a config follows from the data: heads, data sets, schedule."""
