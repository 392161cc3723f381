"""One file per format of annotations."""
