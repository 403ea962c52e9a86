"""DICOM files to values: series, geometry gate, pixels to ``Volume``, reference masks."""
