"""What leaves the house: bundles, ONNX, exported programs, predictions."""
