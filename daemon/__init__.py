"""Receives studies over DICOM, runs locked models on comparable volumes, delivers results.

A study arrives (``network``), becomes rows (``voxtrial.db``), becomes a ``Volume`` (``dicom``), becomes
comparable (``harmonize``), becomes a ``Prediction`` (``models``, ``inference``), is measured (``measure``,
``radiomics``), becomes DICOM again (``results``), goes home (``services.deliverer``), and months later
meets the truth (``voxtrial.validation``).
"""
