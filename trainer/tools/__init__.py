"""Tools: what looks at recipes, runs and machines without training: audit, doctor, plan, SLURM."""
