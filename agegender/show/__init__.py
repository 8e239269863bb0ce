"""Figures and pages from measured results; nothing is measured here."""
