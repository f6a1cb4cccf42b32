"""Training as a SLURM batch job: what is asked for, the script that asks for it, and what became of it.

``trainer submit`` writes ``launch/slurm/train.sbatch`` with a request of its own into the run folder and hands it to
``sbatch``. All that happens later (warnings, requeues, the cap on restarts without progress) is the script's: it stands
in the run folder to be read, edited and submitted again by hand, and needs nothing of this package but `trainer fit`.
"""

from trainer.tools.slurm.request import Request
from trainer.tools.slurm.status import show_status
from trainer.tools.slurm.submit import submit

__all__ = ["Request", "show_status", "submit"]
