"""Calibration data: readers, preprocessing, streaming observers, statistics."""
