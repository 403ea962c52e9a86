"""IBSI 2 convolutional filters: an image in, a response map on the same voxels out.

References
----------
Depeursinge et al. 2020, Standardised convolutional filtering for radiomics, arXiv:2006.05470.
Whybra et al. 2024, doi:10.1148/radiol.231319.
"""
