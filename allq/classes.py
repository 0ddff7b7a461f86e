"""The classes of a field, in the order in which every array of probabilities gives them."""

from typing import Final

CLASSES: Final = ("benign", "early-pre-b", "pre-b", "pro-b")
"""Benign haematogones; Early Pre-B, Pre-B and Pro-B acute lymphoblastic leukaemia."""

SUSPECT: Final = CLASSES[1:]
"""The classes that make a field suspect."""

DATA_FOLDERS: Final = {"Benign": "benign", "Early": "early-pre-b", "Pre": "pre-b", "Pro": "pro-b"}
"""What the Taleqani dataset calls its folders."""
