"""DICOM on the wire: the only room that imports pynetdicom."""
