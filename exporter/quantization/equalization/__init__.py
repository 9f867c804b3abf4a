"""Channels of one encoding brought together: scales that migrate, outliers in branches of their own."""
