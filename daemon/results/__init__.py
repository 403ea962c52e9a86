"""Predictions and measurements to DICOM: the only room that imports highdicom."""
