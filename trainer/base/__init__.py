"""Base: what every floor may use, and what knows none of them: records, errors, atomic files, heartbeats, signals."""
