"""Report: what is read from journal and ledger after the fact, as pages, charts and sentences."""
