"""Reading and writing files safely: no code runs, nothing is lost."""
