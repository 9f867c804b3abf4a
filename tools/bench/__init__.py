"""Figures of edgewright beside its peers, each a ratio measured side by side in one run."""
