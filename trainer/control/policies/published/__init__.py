"""Published mixture rules, to compare with."""
