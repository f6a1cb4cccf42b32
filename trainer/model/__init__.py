"""The model and the one quantity it is trained on."""
