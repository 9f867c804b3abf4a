"""Where a target runs each node of a model: partitions, the bytes between them, an estimate of the time, and what would mend the rest."""
