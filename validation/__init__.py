"""Statistics over stored outcomes, a locked protocol, and the report that a regulator can check.

Stored outcomes become tables in ``cohort``, as the locked ``protocol`` says. Every number over them is named
in ``catalogue``, computed through ``registry``, and goes into ``reports``. The statistics live in rooms:
``agreement``, ``segmentation``, ``accuracy``, ``survival``, ``utility`` and ``prediction``. What serves
every room stands beside them: ``bootstrap``, ``multiplicity``, ``case_summary``, ``tables``.
"""
