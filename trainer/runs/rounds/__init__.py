"""Rounds of synthesis inside a run: when they are made, in which process, and how what they bring joins the mixture."""
