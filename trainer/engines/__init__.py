"""Engines: who runs a step on which devices. Each is an adapter of the verbs that ``loop.Engine`` names."""
