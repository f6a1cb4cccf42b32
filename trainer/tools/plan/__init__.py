"""`trainer plan`: what a run takes, before it starts."""
