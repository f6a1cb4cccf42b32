"""Commands: from the command line to one call each."""
