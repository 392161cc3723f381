"""Key layouts of published weights, one file per family."""
