"""From files to token samples: sources, held-out documents, preparation, and the stream of batches."""
