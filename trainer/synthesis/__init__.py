"""Makes synthetic data: prompts from real training rows, a generator, filters, and the pool that what passes joins."""
