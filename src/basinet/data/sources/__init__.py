"""Public data sets by name: where their files are, how they are read, how they are cited."""
