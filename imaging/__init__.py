"""Pixels in, pixels out: decode, quality checks, leukocyte segmentation, synthetic smears."""
