"""What a plan gains from running the model on calibration samples: weights rounded together, biases corrected, roundings learned."""
