"""The laboratory: environments with known optima behind the policies and the guard that training uses."""
