"""IBSI-1 radiomics, one feature family per file, every feature with its IBSI identifier."""
