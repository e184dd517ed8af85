"""Generators as ONNX files: export them, and run them without torch's network. Needs the extra `onnx`."""
