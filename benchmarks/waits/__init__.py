"""What a user of the tools waits for, beside the toolkits' own."""
