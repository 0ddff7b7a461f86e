"""The classifier as an artefact: architectures, training, evaluation, calibration, weights, engines."""
