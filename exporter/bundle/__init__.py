"""Bundles: manifest, report and hand-over kits, written aside and renamed into place."""
