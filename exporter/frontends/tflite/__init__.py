"""TFLite files: the flatbuffer read with distrust, every operator by its own reader into the one graph."""

from __future__ import annotations

from exporter.frontends.tflite.load import load_tflite

__all__ = ["load_tflite"]
