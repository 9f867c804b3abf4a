"""edgewright: see the modules of this package."""
