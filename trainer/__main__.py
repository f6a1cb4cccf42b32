"""`python -m trainer`, which is also what `accelerate launch -m trainer` and `torchrun -m trainer` start."""

from trainer.commands.cli import main

if __name__ == "__main__":
    main()
