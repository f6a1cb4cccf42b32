"""Pure measures on texts: contamination, memorisation, diversity, quality."""
