"""`trainer doctor`: what stands between this machine and a run, before the run finds out (``examine``)."""
