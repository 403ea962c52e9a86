"""The daemon's web server: DICOMweb STOW-RS in, and room for the dashboard."""
